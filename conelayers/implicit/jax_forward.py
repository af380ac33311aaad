"""Solving z = f(z) and F(z) = 0 in JAX for a batch of instances z (N, n), each with its own convergence; torch_forward.py in traced loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import jax
import jax.numpy as jnp

from conelayers.implicit.settings import (
    AT_ZERO,
    BEYOND,
    DOWN,
    LINEAR,
    MODEL,
    PROBE,
    ROUNDINGS,
    SHRINKING,
    SLOW_STEPS,
    SLOW_VALUES,
    Anderson,
    Newton,
    Picard,
    probe,
)

__all__ = ["Newtonian", "Point", "checked_fixed_point", "checked_root", "fixed_point_of", "newton_root"]

Array = jax.Array
_Map = Callable[[Array], Array]
_RIDGE = 1e-14  # on rows of unit length
_HALVINGS = 12
_DIVERGED = 1e3


@final
class Point(NamedTuple):
    """z (N, n), how far it is from being accepted, relative (N,), whether it is, and whether the convergence was that to a singular root."""

    z: Array
    residual: Array
    accepted: Array
    singular: Array


@final
class _Best(NamedTuple):
    """The best z (N, n) that was met, and its relative residual (N,)."""

    z: Array
    residual: Array


def _ratio(a: Array, b: Array) -> Array:
    """a/b for a, b ≥ 0; 0/0 is 0, and what is not a number infinite."""
    r = jnp.where(a == 0, 0.0, a / jnp.where(b == 0, 1.0, b))
    return jnp.where(jnp.isfinite(r) & ((b != 0) | (a == 0)), r, jnp.inf)


def _most(h: Array) -> Array:
    return jnp.max(h, axis=1, initial=0.0)


def _finite(h: Array) -> Array:
    return jnp.nan_to_num(jnp.abs(h), posinf=0.0)


def _epsilon(z: Array) -> float:
    return float(jnp.finfo(z.dtype).eps)


def _rounding(function: _Map, z: Array, value: Array) -> Array:
    """The sizes (N, n) of what the function's rows are computed from, by how they change when z does in its last digits."""
    eps = _epsilon(z)
    return _finite((function(z + eps * jnp.asarray(probe(z.shape[1]), z.dtype) * z) - value) / (PROBE * eps))


@final
@dataclass(frozen=True, eq=False)
class _Residual:
    """|F_i| over max(|z_i|, start_i), start = |F| at z0, the largest (N,). Unless ``strict``, what is rounding of the largest entry passes."""

    start: Array
    tolerance: float
    strict: bool = False

    def __call__(self, F: Array, z: Array) -> Array:
        r = _most(_ratio(jnp.abs(F), jnp.maximum(jnp.abs(z), self.start)))
        if self.strict:
            return r
        rounding = ROUNDINGS * _epsilon(z) * jnp.maximum(_most(jnp.abs(z)), _most(self.start))
        return jnp.where(_most(jnp.abs(F)) <= rounding, jnp.minimum(r, self.tolerance), r)


def fixed_point_of(f: _Map, z0: Array, settings: Anderson | Picard, tolerance: float) -> Point:
    """By Anderson acceleration and, for those that it left, plain iteration; or by plain iteration alone."""
    residual = _Residual(_finite(f(z0) - z0), tolerance)
    start = _Best(z0, jnp.full(z0.shape[:1], jnp.inf, z0.dtype))
    if isinstance(settings, Picard):
        best = _picard(f, start, residual, settings.max_iter, settings.damping)
    else:
        best = _picard(f, _anderson(f, start, residual, settings), residual, settings.max_iter, 1.0)
        best = _mapped(f, best, residual)
    point = checked_fixed_point(f, best.z, residual.start, tolerance)
    damping = settings.damping if isinstance(settings, Picard) else 1.0

    def further(_: None) -> Point:
        # Rounding of the largest entry is none of smaller ones that do not depend on it.
        found = _picard(f, _Best(best.z, start.residual), replace(residual, strict=True), settings.max_iter, damping)
        z = jnp.where((point.accepted | (best.residual > tolerance))[:, None], best.z, found.z)
        return checked_fixed_point(f, z, residual.start, tolerance)

    return jax.lax.cond((~point.accepted & (best.residual <= tolerance)).any(), further, lambda _: point, None)


def checked_fixed_point(f: _Map, z: Array, start: Array, tolerance: float) -> Point:
    """Whether every row is within the tolerance of max(|z_i|, start_i), or at its own rounding."""
    value = f(z)
    F = jnp.abs(value - z)
    residual = _most(_ratio(F, jnp.maximum(jnp.abs(z), start)))
    rounded = _most(_ratio(F, jnp.maximum(_rounding(f, z, value), jnp.abs(z)))) <= ROUNDINGS * _epsilon(z)
    accepted = (residual <= tolerance) | rounded
    return Point(z, residual, accepted, jnp.zeros_like(accepted))


def _mapped(f: _Map, best: _Best, residual_of: _Residual) -> _Best:
    """f(z) where that is a solution too: unlike a combination of points it has f's zeros, and lies where f maps to."""
    z = f(best.z)
    residual = residual_of(f(z) - z, z)
    better = residual <= residual_of.tolerance
    return _Best(jnp.where(better[:, None], z, best.z), jnp.where(better, residual, best.residual))


def _better(best: _Best, z: Array, residual: Array) -> _Best:
    improved = residual < best.residual
    return _Best(jnp.where(improved[:, None], z, best.z), jnp.where(improved, residual, best.residual))


def _picard(f: _Map, start: _Best, residual_of: _Residual, steps: int, damping: float) -> _Best:
    tolerance = residual_of.tolerance

    def unfinished(state: tuple[_Best, Array, Array]) -> Array:
        best, z, k = state
        return (k < steps) & ((best.residual > tolerance) & jnp.isfinite(z).all(1)).any()

    def step(state: tuple[_Best, Array, Array]) -> tuple[_Best, Array, Array]:
        best, z, k = state
        g = f(z) - z
        best = _better(best, z, residual_of(g, z))
        done = best.residual <= tolerance
        return best, jnp.where(done[:, None], z, z + damping * g), k + 1

    return jax.lax.while_loop(unfinished, step, (start, start.z, jnp.zeros((), jnp.int32)))[0]


@final
class _Memory(NamedTuple):
    """The last points (m, N, n), their residuals, and which of them an instance may use (m, N)."""

    Z: Array
    G: Array
    live: Array


def _anderson(f: _Map, start: _Best, residual_of: _Residual, settings: Anderson) -> _Best:
    """With g = f − z: γ minimizes ‖g − Σ γᵢ Δgᵢ‖, and z ← z + βg − Σ γᵢ (Δzᵢ + βΔgᵢ), Δ the differences to earlier points."""
    m, beta, tolerance = settings.memory, settings.damping, residual_of.tolerance
    z0 = start.z
    _State = tuple[_Best, Array, _Memory, Array]

    def unfinished(state: _State) -> Array:
        best, _, _, k = state
        return (k < settings.max_iter) & (best.residual > tolerance).any()

    def step(state: _State) -> _State:
        best, z, memory, k = state
        g = f(z) - z
        residual = residual_of(g, z)
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


@final
@dataclass(frozen=True, eq=False)
class Newtonian:
    """What Newton's method asks of an equation: F, the step B⁻¹F at z with the instances (N,) where B is regular, and products B(z)h."""

    F: _Map
    step: Callable[[Array, Array], tuple[Array, Array]]
    times: Callable[[Array, Array], Array]


@final
class _State(NamedTuple):
    """z, F(z); which instances are done; the steps in a row of linear convergence, now and one step before; whether F falls because z runs away, as e^z does; the last step, and relative to z; |z| so far; the best point."""

    z: Array
    value: Array
    done: Array
    linear: Array
    ran: Array
    leaving: Array
    last: Array
    relative: Array
    widths: Array
    best: _Best
    k: Array


def newton_root(equation: Newtonian, z0: Array, settings: Newton, tolerance: float, rows: Array | None = None) -> Point:
    """The longest of the steps 1, ½, ¼, … that lowers ‖F‖ enough is taken; the best of them where none does.

    F's rows are measured by their size at the start, ``rows`` if that is larger, and by that of what they are computed from. What converges linearly
    while B shrinks, as it does at a singular root, goes on to the end: an equation without a root would not.
    """
    F, eps = equation.F, _epsilon(z0)
    zero = max(ROUNDINGS * eps, AT_ZERO * tolerance)
    value = F(z0)
    start = _finite(value) if rows is None else jnp.maximum(_finite(value), rows)

    def looked(s: _State) -> tuple[_State, Array]:
        rows = jnp.maximum(start, _rounding(F, s.z, s.value))
        best = _better(s.best, s.z, _most(_ratio(jnp.abs(s.value), rows)))
        far = (best.residual <= BEYOND * zero) | (s.value == 0).all(1)
        arrived = (best.residual <= zero) & ~s.leaving & ((s.linear < LINEAR) | far)
        return s._replace(best=best, done=s.done | arrived), rows

    def iterate(given: tuple[_State, Array]) -> tuple[_State, Array]:
        s, rows = given
        z, value = s.z, s.value
        widths = jnp.maximum(s.widths, jnp.abs(z))
        dz, regular = equation.step(z, value)
        relative = jnp.where(s.done, s.relative, _most(_ratio(jnp.abs(dz), jnp.abs(z))))
        weights = jnp.where(rows > 0, 1 / jnp.where(rows > 0, rows, 1.0), 0.0)
        size = jnp.linalg.norm(weights * value, axis=1)
        chosen, chosen_value, chosen_size, accepted, full = _searched(F, z, value, weights, dz, s.done)
        # Newton's step is rounding of z; or F is, which the step does not lower though its linear model holds there.
        ahead = equation.times(z - dz, dz)
        model = jnp.linalg.norm(weights * (ahead - value), axis=1) <= MODEL * size
        down = (_most(jnp.abs(weights * value)) <= DOWN) | (
            _most(jnp.abs(value)) <= tolerance * (1 + _most(jnp.abs(z)))
        )
        noise = ~accepted & (chosen_size >= (1 - 1e-4) * size) & model & down
        small = ~s.done & ((regular & (relative <= tolerance)) | noise)
        stays = (small & ~accepted)[:, None]
        chosen, chosen_value = jnp.where(stays, z, chosen), jnp.where(stays, value, chosen_value)
        # Or the next one will be, by how far F has come down.
        above = jnp.abs(chosen_value) > ROUNDINGS * eps * rows
        drop = _most(jnp.where(above, _ratio(jnp.abs(chosen_value), jnp.abs(value)), 0.0))
        follows = (
            full & (drop > 0) & (drop <= MODEL) & (drop * _most(_ratio(jnp.abs(dz), jnp.abs(chosen))) <= tolerance / 10)
        )
        length, before = (jnp.linalg.norm(_ratio(jnp.abs(h), widths), axis=1) for h in (dz, s.last))
        steps, values = _ratio(length, before), _ratio(chosen_size, size)
        slow = full & (SLOW_STEPS[0] <= steps) & (steps <= SLOW_STEPS[1]) & (values <= SHRINKING * steps)
        slow = slow & (SLOW_VALUES[0] <= values) & (values <= SLOW_VALUES[1])
        leaving = full & (steps > SLOW_STEPS[1]) & (steps < jnp.inf) & (values >= SLOW_VALUES[0])
        ran = jnp.where(s.done, s.ran, s.linear)  # before rounding ended it
        linear = jnp.where(s.done, s.linear, jnp.where(slow, s.linear + 1, 0))
        ended = small | (follows & ~s.done)
        best = _Best(jnp.where(ended[:, None], chosen, s.best.z), jnp.where(ended, 0.0, s.best.residual))
        return looked(
            _State(chosen, chosen_value, s.done | ended, linear, ran, leaving, dz, relative, widths, best, s.k + 1)
        )

    def unfinished(given: tuple[_State, Array]) -> Array:
        s = given[0]
        return (s.k < settings.max_iter) & (~s.done & jnp.isfinite(s.z).all(1)).any()

    none, infinite = jnp.zeros(z0.shape[:1], bool), jnp.full(z0.shape[:1], jnp.inf, z0.dtype)
    first = _State(
        z0, value, none, none.astype(jnp.int32), none.astype(jnp.int32), none, jnp.zeros_like(z0), infinite,
        jnp.zeros_like(z0), _Best(z0, infinite), jnp.zeros((), jnp.int32),
    )  # fmt: skip
    s, _ = jax.lax.while_loop(unfinished, iterate, looked(first))
    done = s.done | ((s.best.residual <= zero) & ~s.leaving)
    residual = jnp.where(done, 0.0, jnp.maximum(s.relative, 2 * tolerance))
    return Point(s.best.z, residual, done, done & (jnp.maximum(s.linear, s.ran) >= LINEAR))


def _searched(F: _Map, z: Array, value: Array, weights: Array, dz: Array, done: Array) -> tuple[Array, ...]:
    """The point chosen, F and its size there, which instances (N,) have come down enough, and which by a full step."""
    size = jnp.linalg.norm(weights * value, axis=1)
    _Line = tuple[Array, Array, Array, Array, Array, Array]

    def unfinished(state: _Line) -> Array:
        return (state[5] < _HALVINGS) & ~state[3].all()

    def halve(state: _Line) -> _Line:
        chosen, chosen_value, least, accepted, full, k = state
        t = 0.5 ** k.astype(z.dtype)
        trial = jnp.where(accepted[:, None], z, z - t * dz)
        trial_value = F(trial)
        norm = jnp.linalg.norm(weights * trial_value, axis=1)
        norm = jnp.where(jnp.isfinite(norm), norm, jnp.inf)
        better = ~accepted & (norm < least)
        chosen = jnp.where(better[:, None], trial, chosen)
        chosen_value = jnp.where(better[:, None], trial_value, chosen_value)
        accepted = accepted | (norm <= (1 - 1e-4 * t) * size)
        return chosen, chosen_value, jnp.where(better, norm, least), accepted, jnp.where(k == 0, accepted, full), k + 1

    start = (z, value, jnp.full_like(size, jnp.inf), done, done, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, halve, start)[:5]


def checked_root(equation: Newtonian, z: Array, z0: Array, tolerance: float) -> Point:
    """A point that somebody else found: F is rounding, or Newton's step is small, or F is down from the start and Newton's method converges from z."""
    value = equation.F(z)
    start = _finite(equation.F(z0))
    rows = jnp.maximum(start, _rounding(equation.F, z, value))
    residual = _most(_ratio(jnp.abs(value), rows))
    rounded = residual <= ROUNDINGS * _epsilon(z)
    none = jnp.zeros_like(rounded)

    def judged(_: None) -> Point:
        dz, regular = equation.step(z, value)
        relative = _most(_ratio(jnp.abs(dz), jnp.abs(z)))
        accepted, down = rounded | (regular & (relative <= tolerance)), residual <= tolerance

        def followed(_: None) -> tuple[Array, Array]:
            further = newton_root(equation, z, Newton(), min(tolerance, 1e-10), start)
            return accepted | (down & further.accepted), ~accepted & down & further.singular

        good, singular = jax.lax.cond((~accepted & down).any(), followed, lambda _: (accepted, none), None)
        return Point(z, jnp.where(good | (residual > tolerance), residual, relative), good, singular)

    return jax.lax.cond(rounded.all(), lambda _: Point(z, residual, rounded, none), judged, None)
