"""B t = r in JAX, B block-diagonal over N instances: t, r (N, n); torch_linear.py in traced loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp

from conelayers.implicit.settings import GMRES, MOST_GROWTH, BiCGStab, Dense, LinearSolver, effective

__all__ = ["Answer", "matrix_of", "solve_dense", "solve_linear"]

Array = jax.Array
_Product = Callable[[Array], Array]  # (N, n) to (N, n)


@final
class Answer(NamedTuple):
    """t (N, n), its relative residuals ‖B t − r‖/‖r‖ (N,), and the tolerance they are held to."""

    t: Array
    residual: Array
    tolerance: float


def matrix_of(times: _Product, like: Array) -> Array:
    """B (N, n, n) from products with it; ``like`` is (N, n)."""
    count, n = like.shape
    identity = jnp.broadcast_to(jnp.eye(n, dtype=like.dtype)[:, None, :], (n, count, n))
    return jnp.transpose(jax.vmap(times)(identity), (1, 2, 0))


def solve_linear(times: _Product, r: Array, settings: LinearSolver) -> Answer:
    """``times`` is B's product."""
    if not r.size:
        return Answer(r, jnp.zeros(r.shape[0], r.dtype), settings.rtol)
    if isinstance(settings, Dense):
        t = solve_dense(matrix_of(times, r), r)
    elif isinstance(settings, GMRES):
        t = _gmres(times, r, settings)
    else:
        t = _bicgstab(times, r, settings)
    # Single precision does not reach what double precision does.
    tolerance = effective(settings.rtol, float(jnp.finfo(r.dtype).eps))
    if not isinstance(settings, Dense):
        tolerance *= 10
    elif r.dtype != jnp.float64:
        tolerance = max(tolerance, 1e-3)
    return Answer(t, _relative(times(t) - r, r), tolerance)


def solve_dense(B: Array, r: Array) -> Array:
    """By LU and one refinement, B (N, n, n), r (N, n); infinite where B is singular to working precision, as torch_linear.py finds out."""
    columns = r[..., None]
    rows = _scale(jnp.max(jnp.abs(B), axis=2))
    across = _scale(jnp.max(jnp.abs(B) / rows[..., None], axis=1))
    angles = jnp.arange(B.shape[-1], dtype=B.dtype) ** 2
    probes = rows[..., None] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    factors = jax.vmap(jax.scipy.linalg.lu_factor)(B)
    solve = jax.vmap(jax.scipy.linalg.lu_solve)
    t = solve(factors, jnp.concatenate([columns, probes], axis=2))
    growth = jnp.max(jnp.abs(across[..., None] * t[..., 1:]), axis=(1, 2))
    t = t[..., :1] + solve(factors, columns - B @ t[..., :1])
    regular = growth <= MOST_GROWTH / jnp.finfo(B.dtype).eps
    return jnp.where(regular[:, None], t[..., 0], jnp.inf)


def _scale(size: Array) -> Array:
    return jnp.where((size > 0) & jnp.isfinite(size), size, 1.0)


def _relative(e: Array, r: Array) -> Array:
    size, error = jnp.linalg.norm(r, axis=-1), jnp.linalg.norm(e, axis=-1)
    return jnp.where(size > 0, error / jnp.where(size > 0, size, 1.0), error)


def _target(rtol: float, r: Array) -> Array:
    tolerance = rtol if r.dtype == jnp.float64 else effective(rtol, float(jnp.finfo(r.dtype).eps))
    return tolerance * jnp.linalg.norm(r, axis=-1)


def _gmres(times: _Product, r: Array, settings: GMRES) -> Array:
    """Arnoldi with the Gram–Schmidt process done twice; the least-squares problem of each cycle by its SVD, breakdowns included."""
    target, (count, n) = _target(settings.rtol, r), r.shape
    m = min(settings.restart, n)
    rounding = 10 * jnp.finfo(r.dtype).eps

    def cycle(state: tuple[Array, ...]) -> tuple[Array, ...]:
        t, residual, last, products, _ = state
        V = jnp.zeros((m + 1, count, n), r.dtype).at[0].set(_unit(residual, last))

        def extend(j: Any, arrays: tuple[Array, Array]) -> tuple[Array, Array]:
            V, H = arrays
            w = times(V[j])
            before = jnp.linalg.norm(w, axis=-1)
            column = jnp.zeros((count, m + 1), r.dtype)
            for _ in range(2):
                h = jnp.einsum("mNn,Nn->Nm", V, w)
                w = w - jnp.einsum("Nm,mNn->Nn", h, V)
                column += h
            norm = jnp.linalg.norm(w, axis=-1)
            norm = jnp.where(norm > rounding * before, norm, 0.0)
            return V.at[j + 1].set(_unit(w, norm)), H.at[:, :, j].set(column.at[:, j + 1].set(norm))

        V, H = jax.lax.fori_loop(0, m, extend, (V, jnp.zeros((count, m + 1, m), r.dtype)))
        y = jnp.linalg.pinv(H)[:, :, 0] * last[:, None]
        t = t + jnp.einsum("Nm,mNn->Nn", y, V[:m])
        residual = r - times(t)
        norm = jnp.linalg.norm(residual, axis=-1)
        return t, residual, norm, products + m + 1, (norm < 0.999 * last).any()

    def unfinished(state: tuple[Array, ...]) -> Array:
        _, _, last, products, improved = state
        return (products < settings.max_iter) & (last > target).any() & improved

    start: tuple[Array, ...] = (
        jnp.zeros_like(r),
        r,
        jnp.linalg.norm(r, axis=-1),
        jnp.zeros((), jnp.int32),
        jnp.array(True),
    )
    return jax.lax.while_loop(unfinished, cycle, start)[0]


def _unit(h: Array, size: Array) -> Array:
    return jnp.where((size > 0)[:, None], h / jnp.where(size > 0, size, 1.0)[:, None], 0.0)


def _bicgstab(times: _Product, r: Array, settings: BiCGStab) -> Array:
    target = _target(settings.rtol, r)
    dot = lambda a, b: (a * b).sum(-1, keepdims=True)  # noqa: E731
    over = lambda a, b: jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))  # noqa: E731

    def unfinished(state: tuple[Array, ...]) -> Array:
        return (state[6] < settings.max_iter) & (state[5] > target).any()

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        t, e, p, rho, best, least, k = state
        Bp = times(p)
        alpha = over(rho, dot(r, Bp))
        s = e - alpha * Bp
        Bs = times(s)
        omega = over(dot(Bs, s), dot(Bs, Bs))
        t, e = t + alpha * p + omega * s, s - omega * Bs
        size = jnp.linalg.norm(e, axis=-1)
        better = size < least
        best, least = jnp.where(better[:, None], t, best), jnp.where(better, size, least)
        before, rho = rho, dot(r, e)
        p = e + over(rho, before) * over(alpha, omega) * (p - omega * Bp)
        return t, e, p, rho, best, least, k + 1

    zero = jnp.zeros_like(r)
    start: tuple[Array, ...] = (zero, r, r, dot(r, r), zero, jnp.linalg.norm(r, axis=-1), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, step, start)[4]
