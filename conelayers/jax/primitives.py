"""The solution map and the linear systems of its derivatives, as primitives for all of JAX's transformations.

With F(x, v; φ) = 0 and J = J(φ, v) (residual.py) there are two of them, and two more for the projection
(projection_derivatives.py); each derivative is written in terms of the others:

    solve       φ ↦ (x, y, s)           along dφ: J [dx; dv] = −F_φ dφ,  dy = D dv,  ds = dy − dv
    linear      (φ, v, r) ↦ J⁻¹r or J⁻ᵀr    linear in r; along dφ, dv: J dt = −dJ t, where dJ holds D²Π(v)[dv, ·]

Each has a tangent rule, a transpose with respect to the arguments in which it is linear, and a batching rule that folds
the mapped axis into the batch. In compiled functions each is a callback. On concrete arrays it calls the host at once,
so that the user sees the engine's own errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching

from conelayers.jax.host import HostProgram
from conelayers.jax.host_primitive import alike, front, host_primitive, known, mapped_size
from conelayers.jax.projection_derivatives import derivative, second
from conelayers.layer.traced_program import TracedProgram

__all__ = ["solve", "zero_where_nan"]

Array = jax.Array
_Pair = tuple[Array, Array]


def zero_where_nan(h: Array) -> Array:
    """h with zero in the place of NaN, where there is no solution."""
    return jnp.where(jnp.isnan(h), 0.0, h)


def solve(program: HostProgram, phi: Array) -> tuple[Array, Array, Array, Array, Array]:
    """x (B, n), y (B, m), s (B, m), status (B,), residual (B,) at φ (B, ·)."""
    return tuple(_solve_p.bind(phi, program=program))


def linear(program: HostProgram, phi: Array, v: Array, r1: Array, r2: Array, transposed: bool) -> _Pair:
    """J⁻¹ or J⁻ᵀ times the right-hand sides r₁ (K, B, n), r₂ (K, B, m)."""
    phi, v, r1, r2 = alike(phi, v, r1, r2)
    return tuple(_linear_p.bind(phi, v, r1, r2, program=program, transposed=transposed))


def _dense(tangent: Any, like: Array) -> Array:
    return jnp.zeros_like(like) if type(tangent) is ad.Zero else tangent


def _zero(primal: Array) -> ad.Zero:
    return ad.Zero(jax.typeof(primal).to_tangent_aval())


# solve


def _solve_shapes(phi: Any, *, program: HostProgram) -> list[tuple[Any, Any]]:
    m, n = program.traced.A_entries.shape
    batch = phi.shape[0]
    return [((batch, n), None), ((batch, m), None), ((batch, m), None), ((batch,), np.int32), ((batch,), None)]


def _solve_jvp(primals: Sequence[Array], tangents: Sequence[Any], *, program: HostProgram) -> tuple[Any, Any]:
    (phi,), (dphi,) = primals, tangents
    out = solve(program, phi)
    x, y, s, status, residual = out
    if type(dphi) is ad.Zero:
        return out, [_zero(h) for h in out]
    r1, r2 = program.jitted(_right_hand_sides)(dphi, x, y)
    v = y - s
    dx, dv = (t[0] for t in linear(program, phi, v, r1[None], r2[None], False))
    dy = derivative(program.traced, v, dv)
    return out, [dx, dy, dy - dv, *(_zero(h) for h in (status, residual))]


def _right_hand_sides(f: TracedProgram, dphi: Array, x: Array, y: Array) -> _Pair:
    """−F_φ dφ. Instances without a solution (NaN) count as zero there, so that the others' sums do not become NaN."""
    return f.right_hand_sides(dphi, zero_where_nan(x), zero_where_nan(y))


def _solve_batch(args: Sequence[Array], dims: Sequence[int | None], *, program: HostProgram) -> tuple[Any, Any]:
    size = mapped_size(args, dims)
    phi = front(args[0], dims[0], size)
    folded = solve(program, phi.reshape(-1, phi.shape[-1]))
    return [h.reshape(size, phi.shape[1], *h.shape[1:]) for h in folded], [0] * len(folded)


_solve_p = host_primitive("solve", lambda phi, program: program.solve(phi), _solve_shapes)
ad.primitive_jvps[_solve_p] = _solve_jvp
batching.primitive_batchers[_solve_p] = _solve_batch


# linear


def _linear_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, program: HostProgram, transposed: bool
) -> tuple[Any, Any]:
    phi, v, r1, r2 = primals
    t1, t2 = linear(program, phi, v, r1, r2, transposed)
    dphi, dv = map(known, tangents[:2])
    e1, e2 = _dense(tangents[2], t1), _dense(tangents[3], t2)
    if dphi is not None or dv is not None:
        moved = jax.vmap(partial(_moved, program, phi, v, dphi, dv, transposed))(t1, t2)
        e1, e2 = e1 - moved[0], e2 - moved[1]
    return [t1, t2], list(linear(program, phi, v, e1, e2, transposed))


def _moved(
    program: HostProgram, phi: Array, v: Array, dphi: Any, dv: Any, transposed: bool, t1: Array, t2: Array
) -> _Pair:
    """dJ t, or dJᵀ t, along dφ and dv, with J = [P, AᵀD; −A, I − D]."""
    f: TracedProgram = program.traced
    first, last = jnp.zeros_like(t1), jnp.zeros_like(t2)
    A = f.A_values(phi)
    if transposed:
        if dphi is not None:
            first += f.dP(dphi, t1) - f.dAT(dphi, t2)
            last += derivative(f, v, f.dA(dphi, t1))
        if dv is not None:
            last += second(f.projection, v, dv, f.A_entries.times(A, t1) - t2)
        return first, last
    if dphi is not None:
        first += f.dP(dphi, t1) + f.dAT(dphi, derivative(f, v, t2))
        last -= f.dA(dphi, t1)
    if dv is not None:
        turned = second(f.projection, v, dv, t2)
        first += f.A_entries.transposed_times(A, turned)
        last -= turned
    return first, last


def _linear_transpose(
    cts: Sequence[Any], phi: Any, v: Any, r1: Any, r2: Any, *, program: HostProgram, transposed: bool
) -> list[Any]:
    if all(type(ct) is ad.Zero for ct in cts):
        return [None] * 4
    c1, c2 = map(ad.instantiate_zeros, cts)
    g = linear(program, phi, v, c1, c2, not transposed)
    return [None, None, *(t if ad.is_undefined_primal(r) else None for t, r in zip(g, (r1, r2), strict=True))]


def _linear_batch(
    args: Sequence[Array], dims: Sequence[int | None], *, program: HostProgram, transposed: bool
) -> tuple[Any, Any]:
    size = mapped_size(args, dims)
    phi, v, *rs = args
    r1, r2 = (front(r, dim, size) for r, dim in zip(rs, dims[2:], strict=True))
    if dims[0] is None and dims[1] is None:  # the systems are not mapped, only their right-hand sides
        r1, r2 = (r.reshape(-1, *r.shape[2:]) for r in (r1, r2))
        return [t.reshape(size, -1, *t.shape[1:]) for t in linear(program, phi, v, r1, r2, transposed)], [0, 0]
    phi, v = (front(h, dim, size) for h, dim in ((phi, dims[0]), (v, dims[1])))
    count, batch = r1.shape[1:3]
    phi, v = (h.reshape(size * batch, h.shape[-1]) for h in (phi, v))
    r1, r2 = (jnp.swapaxes(r, 0, 1).reshape(count, size * batch, r.shape[-1]) for r in (r1, r2))
    folded = linear(program, phi, v, r1, r2, transposed)
    return [t.reshape(count, size, batch, t.shape[-1]) for t in folded], [1, 1]


_linear_p = host_primitive(
    "linear",
    lambda *arrays, program, transposed: program.linear(*arrays, transposed),
    lambda phi, v, r1, r2, **_: [(r1.shape, None), (r2.shape, None)],
)
ad.primitive_jvps[_linear_p] = _linear_jvp
ad.primitive_transposes[_linear_p] = _linear_transpose
batching.primitive_batchers[_linear_p] = _linear_batch
