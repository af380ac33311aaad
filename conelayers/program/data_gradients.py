"""The gradients of a cone program's data from its adjoint solution.

For cotangents of x, y and s, and λ, μ with Jᵀ[λ; μ] = [gx; D gy + (D − I) gs] (linearization.py):

    dP = −½(λxᵀ + xλᵀ),  dq = −λ,  dA = μxᵀ − yλᵀ,  db = −μ

P and A have theirs on their patterns only: ``outer(a, b)`` gives the entries of abᵀ there. The arrays are NumPy's or a
framework's, of one instance or of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["A_gradient", "P_gradient", "b_gradient", "q_gradient"]

_Outer = Callable[[Any, Any], Any]


def P_gradient(outer: _Outer, x: Any, lam: Any) -> Any:
    """dP = −½(λxᵀ + xλᵀ), on the pattern of a full symmetric P."""
    return -0.5 * (outer(lam, x) + outer(x, lam))


def q_gradient(lam: Any) -> Any:
    """dq = −λ."""
    return -lam


def A_gradient(outer: _Outer, x: Any, y: Any, lam: Any, mu: Any) -> Any:
    """dA = μxᵀ − yλᵀ."""
    return outer(mu, x) - outer(y, lam)


def b_gradient(mu: Any) -> Any:
    """db = −μ."""
    return -mu
