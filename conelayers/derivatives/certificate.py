"""Whether a derivative is justified, and what stands in the way: the verdicts, and how they read.

The nonsmooth implicit function theorem (Bolte, Le, Pauwels, Silveti-Falls, "Nonsmooth implicit differentiation for
machine learning and optimization", 2021) asks for *every* Clarke element J(D), D ∈ ∂_C Π(v), to be invertible. Then
each of them gives a conservative derivative. regularity.py decides whether they all are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import final, overload

import numpy as np

from conelayers.derivatives.null_directions import listed
from conelayers.program.solution import Residuals
from conelayers.support.display import MOST_ROWS, html_table
from conelayers.support.errors import Status

__all__ = ["Certificate", "Certificates", "Verdict"]

_HEAD = ("instance", "verdict", "margin", "σ_min", "cond", "KKT", "kinks", "null")


@final
class Verdict(Enum):
    """What can be said of a derivative, from the best to the worst; ``meaning`` says it in a sentence.

    - CLASSICAL: the solution map is differentiable, and this is its derivative.
    - CERTIFIED: the solution lies on a kink, and every element of the generalized Jacobian is invertible.
    - CHECKED: only some of the elements could be tested, and those are invertible. conelayers.implicit gives it to
      functions whose kinks the user does not describe. No layer gets it: of every cone the extreme elements are known.
    - UNCERTIFIED: the chosen element is invertible; of another one this was not found.
    - LEAST_SQUARES: the chosen element is singular, and a least-squares solution stands in for the derivative.
    """

    CLASSICAL = "classical"
    CERTIFIED = "certified"
    CHECKED = "checked"
    UNCERTIFIED = "uncertified"
    LEAST_SQUARES = "least_squares"

    @property
    def meaning(self) -> str:
        """What the verdict says of the derivative, in one sentence."""
        return _MEANING[self]

    @property
    def justified(self) -> bool:
        """Whether the theorem's hypothesis was found to hold: CLASSICAL or CERTIFIED."""
        return self in (Verdict.CLASSICAL, Verdict.CERTIFIED)


_MEANING = {
    Verdict.CLASSICAL: "The solution map is differentiable here, and this is its derivative.",
    Verdict.CERTIFIED: (
        "The solution lies on a kink, and every element of the generalized Jacobian is invertible: the solution "
        "map is Lipschitz here, and this is one of its conservative derivatives."
    ),
    Verdict.CHECKED: (
        "The solution lies on a kink, and those elements of the generalized Jacobian that are listed "
        "are all invertible."
    ),
    Verdict.UNCERTIFIED: "The linear system could be solved, but the theorem's hypothesis was not found to hold here.",
    Verdict.LEAST_SQUARES: (
        "The Jacobian is singular: no exact derivative exists, and a least-squares solution stands in for it."
    ),
}


@final
@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """What is known of the derivative at one instance's solution.

    verdict: what can be said of the derivative.
    status: how the solve ended.
    residuals: the KKT residuals, recomputed from the data.
    margin: the distance of v = y − s from the nearest kink of the projection onto K*, in the data's units.
    margins: the same for each cone's block by itself, (blocks,); every row of an orthant is a block, and equalities
    have no kink, so that their distance is infinite.
    tolerances: the distances (blocks,) up to which a block counts as lying at a kink: 100 times what a Newton step
    would change there, plus 1e−12 of ‖v‖. The step is J⁻¹F for the solution's own residual F, or for an F of the size
    of its rounding errors.
    kinks: which blocks lie at a kink, (blocks,) bool.
    smallest_singular_value: that of J(D) for the chosen element D, in the equilibrated units.
    condition: the condition number of the same J(D).
    nullity: the dimension of its null space; of a large null space at least so much.
    linear_residual: the relative residual with which J is solved for a random right-hand side.
    second_order: whether P dx = 0 and D_min A dx = 0 only for dx = 0; None if that was not tested.
    nondegenerate: whether Aᵀw = 0 with w ∈ ker(I − D_max) only for w = 0; None if that was not tested. Both conditions
    together are strong regularity: every element is invertible.
    determined: whether dx is determined although J may be singular.
    variables: the user's variables that move along null directions.
    constraints: the user's constraints whose gradients depend on each other.
    kink_constraints: the user's constraints that lie at kinks.
    """

    verdict: Verdict
    status: Status
    residuals: Residuals
    margin: float
    margins: np.ndarray
    tolerances: np.ndarray
    kinks: np.ndarray
    smallest_singular_value: float
    condition: float
    nullity: int
    linear_residual: float
    second_order: bool | None
    nondegenerate: bool | None
    determined: bool
    variables: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    kink_constraints: tuple[str, ...] = ()

    @property
    def converged(self) -> bool:
        """Whether the optimality conditions hold to the accuracy that was asked for."""
        return self.status is Status.SOLVED

    @property
    def advice(self) -> str:
        """What stands in the way of a derivative, and what the user can do about it; empty if nothing does."""
        if not self.status.usable:
            return self.status.advice
        said = []
        if not self.converged:
            said.append(f"The point did not converge, and no derivative is certified at it. {self.status.advice}")
        if self.second_order is False:
            weak = ""
            if self.kink_constraints and self.verdict is not Verdict.LEAST_SQUARES:
                weak = f", once {listed(self.kink_constraints)} (weakly active) no longer counts"
            along = f" along {listed(self.variables)}" if self.variables else ""
            said.append(
                f"The minimizer is not unique{along}{weak}, or held there by terms of higher order only: add a "
                "small quadratic term in what is to be determined, or constraints that fix it."
            )
        if self.nondegenerate is False:
            which = listed(self.constraints) if self.constraints else "the active constraints"
            said.append(
                f"The gradients of the active constraints are linearly dependent, those of {which}: their "
                "multipliers are not unique; remove what is redundant, or perturb the right-hand sides."
            )
        if self.nondegenerate is False and self.determined and self.verdict is Verdict.LEAST_SQUARES:
            said.append(
                "The derivative of x is exact for changes of the data that keep these constraints consistent, as "
                "all do that do not enter them; for others there is none."
            )
        if self.nullity and self.verdict is not Verdict.LEAST_SQUARES:
            said.append(
                "The null space belongs to variables that cvxpy introduced, or to multipliers of constraints that "
                "no parameter enters: nothing that is returned depends on it."
            )
        if self.second_order is None and self.verdict is Verdict.UNCERTIFIED and self.converged:
            said.append(
                "The system is too large to be factored, so that the elements at the kinks could not be tested."
                if self.kinks.any()
                else "The linear system is too ill-conditioned to be solved to any accuracy: rescale the data."
            )
        return " ".join(said)

    def __repr__(self) -> str:
        return (
            f"Certificate({self.verdict.value}, {self.status.value}, margin {self.margin:.1e}, condition "
            f"{self.condition:.1e})"
        )

    def _repr_html_(self) -> str:
        head, *lines = str(self).splitlines()
        rows = [line.split(maxsplit=1) for line in lines if line.strip() != self.advice]
        return html_table(head, ("", ""), rows, [self.advice] if self.advice else [])

    def __str__(self) -> str:
        meaning = self.verdict.meaning if self.status.usable else "There is no solution to differentiate."
        if self.verdict is Verdict.LEAST_SQUARES and self.determined:
            meaning = (
                "The Jacobian is singular in the multipliers only: they are not unique, but changes of x are "
                "determined."
            )
        lines = [f"{self.verdict.value}: {meaning}"]
        if self.status.usable:
            worst = abs(float(np.max(self.residuals.worst)))
            lines.append(f"  solve      {self.status.value}, KKT residual {worst:.1e}")
            where = f"; at kinks: {listed(self.kink_constraints)}" if self.kink_constraints else ""
            lines.append(
                f"  kinks      {int(self.kinks.sum())} of {self.kinks.size} blocks, margin {self.margin:.1e}{where}"
            )
            lines.append(
                f"  Jacobian   smallest singular value {self.smallest_singular_value:.1e}, condition "
                f"{self.condition:.1e}, null space of dimension {self.nullity}, linear residual "
                f"{self.linear_residual:.1e}"
            )
            tested = {None: "not tested", True: "holds", False: "fails"}
            lines.append(
                f"  conditions second-order {tested[self.second_order]}, nondegeneracy {tested[self.nondegenerate]}"
            )
        if self.advice:
            lines.append(f"  {self.advice}")
        return "\n".join(lines)


@final
class Certificates(Sequence[Certificate]):
    """The certificates of a call, one for each instance; ``print`` shows a single one in full, several as a table."""

    def __init__(self, members: Sequence[Certificate]) -> None:
        self._members = tuple(members)

    @overload
    def __getitem__(self, index: int) -> Certificate: ...
    @overload
    def __getitem__(self, index: slice) -> Certificates: ...
    def __getitem__(self, index: int | slice) -> Certificate | Certificates:
        if isinstance(index, slice):
            return Certificates(self._members[index])
        return self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdict of each instance."""
        return tuple(c.verdict for c in self)

    @property
    def justified(self) -> bool:
        """Whether the theorem's hypothesis holds at every instance."""
        return all(v.justified for v in self.verdicts)

    def __repr__(self) -> str:
        return f"Certificates({self._counts()})"

    def _counts(self) -> str:
        counts = Counter(self.verdicts)
        return ", ".join(f"{counts[v]} {v.value}" for v in Verdict if counts[v])

    def __str__(self) -> str:
        if len(self) <= 1:
            return str(self[0]) if len(self) else "no instances"
        lines = [f"{len(self)} instances: {self._counts()}"]
        for row in (_HEAD, *self._rows()):
            i, verdict, *others, kinks, null = row
            lines.append(f"{i:>8}  {verdict:<13} {' '.join(f'{h:>8}' for h in others)}  {kinks:>5} {null:>4}")
        if len(self) > MOST_ROWS:
            lines.append(f"{'…':>8}  the {MOST_ROWS} worst are shown")
        return "\n".join([*lines, *self._advice()])

    def _rows(self) -> list[tuple[str, ...]]:
        """The rows of the table: the worst instances, in the order of the batch."""
        order = {v: k for k, v in enumerate(Verdict)}
        worst_first = sorted(
            range(len(self)), key=lambda i: (-order[self[i].verdict], np.nan_to_num(self[i].margin, nan=-1.0))
        )
        rows = []
        for i in sorted(worst_first[:MOST_ROWS]):
            c = self[i]
            figures = c.margin, c.smallest_singular_value, c.condition, abs(float(np.max(c.residuals.worst)))
            rows.append(
                (str(i), c.verdict.value, *(f"{h:.1e}" for h in figures), str(int(c.kinks.sum())), str(c.nullity))
            )
        return rows

    def _advice(self) -> list[str]:
        lines = []
        for text, members in _grouped([c.advice for c in self]).items():
            shown = ", ".join(map(str, members[:10])) + (", …" if len(members) > 10 else "")
            lines.append(f"instance{'s' if len(members) > 1 else ''} {shown}: {text}")
        return lines

    def _repr_html_(self) -> str:
        if len(self) == 1:
            return self[0]._repr_html_()
        title = f"{len(self)} instances: {self._counts()}"
        if len(self) > MOST_ROWS:
            title += f"; the {MOST_ROWS} worst"
        return html_table(title, _HEAD, self._rows(), self._advice())


def _grouped(texts: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        if text:
            groups.setdefault(text, []).append(i)
    return groups
