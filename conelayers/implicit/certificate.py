"""Whether the derivative of a root is justified, and how that reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.derivatives.certificate import Verdict

__all__ = ["RootCertificate"]

_MEANING = {
    Verdict.CLASSICAL: (
        "B is invertible and no kink is near: the solution map is differentiable here, and this is its derivative."
    ),
    Verdict.CERTIFIED: (
        "The solution lies on a kink, and every element of the generalized Jacobian is invertible: the solution map is "
        "Lipschitz here, and this is one of its conservative derivatives."
    ),
    Verdict.CHECKED: (
        "The elements of the generalized Jacobian that were tested are all invertible; others there may be were not "
        "tested."
    ),
    Verdict.UNCERTIFIED: "The theorem's hypothesis was not found to hold here.",
    Verdict.LEAST_SQUARES: (
        "B is singular, or tends to a singular matrix as z does to the root: no exact derivative exists. root and "
        "fixed_point warn and put a least-squares one in its place; where B is singular to working precision they "
        "raise LinearSolveError, or return NaN."
    ),
}


@final
@dataclass(frozen=True, eq=False)
class RootCertificate:
    """What is known of the derivative dz = −B⁻¹A dθ at a root; B = ∂F/∂z, the element of automatic differentiation.

    verdict: what can be said of the derivative.
    residual: ‖F‖∞/(1 + ‖z‖∞).
    tolerance: the relative residual up to which z counts as a root.
    converged: whether the point is a solution: F is rounding, or Newton's step is within ``tolerance`` of z, or both
    are nearly so. The units of F and z do not matter.
    smallest_singular_value: that of B.
    condition: the condition number of B.
    linear_residual: the relative residual of a solve with B for a random right-hand side.
    kinks: which coordinates lie at a kink, (n,) bool; None if the user did not describe the kinks.
    margin: the distance of the nearest kink; infinite if the user did not describe the kinks.
    kink_tolerance: the largest distance at which a coordinate counts as lying at a kink; 0 without a description.
    method: how the elements were tested.
    elements: how many elements were tested.
    least_minor, monotonicity: those of ``SeparableTest``.
    everywhere: whether all elements would be invertible wherever the kinks lie, if W stays the same, as it does for a
    pre that is affine in z; None if that was not found out.
    """

    verdict: Verdict
    residual: float
    tolerance: float
    converged: bool
    smallest_singular_value: float
    condition: float
    linear_residual: float
    kinks: np.ndarray | None
    margin: float
    kink_tolerance: float
    method: str
    elements: int
    least_minor: float | None
    monotonicity: float | None
    everywhere: bool | None

    @property
    def meaning(self) -> str:
        """What the verdict says of the derivative, in one sentence."""
        return _MEANING[self.verdict]

    @property
    def advice(self) -> str:
        """What stands in the way of a derivative, and what the user can do about it; empty if nothing does."""
        if not self.converged and self.verdict is not Verdict.LEAST_SQUARES:
            return "The point is no solution: no derivative is certified at it. Solve to a smaller tol."
        if self.verdict is Verdict.LEAST_SQUARES:
            return (
                "The solution is not isolated to first order: add a small multiple of z to F (of −z to f), or "
                "equations that fix it."
            )
        if self.verdict is Verdict.UNCERTIFIED:
            return (
                "Some element at this kink is singular: the solution map may branch or jump here. Make the map a "
                "contraction or strongly monotone, ½(W + Wᵀ) ⪯ (1 − m)I."
            )
        if self.verdict is Verdict.CHECKED and self.kinks is None:
            return "Describe the kinks by separable=Separable(…), or say smooth=True where there are none, for a proof."
        return ""

    def __str__(self) -> str:
        lines = [f"{self.verdict.value}: {self.meaning}"]
        lines.append(f"  solve      residual {self.residual:.1e}, tolerance {self.tolerance:.1e}")
        if self.kinks is not None:
            lines.append(
                f"  kinks      {int(self.kinks.sum())} of {self.kinks.size} coordinates, margin {self.margin:.1e}"
            )
        lines.append(
            f"  B          smallest singular value {self.smallest_singular_value:.1e}, condition {self.condition:.1e}, "
            f"linear residual {self.linear_residual:.1e}"
        )
        numbers = "".join(
            f", {name} {value:.1e}"
            for name, value in (("least minor", self.least_minor), ("monotonicity", self.monotonicity))
            if value is not None
        )
        lines.append(f"  elements   {self.elements} tested by {self.method}{numbers}")
        if self.advice:
            lines.append(f"  {self.advice}")
        return "\n".join(lines)
