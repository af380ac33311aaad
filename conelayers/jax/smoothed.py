"""The solution map with a smoothed derivative (derivatives/smoothing.py); it has reverse mode only, and only once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.interpreters import ad, batching

from conelayers.jax.host import HostProgram
from conelayers.jax.host_primitive import alike, front, host_primitive, mapped_size
from conelayers.jax.primitives import solve
from conelayers.layer.traced_program import TracedProgram

__all__ = ["solve_smoothed"]

Array = jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def solve_smoothed(program: HostProgram, phi: Array) -> tuple[Array, ...]:
    """``solve`` with a smoothed derivative instead of the exact one, in reverse mode only."""
    return solve(program, phi)


def _smoothed_forward(program: HostProgram, phi: Array) -> tuple[tuple[Array, ...], Array]:
    return solve(program, phi), phi


def _smoothed_backward(program: HostProgram, phi: Array, cotangents: tuple[Any, ...]) -> tuple[Array]:
    gx, gy, gs = cotangents[:3]
    return (program.jitted(TracedProgram.gradient)(*_adjoint_p.bind(*alike(phi, gx, gy, gs), program=program)),)


solve_smoothed.defvjp(_smoothed_forward, _smoothed_backward)


def _adjoint_jvp(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("a layer with smoothing= has no second derivatives")


def _adjoint_batch(args: Sequence[Array], dims: Sequence[int | None], *, program: HostProgram) -> tuple[Any, Any]:
    size = mapped_size(args, dims)
    folded = [front(a, dim, size) for a, dim in zip(args, dims, strict=True)]
    parts = _adjoint_p.bind(*(a.reshape(-1, a.shape[-1]) for a in folded), program=program)
    return [h.reshape(size, -1, h.shape[-1]) for h in parts], [0] * len(parts)


_adjoint_p = host_primitive(
    "adjoint",
    lambda *arrays, program: program.adjoint(*arrays),
    lambda phi, gx, gy, gs, **_: [(h.shape, None) for h in (gx, gy, gx, gy)],
)
ad.primitive_jvps[_adjoint_p] = _adjoint_jvp
batching.primitive_batchers[_adjoint_p] = _adjoint_batch
