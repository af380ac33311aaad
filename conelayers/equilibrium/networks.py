"""Equilibrium layers z = σ(W z + u(x)), σ = max(·, 0), I − W strongly monotone.

They are solved by splitting and differentiated by the nonsmooth implicit function theorem.

Let D be the diagonal matrix of σ' at W z + u, whose entries are 0 or 1, or at a kink anything between. Then
dz = (I − DW)⁻¹D du. All of these matrices are invertible: if (I − DW)h = 0, then hᵢ = 0 where Dᵢ = 0, and
(Wh)ᵢ = hᵢ/Dᵢ elsewhere, so that hᵀWh = Σ hᵢ²/Dᵢ ≥ ‖h‖². Strong monotonicity gives hᵀWh ≤ (1 − m)‖h‖²; hence h = 0. So
the hypothesis of the nonsmooth implicit function
theorem (Bolte, Le, Pauwels, Silveti-Falls, 2021) holds everywhere, kinks included, and the network's gradient is a
conservative one. Source of the networks: Winston, Kolter, "Monotone operator equilibrium networks" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from conelayers.derivatives.certificate import Verdict
from conelayers.equilibrium.operators import CircularConvolution, DenseOperator, MonotoneOperator
from conelayers.equilibrium.splitting import PeacemanRachford, natural_residual
from conelayers.implicit.errors import ConvergenceError, LinearSolveError
from conelayers.implicit.settings import LinearSolver, Newton
from conelayers.implicit.torch import fixed_point
from conelayers.support.arguments import described

__all__ = ["EquilibriumCertificate", "EquilibriumLayer", "monotone_convolution", "monotone_linear"]

_OF_ROWS = 1e3  # times the tolerance that splitting reaches in the norm: what each row is held to
_ADVICE = (
    "Pass solver=PeacemanRachford(…) with a larger max_iter, or none, a larger tol or another alpha; ``certify`` tells "
    "whether I − W is monotone."
)


@final
@dataclass(frozen=True, eq=False)
class EquilibriumCertificate:
    """What is known of z and of its derivative, for a batch of N.

    verdict: CLASSICAL if in no instance an entry of W z + u is within ``error_bound``·(1 + ‖W‖) of the kink 0, else
    CERTIFIED; UNCERTIFIED if I − W was not found to be strongly monotone, or the iteration did not converge.
    monotonicity: the smallest eigenvalue of the symmetric part of I − W, computed (at least m by construction).
    lipschitz: ‖I − W‖₂.
    residual: ‖z − σ(W z + u)‖ of each instance (N,).
    error_bound: a bound of ‖z − z*‖ for each instance, (1 + ‖W‖/m)·residual. Reason: z' = σ(W z + u) solves the
    inclusion to which the term W(z − z') is added, and a term that is added moves the solution by at most 1/m of it.
    margin: the least |W z + u|.
    """

    verdict: Verdict
    monotonicity: float
    lipschitz: float
    residual: Tensor
    error_bound: Tensor
    margin: float

    def __str__(self) -> str:
        return (
            f"{self.verdict.value}: {self.verdict.meaning}\n"
            f"  I − W: smallest eigenvalue of the symmetric part {self.monotonicity:.3g}, norm {self.lipschitz:.3g}\n"
            f"  residual {float(self.residual.max()):.1e}, ‖z − z*‖ at most {float(self.error_bound.max()):.1e}, "
            f"nearest kink {self.margin:.1e}"
        )


@final
class _Adjoint(torch.autograd.Function):
    """The identity of z, whose backward pass turns the gradient g into (I − WᵀD)⁻¹g.

    Then the gradient that reaches one application of σ(W z + u) is that of the equilibrium.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, layer: EquilibriumLayer) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(z > 0)  # this is σ' at W z + u, since z is the positive part of that
        return z.view_as(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (active,) = ctx.saved_tensors
        layer: EquilibriumLayer = ctx.layer
        solved = layer.solver.solve_adjoint(layer.operator, active.to(g.dtype), g)
        tolerance = 10 * solved.tolerance
        if not bool((solved.residual <= tolerance).all()):
            raise LinearSolveError(
                "EquilibriumLayer", "PeacemanRachford", float(solved.residual.max()), tolerance, _ADVICE
            )
        return solved.z, None


@final
class EquilibriumLayer(nn.Module):
    """x ↦ the z ≥ 0 with z = σ(W z + inject(x)), for x (N, …), z (N, *operator.shape).

    operator: W.
    inject: a module from x to u (N, *operator.shape).
    solver: the iteration, for z and for the gradient's linear system.
    linear: another solver of that system (conelayers.implicit.settings), with which forward mode and double backward
    work too. Under torch.func's transformations such a solver is always used.

    Only z is kept for the gradient, so that memory does not depend on the number of iterations. Raises
    ConvergenceError, naming the instances, if the iteration does not converge, and LinearSolveError if that of the
    gradient does not.
    """

    def __init__(
        self,
        operator: MonotoneOperator,
        inject: nn.Module,
        solver: PeacemanRachford | None = None,
        linear: LinearSolver | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(operator, MonotoneOperator):
            raise TypeError(
                f"operator: got {described(operator)}, expected a MonotoneOperator, such as DenseOperator(size) or "
                "CircularConvolution(…)"
            )
        if not callable(inject):
            raise TypeError(f"inject: got {described(inject)}, expected a module or another callable from x to u")
        if solver is not None and not isinstance(solver, PeacemanRachford):
            raise TypeError(f"solver: got {described(solver)}, expected None or PeacemanRachford(…)")
        if linear is not None and not isinstance(linear, LinearSolver):
            raise TypeError(f"linear: got {linear!r}, expected None, Dense(), GMRES() or BiCGStab()")
        self.operator, self.inject = operator, inject
        self.solver, self.linear = solver or PeacemanRachford(), linear

    def forward(self, x: Tensor) -> Tensor:
        u = self._injected(x)
        if self.linear is not None or torch._C._are_functorch_transforms_active():
            return self._through_fixed_point(u, 10 * self.solver.tolerance(u.dtype))
        z, residual, _, tolerance = self.solver.solve(self.operator, u.detach())
        tolerance *= 10
        lost = torch.nonzero(~(residual <= tolerance)).flatten().tolist()
        if lost:
            raise ConvergenceError(
                "EquilibriumLayer", "PeacemanRachford", lost, residual[lost].tolist(), tolerance, advice=_ADVICE
            )
        return _Adjoint.apply(torch.relu(self.operator(z) + u), self)

    def _injected(self, x: Tensor) -> Tensor:
        """u = inject(x). Raises TypeError or ValueError if W z cannot be added to it."""
        u = self.inject(x)
        if not isinstance(u, Tensor) or not u.is_floating_point():
            got = f"a tensor of {u.dtype}" if isinstance(u, Tensor) else described(u)
            raise TypeError(f"inject: got {got} as its output, expected a floating-point tensor (N, *operator.shape)")
        if u.dim() == len(self.operator.shape):
            raise ValueError(
                f"inject: got an output of shape {tuple(u.shape)}, expected (N, *{self.operator.shape}): x needs a "
                "leading axis of instances; write x[None]"
            )
        if u.shape[1:] != self.operator.shape:
            raise ValueError(
                f"inject: got an output of shape {tuple(u.shape[1:])} for each instance, expected "
                f"{self.operator.shape}, that of z"
            )
        if torch._C._are_functorch_transforms_active():
            return u
        lost = torch.nonzero(~torch.isfinite(u.detach()).flatten(1).all(1)).flatten().tolist()
        if lost:
            raise ValueError(
                f"inject: got NaN or infinite values in its output at batch index {', '.join(map(str, lost[:10]))}, "
                "expected finite ones; look at x and at the weights"
            )
        return u

    def _through_fixed_point(self, u: Tensor, tolerance: float) -> Tensor:
        def split(_: Any, z0: Tensor, theta: tuple[Tensor, ...]) -> Tensor:
            return self.solver.solve(self.operator, theta[0].detach(), z0).z

        return fixed_point(
            lambda z, v: torch.relu(self.operator(z) + v),
            torch.zeros_like(u),
            u,
            solve=Newton() if any(map(_mapped, self.operator.parameters())) else split,
            linear=self.linear,
            batched=True,
            tol=_OF_ROWS * tolerance,
        )

    @torch.no_grad()
    def certify(self, x: Tensor) -> EquilibriumCertificate:
        """What is known of the equilibrium at x, and of its derivative."""
        u = self._injected(x)
        solved = self.solver.solve(self.operator, u)
        z = solved.z
        smallest, size = self.operator.constants()
        residual = natural_residual(self.operator.prepared(), u, z) * (1 + z.flatten(1).norm(dim=1))
        bound = (1 + (1 + size) / max(smallest, torch.finfo(torch.float64).tiny)) * residual
        before = (self.operator(z) + u).flatten(1).abs()
        margin = before.amin(1) if before.shape[1] else torch.full_like(bound, torch.inf)
        arrived = bool((solved.residual <= 10 * solved.tolerance).all())
        verdict = Verdict.UNCERTIFIED
        if smallest > 0 and arrived:
            verdict = Verdict.CLASSICAL if bool((margin > (2 + size) * bound).all()) else Verdict.CERTIFIED
        return EquilibriumCertificate(
            verdict, smallest, size, residual, bound, float(margin.min()) if margin.numel() else float("inf")
        )


def _mapped(parameter: Tensor) -> bool:
    """Whether a torch.func.vmap maps over the parameter.

    The splitting cannot be used then, since it prepares one operator for all instances.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(parameter):
        if torch._C._functorch.is_batchedtensor(parameter):
            return True
        parameter = torch._C._functorch.get_unwrapped(parameter)
    return False


def monotone_linear(
    in_features: int,
    hidden: int,
    m: float = 0.5,
    solver: PeacemanRachford | None = None,
    linear: LinearSolver | None = None,
) -> EquilibriumLayer:
    """Fully connected: W of order ``hidden``, u = U x + b."""
    return EquilibriumLayer(DenseOperator(hidden, m), nn.Linear(in_features, hidden), solver, linear)


def monotone_convolution(
    in_channels: int,
    channels: int,
    size: tuple[int, int],
    kernel: int = 3,
    m: float = 0.5,
    solver: PeacemanRachford | None = None,
    linear: LinearSolver | None = None,
) -> EquilibriumLayer:
    """Convolutional on images (channels, *size): W has periodic boundaries; u convolves the input, padded by zeros."""
    inject = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2)
    return EquilibriumLayer(CircularConvolution(channels, size, kernel, m), inject, solver, linear)
