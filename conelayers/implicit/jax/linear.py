"""Solving B t = r in JAX by traced loops, B = ∂F/∂z block-diagonal over N instances; t, r (N, n)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from conelayers.implicit.jax.arrays import ARRAYS
from conelayers.implicit.linear import Answer, answer_of, bicgstab, growth_is_regular, probes, target_of, unit
from conelayers.implicit.settings import GMRES, Dense, LinearSolver

__all__ = ["matrix_of", "solve_dense", "solve_linear", "solve_with_diagonal"]

Array = jax.Array
_Product = Callable[[Array], Array]  # (N, n) to (N, n)


def matrix_of(times: _Product, like: Array) -> Array:
    """B (N, n, n) from products with it; ``like`` is (N, n)."""
    count, n = like.shape
    identity = jnp.broadcast_to(jnp.eye(n, dtype=like.dtype)[:, None, :], (n, count, n))
    return jnp.transpose(jax.vmap(times)(identity), (1, 2, 0))


def solve_linear(times: _Product, r: Array, settings: LinearSolver) -> Answer:
    """B⁻¹r by the settings' method; ``times`` is the product with B."""
    if not r.size:
        return Answer(r, jnp.zeros(r.shape[0], r.dtype), settings.rtol)
    if isinstance(settings, Dense):
        t = solve_dense(matrix_of(times, r), r)
    elif isinstance(settings, GMRES):
        t = _gmres(times, r, settings)
    else:
        t = bicgstab(ARRAYS, times, r, settings)
    return answer_of(ARRAYS, t, times(t), r, settings)


def solve_dense(B: Array, r: Array) -> Array:
    """B⁻¹r by LU and one refinement, for B (N, n, n), r (N, n); infinite where B is singular by ``probes``."""
    columns = r[..., None]
    vectors, sizes = probes(ARRAYS, B)
    factors = jax.vmap(jax.scipy.linalg.lu_factor)(B)
    solve = jax.vmap(jax.scipy.linalg.lu_solve)
    t = solve(factors, jnp.concatenate([columns, vectors], axis=2))
    regular = growth_is_regular(ARRAYS, t[..., 1:], sizes)
    t = t[..., :1] + solve(factors, columns - B @ t[..., :1])
    return jnp.where(regular[:, None], t[..., 0], jnp.inf)


def solve_with_diagonal(gram: Array, diagonal: Array, right: Array) -> Array:
    """(G + diag(d))⁻¹ times right-hand sides (N, n, k), for G (N, n, n) and d (N, n)."""
    return jnp.linalg.solve(gram + jax.vmap(jnp.diag)(diagonal), right)


def _gmres(times: _Product, r: Array, settings: GMRES) -> Array:
    """Arnoldi with Gram–Schmidt done twice; each cycle's least-squares problem by its SVD, breakdowns included."""
    target, (count, n) = target_of(ARRAYS, r, settings.rtol), r.shape
    m = min(settings.restart, n)
    rounding = 10 * jnp.finfo(r.dtype).eps

    def cycle(state: tuple[Array, ...]) -> tuple[Array, ...]:
        t, residual, last, products, _ = state
        V = jnp.zeros((m + 1, count, n), r.dtype).at[0].set(unit(ARRAYS, residual, last))

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
            return V.at[j + 1].set(unit(ARRAYS, w, norm)), H.at[:, :, j].set(column.at[:, j + 1].set(norm))

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
