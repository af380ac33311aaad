"""Solving z = f(z) and F(z) = 0 in JAX for a batch of instances z (N, n), each with its own convergence; torch_forward.py in traced loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import jax
import jax.numpy as jnp

from conelayers.implicit.settings import Anderson, Newton, Picard

__all__ = ["Point", "fixed_point_of", "newton_root", "relative_residual"]

Array = jax.Array
_Map = Callable[[Array], Array]
_RIDGE = 1e-14  # on rows of unit length
_HALVINGS = 12
_DIVERGED = 1e3


@final
class Point(NamedTuple):
    """The best z (N, n) that was met, and its relative residual (N,)."""

    z: Array
    residual: Array


def relative_residual(F: Array, z: Array) -> Array:
    """‖F‖∞/(1 + ‖z‖∞) for F, z (N, n), infinite where it is not a number."""
    r = jnp.max(jnp.abs(F), axis=1, initial=0.0) / (1 + jnp.max(jnp.abs(z), axis=1, initial=0.0))
    return jnp.where(jnp.isfinite(r), r, jnp.inf)


def fixed_point_of(f: _Map, z0: Array, settings: Anderson | Picard, tolerance: float) -> Point:
    """By Anderson acceleration and, for those that it left, plain iteration; or by plain iteration alone."""
    start = Point(z0, jnp.full(z0.shape[:1], jnp.inf, z0.dtype))
    if isinstance(settings, Picard):
        return _picard(f, start, settings.max_iter, settings.damping, tolerance)
    best = _picard(f, _anderson(f, start, settings, tolerance), settings.max_iter, 1.0, tolerance)
    return _mapped(f, best, tolerance)


def _mapped(f: _Map, best: Point, tolerance: float) -> Point:
    """f(z) where that is a solution too: unlike a combination of points it has f's zeros, and lies where f maps to."""
    z = f(best.z)
    residual = relative_residual(f(z) - z, z)
    better = residual <= tolerance
    return Point(jnp.where(better[:, None], z, best.z), jnp.where(better, residual, best.residual))


def _better(best: Point, z: Array, residual: Array) -> Point:
    improved = residual < best.residual
    return Point(jnp.where(improved[:, None], z, best.z), jnp.where(improved, residual, best.residual))


def _picard(f: _Map, start: Point, steps: int, damping: float, tolerance: float) -> Point:
    def unfinished(state: tuple[Point, Array, Array]) -> Array:
        best, z, k = state
        return (k < steps) & ((best.residual > tolerance) & jnp.isfinite(z).all(1)).any()

    def step(state: tuple[Point, Array, Array]) -> tuple[Point, Array, Array]:
        best, z, k = state
        g = f(z) - z
        best = _better(best, z, relative_residual(g, z))
        done = best.residual <= tolerance
        return best, jnp.where(done[:, None], z, z + damping * g), k + 1

    return jax.lax.while_loop(unfinished, step, (start, start.z, jnp.zeros((), jnp.int32)))[0]


@final
class _Memory(NamedTuple):
    """The last points (m, N, n), their residuals, and which of them an instance may use (m, N)."""

    Z: Array
    G: Array
    live: Array


def _anderson(f: _Map, start: Point, settings: Anderson, tolerance: float) -> Point:
    """With g = f − z: γ minimizes ‖g − Σ γᵢ Δgᵢ‖, and z ← z + βg − Σ γᵢ (Δzᵢ + βΔgᵢ), Δ the differences to earlier points."""
    m, beta = settings.memory, settings.damping
    z0 = start.z
    _State = tuple[Point, Array, _Memory, Array]

    def unfinished(state: _State) -> Array:
        best, _, _, k = state
        return (k < settings.max_iter) & (best.residual > tolerance).any()

    def step(state: _State) -> _State:
        best, z, memory, k = state
        g = f(z) - z
        residual = relative_residual(g, z)
        best = _better(best, z, residual)
        done = best.residual <= tolerance
        lost = ~(residual <= _DIVERGED * best.residual)
        # A lost instance goes back to its best point, with an empty memory and without a step.
        live = memory.live & ~lost
        mixed = _mixed(z, g, memory._replace(live=live), beta)
        plain = beta * g
        moved = z + jnp.where(jnp.isfinite(mixed).all(1, keepdims=True), mixed, plain)
        place = k % m
        memory = _Memory(memory.Z.at[place].set(z), memory.G.at[place].set(g), live.at[place].set(~lost))
        z = jnp.where(lost[:, None], best.z, jnp.where(done[:, None], z, moved))
        return best, z, memory, k + 1

    empty = jnp.zeros((m, *z0.shape), z0.dtype)
    memory = _Memory(empty, empty, jnp.zeros((m, z0.shape[0]), bool))
    return jax.lax.while_loop(unfinished, step, (start, z0, memory, jnp.zeros((), jnp.int32)))[0]


def _mixed(z: Array, g: Array, memory: _Memory, beta: float) -> Array:
    dz, dg = (jnp.swapaxes(h - H, 0, 1) for h, H in ((z, memory.Z), (g, memory.G)))  # (N, m, n)
    size = jnp.linalg.norm(dg, axis=2)
    usable = jnp.swapaxes(memory.live, 0, 1) & (size > 0) & jnp.isfinite(size)
    scale = jnp.where(usable, 1 / jnp.where(usable, size, 1.0), 0.0)
    rows = jnp.where(usable[..., None], dg, 0.0) * scale[..., None]
    ridge = max(_RIDGE, float(jnp.finfo(z.dtype).eps))
    gram = rows @ jnp.swapaxes(rows, 1, 2) + jax.vmap(jnp.diag)(jnp.where(usable, ridge, 1.0))
    gamma = jnp.linalg.solve(gram, rows @ g[..., None])[..., 0] * scale
    dz = jnp.where(usable[..., None], dz, 0.0)
    return beta * g - (gamma[..., None] * (dz + beta * rows * size[..., None])).sum(1)


def newton_root(F: _Map, step: Callable[[Array, Array], Array], z0: Array, settings: Newton, tolerance: float) -> Point:
    """``step(z, F(z))`` is B⁻¹F. The longest of the steps 1, ½, ¼, … that lowers ‖F‖ enough is taken; the best of them where none does."""
    value = F(z0)
    start = Point(z0, relative_residual(value, z0))

    def unfinished(state: tuple[Point, Array, Array, Array]) -> Array:
        best, z, _, k = state
        return (k < settings.max_iter) & ((best.residual > tolerance) & jnp.isfinite(z).all(1)).any()

    def iterate(state: tuple[Point, Array, Array, Array]) -> tuple[Point, Array, Array, Array]:
        best, z, value, k = state
        z, value = _searched(F, z, value, step(z, value), best.residual <= tolerance)
        return _better(best, z, relative_residual(value, z)), z, value, k + 1

    return jax.lax.while_loop(unfinished, iterate, (start, z0, value, jnp.zeros((), jnp.int32)))[0]


def _searched(F: _Map, z: Array, value: Array, dz: Array, done: Array) -> tuple[Array, Array]:
    size = jnp.linalg.norm(value, axis=1)
    _State = tuple[Array, Array, Array, Array, Array]

    def unfinished(state: _State) -> Array:
        return (state[4] < _HALVINGS) & ~state[3].all()

    def halve(state: _State) -> _State:
        chosen, chosen_value, least, accepted, k = state
        t = 0.5 ** k.astype(z.dtype)
        trial = jnp.where(accepted[:, None], z, z - t * dz)
        trial_value = F(trial)
        norm = jnp.linalg.norm(trial_value, axis=1)
        norm = jnp.where(jnp.isfinite(norm), norm, jnp.inf)
        better = ~accepted & (norm < least)
        chosen = jnp.where(better[:, None], trial, chosen)
        chosen_value = jnp.where(better[:, None], trial_value, chosen_value)
        accepted = accepted | (norm <= (1 - 1e-4 * t) * size)
        return chosen, chosen_value, jnp.where(better, norm, least), accepted, k + 1

    start = (z, value, jnp.full_like(size, jnp.inf), done, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, halve, start)[:2]
