"""A batch of cone programs, solved: starting methods that lead to a point nearby, Newton's steps, and a verdict of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.bounds import emptied, missing, put_back, restored
from conelayers.numerics.kkt import EliminatedFactorization, Part, combine
from conelayers.numerics.linearized_system import LinearizedSystem
from conelayers.numerics.newton import polish
from conelayers.numerics.presolve import Presolved, presolve
from conelayers.numerics.residual import ACCURACY, POLISHED, ROUGH, BackwardErrors, Point, evaluate
from conelayers.numerics.residuals_of_points import residuals_of
from conelayers.numerics.scaling import Equilibrated, Scaling, equilibrate_program
from conelayers.program.cone_program import ConeProgram
from conelayers.program.cones import Cones
from conelayers.program.patterns import largest
from conelayers.program.solution import Attempts, Solution
from conelayers.solve.infeasibility.certificates import proven
from conelayers.solve.order import StartingOrder
from conelayers.solve.small_quadratic import SmallQuadratic
from conelayers.solve.starting_methods import Previous, StartingMethod
from conelayers.support.errors import Status, usable_mask
from conelayers.support.limits import out_of_time, time_limit
from conelayers.support.parallel import one_blas_thread

__all__ = ["Solved", "WarmStart", "solve_batch"]

_ENOUGH = 1e-10  # ‖F‖ up to which Newton has arrived
_GAP_FROM = 1e-12  # from which on the gap is looked at as well
_BETTER = 0.9  # of the error before: what is no better may be worse in the residuals that decide
_LINEAR_STEPS = 1
_ROUNDS = 6  # of solves with bounds put back, or in units of the point that the one before found
_VERY_LARGE = 1e8  # size of a solution in the user's units from which it is worth a look how well it is known
_UNSURE = 1e-5  # relative change of x for which rounding is to blame, from which it is not told as solved
_UNBALANCED = 1e6  # ratio of the sizes of y and s in a block from which it is worth it, too
_NOTHING = 1e-12  # size of a block's y or s that may be rounding
_LARGE = 1e3  # size of a point, in the equilibrated units, from which that is worth it
_INFEASIBLE = (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE)
_FAR = 1e5  # size of an inaccurate point, in the equilibrated units, from which the program may have no solution
_SWALLOWED = (
    1e12  # the same of any point: beside its terms data of size 1 are rounding, so that its errors say nothing of them
)
_GIVEN_UP = (Status.FAILED, Status.ITERATION_LIMIT, Status.TIME_LIMIT)


@final
class WarmStart(NamedTuple):
    """A previous solution in the user's units: x (B, n), y (B, m), s (B, m), and which instances have one."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    usable: np.ndarray

    @classmethod
    def of(cls, solution: Solution, batch: int) -> WarmStart:
        """For the next call, whatever its batch size: instance i starts at the solution of instance i, repeated cyclically."""
        index = np.arange(batch) % solution.x.shape[0]
        usable = usable_mask(solution.status)
        return cls(solution.x[index], solution.y[index], solution.s[index], usable[index])


@final
class Solved(NamedTuple):
    """The solution in the user's units, the linear system there, and which rows have no bound, (B, m) bool; None where all have."""

    solution: Solution
    system: LinearizedSystem
    open_rows: np.ndarray | None


_Round = tuple[
    str, np.ndarray, tuple[Status, ...], np.ndarray
]  # who was tried, at which instances, and what came of it


class _Outcome:
    """What the starting methods have reached so far, instance by instance."""

    def __init__(self, program: ConeProgram) -> None:
        batch = program.batch
        self.x, self.v = np.zeros_like(program.q), np.zeros_like(program.b)
        self.error = np.full(batch, np.inf)
        self.status = [Status.FAILED] * batch
        self.message, self.solver = [""] * batch, [""] * batch
        self.rays: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}  # what backends left that did not solve it
        self.parts: list[Part] = []
        self.point: Point | None = None  # all of them evaluated, where that is at hand
        self.rounds: list[_Round] = []
        self.out_of_time = False  # before the methods were through

    @property
    def reached(self) -> Previous:
        """The best points."""
        return Previous(self.x, self.v, usable_mask(self.status))

    def unsolved(self, previous: StartingMethod | None) -> np.ndarray:
        """The instances for the next method: not infeasible, and not stopped by a limit that the user set."""
        open_ = self.error > _ENOUGH
        if not open_.any():
            return np.zeros(0, dtype=np.int64)
        resumable = {Status.FAILED, Status.SOLVED, Status.INACCURATE}
        if previous is None or not previous.limited:
            resumable.add(Status.ITERATION_LIMIT)
        return np.array([i for i in np.flatnonzero(open_) if self.status[i] in resumable], dtype=np.int64)

    def follow(self, method: StartingMethod, program: ConeProgram, jobs: int, previous: StartingMethod | None) -> None:
        """Take the method where nothing before arrived, and keep what it improves."""
        index = self.unsolved(previous)
        part = program.take(index)
        start = method.start(part, index, jobs)
        for k, ray in start.rays.items():
            self.rays.setdefault(int(index[k]), []).append(ray)
        usable = usable_mask(start.status)
        x, v, error = start.x, start.v, np.full(index.size, np.inf)
        kept = np.flatnonzero(usable)
        parts: list[Part] = []
        if kept.size:
            polished = polish(
                part.take(kept),
                x[kept],
                v[kept],
                tolerance=POLISHED,
                enough=_ENOUGH,
                plain_steps=method.plain_steps,
                patience=method.patience,
                proximal_steps=method.proximal_steps,
                jobs=jobs,
                known=_restrict(start.parts, kept),
            )
            before = x.copy(), v.copy()
            x[kept], v[kept], error[kept] = polished.x, polished.v, polished.error
            parts = [(kept[i], f) for i, f in polished.parts]
            self.point = polished.point if previous is None and kept.size == self.error.size else None
            back = _weigh_gaps(part, kept[polished.error > _GAP_FROM], before, (x, v), error)
            if back.size:
                self.point, parts = None, _without(parts, back)
        self.rounds.append((method.name, index, tuple(start.status), error.copy()))
        if previous is None and index.size == self.error.size:
            self.x, self.v, self.error = x, v, error
            self.status, self.message, self.solver = start.status, start.message, [method.name] * index.size
            self.parts = parts
            return
        better = np.zeros(index.size, dtype=bool)
        for k, i in enumerate(index):
            verdict = start.status[k] in _INFEASIBLE
            first = not self.status[i].usable and (method.trusted or usable[k])
            if verdict or first or error[k] < _BETTER * self.error[i]:
                self.x[i], self.v[i], self.error[i] = x[k], v[k], error[k]
                self.status[i], self.message[i], self.solver[i] = start.status[k], start.message[k], method.name
                better[k] = True
        if better.any():
            self.point = None
        # Factors belong to the points that they were made at.
        self.parts = _without(self.parts, index[better])
        for local, factorization in parts:
            chosen = np.flatnonzero(better[local])
            if chosen.size:
                inner = factorization if chosen.size == local.size else factorization.take(chosen)
                self.parts.append((index[local[chosen]], inner))


def _weigh_gaps(
    program: ConeProgram,
    index: np.ndarray,
    before: tuple[np.ndarray, np.ndarray],
    now: tuple[np.ndarray, np.ndarray],
    error: np.ndarray,
) -> np.ndarray:
    """Count the gap in ``error`` where it is what is wrong, and go back to the points before Newton's steps where these made it
    worse: at x and y of a million a small ‖F‖ says nothing of it. Returns which of ``index`` went back.
    """
    if not index.size:
        return index
    part = program.take(index)
    gap, worst = _gap_and_worst(part, now[0][index], now[1][index])
    wrong = gap > ACCURACY
    if not wrong.any():
        return index[wrong]
    _, earlier = _gap_and_worst(part, before[0][index], before[1][index])
    back = wrong & (earlier < _BETTER * worst)
    for h, old in zip(now, before, strict=True):
        h[index[back]] = old[index[back]]
    error[index[wrong]] = np.where(back, earlier, worst)[wrong]
    return index[back]


def _gap_and_worst(program: ConeProgram, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    point = evaluate(program, x, v)
    gap = point.errors(program).gap
    return gap, np.maximum(gap, point.error(program))


def _restrict(parts: Sequence[Part], kept: np.ndarray) -> list[Part]:
    """The same parts in terms of positions within ``kept``, which holds all of their indices."""
    return [(np.searchsorted(kept, index), inner) for index, inner in parts]


def _without(parts: list[Part], gone: np.ndarray) -> list[Part]:
    if not parts or not gone.size:
        return parts
    kept = [(index, np.flatnonzero(~np.isin(index, gone)), inner) for index, inner in parts]
    return [(index[k], inner if k.size == index.size else inner.take(k)) for index, k, inner in kept if k.size]


def solve_batch(
    program: ConeProgram, order: StartingOrder, jobs: int, warm: WarmStart | None = None, derivative_jobs: int = 1
) -> Solved:
    """Solve every instance; a failure concerns its own instance only and is told by its Status.

    The program is equilibrated and presolved; then come the order's starting methods, each followed by Newton steps, for what those before
    left open. The residuals are recomputed here and decide between SOLVED and INACCURATE, whatever a backend says. Infeasibility is
    what it has a certificate of (starting_methods.py); for limits its word is taken. What is open when ``order.max_seconds`` have passed is
    TIME_LIMIT. The data of instances without a solution come back as NaN.
    """
    with one_blas_thread(program.structure.wants_one_blas_thread), time_limit(order.max_seconds):
        equilibrated, kept = equilibrate_program(program), np.zeros(program.b.shape, dtype=bool)
        rounds: list[_Round] = []
        for remaining in reversed(range(_ROUNDS)):
            presolved = presolve(emptied(equilibrated.program, equilibrated.aside))
            outcome = _run_starting_methods(program, order, jobs, equilibrated, presolved, warm)
            outcome.rounds = rounds = rounds + outcome.rounds
            point, errors = _extend(presolved, outcome)
            if outcome.out_of_time or not remaining:
                break
            needed = _needed_bounds(equilibrated, presolved, point, outcome, jobs)
            units = None if needed is not None else _units_of_the_point(presolved, point, outcome)
            if needed is None and units is None:
                break
            scaling = equilibrated.scaling
            warm = WarmStart(*scaling.unscale(point.x, point.y, point.s), usable_mask(outcome.status))
            if units is not None:
                equilibrated = equilibrated.rescaled(program, units)
            elif needed is not None:
                kept |= needed
                equilibrated = equilibrate_program(program, kept)
        parts = tuple(outcome.parts)
        if equilibrated.aside is not None:
            whole, v = restored(equilibrated, point)
            presolved, parts = presolve(whole), ()
            point, errors = evaluate(presolved.whole, point.x, v), None
        solution = _judge(program, presolved, equilibrated.scaling, point, errors, outcome, jobs)
        system = LinearizedSystem(presolved, point, equilibrated.scaling, derivative_jobs, parts)
        return Solved(_with_doubts(solution, system), system, missing(program))


def _with_doubts(solution: Solution, system: LinearizedSystem) -> Solution:
    """INACCURATE in the place of SOLVED where a large point moves, when its data are rounded, by more than a solution may be off."""
    point = system.point
    far = np.maximum(largest(point.x), largest(point.v)) >= _LARGE
    far |= np.maximum(largest(solution.x), largest(solution.y)) >= _VERY_LARGE
    if not far.any():
        return solution
    index = np.flatnonzero([s is Status.SOLVED and h for s, h in zip(solution.status, far, strict=True)])
    if not index.size:
        return solution
    part = system.take(index)
    moved = largest(part.rounding_step()[0]) > _UNSURE * largest(part.point.x)
    doubtful = set(index[moved & ~part.factorization.singular].tolist())
    status = tuple(Status.INACCURATE if i in doubtful else s for i, s in enumerate(solution.status))
    return replace(solution, status=status) if doubtful else solution


def _needed_bounds(
    equilibrated: Equilibrated, presolved: Presolved, point: Point, outcome: _Outcome, jobs: int
) -> np.ndarray | None:
    """The rows that were set aside and are needed, (B, m) bool: those that are violated, and all where nothing was found without them.

    What is infeasible without them stays so, and what a limit of the user's stopped is not taken further.
    """
    if equilibrated.aside is None:
        return None
    errors = point.errors(presolved.whole)
    close = point.rough_errors(presolved.whole) <= ROUGH
    lost = (Status.FAILED, Status.DUAL_INFEASIBLE)
    open_ = np.array(
        [s in lost or (s.usable and not c) for s, c in zip(outcome.status, close, strict=True)], dtype=bool
    )
    if open_.any():
        status = [Status.FAILED if o and s.usable else s for o, s in zip(open_, outcome.status, strict=True)]
        shown = _certified(presolved.smaller, status, errors.worst, outcome, jobs)
        infeasible = np.array([s is Status.PRIMAL_INFEASIBLE for s in shown], dtype=bool)
        outcome.status = [Status.PRIMAL_INFEASIBLE if h else s for h, s in zip(infeasible, outcome.status, strict=True)]
        open_ &= ~infeasible
    return put_back(equilibrated, point.x, open_)


def _units_of_the_point(presolved: Presolved, point: Point, outcome: _Outcome) -> Scaling | None:
    """Units of the points, for instances that end roughly at large ones: where x is 1e6, digits are lost in units in which the data are 1.

    And units of those blocks in which v = y − s has no digits of the smaller of the two. None where there are no such instances, or their
    points are in units of their own already.
    """
    whole = presolved.whole
    cones = whole.structure.cones
    balance = _balance(cones, point)
    far = np.maximum(largest(point.x), largest(point.v)) >= _LARGE
    if far.any():
        rough = usable_mask(outcome.status) & ~(point.errors(whole).worst <= ACCURACY)
        far &= rough & np.isfinite(point.x).all(axis=1) & np.isfinite(point.v).all(axis=1)
    if not far.any():
        return balance
    found = Scaling.of_point(cones, point.x, point.y, point.s)
    units = Scaling(*(np.where(far[:, None], h, 1.0) for h in (found.d, found.e, found.beta, found.gamma)))
    if balance is not None:
        units = replace(units, e=np.where(far[:, None], units.e, balance.e))
    return None if units.trivial else units


def _balance(cones: Cones, point: Point) -> Scaling | None:
    """Units that bring y and s to one size in the second-order and semidefinite blocks in which they are far apart, but neither is rounding."""
    first = cones.zero + cones.nonneg
    last = cones.dimension - 3 * (cones.exp + cones.exp_dual + len(cones.power))  # those compute y and s directly
    if first == last:
        return None
    y, s = (cones.block_maxima(np.abs(h))[:, first:last] for h in (point.y, point.s))
    least, most = np.minimum(y, s), np.maximum(y, s)
    apart = (least >= _NOTHING) & (most >= _UNBALANCED * least) & (most < np.inf)
    if not apart.any():
        return None
    units = Scaling.identity_of(point.x, point.v)
    units.e[:, first:last][apart] = np.exp2(np.rint(0.5 * np.log2(y[apart] / s[apart])))
    return units


def _run_starting_methods(
    program: ConeProgram,
    order: StartingOrder,
    jobs: int,
    equilibrated: Equilibrated,
    presolved: Presolved,
    warm: WarmStart | None,
) -> _Outcome:
    """What the order's starting methods reach, one after the other, until nothing is open or the time is over."""
    scaling, outcome = equilibrated.scaling, _Outcome(presolved.smaller)
    previous = None if warm is None else _previous(warm, scaling, presolved)
    last: StartingMethod | None = None
    methods = _started(order.methods(presolved.smaller.structure, program.batch), previous)
    for method in chain(methods, order.without_equilibration(emptied(program, equilibrated.aside), scaling, presolved)):
        outcome.follow(method.continued_from(outcome.reached), presolved.smaller, jobs, last)
        last = method
        if not outcome.unsolved(last).size:
            break
        if out_of_time():
            outcome.out_of_time = True
            break
    return outcome


def _started(methods: Iterator[StartingMethod], previous: Previous | None) -> Iterator[StartingMethod]:
    """The methods from the previous solution, which itself is the first, unless the first of them does what it would do."""
    if previous is None:
        yield from methods
        return
    for k, method in enumerate(methods):
        if k == 0 and not isinstance(method, SmallQuadratic):
            yield previous
        yield method.warm_started(previous)


def _previous(warm: WarmStart, scaling: Scaling, presolved: Presolved) -> Previous:
    x, y, s = scaling.scale(*(np.where(warm.usable[:, None], h, 0.0) for h in warm[:3]))
    structure = presolved.smaller.structure
    linear = structure.P.nnz == 0 and structure.cones.kinds <= {"zero", "nonneg"}
    # One step tells whether a linear program's vertex is still the solution; more seldom lead to the one that is.
    v = y - s
    v = np.where(np.isfinite(v), v, -1.0)  # where there was no bound
    return Previous(*presolved.restrict(x, v), warm.usable, plain_steps=_LINEAR_STEPS if linear else 10)


def _extend(presolved: Presolved, outcome: _Outcome) -> tuple[Point, BackwardErrors | None]:
    """The point of the whole program, with a last correction there: squaring L cost digits that L itself still has. Its errors, if they are known."""
    whole = presolved.whole
    if presolved.elimination is None:
        return outcome.point or evaluate(whole, outcome.x, outcome.v), None
    point = evaluate(whole, *presolved.expand(outcome.x, outcome.v))
    errors = point.errors(whole)
    error = point.error(whole, errors)
    if (error <= POLISHED).all() or sum(index.size for index, _ in outcome.parts) < whole.batch:
        return point, errors
    factorization = EliminatedFactorization.of(presolved, combine(outcome.parts, whole.batch))
    dx, dy = factorization.solve(-point.F1, point.F2)
    corrected = evaluate(whole, point.x + dx, point.v + whole.Ax(dx) - point.F2 + dy)
    better = (corrected.error(whole) < 0.5 * error)[:, None]
    if not better.any():
        return point, errors
    return evaluate(whole, np.where(better, corrected.x, point.x), np.where(better, corrected.v, point.v)), None


def _certified(
    program: ConeProgram, status: list[Status], worst: np.ndarray, outcome: _Outcome, jobs: int
) -> list[Status]:
    """The statuses, with the last word for certificates of infeasibility where no solution was found, or a poor one: so large that it
    may lead to one, or with a row that is wrong altogether (``worst`` backward errors, (B,)). For what failed, but for limits, they are looked
    for even where no backend left a trace of one.
    """
    size = np.maximum(largest(outcome.x), largest(outcome.v))
    poor = ((size >= _FAR) & ~(worst <= POLISHED)) | (size >= _SWALLOWED) | ~(worst <= ROUGH)
    searched = {i for i, s in enumerate(status) if s is Status.FAILED or (s.usable and poor[i])}
    open_ = [i for i, s in enumerate(status) if s in _GIVEN_UP or i in searched]
    if not open_ or outcome.out_of_time:
        return status
    points = {i: [(outcome.x[i], outcome.v[i])] if status[i].usable else [] for i in open_}
    rays = {i: [*outcome.rays.get(i, ()), *points[i]] for i in open_}
    shown = proven(program, rays, jobs, searched=searched)
    return [shown.get(i, s) for i, s in enumerate(status)]


def _judge(
    program: ConeProgram,
    presolved: Presolved,
    scaling: Scaling,
    point: Point,
    errors: BackwardErrors | None,
    outcome: _Outcome,
    jobs: int,
) -> Solution:
    whole, without_bound = presolved.whole, missing(program)
    residuals = residuals_of(whole, point, errors)
    x, y, s = (point.x, point.y, point.s) if scaling.trivial else scaling.unscale(point.x, point.y, point.s)
    s = s if without_bound is None else np.where(without_bound, np.inf, s)
    worst, status = residuals.worst, outcome.status
    size = np.maximum(largest(outcome.x), largest(outcome.v))
    in_doubt = (worst > np.where(size >= _FAR, POLISHED, ACCURACY)) | (size >= _SWALLOWED) | np.isnan(worst)
    if in_doubt.any() or not usable_mask(status).all():
        lost_by = Status.TIME_LIMIT if outcome.out_of_time else Status.FAILED
        status = [lost_by if said is Status.FAILED else said for said in status]
        rough = np.maximum(point.rough_errors(whole), residuals.gap) <= ROUGH
        near = [Status.INACCURATE if close else lost_by for close in rough]
        solved = [Status.SOLVED if error <= ACCURACY else other for error, other in zip(worst, near, strict=True)]
        status = [ours if said.usable else said for ours, said in zip(solved, status, strict=True)]
        status = _certified(presolved.smaller, status, worst, outcome, jobs)
    elif Status.INACCURATE in status:
        status = [Status.SOLVED] * len(status)
    if without_bound is not None:
        impossible = np.any(without_bound & (program.b < 0), axis=1).tolist()
        status = [Status.PRIMAL_INFEASIBLE if h else said for h, said in zip(impossible, status, strict=True)]
    lost = ~usable_mask(status)
    if lost.any():
        x, y, s = (np.where(lost[:, None], np.nan, h) for h in (x, y, s))
        residuals = residuals.blank(lost)
    attempts = Attempts(tuple(outcome.rounds))
    return Solution(x, y, s, tuple(status), residuals, tuple(outcome.solver), tuple(outcome.message), attempts)
