"""The solution map and the linear systems of its derivatives, as autograd Functions for all of torch's transformations.

With F(x, v; φ) = 0 and J = J(φ, v) (residual.py) there are two of them, and two more for the projection
(projection_derivatives.py); each derivative is written in terms of the others:

    solve       φ ↦ (x, y, s)           along dφ: J [dx; dv] = −F_φ dφ,  dy = D dv,  ds = dy − dv
    linear      (φ, v, r) ↦ J⁻¹r or J⁻ᵀr    along d: J dt = dr − dJ t, where dJ holds D²Π(v)[dv, ·]

Their work is done in NumPy, into which torch.compile must not trace where a compiled graph breaks around a call: so
``outside_graphs`` stands at each of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from conelayers.layer.traced_program import TracedProgram
from conelayers.torch.call import Call
from conelayers.torch.conversion import from_array, to_array
from conelayers.torch.outside_graphs import outside_graphs
from conelayers.torch.projection_derivatives import derivative, second
from conelayers.torch.rules import added, dense, front, tangent_rule

__all__ = ["solve", "zero_where_nan"]

_Pair = tuple[Tensor, Tensor]


def zero_where_nan(h: Tensor) -> Tensor:
    """h with zero in the place of NaN: without a solution the gradient is then zero where the cotangent is zero."""
    return torch.where(h.isnan(), torch.zeros_like(h), h)


def solve(call: Call, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, n), y (B, m), s (B, m) at φ (B, ·)."""
    return _Solve.apply(call, phi)


def linear(call: Call, phi: Tensor, v: Tensor, r1: Tensor, r2: Tensor, transposed: bool) -> _Pair:
    """J⁻¹ or J⁻ᵀ times the right-hand sides r₁ (K, B, n), r₂ (K, B, m)."""
    return _Linear.apply(call, phi, v, r1, r2, transposed)


class _Solve(Function):
    @staticmethod
    @outside_graphs
    def forward(call: Call, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return call.points_at(phi)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[1], *output)
        ctx.save_for_forward(inputs[1], *output)

    @staticmethod
    @outside_graphs
    def backward(ctx: Any, gx: Tensor | None, gy: Tensor | None, gs: Tensor | None) -> tuple[None, Tensor | None]:
        if gx is None and gy is None and gs is None:
            return None, None
        phi, x, y, s = ctx.saved_tensors
        f, v = ctx.call.traced, y - s
        x, y = zero_where_nan(x), zero_where_nan(y)
        gx, gy, gs = dense(gx, x), dense(gy, y), dense(gs, s)
        h = derivative(f, v, gy + gs) - gs
        lam, mu = (t[0] for t in linear(ctx.call, phi, v, gx[None], h[None], True))
        return None, f.gradient(x, y, lam, mu)

    @staticmethod
    @tangent_rule
    def jvp(ctx: Any, saved: list[Tensor], _: None, dphi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi, x, y, s = saved
        f, v = ctx.call.traced, y - s
        x, y = zero_where_nan(x), zero_where_nan(y)
        r1, r2 = f.right_hand_sides(dphi, x, y)
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
    @outside_graphs
    def forward(call: Call, phi: Tensor, v: Tensor, r1: Tensor, r2: Tensor, transposed: bool) -> _Pair:
        linearization = call.linearization(to_array(phi)[:, : call.traced.size], to_array(v))
        gradients_move, outputs_move = call.null_tests()
        a1, a2 = to_array(r1), to_array(r2)
        t1, t2 = np.empty_like(a1), np.empty_like(a2)
        for k in range(a1.shape[0]):
            if transposed:
                # Every r₂ is D gy + (D − I) gs with gy = r₂ and gs = −r₂.
                exact = None if call.solution is None else call.solution.program_derivative
                before = 0 if exact is None else exact.troubles
                t1[k], t2[k] = linearization.adjoint(a1[k], a2[k], -a2[k], gradients_move)
                if exact is not None and exact.troubles == before:
                    exact.warn_if_zero((a1[k], a2[k], -a2[k]), t1[k], t2[k])
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
    @outside_graphs
    def backward(ctx: Any, w1: Tensor | None, w2: Tensor | None) -> tuple[Any, ...]:
        phi, v, t1, t2 = ctx.saved_tensors
        f = ctx.call.traced
        g1, g2 = linear(ctx.call, phi, v, dense(w1, t1), dense(w2, t2), not ctx.transposed)
        # The gradient is −∇⟨a, J c⟩ with (a, c) = (g, t), or (t, g) for Jᵀ, summed over the right-hand sides.
        (a1, a2), (c1, c2) = ((t1, t2), (g1, g2)) if ctx.transposed else ((g1, g2), (t1, t2))
        needs_phi, needs_v = ctx.needs_input_grad[1:3]
        dphi = dv = None
        if needs_phi:
            moved = [derivative(f, v, c) for c in c2.unbind(0)]
            dphi = added(
                *(
                    f.A_gradient(b2, d1) - f.P_gradient(b1, d1) - f.A_gradient(d2, b1)
                    for b1, b2, d1, d2 in zip(a1.unbind(0), a2.unbind(0), c1.unbind(0), moved, strict=True)
                )
            )
        if needs_v:
            A = f.A_values(phi)
            terms = [
                second(f.projection, v, f.A_entries.times(A, b1) - b2, d2)
                for b1, b2, d2 in zip(a1.unbind(0), a2.unbind(0), c2.unbind(0), strict=True)
            ]
            total = added(*terms)
            dv = None if total is None else -total
        return None, dphi, dv, g1, g2, None

    @staticmethod
    @tangent_rule
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
        f = ctx.call.traced
        r1, r2 = dense(dr1, t1), dense(dr2, t2)
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
        if in_dims[1] is None and in_dims[2] is None:  # the systems are not mapped, only their right-hand sides
            count = r1.shape[1]
            folded = linear(call, phi, v, r1.flatten(0, 1), r2.flatten(0, 1), transposed)
            return tuple(t.reshape(size, count, *t.shape[1:]) for t in folded), (0, 0)
        phi, v = (front(h, dim, size).flatten(0, 1) for h, dim in ((phi, in_dims[1]), (v, in_dims[2])))
        r1, r2 = r1.transpose(0, 1).flatten(1, 2), r2.transpose(0, 1).flatten(1, 2)
        folded = linear(call, phi, v, r1, r2, transposed)
        return tuple(t.reshape(t.shape[0], size, t.shape[1] // size, t.shape[-1]) for t in folded), (1, 1)


def _moved(
    f: TracedProgram,
    phi: Tensor,
    v: Tensor,
    t1: Tensor,
    t2: Tensor,
    dphi: Tensor | None,
    dv: Tensor | None,
    transposed: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """dJ t, or dJᵀ t, along dφ and dv, with J = [P, AᵀD; −A, I − D]; None for zero."""
    first: list[Tensor] = []
    last: list[Tensor] = []
    A = f.A_values(phi)
    if transposed:
        if dphi is not None:
            first.append(f.dP(dphi, t1) - f.dAT(dphi, t2))
            last.append(derivative(f, v, f.dA(dphi, t1)))
        turned = None if dv is None else second(f.projection, v, dv, f.A_entries.times(A, t1) - t2)
        if turned is not None:
            last.append(turned)
        return added(*first), added(*last)
    if dphi is not None:
        first.append(f.dP(dphi, t1) + f.dAT(dphi, derivative(f, v, t2)))
        last.append(-f.dA(dphi, t1))
    turned = None if dv is None else second(f.projection, v, dv, t2)
    if turned is not None:
        first.append(f.A_entries.transposed_times(A, turned))
        last.append(-turned)
    return added(*first), added(*last)
