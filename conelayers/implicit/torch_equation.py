"""An equation F(z, θ) = 0 of tensors alone: its solution and its linear systems, for plain tensors."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from conelayers.arguments import described
from conelayers.errors import SingularDerivativeWarning
from conelayers.implicit.errors import ConvergenceError, LinearSolveError
from conelayers.implicit.settings import (
    Anderson,
    ForwardSolver,
    LinearSolver,
    Newton,
    effective,
    linear_solver_for,
)
from conelayers.implicit.singular_roots import (
    CHANGED,
    FAR,
    MOST_UNKNOWNS,
    NEAR,
    message,
    suspect_from,
    tested,
    wider_probe,
)
from conelayers.implicit.torch_capture import capture
from conelayers.implicit.torch_forward import Newtonian, checked_fixed_point, checked_root, fixed_point_of, newton_root
from conelayers.implicit.torch_linear import matrix_of, solve_dense, solve_linear
from conelayers.implicit.torch_products import each, push
from conelayers.implicit.unknowns import Trees, Unknowns

__all__ = ["Equation", "Products", "pose"]

Tensor = torch.Tensor
_Leaves = Sequence[Tensor]
_OF_CALLABLES = 1e-8  # the tolerance that a user's own solver is held to
_DTYPES = (torch.float32, torch.float64)
_TREES = Trees(tree_flatten, tree_unflatten, lambda leaves: torch.cat(list(leaves), -1))


@final
@dataclass(frozen=True, eq=False)
class Equation:
    """F(z, θ) = 0, or z = f(z, θ) where ``fixed``, for θ by its leaves; the first ``axes`` of z count instances.

    ``direct``: the function as the user wrote it, where that may be called with plain tensors. ``restored``: z as the user's z0 is.
    """

    name: str
    function: Callable[..., Tensor]
    fixed: bool
    axes: int
    solve: ForwardSolver | Callable[..., Tensor] | None
    linear: LinearSolver | None
    tol: float | None
    on_failure: str
    unflatten: Callable[[_Leaves], tuple[Any, ...]]
    flatten: Callable[[Any], list[Tensor]]
    direct: Callable[..., Tensor] | None
    restored: Callable[[Tensor], Any]

    def residual(self, z: Tensor, *leaves: Tensor) -> Tensor:
        """F, or f − z."""
        value = self.function(z, *leaves)
        return value - z if self.fixed else value

    def mapped(self, dims: Sequence[int | None]) -> Equation:
        """With one more axis of instances in front of z, and along ``dims`` of the leaves."""
        function = torch.func.vmap(self.function, in_dims=(0, *dims))
        return replace(self, function=function, axes=self.axes + 1, direct=None)

    def sizes(self, z: Tensor) -> tuple[int, int]:
        """The number of instances, and of unknowns of each."""
        count = z.shape[: self.axes].numel()
        return count, z.shape[self.axes :].numel()

    def solution(self, z0: Tensor, leaves: _Leaves) -> Tensor:
        """z, for plain tensors. Raises ConvergenceError, or puts NaN, where the residual recomputed at z misses the tolerance."""
        function = self.direct or self.function
        shape, (count, n) = z0.shape, self.sizes(z0)
        flat = lambda Z: function(Z.reshape(shape), *leaves).reshape(count, n)  # noqa: E731
        residual = (lambda Z: flat(Z) - Z) if self.fixed else flat
        solver = self.solve if self.solve is not None else Anderson() if self.fixed else Newton()
        given = self.tol if self.tol is not None else _OF_CALLABLES if callable(solver) else solver.tol
        tolerance = effective(given, torch.finfo(z0.dtype).eps)
        settings = linear_solver_for(solver.linear if isinstance(solver, Newton) else self.linear, n, count)

        def step(Z: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            products = Products(self, Z.reshape(shape), leaves)
            t = solve_linear(products.times, products.transposed_times, value[None], settings, transposed=False).t[0]
            bad = ~torch.isfinite(t).all(1)
            return products.least_squares(value, t, bad) if bool(bad.any()) else t, ~bad

        def times(Z: Tensor, h: Tensor) -> Tensor:
            return Products(self, Z.reshape(shape), leaves).times(h[None])[0]

        newtonian, Z0 = Newtonian(residual, step, times), z0.reshape(count, n)
        if callable(solver):
            Z = self._asked(solver, z0, leaves).reshape(count, n)
            if self.fixed:
                start = torch.nan_to_num((flat(Z0) - Z0).abs(), posinf=0.0)
                point = checked_fixed_point(flat, Z, start, tolerance)
            else:
                point = checked_root(newtonian, Z, Z0, tolerance)
        elif isinstance(solver, Newton):
            point = newton_root(newtonian, Z0, solver, tolerance)
        else:
            point = fixed_point_of(flat, Z0, solver, tolerance)
        if bool(point.singular.any()):
            self.warn(torch.nonzero(point.singular)[:, 0].tolist(), count > 1)
        failed = ~point.accepted
        if not bool(failed.any()):
            return point.z.reshape(shape)
        if self.on_failure == "raise":
            label = type(solver).__name__ if not callable(solver) else "solve"
            indices = torch.nonzero(failed)[:, 0].tolist()
            raise ConvergenceError(self.name, label, indices, point.residual[failed].tolist(), tolerance, count > 1)
        return torch.where(failed[:, None], torch.full_like(point.z, torch.nan), point.z).reshape(shape)

    def warn(self, indices: list[int], batch: bool) -> None:
        """That the roots of these instances are singular."""
        warnings.warn(message(self.name, indices, batch), SingularDerivativeWarning, stacklevel=2)

    def _asked(self, solver: Callable[..., Tensor], z0: Tensor, leaves: _Leaves) -> Tensor:
        """What a user's solver returns, given copies: whatever it differentiates or changes in place stays its own."""
        values = [h.detach() for h in leaves]
        own = lambda z, *theta: self.function(z, *self.flatten(theta), *values[len(self.flatten(theta)) :])  # noqa: E731
        z = solver(own, z0.clone(), self.unflatten(values))
        if not isinstance(z, Tensor) or z.shape != z0.shape:
            got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(
                f"{self.name}: solve: it returned {got}, expected a tensor of z0's shape {tuple(z0.shape)}"
            )
        return z.detach().to(z0)

    def linear_solution(self, z: Tensor, r: Tensor, leaves: _Leaves, transposed: bool) -> Tensor:
        """B⁻¹r or B⁻ᵀr for r (K, *z.shape), for plain tensors."""
        if torch._C._functorch.is_legacy_batchedtensor(r):
            raise NotImplementedError(
                f"{self.name}: is_grads_batched=True (and vectorize=True of torch.autograd.functional) hides its batch from the linear "
                "solver: use torch.func.vmap, jacrev or jacfwd"
            )
        count, n = self.sizes(z)
        if not r.numel():
            return r.clone()
        settings = linear_solver_for(self.linear, n, count)
        products = Products(self, z, leaves)
        flat = r.reshape(-1, count, n)
        finite = torch.isfinite(flat).all(-1)
        known = torch.where(finite[..., None], flat, torch.zeros_like(flat))
        B = matrix_of(products.transposed_times, z.reshape(count, n)) if n <= MOST_UNKNOWNS else None
        answer = solve_linear(
            products.times, products.transposed_times, known, settings, transposed=transposed, matrix=B
        )
        good = answer.residual <= answer.tolerance
        points = torch.isfinite(z.reshape(count, n)).all(-1)
        t = answer.t
        singular, inverse = self._singular(products, z, leaves, B, points)
        if singular is not None and inverse is not None:
            self.warn(torch.nonzero(singular)[:, 0].tolist(), count > 1)
            stands_in = torch.einsum("nji,kni->knj" if not transposed else "nij,kni->knj", inverse, known)
            t, good = torch.where(singular[:, None], stands_in, t), good | singular
        if self.on_failure == "raise":
            failed = finite & ~good & points
            if bool(failed.any()):
                worst = torch.nan_to_num(answer.residual[failed], nan=torch.inf).max()
                raise LinearSolveError(self.name, type(settings).__name__, float(worst), answer.tolerance)
        return torch.where((good & finite & points)[..., None], t, torch.full_like(flat, torch.nan)).reshape(r.shape)

    def _singular(
        self, products: Products, z: Tensor, leaves: _Leaves, B: Tensor | None, points: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Which instances are at singular roots (N,), and their B⁺ (N, n, n), by singular_roots.py; None where none is."""
        count, n = self.sizes(z)
        eps = torch.finfo(z.dtype).eps
        if B is None or not bool(points.any()):
            return None, None
        flat = lambda Z: self.residual(Z.reshape(z.shape), *leaves).reshape(count, n)  # noqa: E731
        Z = torch.where(points[:, None], z.reshape(count, n), torch.zeros_like(z.reshape(count, n)))
        value = flat(Z)
        steps = Z * torch.as_tensor(wider_probe(eps, n)).to(z)
        right = torch.nan_to_num(torch.stack([value, flat(Z + steps) - value - products.times(steps[None])[0]]))
        B = torch.where(points[:, None, None], B, torch.zeros_like(B))
        dz, noise = solve_dense(B, right)
        d = torch.where(dz < 0, -1.0, 1.0) * (dz.abs() + noise.abs())
        finite = points & torch.isfinite(d).all(1)
        suspect = finite & (d.abs() > suspect_from(eps) * Z.abs()).any(1)
        if not bool(suspect.any()):
            return None, None
        d = torch.where(suspect[:, None], d, torch.zeros_like(d))
        ahead = Products(self, (Z + FAR * d).reshape(z.shape), leaves).times(d[None])
        if not bool(((solve_dense(B, ahead)[0] - d).abs() > CHANGED * d.abs()).any()):
            return None, None
        near, far = (
            matrix_of(Products(self, (Z + a * d).reshape(z.shape), leaves).transposed_times, Z) for a in (NEAR, FAR)
        )
        singular, inverse = tested(*(h.detach().cpu().numpy() for h in (B, near, far, d, Z)))
        if not (singular & points.cpu().numpy()).any():
            return None, None
        return torch.as_tensor(singular, device=z.device) & points, torch.as_tensor(inverse).to(z)


@final
class Products:
    """Products with B and Bᵀ at a point, of plain vectors (K, N, n)."""

    def __init__(self, equation: Equation, z: Tensor, leaves: _Leaves) -> None:
        self._shape, self._z = z.shape, z
        self._of_z = lambda h: equation.residual(h, *leaves)

    @functools.cached_property
    def _pull(self) -> Callable[[Tensor], tuple[Tensor]]:
        return torch.func.vjp(self._of_z, self._z)[1]

    def times(self, h: Tensor) -> Tensor:
        # Of numbers without axes torch's forward mode makes double precision.
        pushed = each(lambda t: push(self._of_z, (self._z,), (t,)), h.reshape(len(h), *self._shape))
        return pushed.reshape(h.shape).to(h.dtype)

    def transposed_times(self, h: Tensor) -> Tensor:
        return each(lambda t: self._pull(t)[0], h.reshape(len(h), *self._shape)).reshape(h.shape)

    def least_squares(self, value: Tensor, t: Tensor, bad: Tensor) -> Tensor:
        """B⁺-like steps (BᵀB + μI)⁻¹Bᵀ value for the instances that are ``bad``."""
        from_rows = matrix_of(self.transposed_times, value)
        gram = from_rows.mT @ from_rows
        scale = 1e-8 * torch.diagonal(gram, dim1=1, dim2=2).amax(1).clamp_min(torch.finfo(t.dtype).tiny)
        damped = gram + scale[:, None, None] * torch.eye(t.shape[1], dtype=t.dtype, device=t.device)
        step = torch.linalg.solve_ex(damped, from_rows.mT @ value[..., None])[0][..., 0]
        return torch.where(bad[:, None], torch.nan_to_num(step, posinf=0.0, neginf=0.0), t)


def pose(
    name: str,
    function: Callable[..., Tensor],
    z0: Any,
    theta: tuple[Any, ...],
    fixed: bool,
    batched: bool,
    solve: Any = None,
    linear: Any = None,
    tol: float | None = None,
    on_failure: str = "raise",
    letter: str = "",
) -> tuple[Equation, Tensor, list[Tensor]]:
    """The equation as a function of tensors alone, z0 as one in the function's dtype, and the tensors: theta's, and those closed over."""
    letter = letter or ("f" if fixed else "F")
    if not callable(function):
        raise TypeError(
            f"{name}: {letter}: got {described(function)}, expected a callable (z, *theta) -> tensor of z's shape"
        )
    for h in tree_flatten(z0)[0]:
        if not isinstance(h, Tensor) or h.dtype not in _DTYPES:
            got = f"a tensor of {h.dtype}" if isinstance(h, Tensor) else type(h).__name__
            raise TypeError(
                f"{name}: z0: got {got}, expected a tensor of float32 or float64, or a list, tuple or dict of them; write "
                "torch.as_tensor(z0, dtype=torch.get_default_dtype())"
            )
    restored: Callable[[Tensor], Any] = lambda z: z  # noqa: E731
    if not isinstance(z0, Tensor):
        unknowns = Unknowns.of(name, z0, batched, _TREES)
        function, solve = unknowns.function(function, f"{name}: {letter}"), unknowns.solver(solve, f"{name}: solve")
        z0, restored = unknowns.pack(z0, tree_flatten(z0)[0][0].shape[: int(batched)], name), unknowns.unpack
    if batched and z0.ndim == 0:
        raise ValueError(f"{name}: batched: got True and z0 without axes, expected a leading axis of instances in z0")
    z0 = z0.detach().clone()
    as_written, function = function, getattr(function, "_torchdynamo_orig_callable", function)
    found = capture(name, function, z0, theta)
    output = found.output
    if not isinstance(output, Tensor) or output.shape != z0.shape:
        got = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"{name}: {letter}: it returned {got}, expected a tensor of z0's shape {tuple(z0.shape)}; write as many equations as unknowns"
        )
    if not output.is_floating_point() or torch.promote_types(z0.dtype, output.dtype) not in _DTYPES:
        raise TypeError(f"{name}: {letter}: it returned a tensor of {output.dtype}, expected float32 or float64")
    leaves, spec = tree_flatten(theta)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    tensors = [leaves[i] for i in places]
    constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def unflatten(values: Sequence[Tensor]) -> tuple[Any, ...]:
        every = list(constants)
        for i, value in zip(places, values, strict=False):
            every[i] = value
        return tree_unflatten(every, spec)

    def flatten(given: Any) -> list[Tensor]:
        return [leaf for leaf in tree_flatten(tuple(given))[0] if isinstance(leaf, Tensor)]

    def of_tensors(z: Tensor, *values: Tensor) -> Tensor:
        return found.call(values[len(places) :], z, *unflatten(values))

    def direct(z: Tensor, *values: Tensor) -> Tensor:
        return as_written(z, *unflatten(values))

    plain = not torch._C._are_functorch_transforms_active()
    equation = Equation(
        name=name,
        function=of_tensors,
        fixed=fixed,
        axes=int(batched),
        solve=solve,
        linear=linear,
        tol=tol,
        on_failure=on_failure,
        unflatten=unflatten,
        flatten=flatten,
        direct=direct if plain else None,
        restored=restored,
    )
    return equation, z0.to(torch.promote_types(z0.dtype, output.dtype)), [*tensors, *found.tensors]
