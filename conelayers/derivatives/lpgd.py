"""LPGD: a stand-in for the derivative by differences of solutions of perturbed problems."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from conelayers.derivatives.smoothing import Adjoint, Base, Smoothed, Smoothing, checked_number
from conelayers.program.cone_program import ConeProgram

__all__ = ["LPGD"]

_SAME = 1e-10  # relative distance up to which two solutions are one: each is exact to some 1e−13


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
        object.__setattr__(self, "tau", checked_number("LPGD: tau", self.tau, positive=True))
        object.__setattr__(self, "rho", checked_number("LPGD: rho", self.rho, positive=False))
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


def _repeated(program: ConeProgram, q: np.ndarray, b: np.ndarray) -> ConeProgram:
    """Programs with these q and b, and the program's P and A; q and b may hold several times its batch."""
    times = q.shape[0] // program.batch

    def repeat(values: np.ndarray) -> np.ndarray:
        return values if values.shape[0] == 1 and program.batch > 1 else np.tile(values, (times, 1))

    return ConeProgram(program.structure, repeat(program.P), q, repeat(program.A), b)
