"""Other forms of complex expressions where cvxpy's reduction to real ones is wrong, fails, or loses structure."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy.atoms.affine.binary_operators import DivExpression
from cvxpy.atoms.affine.wraps import hermitian_wrap, nonneg_wrap

__all__ = ["complex_form", "divides_by_complex", "has_complex_form"]


def complex_form(e: Any) -> Any:
    """What stands for e; e itself where nothing has to.

    cvxpy divides by complex numbers as if 1/(a + bi) were 1/a + i/b, has no squares of what is imaginary only, and
    takes the largest singular value of [Re, −Im; Im, Re], where every one is double, so that its multipliers are never
    unique.
    """
    if isinstance(e, DivExpression) and e.args[1].is_complex():
        whole = not e.args[1].parameters() and not e.args[1].variables()
        return cp.multiply(cp.Constant(1 / e.args[1].value) if whole else 1 / e.args[1], e.args[0])
    if isinstance(e, cp.quad_over_lin) and e.args[0].is_imag():
        return e.copy([cp.imag(e.args[0]), e.args[1]])
    if isinstance(e, cp.sigma_max) and e.args[0].is_complex():
        A = e.args[0]
        m, n = A.shape
        dilation = cp.bmat([[np.zeros((m, m)), A], [A.H, np.zeros((n, n))]])
        return nonneg_wrap(cp.lambda_max(hermitian_wrap(dilation)))
    return e


def has_complex_form(e: Any) -> bool:
    """Whether something in e has another form."""
    return complex_form(e) is not e or any(has_complex_form(a) for a in e.args if isinstance(a, cp.Expression))


def divides_by_complex(e: Any) -> bool:
    """Whether something in e, an expression, objective or constraint, is a quotient that cvxpy gets wrong."""
    return (isinstance(e, DivExpression) and e.args[1].is_complex()) or any(map(divides_by_complex, e.args))
