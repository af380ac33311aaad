"""The solution map and the linear systems of its derivatives, as autograd Functions for all of torch's transformations.

With F(x, v; φ) = 0 and J = J(φ, v) (residual.py) there are four of them, each derivative written in terms of the
others:

    solve       φ ↦ (x, y, s)           along dφ: J [dx; dv] = −F_φ dφ,  dy = D dv,  ds = dy − dv
    linear      (φ, v, r) ↦ J⁻¹r or J⁻ᵀr    along d: J dt = dr − dJ t, where dJ holds D²Π(v)[dv, ·]
    derivative  (v, h) ↦ D(v)h           along d: D²Π(v)[dv, h] + D dh
    second      (v, a, c) ↦ D²Π(v)[a, c]   linear in a and c; a third derivative is refused where the cones are curved

All of it is NumPy below: where a compiled graph breaks around a call, torch.compile must not follow into it.
D is piecewise constant on orthants: there derivatives of every order exist almost everywhere, and are computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd import Function, forward_ad

from conelayers.layer.traced_program import Formulas
from conelayers.torch.call import Call
from conelayers.torch.conversion import from_array, to_array

__all__ = ["front", "optimal_value", "solve"]

Tensor = torch.Tensor
_Pair = tuple[Tensor, Tensor]


def front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """With the mapped axis in front, also where there is none."""
    return tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _sum(*terms: Tensor | None) -> Tensor | None:
    present = [t for t in terms if t is not None]
    return None if not present else present[0] if len(present) == 1 else torch.stack(present).sum(0)


def _zeros(value: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if value is None else value


def _solved(h: Tensor) -> Tensor:
    """Zero in the place of NaN: without a solution the gradient is then zero where the cotangent is zero."""
    return torch.where(h.isnan(), torch.zeros_like(h), h)


def derivative(formulas: Formulas, v: Tensor, h: Tensor) -> Tensor:
    """D(v)h for v, h (..., m)."""
    if formulas.piecewise:
        return torch.where(
            ~(v <= 0) | formulas.free, h, torch.zeros_like(h)
        )  # where v is NaN (no solution), pass h through
    return _Derivative.apply(formulas, v, h)


def second(formulas: Formulas, v: Tensor, a: Tensor, c: Tensor) -> Tensor | None:
    """D²Π(v)[a, c] for v, a, c (..., m); None for zero."""
    return _Second.apply(formulas, v, a, c) if formulas.cones.curved else None


def solve(call: Call, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, n), y (B, m), s (B, m) at φ (B, ·)."""
    return _Solve.apply(call, phi)


def linear(call: Call, phi: Tensor, v: Tensor, r1: Tensor, r2: Tensor, transposed: bool) -> _Pair:
    """J⁻¹ or J⁻ᵀ times the right-hand sides r₁ (K, B, n), r₂ (K, B, m)."""
    return _Linear.apply(call, phi, v, r1, r2, transposed)


def optimal_value(call: Call, phi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The cone program's optimal value, (B,), at its solution."""
    return _Value.apply(call, phi, x, y)


def _tangent_rule(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A ``jvp`` for forward over forward: its operations carry the outer levels' tangents, which torch would drop."""

    @torch.compiler.disable
    @functools.wraps(rule)
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            primals = [forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors]
            return rule(ctx, primals, *tangents)

    return jvp


class _Solve(Function):
    @staticmethod
    @torch.compiler.disable
    def forward(call: Call, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return call.points_at(phi)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[1], *output)
        ctx.save_for_forward(inputs[1], *output)

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, gx: Tensor | None, gy: Tensor | None, gs: Tensor | None) -> tuple[None, Tensor | None]:
        if gx is None and gy is None and gs is None:
            return None, None
        phi, x, y, s = ctx.saved_tensors
        f, v = ctx.call.formulas, y - s
        x, y = _solved(x), _solved(y)
        gx, gy, gs = _zeros(gx, x), _zeros(gy, y), _zeros(gs, s)
        h = derivative(f, v, gy + gs) - gs
        lam, mu = (t[0] for t in linear(ctx.call, phi, v, gx[None], h[None], True))
        return None, f.gradient(x, y, lam, mu)

    @staticmethod
    @_tangent_rule
    def jvp(ctx: Any, saved: list[Tensor], _: None, dphi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi, x, y, s = saved
        f, v = ctx.call.formulas, y - s
        x, y = _solved(x), _solved(y)
        r1 = -(f.dP(dphi, x) + f.dAT(dphi, y) + f.q.matrix.times(dphi))
        r2 = f.dA(dphi, x) - f.b.matrix.times(dphi)
        dx, dv = (t[0] for t in linear(ctx.call, phi, v, r1[None], r2[None], False))
        dy = derivative(f, v, dv)
        return dx, dy, dy - dv

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, phi: Tensor) -> tuple[Any, Any]:
        size = info.batch_size
        phi = front(phi, in_dims[1], size)
        folded = solve(call, phi.flatten(0, 1))
        return tuple(h.reshape(size, phi.shape[1], h.shape[-1]) for h in folded), (0, 0, 0)


class _Linear(Function):
    @staticmethod
    @torch.compiler.disable
    def forward(call: Call, phi: Tensor, v: Tensor, r1: Tensor, r2: Tensor, transposed: bool) -> _Pair:
        linearization = call.linearization(to_array(phi)[:, : call.formulas.size], to_array(v))
        gradients_move, outputs_move = call.concerns()
        a1, a2 = to_array(r1), to_array(r2)
        t1, t2 = np.empty_like(a1), np.empty_like(a2)
        for k in range(a1.shape[0]):
            if transposed:
                # Any r₂ is D gy + (D − I) gs with gy = r₂, gs = −r₂.
                derivative = None if call.solution is None else call.solution.program_derivative
                before = 0 if derivative is None else derivative.troubles
                t1[k], t2[k] = linearization.adjoint(a1[k], a2[k], -a2[k], gradients_move)
                if derivative is not None and derivative.troubles == before:
                    derivative.warn_if_zero((a1[k], a2[k], -a2[k]), t1[k], t2[k])
            else:
                t1[k], dy, ds = linearization.tangent(a1[k], a2[k], outputs_move)
                t2[k] = dy - ds
        return from_array(t1), from_array(t2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Pair) -> None:
        ctx.call, ctx.transposed = inputs[0], inputs[5]
        ctx.save_for_backward(inputs[1], inputs[2], *output)
        ctx.save_for_forward(inputs[1], inputs[2], *output)

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, w1: Tensor | None, w2: Tensor | None) -> tuple[Any, ...]:
        phi, v, t1, t2 = ctx.saved_tensors
        f = ctx.call.formulas
        g1, g2 = linear(ctx.call, phi, v, _zeros(w1, t1), _zeros(w2, t2), not ctx.transposed)
        # −∇⟨a, J c⟩ with (a, c) = (g, t), or (t, g) for Jᵀ; every right-hand side adds to it.
        (a1, a2), (c1, c2) = ((t1, t2), (g1, g2)) if ctx.transposed else ((g1, g2), (t1, t2))
        needs_phi, needs_v = ctx.needs_input_grad[1:3]
        dphi = dv = None
        if needs_phi:
            moved = [derivative(f, v, c) for c in c2.unbind(0)]
            dphi = _sum(
                *(
                    f.A_gradient(b2, d1) - f.P_gradient(b1, d1) - f.A_gradient(d2, b1)
                    for b1, b2, d1, d2 in zip(a1.unbind(0), a2.unbind(0), c1.unbind(0), moved, strict=True)
                )
            )
        if needs_v:
            A = f.A_values(phi)
            terms = [
                second(f, v, f.A_entries.times(A, b1) - b2, d2)
                for b1, b2, d2 in zip(a1.unbind(0), a2.unbind(0), c2.unbind(0), strict=True)
            ]
            total = _sum(*terms)
            dv = None if total is None else -total
        return None, dphi, dv, g1, g2, None

    @staticmethod
    @_tangent_rule
    def jvp(
        ctx: Any,
        saved: list[Tensor],
        _: None,
        dphi: Tensor | None,
        dv: Tensor | None,
        dr1: Tensor | None,
        dr2: Tensor | None,
        __: None,
    ) -> _Pair:
        phi, v, t1, t2 = saved
        f = ctx.call.formulas
        r1, r2 = _zeros(dr1, t1), _zeros(dr2, t2)
        out1, out2 = [], []
        for k in range(t1.shape[0]):
            e1, e2 = _moved(f, phi, v, t1[k], t2[k], dphi, dv, ctx.transposed)
            out1.append(r1[k] if e1 is None else r1[k] - e1)
            out2.append(r2[k] if e2 is None else r2[k] - e2)
        return linear(ctx.call, phi, v, torch.stack(out1), torch.stack(out2), ctx.transposed)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        call: Call,
        phi: Tensor,
        v: Tensor,
        r1: Tensor,
        r2: Tensor,
        transposed: bool,
    ) -> tuple[Any, Any]:
        size = info.batch_size
        r1, r2 = front(r1, in_dims[3], size), front(r2, in_dims[4], size)
        if in_dims[1] is None and in_dims[2] is None:  # more right-hand sides for the same systems
            count = r1.shape[1]
            folded = linear(call, phi, v, r1.flatten(0, 1), r2.flatten(0, 1), transposed)
            return tuple(t.reshape(size, count, *t.shape[1:]) for t in folded), (0, 0)
        phi, v = (front(h, dim, size).flatten(0, 1) for h, dim in ((phi, in_dims[1]), (v, in_dims[2])))
        r1, r2 = r1.transpose(0, 1).flatten(1, 2), r2.transpose(0, 1).flatten(1, 2)
        folded = linear(call, phi, v, r1, r2, transposed)
        return tuple(t.reshape(t.shape[0], size, t.shape[1] // size, t.shape[-1]) for t in folded), (1, 1)


def _moved(
    f: Formulas,
    phi: Tensor,
    v: Tensor,
    t1: Tensor,
    t2: Tensor,
    dphi: Tensor | None,
    dv: Tensor | None,
    transposed: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """dJ t, or dJᵀ t, along dφ and dv: J = [P, AᵀD; −A, I − D]."""
    first: list[Tensor] = []
    last: list[Tensor] = []
    A = f.A_values(phi)
    if transposed:
        if dphi is not None:
            first.append(f.dP(dphi, t1) - f.dAT(dphi, t2))
            last.append(derivative(f, v, f.dA(dphi, t1)))
        turned = None if dv is None else second(f, v, dv, f.A_entries.times(A, t1) - t2)
        if turned is not None:
            last.append(turned)
        return _sum(*first), _sum(*last)
    if dphi is not None:
        first.append(f.dP(dphi, t1) + f.dAT(dphi, derivative(f, v, t2)))
        last.append(-f.dA(dphi, t1))
    turned = None if dv is None else second(f, v, dv, t2)
    if turned is not None:
        first.append(f.A_entries.transposed_times(A, turned))
        last.append(-turned)
    return _sum(*first), _sum(*last)


def _mapped(info: Any, in_dims: tuple[Any, ...], function: Callable[..., Any], *tensors: Tensor) -> tuple[Any, Any]:
    """The vmap rule of a function of (..., m) arrays that takes any leading axes."""
    fronted = [front(t, dim, info.batch_size) for t, dim in zip(tensors, in_dims, strict=True)]
    return function(*fronted), 0


class _Value(Function):
    """½ xᵀPx + qᵀx + c with the gradient of the Lagrangian: by the envelope theorem x and y count as constants.

    dV = ½ xᵀdP x + dqᵀx + yᵀ(dA x − db) + dc
    """

    generate_vmap_rule = True

    @staticmethod
    @torch.compiler.disable
    def forward(call: Call, phi: Tensor, x: Tensor, y: Tensor) -> Tensor:
        f = call.formulas
        half = 0.5 * f.P_entries.times(f.P_values(phi), x) + f.q_value(phi)
        return (half * x).sum(1) + f.constant_value(phi)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.call = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor, None, None]:
        _, x, y = ctx.saved_tensors
        f = ctx.call.formulas
        lost = x.isnan().any(1, keepdim=True)
        x, y = _solved(x), _solved(y)
        moved = 0.5 * f.P_gradient(x, x) + f.q.matrix.transposed_times(x) + f.A_gradient(y, x)
        moved = moved - f.b.matrix.transposed_times(y) + f.constant.matrix.transposed_times(torch.ones_like(x[:, :1]))
        nothing = lost & (g[:, None] == 0)
        return None, torch.where(nothing, 0.0, g[:, None] * torch.where(lost, torch.nan, moved)), None, None

    @staticmethod
    @_tangent_rule
    def jvp(
        ctx: Any, saved: list[Tensor], call: None, dphi: Tensor | None, dx: Tensor | None, dy: Tensor | None
    ) -> Tensor:
        _, x, y = saved
        f = ctx.call.formulas
        if dphi is None:
            return torch.zeros_like(x[:, 0])
        slope = 0.5 * f.dP(dphi, x) + f.q.matrix.times(dphi)
        rows = f.dA(dphi, x) - f.b.matrix.times(dphi)
        return (slope * x).sum(1) + (rows * y).sum(1) + f.constant.matrix.times(dphi)[:, 0]


class _Derivative(Function):
    @staticmethod
    @torch.compiler.disable
    def forward(formulas: Formulas, v: Tensor, h: Tensor) -> Tensor:
        return from_array(formulas.derivative(to_array(v), to_array(h)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.formulas = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        v, h = ctx.saved_tensors
        needs_v, needs_h = ctx.needs_input_grad[1:]
        return (
            None,
            second(ctx.formulas, v, g, h) if needs_v else None,
            derivative(ctx.formulas, v, g) if needs_h else None,
        )

    @staticmethod
    @_tangent_rule
    def jvp(ctx: Any, saved: list[Tensor], _: None, dv: Tensor | None, dh: Tensor | None) -> Tensor:
        v, h = saved
        f = ctx.formulas
        moved = _sum(None if dv is None else second(f, v, dv, h), None if dh is None else derivative(f, v, dh))
        return _zeros(moved, h)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], formulas: Formulas, v: Tensor, h: Tensor) -> tuple[Any, Any]:
        return _mapped(info, in_dims[1:], lambda *a: derivative(formulas, *a), v, h)


class _Second(Function):
    @staticmethod
    @torch.compiler.disable
    def forward(formulas: Formulas, v: Tensor, a: Tensor, c: Tensor) -> Tensor:
        return from_array(formulas.second_derivative(to_array(v), to_array(a), to_array(c)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.formulas = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        v, a, c = ctx.saved_tensors
        needs_v, needs_a, needs_c = ctx.needs_input_grad[1:]
        if needs_v:
            raise NotImplementedError(_THIRD)
        return (
            None,
            None,
            second(ctx.formulas, v, g, c) if needs_a else None,
            second(ctx.formulas, v, a, g) if needs_c else None,
        )

    @staticmethod
    @_tangent_rule
    def jvp(ctx: Any, saved: list[Tensor], _: None, dv: Tensor | None, da: Tensor | None, dc: Tensor | None) -> Tensor:
        v, a, c = saved
        if dv is not None:
            raise NotImplementedError(_THIRD)
        moved = _sum(
            None if da is None else second(ctx.formulas, v, da, c),
            None if dc is None else second(ctx.formulas, v, a, dc),
        )
        return _zeros(moved, v)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], formulas: Formulas, v: Tensor, a: Tensor, c: Tensor
    ) -> tuple[Any, Any]:
        return _mapped(info, in_dims[1:], lambda *h: second(formulas, *h), v, a, c)


_THIRD = (
    "third derivatives of a layer with second-order, semidefinite, exponential or power cones are not available; "
    "first and second "
    "ones are, and all of them for linear and quadratic programs"
)
