"""Solving z = f(z) and F(z) = 0 in PyTorch for a batch of instances z (N, n), each with its own convergence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch

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

Tensor = torch.Tensor
_Map = Callable[[Tensor], Tensor]
_RIDGE = 1e-14  # on rows of unit length
_HALVINGS = 12
_SOON = 6  # steps
_DIVERGED = 1e3


@final
class Point(NamedTuple):
    """z (N, n), how far it is from being accepted, relative (N,), whether it is, and whether the convergence was that to a singular root."""

    z: Tensor
    residual: Tensor
    accepted: Tensor
    singular: Tensor


@final
class _Best(NamedTuple):
    """The best z (N, n) that was met, and its relative residual (N,)."""

    z: Tensor
    residual: Tensor


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b for a, b ≥ 0; 0/0 is 0, and what is not a number infinite."""
    r = torch.where(a == 0, torch.zeros_like(a), a / b)
    return torch.where(torch.isfinite(r), r, torch.full_like(r, torch.inf))


def _most(h: Tensor) -> Tensor:
    return h.amax(1) if h.shape[1] else h.new_zeros(h.shape[0])


def _rounding(function: _Map, z: Tensor, value: Tensor) -> Tensor:
    """The sizes (N, n) of what the function's rows are computed from, by how they change when z does in its last digits."""
    eps = torch.finfo(z.dtype).eps
    steps = torch.tensor(probe(z.shape[1]), dtype=z.dtype, device=z.device)
    return torch.nan_to_num((function(z + eps * steps * z) - value).abs() / (PROBE * eps), posinf=0.0)


@final
@dataclass(frozen=True, eq=False)
class _Residual:
    """|F_i| over max(|z_i|, start_i), start = |F| at z0, the largest (N,). Unless ``strict``, what is rounding of the largest entry passes."""

    start: Tensor
    tolerance: float
    strict: bool = False

    def __call__(self, F: Tensor, z: Tensor) -> Tensor:
        r = _most(_ratio(F.abs(), torch.maximum(z.abs(), self.start)))
        if self.strict:
            return r
        rounding = ROUNDINGS * torch.finfo(z.dtype).eps * torch.maximum(_most(z.abs()), _most(self.start))
        return torch.where(_most(F.abs()) <= rounding, r.clamp_max(self.tolerance), r)


def fixed_point_of(f: _Map, z0: Tensor, settings: Anderson | Picard, tolerance: float) -> Point:
    """By Anderson acceleration and, for those that it left, plain iteration; or by plain iteration alone."""
    residual = _Residual(torch.nan_to_num((f(z0) - z0).abs(), posinf=0.0), tolerance)
    start = _Best(z0, z0.new_full((z0.shape[0],), torch.inf))
    if isinstance(settings, Picard):
        best = _picard(f, start, residual, settings.max_iter, settings.damping)
    else:
        best = _anderson(f, z0, residual, settings)
        if not bool((best.residual <= tolerance).all()):
            best = _picard(f, best, residual, settings.max_iter, 1.0)
        best = _mapped(f, best, residual)
    point = checked_fixed_point(f, best.z, residual.start, tolerance)
    if bool(point.accepted.all()) or not bool((best.residual <= tolerance).any()):
        return point
    # Rounding of the largest entry is none of smaller ones that do not depend on it.
    strict = _Residual(residual.start, tolerance, strict=True)
    damping = settings.damping if isinstance(settings, Picard) else 1.0
    further = _picard(f, _Best(best.z, start.residual), strict, settings.max_iter, damping)
    z = torch.where((point.accepted | (best.residual > tolerance))[:, None], best.z, further.z)
    return checked_fixed_point(f, z, residual.start, tolerance)


def checked_fixed_point(f: _Map, z: Tensor, start: Tensor, tolerance: float) -> Point:
    """Whether every row is within the tolerance of max(|z_i|, start_i), or at its own rounding."""
    value = f(z)
    F = (value - z).abs()
    residual = _most(_ratio(F, torch.maximum(z.abs(), start)))
    accepted = residual <= tolerance
    if not bool(accepted.all()):
        sizes = torch.maximum(_rounding(f, z, value), z.abs())
        rounded = _most(_ratio(F, sizes)) <= ROUNDINGS * torch.finfo(z.dtype).eps
        accepted = accepted | rounded
    return Point(z, residual, accepted, torch.zeros_like(accepted))


def _mapped(f: _Map, best: _Best, residual_of: _Residual) -> _Best:
    """f(z) where that is a solution too: unlike a combination of points it has f's zeros, and lies where f maps to."""
    z = f(best.z)
    residual = residual_of(f(z) - z, z)
    better = residual <= residual_of.tolerance
    return _Best(torch.where(better[:, None], z, best.z), torch.where(better, residual, best.residual))


def _better(best: _Best, z: Tensor, residual: Tensor) -> _Best:
    improved = residual < best.residual
    return _Best(torch.where(improved[:, None], z, best.z), torch.where(improved, residual, best.residual))


def _picard(f: _Map, start: _Best, residual_of: _Residual, steps: int, damping: float) -> _Best:
    best, z = start, start.z
    for _ in range(steps):
        g = f(z) - z
        best = _better(best, z, residual_of(g, z))
        done = best.residual <= residual_of.tolerance
        if bool(done.all()) or not bool(torch.isfinite(z[~done]).any()):
            break
        z = torch.where(done[:, None], z, z + damping * g)
    return best


def _anderson(f: _Map, z0: Tensor, residual_of: _Residual, settings: Anderson) -> _Best:
    """With g = f − z: γ minimizes ‖g − Σ γᵢ Δgᵢ‖, and z ← z + βg − Σ γᵢ (Δzᵢ + βΔgᵢ), Δ the differences to earlier points."""
    z, beta, count = z0, settings.damping, z0.shape[0]
    best = _Best(z0, z0.new_full((z0.shape[0],), torch.inf))
    points: list[tuple[Tensor, Tensor]] = []
    live = torch.ones(0, count, dtype=torch.bool, device=z.device)  # which points of the memory an instance may use
    for _ in range(settings.max_iter):
        g = f(z) - z
        residual = residual_of(g, z)
        best = _better(best, z, residual)
        done = best.residual <= residual_of.tolerance
        if bool(done.all()):
            break
        lost = ~(residual <= _DIVERGED * best.residual)
        if bool(lost.any()):  # back to the best point, with an empty memory
            z = torch.where(lost[:, None], best.z, z)
            g = torch.where(lost[:, None], f(z) - z, g)
            live = live & ~lost
        step = beta * g
        if points:
            Z, G = (torch.stack(h) for h in zip(*points, strict=True))  # (j, N, n)
            dz, dg = ((h - H).transpose(0, 1) for h, H in ((z, Z), (g, G)))
            usable = (live & torch.isfinite(Z).all(2) & torch.isfinite(G).all(2)).transpose(0, 1)
            size = dg.norm(dim=2)
            usable = usable & (size > 0)
            scale = torch.where(usable, 1 / torch.where(usable, size, torch.ones_like(size)), torch.zeros_like(size))
            rows = torch.where(usable[..., None], dg, torch.zeros_like(dg)) * scale[..., None]
            gram = rows @ rows.mT
            ridge = max(_RIDGE, torch.finfo(z.dtype).eps)
            gram = gram + torch.diag_embed(torch.where(usable, ridge, 1.0).to(z.dtype))
            factor = torch.linalg.cholesky_ex(gram)[0]
            gamma = torch.cholesky_solve((rows @ g[..., None]), factor)[..., 0] * scale
            dz = torch.where(usable[..., None], dz, torch.zeros_like(dz))
            mixed = step - (gamma[..., None] * (dz + beta * rows * size[..., None])).sum(1)
            step = torch.where(torch.isfinite(mixed).all(1, keepdim=True), mixed, step)
        points = [*points, (z, g)][-settings.memory :]
        live = torch.cat([live, torch.ones(1, count, dtype=torch.bool, device=z.device)])[-settings.memory :]
        z = torch.where(done[:, None], z, z + step)
    return best


@final
@dataclass(frozen=True, eq=False)
class Newtonian:
    """What Newton's method asks of an equation: F, the step B⁻¹F at z with the instances (N,) where B is regular, and products B(z)h."""

    F: _Map
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    times: Callable[[Tensor, Tensor], Tensor]


def newton_root(
    equation: Newtonian, z0: Tensor, settings: Newton, tolerance: float, rows: Tensor | None = None
) -> Point:
    """The longest of the steps 1, ½, ¼, … that lowers ‖F‖ enough is taken; the best of them where none does.

    F's rows are measured by their size at the start, ``rows`` if that is larger, and by that of what they are computed from. What converges linearly while B shrinks, as it does at a singular root,
    goes on to the end: an equation without a root would not.
    """
    F, eps = equation.F, torch.finfo(z0.dtype).eps
    zero = max(ROUNDINGS * eps, AT_ZERO * tolerance)
    z, value = z0, F(z0)
    start = torch.nan_to_num(value.abs(), posinf=0.0)
    start = start if rows is None else torch.maximum(start, rows)
    rows, widths = start, torch.zeros_like(z0)
    done = torch.zeros(z0.shape[0], dtype=torch.bool, device=z0.device)
    linear, ran = torch.zeros_like(done, dtype=torch.int64), torch.zeros_like(done, dtype=torch.int64)
    last, relative = torch.zeros_like(z0), z0.new_full(z0.shape[:1], torch.inf)
    leaving = torch.zeros_like(done)  # F falls because z runs away from it, as e^z does
    best = _Best(z0, torch.full_like(relative, torch.inf))
    for k in range(settings.max_iter + 1):
        if k < 2 or k > _SOON:  # a regular root is found before
            rows = torch.maximum(start, _rounding(F, z, value))
        best = _better(best, z, _most(_ratio(value.abs(), rows)))
        far = (best.residual <= BEYOND * zero) | (value == 0).all(1)
        done = done | ((best.residual <= zero) & ~leaving & ((linear < LINEAR) | far))
        if k == settings.max_iter or bool(done.all()):
            break
        widths = torch.maximum(widths, z.abs())
        dz, regular = equation.step(z, value)
        relative = torch.where(done, relative, _most(_ratio(dz.abs(), z.abs())))
        weights = torch.where(rows > 0, 1 / torch.where(rows > 0, rows, torch.ones_like(rows)), torch.zeros_like(rows))
        size = (weights * value).norm(dim=1)
        chosen, chosen_value, chosen_size = z, value, torch.full_like(size, torch.inf)
        accepted, t, full = done, 1.0, done
        for _ in range(_HALVINGS):
            trial = torch.where(accepted[:, None], z, z - t * dz)
            trial_value = F(trial)
            norm = (weights * trial_value).norm(dim=1)
            norm = torch.where(torch.isfinite(norm), norm, torch.full_like(norm, torch.inf))
            better = ~accepted & (norm < chosen_size)
            chosen = torch.where(better[:, None], trial, chosen)
            chosen_value = torch.where(better[:, None], trial_value, chosen_value)
            chosen_size = torch.where(better, norm, chosen_size)
            accepted = accepted | (norm <= (1 - 1e-4 * t) * size)
            full = accepted if t == 1.0 else full
            if bool(accepted.all()):
                break
            t /= 2
        # Newton's step is rounding of z.
        small = ~done & regular & (relative <= tolerance)
        if not bool(accepted.all()):
            stuck = ~accepted & (chosen_size >= (1 - 1e-4) * size)
            noise = stuck & _is_rounding(equation, z, value, dz, weights, tolerance)
            small = small | noise
            chosen = torch.where((small & ~accepted)[:, None], z, chosen)
            chosen_value = torch.where((small & ~accepted)[:, None], value, chosen_value)
        # Or the next one will be, by how far F has come down.
        ahead = torch.where(chosen_value.abs() > ROUNDINGS * eps * rows, _ratio(chosen_value.abs(), value.abs()), 0.0)
        drop = _most(ahead)
        follows = full & (drop > 0) & (drop <= MODEL) & (drop * _most(_ratio(dz.abs(), chosen.abs())) <= tolerance / 10)
        length, before = (_ratio(h.abs(), widths).norm(dim=1) for h in (dz, last))
        steps, values, last = _ratio(length, before), _ratio(chosen_size, size), dz
        slow = full & (SLOW_STEPS[0] <= steps) & (steps <= SLOW_STEPS[1]) & (values <= SHRINKING * steps)
        slow = slow & (SLOW_VALUES[0] <= values) & (values <= SLOW_VALUES[1])
        leaving = full & (steps > SLOW_STEPS[1]) & (steps < torch.inf) & (values >= SLOW_VALUES[0])
        ran = torch.where(done, ran, linear)  # before rounding ended it
        linear = torch.where(done, linear, torch.where(slow, linear + 1, torch.zeros_like(linear)))
        z, value = chosen, chosen_value
        ended = small | follows
        best = _Best(
            torch.where(ended[:, None], z, best.z), torch.where(ended, torch.zeros_like(best.residual), best.residual)
        )
        done = done | ended
    done = done | ((best.residual <= zero) & ~leaving)
    residual = torch.where(done, torch.zeros_like(relative), torch.clamp(relative, min=2 * tolerance))
    return Point(best.z, residual, done, done & (torch.maximum(linear, ran) >= LINEAR))


def _is_rounding(
    equation: Newtonian, z: Tensor, value: Tensor, dz: Tensor, weights: Tensor, tolerance: float
) -> Tensor:
    """Whether F cannot be lowered along Newton's step though its linear model holds there, so that a root is near: F is rounding."""
    ahead = equation.times(z - dz, dz)
    model = (weights * (ahead - value)).norm(dim=1) <= MODEL * (weights * value).norm(dim=1)
    down = (_most((weights * value).abs()) <= DOWN) | (_most(value.abs()) <= tolerance * (1 + _most(z.abs())))
    return model & down


def checked_root(equation: Newtonian, z: Tensor, z0: Tensor, tolerance: float) -> Point:
    """A point that somebody else found: F is rounding, or Newton's step is small, or F is down from the start and Newton's method converges from z."""
    value = equation.F(z)
    start = torch.nan_to_num(equation.F(z0).abs(), posinf=0.0)
    rows = torch.maximum(start, _rounding(equation.F, z, value))
    residual = _most(_ratio(value.abs(), rows))
    accepted = residual <= ROUNDINGS * torch.finfo(z.dtype).eps
    singular = torch.zeros_like(accepted)
    if bool(accepted.all()):
        return Point(z, residual, accepted, singular)
    dz, regular = equation.step(z, value)
    relative = _most(_ratio(dz.abs(), z.abs()))
    small, down = regular & (relative <= tolerance), residual <= tolerance
    accepted = accepted | small
    if not bool((accepted | ~down).all()):
        further = newton_root(equation, z, Newton(), min(tolerance, 1e-10), start)
        singular = ~accepted & down & further.singular
        accepted = accepted | (down & further.accepted)
    residual = torch.where(accepted | (residual > tolerance), residual, relative)
    return Point(z, residual, accepted, singular)
