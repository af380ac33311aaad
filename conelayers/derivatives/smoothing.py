"""Stand-ins for the exact derivative where that is zero or undefined, as at the vertices of a linear program.

None of them is the derivative of the solution map. The docstring of each says of what it is the derivative, or the
difference. Each has a temperature; at temperature zero it is the exact derivative, where that exists.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, final

import numpy as np

from conelayers.derivatives.linearization import Linearization
from conelayers.derivatives.policies import Policies
from conelayers.program.cone_program import ConeProgram
from conelayers.program.names import Naming
from conelayers.program.solution import Solution
from conelayers.solve.backends import Settings, choose_solver
from conelayers.solve.batch import WarmStart, solve_batch
from conelayers.solve.order import StartingOrder
from conelayers.support.errors import SolveError

__all__ = ["LPGD", "Adjoint", "Base", "ProximalSmoothing", "Resolver", "Smoothed", "Smoothing"]

_SAME = 1e-10  # relative distance up to which two solutions are one: each is exact to some 1e−13


@final
class Adjoint(NamedTuple):
    """What the gradient is made of: dq = −λ, db = −μ, dA = −y λᵀ + μ xᵀ and dP = −½(λxᵀ + xλᵀ).

    x, y: the point, (B, n) and (B, m). lam, mu: λ and μ, (B, n) and (B, m).
    """

    x: np.ndarray
    y: np.ndarray
    lam: np.ndarray
    mu: np.ndarray


@final
class Smoothed(NamedTuple):
    """A smoothed problem's solution x (B, n), y (B, m) and its solution map linearized there."""

    x: np.ndarray
    y: np.ndarray
    linearization: Linearization


@final
class Perturbed(NamedTuple):
    """A perturbed batch's solution, and its solution map linearized there."""

    solution: Solution
    linearization: Linearization


@final
@dataclass(frozen=True)
class Resolver:
    """Solves perturbed problems as the original ones were solved.

    If the solver of the original ones takes no quadratic objective, the default solver takes its place.
    """

    order: StartingOrder
    jobs_forward: int
    jobs_backward: int
    policies: Policies

    def __call__(self, program: ConeProgram, start: WarmStart) -> Perturbed:
        """The solutions, found from ``start``, and the solution map linearized there."""
        order = self.order
        if program.structure.P.nnz and not order.solver.quadratic:
            solver = choose_solver(None, program.structure.cones, True, frozenset())
            order = StartingOrder(solver, Settings(), False, fallback=order.fallback)
        solved = solve_batch(program, order, self.jobs_forward, start, self.jobs_backward)
        return Perturbed(*self.policies.apply(solved.solution, Linearization.of(solved)))


@final
@dataclass(frozen=True)
class Base:
    """The batch that was solved, the user's names of its variables, and how perturbed batches are solved."""

    program: ConeProgram
    solution: Solution
    naming: Naming
    resolve: Resolver
    _known: dict[Any, Smoothed] = field(default_factory=dict)

    def solve(self, program: ConeProgram, who: str, *, nan: bool = False) -> Perturbed:
        """Solve a perturbed batch, from this batch's solutions.

        program: the perturbed programs, one or more for each instance, instance by instance and then again.
        who: the smoothing that perturbs them, in the message of the error.
        nan: give NaN for instances that have no solution; otherwise SolveError names the instances.
        """
        solved = self.resolve(program, WarmStart.of(self.solution, program.batch))
        batch = self.program.batch
        worst = list(solved.solution.status[:batch])
        said = list(solved.solution.message[:batch])
        for i, status in enumerate(solved.solution.status):
            if not status.usable:
                worst[i % batch], said[i % batch] = status, solved.solution.message[i]
        lost = [i for i, s in enumerate(worst) if not s.usable]
        if lost and not nan:
            raise SolveError(worst, lost, f"the solver as {who} perturbs them", said)
        return solved

    def squares(self) -> np.ndarray:
        """The weights w (n,) with Σ ‖variable‖² = Σ wⱼxⱼ² over the user's variables."""
        weights = np.zeros(self.program.structure.n)
        for _, _, matrix in self.naming.names.variables:
            weights += np.asarray((matrix**2).sum(axis=0)).ravel()
        return weights

    def once(self, key: Any, make: Callable[[], Smoothed]) -> Smoothed:
        """What ``make`` gives, made once for each key."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


class Smoothing(ABC):
    """A named replacement of the derivative; the solution itself is the exact one.

    ``forward_mode``: whether there is a smoothed problem that ``linearized`` gives.
    """

    forward_mode: ClassVar[bool]

    @abstractmethod
    def adjoint(self, base: Base, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, *, nan: bool = False) -> Adjoint:
        """The replacement of the adjoint for cotangents gx (B, n), gy (B, m), gs (B, m).

        Raises SolveError if a perturbed problem has no solution; with ``nan`` the result is NaN in such instances.
        """

    def without_rounding(self, adjoint: Adjoint, gs: np.ndarray) -> Adjoint:
        """The result of ``adjoint`` with exact zeros where it is a difference of two equal solutions."""
        return adjoint

    @property
    @abstractmethod
    def advice(self) -> str:
        """What the user can do if the gradient is zero in every parameter."""

    @abstractmethod
    def linearized(self, base: Base) -> Smoothed:
        """The smoothed problem for forward mode. Raises NotImplementedError where there is none."""


@final
@dataclass(frozen=True)
class LPGD(Smoothing):
    """Lagrangian proximal gradient descent: the gradient by differences of solutions of perturbed problems.

    With L(x, y; θ) the Lagrangian, (x*, y*) its saddle point and g the loss's gradient with respect to the solution,

        z(τ) = the saddle point of L + τ⟨g, z⟩ + ½ρ‖x − x*‖²,
        gradient = [∇_θ L(z(τ)) − ∇_θ L(z(−τ))]/2τ     (``side="both"``),

    or [∇_θ L(z(τ)) − ∇_θ L(z*)]/τ (``"lower"``), [∇_θ L(z*) − ∇_θ L(z(−τ))]/τ (``"upper"``).

    tau: τ > 0, in units of objective over loss.
    rho: ρ ≥ 0; it holds x near x* and keeps the perturbed problems bounded.
    side: "both", "lower" or "upper".

    The gradient says in which direction θ has to move for the solution to become one of lower loss. At a vertex it is
    not zero once τ‖g‖ is as large as the change of the costs that leads to the next vertex. As τ → 0, with ρ = 0, it
    becomes the exact gradient where that exists. It costs two solves (one for a single side), and no factorization.
    There is no forward mode and no second derivative.

    Source: Paulus, Martius, Musil, "LPGD: A General Framework for Backpropagation through Embedded Optimization Layers"
    (2024); the constants' conventions are those written here.
    """

    forward_mode: ClassVar[bool] = False

    tau: float
    rho: float = 0.0
    side: str = "both"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", _number("LPGD: tau", self.tau, positive=True))
        object.__setattr__(self, "rho", _number("LPGD: rho", self.rho, positive=False))
        if self.side not in ("both", "lower", "upper"):
            raise ValueError(f"LPGD: side: got {self.side!r}, expected 'both', 'lower' or 'upper'")

    def adjoint(self, base: Base, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, *, nan: bool = False) -> Adjoint:
        program, solution = base.program, base.solution
        gs = np.where(np.isinf(program.b), 0.0, gs)  # an infinite slack stays what it is
        gx = gx - program.ATy(gs)  # s = b − A x
        signs = {"both": (1, -1), "lower": (1,), "upper": (-1,)}[self.side]
        anchored = program
        if self.rho > 0:
            anchored = program.add_to_diagonal(np.full(program.structure.n, self.rho))
            anchored = replace(anchored, q=program.q - self.rho * solution.x)
        moved = base.solve(
            _repeated(
                anchored,
                np.concatenate([anchored.q + sign * self.tau * gx for sign in signs]),
                np.concatenate([anchored.b - sign * self.tau * gy for sign in signs]),
            ),
            repr(self),
            nan=nan,
        ).solution
        parts = np.split(moved.x, len(signs)), np.split(moved.y, len(signs))
        ends = list(zip(*parts, strict=True))
        (x1, y1), (x0, y0) = {
            "both": lambda: (ends[0], ends[1]),
            "lower": lambda: (ends[0], (solution.x, solution.y)),
            "upper": lambda: ((solution.x, solution.y), ends[0]),
        }[self.side]()
        width = self._width
        # y₁x₁ᵀ − y₀x₀ᵀ = (y₁ − y₀)x̄ᵀ + ȳ(x₁ − x₀)ᵀ at the midpoints: the form of an adjoint solution there.
        return Adjoint((x0 + x1) / 2, (y0 + y1) / 2, -(x1 - x0) / width, (y1 - y0) / width - gs)

    @property
    def _width(self) -> float:
        """The difference of τ between the two points that are compared."""
        return self.tau * (2 if self.side == "both" else 1)

    def without_rounding(self, adjoint: Adjoint, gs: np.ndarray) -> Adjoint:
        x, y, lam, mu = adjoint
        dual = mu + gs  # (y₁ − y₀)/width
        still, held = (
            np.abs(self._width * step).max(axis=1, initial=0.0) <= _SAME * np.abs(point).max(axis=1, initial=0.0)
            for step, point in ((lam, x), (dual, y))
        )
        return Adjoint(x, y, np.where(still[:, None], 0.0, lam), np.where(held[:, None], -gs, mu))

    @property
    def advice(self) -> str:
        return (
            f"the solutions that {self!r} compares are the same in every instance: τ times the loss's gradient is too "
            "small to move them. Make tau larger; a loss that is a mean over a batch of B divides its gradients by B, "
            "so that tau has to be B times as large"
        )

    def linearized(self, base: Base) -> Smoothed:
        raise NotImplementedError(
            "LPGD replaces gradients: it has no forward mode and no second derivatives; use reverse mode, or "
            "ProximalSmoothing"
        )


@final
@dataclass(frozen=True)
class ProximalSmoothing(Smoothing):
    """The exact derivative of another problem: ½·temperature·‖x‖² is added to the objective.

    temperature: > 0, in units of objective over x². ‖x‖² runs over the user's variables (Frobenius for matrices); in a
    geometric program over their logarithms.

    The solution of that problem is the proximal point of the objective at 0. It is unique and moves continuously with
    the data, along the faces of a polytope where the original solution jumps between vertices. Its derivative is zero
    where it is a vertex too: the temperature has to be large enough for it not to be one. It costs one solve and one
    factorization. The engine has its forward mode; in the adapters it is reverse only.
    """

    forward_mode: ClassVar[bool] = True

    temperature: float

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "temperature", _number("ProximalSmoothing: temperature", self.temperature, positive=True)
        )

    @property
    def advice(self) -> str:
        return f"the solution that {self!r} smooths is still a vertex. Make the temperature larger"

    def adjoint(self, base: Base, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, *, nan: bool = False) -> Adjoint:
        # The original problem is bounded below, so the strongly convex one has a solution.
        x, y, linearization = self.linearized(base)
        return Adjoint(x, y, *linearization.adjoint(gx, gy, gs))

    def linearized(self, base: Base) -> Smoothed:
        def make() -> Smoothed:
            program = base.program.add_to_diagonal(self.temperature * base.squares())
            solution, linearization = base.solve(program, repr(self))
            return Smoothed(solution.x, solution.y, linearization)

        return base.once(self, make)


def _repeated(program: ConeProgram, q: np.ndarray, b: np.ndarray) -> ConeProgram:
    """Programs with these q and b, and the program's P and A; q and b may hold several times its batch."""
    times = q.shape[0] // program.batch

    def repeat(values: np.ndarray) -> np.ndarray:
        return values if values.shape[0] == 1 and program.batch > 1 else np.tile(values, (times, 1))

    return ConeProgram(program.structure, repeat(program.P), q, repeat(program.A), b)


def _number(name: str, value: Any, *, positive: bool) -> float:
    allowed = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not allowed or value < 0 or (positive and value == 0):
        raise ValueError(f"{name}: got {value!r}, expected a {'positive' if positive else 'nonnegative'} number")
    return float(value)
