"""The derivative of the solution map of a cone program, forward and adjoint, from one factorization.

At a solution, with D ∈ ∂_C Π_{K*}(v) and J = J(D) (residual.py), the implicit function theorem gives

    tangent   J·[dx; dv] = [r₁; r₂],  r₁ = −(dP x + dAᵀy + dq),  r₂ = −(−dA x + db),   dy = D dv,  ds = (D − I) dv
    adjoint   Jᵀ·[λ; μ] = [gx; D gy + (D − I) gs],   dq = −λ,  db = −μ,  dA = −y λᵀ + μ xᵀ,  dP = −½(λxᵀ + xλᵀ)

Agrawal, Barratt, Boyd, Busseti, Moursi (2019); for nonsmooth Π: Bolte, Le, Pauwels, Silveti-Falls (2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, final

import numpy as np

from conelayers.numerics.cones import Selection, product_cone
from conelayers.numerics.kkt import Factorization
from conelayers.numerics.linearized_system import LinearizedSystem, System
from conelayers.numerics.residual import apply_jacobian_transpose
from conelayers.numerics.trouble import Tell, Trouble
from conelayers.program.cone_program import Structure
from conelayers.solve.batch import Solved
from conelayers.support.errors import SingularDerivativeWarning

__all__ = ["Linearization", "Memory", "NullTest", "NullVectors", "SolutionMap", "always", "warn_of"]

_Pair = tuple[np.ndarray, np.ndarray]


@final
class NullVectors(NamedTuple):
    """Null vectors of J, (dx, dy), or of Jᵀ, (λ, μ), in the user's units.

    first, last: dx or λ (k, n), and dy or μ (k, m).
    first_unit, last_unit: what the number 1 of the equilibrated units is in the user's, (n,) and (m,). An entry is
    compared with its own unit, never with the unit of another entry.
    """

    first: np.ndarray
    last: np.ndarray
    first_unit: np.ndarray
    last_unit: np.ndarray

    @property
    def size(self) -> float:
        """The largest entry in the equilibrated units."""
        sizes = (
            np.max(np.abs(h) / unit, initial=0.0)
            for h, unit in ((self.first, self.first_unit), (self.last, self.last_unit))
        )
        return float(max(sizes))


# Whether what a caller reads of the solution of instance i changes along these null vectors.
NullTest = Callable[[int, NullVectors], bool]


def always(i: int, null: NullVectors) -> bool:
    """The test of callers that use all of x and y, or all gradients: every null vector matters to them."""
    return True


class SolutionMap(Protocol):
    """A linearized solution map of a batch: its factors are in this process, or on an executor's workers.

    ``tell`` is called with the trouble that singular systems make, instead of the layer's policy for it.
    """

    @property
    def structure(self) -> Structure:
        """The structure that all programs of the batch have."""

    def take(self, index: np.ndarray | list[int]) -> Linearization:
        """The solution map of a part of the batch, at ascending positions."""

    def tangent(
        self, r1: np.ndarray, r2: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m) for the right-hand side r₁ (B, n), r₂ (B, m)."""

    def adjoint(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m) for the cotangents gx (B, n), gy (B, m), gs (B, m)."""


def warn_of(linearization: SolutionMap, trouble: Trouble) -> None:
    """The default reaction to trouble: a SingularDerivativeWarning."""
    warnings.warn(trouble.message, SingularDerivativeWarning, stacklevel=6)


_Found = TypeVar("_Found")


@final
class Memory:
    """What other modules computed of one linearization, so that nobody computes it twice."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def recall(self, what: str, find: Callable[[], _Found]) -> _Found:
        """What is known under this name; ``find`` computes it for the first who asks."""
        if what not in self._known:
            self._known[what] = find()
        found: _Found = self._known[what]
        return found


@final
@dataclass(frozen=True)
class Linearization(LinearizedSystem):
    """The solution map of a batch, linearized at its solutions; all arguments and results are in the user's units."""

    on_trouble: Callable[[SolutionMap, Trouble], None] = warn_of
    open_rows: np.ndarray | None = None  # (B, m) bool: rows whose b is infinite; their s stays infinite
    # Made anew with each linearization, also by dataclasses.replace: what is in it belongs to these points.
    memory: Memory = field(init=False, default_factory=Memory, repr=False, compare=False)

    @classmethod
    def of(cls, solved: Solved) -> Linearization:
        """The linearization at the solutions of a batch."""
        system = solved.system
        return cls(
            system.presolved, system.point, system.scaling, system.jobs, system.parts, open_rows=solved.open_rows
        )

    def _rest(self, index: np.ndarray) -> dict[str, Any]:
        return {} if self.open_rows is None else {"open_rows": self.open_rows[index]}

    def select(self, selection: Selection) -> Linearization:
        """The linearization with the Clarke element that ``selection`` names."""
        if selection is Selection.DEFAULT:
            return self
        element = product_cone(self.program.structure.cones).element(self.point.v, selection, self.scaling.balance)
        return self.at(self.point._replace(element=element))

    def tangent(
        self, r1: np.ndarray, r2: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m) for the right-hand side r₁ (B, n), r₂ (B, m).

        Where J is singular, the result is the minimum-norm least-squares solution (on the equilibrated K). There is
        trouble then, of which ``tell`` or else ``on_trouble`` is told, in two cases: the system is inconsistent, or
        ``matters(i, null)`` says that what the caller reads from the solution of instance i changes along null vectors
        (dx, dy) of J.
        """
        program, element = self.program, self.point.element
        r1, r2 = self.scaling.scale_rows(r1, self._on_bounds(r2))

        def moves(factorization: Factorization, i: int) -> bool:
            null = self.null_sample(i, factorization)
            if null is None:
                return True
            scaling = self.scaling.take([i])
            units = scaling.d[0] / scaling.beta[0], scaling.e[0] / scaling.gamma[0]
            return matters(i, NullVectors(null[0] * units[0], null[1] * units[1], *units))

        consequence = "the solution is not unique in what was asked for"
        (dx, dv), trouble = self.solve(self.forward(r1, r2), moves, consequence, tell or partial(self.on_trouble, self))
        singular = trouble.singular
        # Where J is regular, dy = D dv. A least-squares solution violates that; dy = dv + ds keeps the derivative and
        # its adjoint transposes of each other, ⟨g, Jr⟩ = ⟨Jᵀg, r⟩.
        ds = -program.Ax(dx) - r2
        dy = np.where(singular[:, None], dv + ds, element.apply(dv))
        return self.scaling.unscale(dx, dy, dy - dv)

    def adjoint(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m) for the cotangents gx (B, n), gy (B, m), gs (B, m).

        Tells of trouble as ``tangent`` does. The null vectors given to ``matters`` are those of Jᵀ, (λ, μ): if they
        change the gradient of some data, a small change of these data leaves no solution nearby.
        """
        program, element = self.program, self.point.element
        gx, gy, gs = self.scaling.scale_cotangents(gx, self._on_bounds(gy), self._on_bounds(gs))
        h = element.apply(gy + gs) - gs

        def first(factorization: Factorization) -> _Pair:
            lam, minus = factorization.solve(gx - program.ATy(gs), gy)
            return lam, -gs - minus

        def correct(factorization: Factorization, e1: np.ndarray, e2: np.ndarray) -> _Pair:
            # Any e₂ is D gy + (D − I) gs with gy = e₂, gs = −e₂.
            lam, minus = factorization.solve(e1 + program.ATy(e2), e2)
            return lam, e2 - minus

        def residual(lam: np.ndarray, mu: np.ndarray) -> _Pair:
            a, c = apply_jacobian_transpose(program, element, lam, mu)
            return gx - a, h - c

        def moves(factorization: Factorization, i: int) -> bool:
            null = self.null_sample(i, factorization)
            if null is None:
                return True
            scaling = self.scaling.take([i])
            units = scaling.gamma[0] * scaling.d[0], scaling.beta[0] * scaling.e[0]
            return matters(i, NullVectors(null[0] * units[0], -null[1] * units[1], *units))

        steps = System(first, correct, residual, (gx, h))
        consequence = "some changes of the data leave no solution nearby"
        (lam, mu), _ = self.solve(steps, moves, consequence, tell or partial(self.on_trouble, self))
        return self.scaling.scale_rows(lam, mu)

    def _on_bounds(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.open_rows is None else np.where(self.open_rows, 0.0, rows)
