"""Newton's method for F(z) = 0 for a batch of instances z (N, n), each with its own convergence, in either framework.

At a singular root Newton's method converges linearly: where F behaves as zᵐ, z is multiplied by 1 − 1/m in each step, F
by (1 − 1/m)ᵐ, and B = ∂F/∂z shrinks. An instance that converges so goes on until F is far below rounding; an equation
without a root would not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from conelayers.implicit.arrays import Arrays
from conelayers.implicit.points import Best, Point, better_of
from conelayers.implicit.rounding import ROUNDINGS, row_sizes
from conelayers.implicit.settings import Newton

__all__ = ["MODEL", "Newtonian", "checked_root", "newton_root"]

_AT_ZERO = 1e-4  # times tol: the decrease of F from the start that ends an instance although Newton's step is not small
_BEYOND = 1e-3  # times that: the decrease of F that ends an instance that converges linearly
MODEL = 0.1  # the largest relative error of F's linear model on Newton's step at which a root is known to be near
_DOWN = 1e-3  # F over its size on the way, up to which F counts as small if rounding ends the descent
_LINEAR = 3  # steps in a row of linear convergence that show a singular root
_LEAST_STEPS, _MOST_STEPS = 0.4, 0.97  # ratios of one step to the one before, 1 − 1/m, that count as linear convergence
_LEAST_VALUES, _MOST_VALUES = 0.15, 0.6  # the same of F, (1 − 1/m)ᵐ
_SHRINKING = 0.65  # the most of the ratio of F to that of the steps, which is B's and at most ½ at a singular root
_HALVINGS = 12  # of a step, in the line search
_ENOUGH = 1e-4  # the part of the decrease that the linear model promises from which a step is accepted
# F's rounding errors are measured in the first two steps and from the seventh on; a regular root is found in between.
_MEASURED_FIRST, _MEASURED_FROM = 2, 7
_FOLLOWED = 1e-10  # the tolerance of Newton's method from a point that a user's solver found


@final
@dataclass(frozen=True, eq=False)
class Newtonian:
    """The functions of an equation that Newton's method calls.

    F: z ↦ F(z).
    step: (z, F(z)) ↦ B⁻¹F(z), and the instances (N,) in which B is regular.
    times: (z, h) ↦ B(z)h.
    """

    F: Callable[[Any], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]
    times: Callable[[Any, Any], Any]


@final
class _State(NamedTuple):
    """The iteration after ``k`` steps.

    value: F(z).
    rows: the sizes of F's rows.
    done: which instances have ended, (N,).
    linear, before: the number of steps in a row of linear convergence, now and one step earlier.
    leaving: whether F falls because z runs away, as e^z does for z → −∞, (N,).
    last, relative: the last step, and its size relative to z.
    widths: the largest |z| so far.
    best: the best point so far.
    """

    z: Any
    value: Any
    rows: Any
    done: Any
    linear: Any
    before: Any
    leaving: Any
    last: Any
    relative: Any
    widths: Any
    best: Best
    k: Any


@final
class _Line(NamedTuple):
    """A line search after ``k`` trials.

    z, value, size: the best point so far, F there, and the size of F.
    accepted: whether F has come down enough, (N,).
    full: whether it did so by the full step, (N,).
    t: the step of the next trial.
    """

    z: Any
    value: Any
    size: Any
    accepted: Any
    full: Any
    t: Any
    k: Any


def newton_root(
    arrays: Arrays, equation: Newtonian, z0: Any, settings: Newton, tolerance: float, rows: Any | None = None
) -> Point:
    """The root that Newton's method finds from z0.

    The line search takes the longest of the steps 1, ½, ¼, … that lowers ‖F‖ enough, or the best of them if none does.
    F's rows are measured by their size at the start, by ``rows``, and by the size of what they are computed from,
    whichever is largest.
    """
    xp, eps = arrays.xp, arrays.rounding(z0)
    zero = max(ROUNDINGS * eps, _AT_ZERO * tolerance)
    value = equation.F(z0)
    start = arrays.sizes(value)
    start = start if rows is None else xp.maximum(start, rows)

    def looked(s: _State) -> _State:
        """The state with its best point brought up to date, and with the instances ended whose F is down to zero."""
        rows = s.rows
        if not arrays.eager or s.k < _MEASURED_FIRST or s.k >= _MEASURED_FROM:
            rows = xp.maximum(start, row_sizes(arrays, equation.F, s.z, s.value))
        best = better_of(arrays, s.best, s.z, arrays.most(arrays.ratio(xp.abs(s.value), rows)))
        far = (best.residual <= _BEYOND * zero) | (s.value == 0).all(1)
        arrived = (best.residual <= zero) & ~s.leaving & ((s.linear < _LINEAR) | far)
        return s._replace(rows=rows, best=best, done=s.done | arrived)

    def unfinished(s: _State) -> Any:
        # A traced loop stops for instances whose z is not finite; an eager one goes on, and the step is their residual.
        left = ~s.done if arrays.eager else ~s.done & xp.isfinite(s.z).all(1)
        return (s.k < settings.max_iter) & left.any()

    infinite = xp.full_like(z0.sum(1), xp.inf)
    none, zeros = xp.zeros_like(infinite, dtype=xp.bool), xp.zeros_like(infinite, dtype=xp.int32)
    first = _State(
        z=z0, value=value, rows=start, done=none, linear=zeros, before=zeros, leaving=none, last=xp.zeros_like(z0),
        relative=infinite, widths=xp.zeros_like(z0), best=Best(z0, infinite), k=arrays.counter(),
    )  # fmt: skip
    s = arrays.loop(unfinished, lambda s: looked(_stepped(arrays, equation, s, tolerance)), looked(first))
    done = s.done | ((s.best.residual <= zero) & ~s.leaving)
    residual = xp.where(done, 0.0, xp.clip(s.relative, 2 * tolerance, None))
    return Point(s.best.z, residual, done, done & (xp.maximum(s.linear, s.before) >= _LINEAR))


def _stepped(arrays: Arrays, equation: Newtonian, s: _State, tolerance: float) -> _State:
    """The state after one step; an instance ends if z and F can change by rounding errors only."""
    xp, most, ratio, lengths = arrays.xp, arrays.most, arrays.ratio, arrays.lengths
    z, value = s.z, s.value
    widths = xp.maximum(s.widths, xp.abs(z))
    dz, regular = equation.step(z, value)
    relative = xp.where(s.done, s.relative, most(ratio(xp.abs(dz), xp.abs(z))))
    weights = arrays.inverses(s.rows)
    size = lengths(weights * value)
    line = _searched(arrays, equation.F, z, value, weights, size, dz, s.done)
    chosen, chosen_value = line.z, line.value
    # An instance ends if the step is rounding of z, or if F is rounding and the step does not lower it,
    small = ~s.done & regular & (relative <= tolerance)
    if arrays.may_lack(line.accepted):
        stuck = ~line.accepted & (line.size >= (1 - _ENOUGH) * size)
        small = small | (stuck & _is_rounding(arrays, equation, z, value, dz, weights, size, tolerance))
        stays = (small & ~line.accepted)[:, None]
        chosen, chosen_value = xp.where(stays, z, chosen), xp.where(stays, value, chosen_value)
    # or if the next step will be rounding of z, judged by how far F has come down.
    above = xp.abs(chosen_value) > ROUNDINGS * arrays.rounding(z) * s.rows
    drop = most(xp.where(above, ratio(xp.abs(chosen_value), xp.abs(value)), 0.0))
    next_step = drop * most(ratio(xp.abs(dz), xp.abs(chosen)))
    follows = line.full & (drop > 0) & (drop <= MODEL) & (next_step <= tolerance / 10)
    steps = ratio(lengths(ratio(xp.abs(dz), widths)), lengths(ratio(xp.abs(s.last), widths)))
    values = ratio(line.size, size)
    slow = line.full & (steps >= _LEAST_STEPS) & (steps <= _MOST_STEPS) & (values <= _SHRINKING * steps)
    slow = slow & (values >= _LEAST_VALUES) & (values <= _MOST_VALUES)
    ended = small | (follows & ~s.done)
    return s._replace(
        z=chosen,
        value=chosen_value,
        done=s.done | ended,
        linear=xp.where(s.done, s.linear, xp.where(slow, s.linear + 1, 0)),
        before=xp.where(s.done, s.before, s.linear),
        leaving=line.full & (steps > _MOST_STEPS) & (steps < xp.inf) & (values >= _LEAST_VALUES),
        last=dz,
        relative=relative,
        widths=widths,
        best=Best(xp.where(ended[:, None], chosen, s.best.z), xp.where(ended, 0.0, s.best.residual)),
        k=s.k + 1,
    )


def _searched(
    arrays: Arrays, F: Callable[[Any], Any], z: Any, value: Any, weights: Any, size: Any, dz: Any, done: Any
) -> _Line:
    """The line search of the instances that are not done; ``size`` is the weighted norm of F at z."""
    xp = arrays.xp

    def unfinished(s: _Line) -> Any:
        return (s.k < _HALVINGS) & ~s.accepted.all()

    def halve(s: _Line) -> _Line:
        trial = xp.where(s.accepted[:, None], z, z - s.t * dz)
        trial_value = F(trial)
        norm = arrays.lengths(weights * trial_value)
        norm = xp.where(xp.isfinite(norm), norm, xp.inf)
        better = ~s.accepted & (norm < s.size)
        accepted = s.accepted | (norm <= (1 - _ENOUGH * s.t) * size)
        return _Line(
            z=xp.where(better[:, None], trial, s.z),
            value=xp.where(better[:, None], trial_value, s.value),
            size=xp.where(better, norm, s.size),
            accepted=accepted,
            full=xp.where(s.k == 0, accepted, s.full) if not arrays.eager else accepted if s.k == 0 else s.full,
            t=s.t / 2,
            k=s.k + 1,
        )

    start = _Line(z, value, xp.full_like(size, xp.inf), done, done, arrays.scalar(1.0, z), arrays.counter())
    return arrays.loop(unfinished, halve, start)


def _is_rounding(
    arrays: Arrays, equation: Newtonian, z: Any, value: Any, dz: Any, weights: Any, size: Any, tolerance: float
) -> Any:
    """Whether F is rounding, if no step along the line lowers it.

    It is if F is small and its linear model holds on Newton's step: then a root is near.
    """
    xp, most = arrays.xp, arrays.most
    ahead = equation.times(z - dz, dz)
    model = arrays.lengths(weights * (ahead - value)) <= MODEL * size
    small = most(xp.abs(value)) <= tolerance * (1 + most(xp.abs(z)))
    return model & ((most(xp.abs(weights * value)) <= _DOWN) | small)


def checked_root(arrays: Arrays, equation: Newtonian, z: Any, z0: Any, tolerance: float) -> Point:
    """Whether a point that a user's solver found is a root.

    It is one if F is rounding, or Newton's step is small, or F is down from the start and Newton's method converges
    from z.
    """
    xp, most, ratio = arrays.xp, arrays.most, arrays.ratio
    value = equation.F(z)
    start = arrays.sizes(equation.F(z0))
    rows = xp.maximum(start, row_sizes(arrays, equation.F, z, value))
    residual = most(ratio(xp.abs(value), rows))
    rounded = residual <= ROUNDINGS * arrays.rounding(z)
    none = xp.zeros_like(rounded)

    def judged() -> Point:
        dz, regular = equation.step(z, value)
        relative = most(ratio(xp.abs(dz), xp.abs(z)))
        accepted, down = rounded | (regular & (relative <= tolerance)), residual <= tolerance

        def followed() -> tuple[Any, Any]:
            further = newton_root(arrays, equation, z, Newton(), min(tolerance, _FOLLOWED), start)
            return accepted | (down & further.accepted), ~accepted & down & further.singular

        good, singular = arrays.either((~accepted & down).any(), followed, lambda: (accepted, none))
        return Point(z, xp.where(good | (residual > tolerance), residual, relative), good, singular)

    return arrays.either(rounded.all(), lambda: Point(z, residual, rounded, none), judged)
