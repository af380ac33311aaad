"""The root of an equation and the linear systems of its derivatives, as autograd Functions.

All of torch's transformations compose them. Let F(z, θ) = 0, A = ∂F/∂θ and B = ∂F/∂z (elements that automatic
differentiation gives). There are two Functions, and the derivatives of each are written in terms of both:

    root     θ ↦ z                       along dθ: B dz = −A dθ;     backward: Bᵀλ = g, then −Aᵀλ
    linear   (z, θ, r) ↦ B⁻¹r or B⁻ᵀr    along d: B dt = dr − dB t;  backward of B⁻¹: g = B⁻ᵀw, −∇⟨g, B t⟩ for z, θ

Products with A, B and their derivatives are torch.func's, at a point that carries the outer levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.autograd import Function

from conelayers.implicit.equation import Equation
from conelayers.implicit.torch.equation import mapped
from conelayers.implicit.torch.products import each, primal, push
from conelayers.implicit.torch.solution import linear_solution, solution
from conelayers.torch.rules import front, tangent_rule

__all__ = ["linear", "solve_equation"]

Tensor = torch.Tensor
_Leaves = Sequence[Tensor]


def solve_equation(equation: Equation, z0: Tensor, leaves: _Leaves) -> Tensor:
    """z, a differentiable function of the leaves."""
    return _Root.apply(equation, z0, *leaves)


def linear(equation: Equation, transposed: bool, z: Tensor, r: Tensor, leaves: _Leaves) -> Tensor:
    """B⁻¹r or B⁻ᵀr for the right-hand sides r (K, *z.shape), a differentiable function of z, r and the leaves."""
    return _Linear.apply(equation, transposed, z, r, *leaves)


def _of_some(function: Callable[..., Tensor], primals: _Leaves, places: Iterable[int]) -> Callable[..., Tensor]:
    """The function as one of the primals at ``places``; the others stay what they are."""

    def moved(*values: Tensor) -> Tensor:
        every = list(primals)
        for i, value in zip(places, values, strict=True):
            every[i] = value
        return function(*every)

    return moved


def _along(function: Callable[..., Tensor], primals: _Leaves, tangents: Sequence[Tensor | None]) -> Tensor | None:
    """The derivative of ``function`` at the primals along the tangents that are not None; None for zero."""
    present = {i: t for i, t in enumerate(tangents) if t is not None}
    if not present:
        return None
    moved = _of_some(function, primals, present)
    return push(moved, tuple(primals[i] for i in present), tuple(present.values()))


def _gradients(
    function: Callable[..., Tensor], primals: _Leaves, needed: Sequence[bool], cotangent: Tensor
) -> list[Tensor | None]:
    """The cotangent pulled back to the primals that are needed; None for the others."""
    places = [
        i for i, need in enumerate(needed) if need and (primals[i].is_floating_point() or primals[i].is_complex())
    ]
    gradients: list[Tensor | None] = [None] * len(primals)
    if not places:
        return gradients

    pull = torch.func.vjp(_of_some(function, primals, places), *(primals[i] for i in places))[1]
    for i, gradient in zip(places, pull(cotangent), strict=True):
        gradients[i] = gradient
    return gradients


class _Root(Function):
    @staticmethod
    def forward(equation: Equation, z0: Tensor, *leaves: Tensor) -> Tensor:
        return solution(equation, z0, [primal(h) for h in leaves]).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.equation = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output, *inputs[2:])
        ctx.save_for_forward(output, *inputs[2:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        z, *leaves = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if g is None or not any(needed):
            return (None,) * (2 + len(leaves))
        lam = linear(ctx.equation, True, z, g[None], leaves)[0]
        of_leaves = lambda *h: ctx.equation.residual(z, *h)  # noqa: E731
        return None, None, *_gradients(of_leaves, leaves, needed, -lam)

    @staticmethod
    @tangent_rule
    def jvp(ctx: Any, saved: list[Tensor], _: None, __: Tensor | None, *tangents: Tensor | None) -> Tensor:
        z, *leaves = saved
        moved = _along(lambda *h: ctx.equation.residual(z, *h), leaves, tangents)
        return torch.zeros_like(z) if moved is None else linear(ctx.equation, False, z, -moved[None], leaves)[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], equation: Equation, z0: Tensor, *leaves: Tensor) -> tuple[Any, Any]:
        z0 = front(z0, in_dims[1], info.batch_size)
        return solve_equation(mapped(equation, in_dims[2:]), z0, leaves), 0


class _Linear(Function):
    @staticmethod
    def forward(equation: Equation, transposed: bool, z: Tensor, r: Tensor, *leaves: Tensor) -> Tensor:
        return linear_solution(equation, primal(z), primal(r), [primal(h) for h in leaves], transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.equation, ctx.transposed = inputs[:2]
        ctx.save_for_backward(output, inputs[2], *inputs[4:])
        ctx.save_for_forward(output, inputs[2], *inputs[4:])

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Any, ...]:
        t, z, *leaves = ctx.saved_tensors
        g = linear(ctx.equation, not ctx.transposed, z, w, leaves)
        # −∇Σ⟨a, B c⟩ with (a, c) = (g, t), or (t, g) for Bᵀ.
        a, c = (t, g) if ctx.transposed else (g, t)

        def pulled(h: Tensor, *others: Tensor) -> Tensor:
            pull = torch.func.vjp(lambda q: ctx.equation.residual(q, *others), h)[1]
            return (each(lambda e: pull(e)[0], a) * c).sum()

        needed = (ctx.needs_input_grad[2], *ctx.needs_input_grad[4:])
        dz, *rest = _gradients(pulled, [z, *leaves], needed, -torch.ones((), dtype=t.dtype, device=t.device))
        return None, None, dz, g, *rest

    @staticmethod
    @tangent_rule
    def jvp(
        ctx: Any, saved: list[Tensor], _: None, __: None, dz: Tensor | None, dr: Tensor | None, *tangents: Tensor | None
    ) -> Tensor:
        t, z, *leaves = saved

        def product(h: Tensor, *others: Tensor) -> Tensor:
            of_z = lambda q: ctx.equation.residual(q, *others)  # noqa: E731
            if ctx.transposed:
                pull = torch.func.vjp(of_z, h)[1]
                return each(lambda e: pull(e)[0], t)
            return each(lambda e: push(of_z, (h,), (e,)), t)

        moved = _along(product, [z, *leaves], (dz, *tangents))
        right = torch.zeros_like(t) if dr is None else dr
        return linear(ctx.equation, ctx.transposed, z, right if moved is None else right - moved, leaves)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        equation: Equation,
        transposed: bool,
        z: Tensor,
        r: Tensor,
        *leaves: Tensor,
    ) -> tuple[Any, Any]:
        size = info.batch_size
        dims = in_dims[4:]
        if in_dims[2] is None and all(d is None for d in dims):  # the systems are not mapped, only right-hand sides
            r = front(r, in_dims[3], size)
            folded = linear(equation, transposed, z, r.flatten(0, 1), leaves)
            return folded.reshape(r.shape), 0
        z = front(z, in_dims[2], size)
        r = front(r, in_dims[3], size).transpose(0, 1)
        return linear(mapped(equation, dims), transposed, z, r, leaves), 1
