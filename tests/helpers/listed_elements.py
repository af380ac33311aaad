"""Listed Clarke elements of the exponential and power cones at one point: the limits of derivatives nearby.

Where the limits form a continuum (at (0, 0, z) and 0 for the exponential cone, on the edges and at 0 for the power cone),
its ends and a sample are listed. Away from kinks there is one element.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from conelayers.numerics.cones.explicit import ExplicitBasisElement
from conelayers.numerics.cones.exponential import project_exponential
from conelayers.numerics.cones.power import project_power
from conelayers.numerics.cones.selection import Selection

__all__ = ["exponential_elements", "opposite", "power_elements"]

_SAMPLES = 16


def exponential_elements(v: np.ndarray) -> ExplicitBasisElement:
    """Elements of ∂_C Π_K(v), K the exponential cone, for v (3,): values (k, 3), basis (k, 3, 3)."""
    x, y, z = v
    if not (x <= 0 and y <= 0):
        return _extremes(*(project_exponential(v[None], s)[1] for s in (Selection.LOW, Selection.HIGH)))
    if x < 0 or y < 0:  # each vanishing coordinate is 0 or 1 by itself
        ranges = [(0, 1) if h == 0 else (float(fixed),) for h, fixed in ((x, x < 0), (y, False), (z, z > 0))]
        return _diagonals(list(itertools.product(*ranges)))
    if z > 0:
        return _diagonals([(1, 1, 1), (1, 0, 1), (0.5, 0, 1), (0, 0, 1)])
    if z < 0:
        return _diagonals([(0, 0, 0), (1, 0, 0), (1, 0.5, 0), (1, 1, 0)])
    corners = _diagonals([(0, 0, 0), (1, 1, 1), (1, 0, 1), (1, 0, 0), (1, 1, 0), (0, 0, 1)])
    return _joined(corners, _sampled(lambda points: project_exponential(points)[1]))


def power_elements(v: np.ndarray, alpha: float) -> ExplicitBasisElement:
    """Elements of ∂_C Π_K(v), K the power cone of exponent α, for v (3,): values (k, 3), basis (k, 3, 3)."""
    x, y, z = v
    exponent = np.array([alpha])
    if z != 0 or (x != 0 and y != 0):
        return _extremes(*(project_power(v[None], exponent, s)[1] for s in (Selection.LOW, Selection.HIGH)))
    if x == 0 and y == 0:
        corners = _diagonals([(0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 1, 1)])
        return _joined(corners, _sampled(lambda points: project_power(points, np.full(len(points), alpha))[1]))
    first = float(x != 0)
    wide = 1 - alpha > alpha if x != 0 else alpha > 1 - alpha
    if x > 0 or y > 0:  # an edge of K: diag(1, 0, θ) or diag(0, 1, θ), and I; power.py says which θ are limits
        return _diagonals([(1, 1, 1), *((first, 1 - first, theta) for theta in ((0, 0.5, 1) if wide else (1,)))])
    return _diagonals([(0, 0, 0), *((1 - first, first, theta) for theta in ((0, 0.5, 1) if wide else (0,)))])


def opposite(elements: ExplicitBasisElement) -> ExplicitBasisElement:
    """D_{K*}(v) = I − D_K(−v), element by element."""
    return ExplicitBasisElement(1 - elements.values, elements.basis)


def _extremes(low: ExplicitBasisElement, high: ExplicitBasisElement) -> ExplicitBasisElement:
    return low if np.array_equal(low.values, high.values) else _joined(low, high)


def _diagonals(values: list[tuple[float, ...]]) -> ExplicitBasisElement:
    diagonal = np.array(values, dtype=float)
    return ExplicitBasisElement(diagonal, np.broadcast_to(np.eye(3), (len(values), 3, 3)))


def _joined(a: ExplicitBasisElement, b: ExplicitBasisElement) -> ExplicitBasisElement:
    return ExplicitBasisElement(np.concatenate([a.values, b.values]), np.concatenate([a.basis, b.basis]))


def _sampled(derivative: Callable[[np.ndarray], ExplicitBasisElement]) -> ExplicitBasisElement:
    """Derivatives at random directions: Π is positively homogeneous, so that they are limits at 0."""
    return derivative(np.random.default_rng(0).standard_normal((_SAMPLES, 3)))
