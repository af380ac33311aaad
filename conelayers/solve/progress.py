"""The loop over the starting methods of a batch, and what they have reached so far.

Each method is tried at the instances that those before it left open. Newton's steps follow, and what they improve is
kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from conelayers.numerics.bounds import emptied
from conelayers.numerics.kkt import Part
from conelayers.numerics.newton import polish
from conelayers.numerics.presolve import Presolved
from conelayers.numerics.residual import ACCURACY, POLISHED, Point, evaluate
from conelayers.numerics.scaling import Equilibrated, Scaling
from conelayers.program.cone_program import ConeProgram
from conelayers.solve.order import StartingOrder
from conelayers.solve.small_quadratic import SmallQuadratic
from conelayers.solve.starting_methods import Previous, Start, StartingMethod
from conelayers.solve.warm_start import WarmStart
from conelayers.support.errors import Status, usable_mask
from conelayers.support.limits import out_of_time

__all__ = ["ENOUGH", "Progress", "Round", "run_starting_methods", "weigh_gaps"]

ENOUGH = 1e-10  # ‖F‖ up to which Newton's method has arrived
_GAP_FROM = 1e-12  # ‖F‖ from which on the duality gap is computed as well
_BETTER = 0.9  # of the old error: a new point with more may be worse in the residuals that decide
# Newton steps from the previous vertex of a linear program: one tells whether it is still the solution, and more of
# them
# seldom lead to the vertex that is.
_LINEAR_STEPS = 1
_WARM_STEPS = 10  # Newton steps from the previous solution of any other program

# One method's try: its name, the instances, their statuses, and ‖F‖ afterwards.
Round = tuple[str, np.ndarray, tuple[Status, ...], np.ndarray]
_Vectors = tuple[np.ndarray, np.ndarray]  # x (B, n) and v (B, m)


class Progress:
    """What the starting methods have reached so far, instance by instance."""

    def __init__(self, program: ConeProgram) -> None:
        batch = program.batch
        self.x, self.v = np.zeros_like(program.q), np.zeros_like(program.b)
        self.error = np.full(batch, np.inf)
        self.status = [Status.FAILED] * batch
        self.message, self.solver = [""] * batch, [""] * batch
        # The (x, y) of backends that found no solution: each may lead to a certificate of infeasibility.
        self.rays: dict[int, list[_Vectors]] = {}
        self.parts: list[Part] = []  # factors of K at these points
        self.point: Point | None = None  # all points evaluated, if they happen to be
        self.rounds: list[Round] = []
        self.out_of_time = False  # whether time ended before the last method

    @property
    def reached(self) -> Previous:
        """The best points, as a start for the next method."""
        return Previous(self.x, self.v, usable_mask(self.status))

    def unsolved(self, previous: StartingMethod | None) -> np.ndarray:
        """The instances for the next method: those that are not infeasible, and that no limit of the user's stopped."""
        is_open = self.error > ENOUGH
        if not is_open.any():
            return np.zeros(0, dtype=np.int64)
        resumable = {Status.FAILED, Status.SOLVED, Status.INACCURATE}
        if previous is None or not previous.limited:
            resumable.add(Status.ITERATION_LIMIT)
        return np.array([i for i in np.flatnonzero(is_open) if self.status[i] in resumable], dtype=np.int64)

    def try_method(
        self, method: StartingMethod, program: ConeProgram, jobs: int, previous: StartingMethod | None
    ) -> None:
        """Run the method and Newton's steps on the unsolved instances, and keep the points that are better."""
        index = self.unsolved(previous)
        part = program.take(index)
        start = method.start(part, index, jobs)
        for k, ray in start.rays.items():
            self.rays.setdefault(int(index[k]), []).append(ray)
        is_first = previous is None and index.size == self.error.size
        x, v, error = start.x, start.v, np.full(index.size, np.inf)
        usable = usable_mask(start.status)
        kept = np.flatnonzero(usable)
        parts: list[Part] = []
        if kept.size:
            polished = polish(
                part.take(kept),
                x[kept],
                v[kept],
                tolerance=POLISHED,
                enough=ENOUGH,
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
            restored = weigh_gaps(part, kept[polished.error > _GAP_FROM], before, (x, v), error)
            if restored.size:
                self.point, parts = None, _without(parts, restored)
        self.rounds.append((method.name, index, tuple(start.status), error.copy()))
        if is_first:
            self.x, self.v, self.error, self.parts = x, v, error, parts
            self.status, self.message, self.solver = start.status, start.message, [method.name] * index.size
        else:
            better = self._keep_better(method, start, index, (x, v), error)
            self._keep_factors(parts, index, better)

    def _keep_better(
        self, method: StartingMethod, start: Start, index: np.ndarray, now: _Vectors, error: np.ndarray
    ) -> np.ndarray:
        """Take over the points of ``index`` that are better than those before; which ones these are, bool."""
        x, v = now
        better = np.zeros(index.size, dtype=bool)
        for k, i in enumerate(index):
            is_first_word = not self.status[i].usable and (method.trusted or start.status[k].usable)
            if start.status[k].infeasible or is_first_word or error[k] < _BETTER * self.error[i]:
                self.x[i], self.v[i], self.error[i] = x[k], v[k], error[k]
                self.status[i], self.message[i], self.solver[i] = start.status[k], start.message[k], method.name
                better[k] = True
        if better.any():
            self.point = None
        return better

    def _keep_factors(self, parts: list[Part], index: np.ndarray, better: np.ndarray) -> None:
        """Replace the factors at points that were replaced: a factor belongs to the point that it was made at."""
        self.parts = _without(self.parts, index[better])
        for local, factorization in parts:
            chosen = np.flatnonzero(better[local])
            if chosen.size:
                inner = factorization if chosen.size == local.size else factorization.take(chosen)
                self.parts.append((index[local[chosen]], inner))


def run_starting_methods(
    program: ConeProgram,
    order: StartingOrder,
    jobs: int,
    equilibrated: Equilibrated,
    presolved: Presolved,
    warm: WarmStart | None,
) -> Progress:
    """Try the order's starting methods one after the other, until no instance is open or the time is over."""
    scaling, progress = equilibrated.scaling, Progress(presolved.smaller)
    previous = None if warm is None else _previous(warm, scaling, presolved)
    last: StartingMethod | None = None
    methods = _from_previous(order.methods(presolved.smaller.structure, program.batch), previous)
    for method in chain(methods, order.without_equilibration(emptied(program, equilibrated.aside), scaling, presolved)):
        progress.try_method(method.continued_from(progress.reached), presolved.smaller, jobs, last)
        last = method
        if not progress.unsolved(last).size:
            break
        if out_of_time():
            progress.out_of_time = True
            break
    return progress


def _from_previous(methods: Iterator[StartingMethod], previous: Previous | None) -> Iterator[StartingMethod]:
    """The methods, warm-started at the previous solution; the solution itself comes first.

    The active set kernel starts from the previous active set anyway: where it is the first method, it stays the first.
    """
    if previous is None:
        yield from methods
        return
    for k, method in enumerate(methods):
        if k == 0 and not isinstance(method, SmallQuadratic):
            yield previous
        yield method.warm_started(previous)


def _previous(warm: WarmStart, scaling: Scaling, presolved: Presolved) -> Previous:
    """The previous solution in the units and the variables of the presolved program."""
    x, y, s = scaling.scale(*(np.where(warm.usable[:, None], h, 0.0) for h in warm[:3]))
    v = y - s
    v = np.where(np.isfinite(v), v, -1.0)  # a row that had no bound was not active
    steps = _LINEAR_STEPS if presolved.smaller.structure.is_linear else _WARM_STEPS
    return Previous(*presolved.restrict(x, v), warm.usable, plain_steps=steps)


def weigh_gaps(
    program: ConeProgram, index: np.ndarray, before: _Vectors, now: _Vectors, error: np.ndarray
) -> np.ndarray:
    """Put the duality gap into ``error`` where it is too large, and undo Newton's steps where they made it worse.

    Where x and y are a million, a small ‖F‖ does not imply a small gap. Returns those of ``index`` that are back at the
    points before Newton's steps.
    """
    if not index.size:
        return index
    part = program.take(index)
    gap, worst = _gap_and_worst(part, now[0][index], now[1][index])
    too_large = gap > ACCURACY
    if not too_large.any():
        return index[too_large]
    _, earlier = _gap_and_worst(part, before[0][index], before[1][index])
    back = too_large & (earlier < _BETTER * worst)
    for h, old in zip(now, before, strict=True):
        h[index[back]] = old[index[back]]
    error[index[too_large]] = np.where(back, earlier, worst)[too_large]
    return index[back]


def _gap_and_worst(program: ConeProgram, x: np.ndarray, v: np.ndarray) -> _Vectors:
    """The relative duality gap, and the larger of it and ‖F‖, each (B,)."""
    point = evaluate(program, x, v)
    gap = point.errors(program).gap
    return gap, np.maximum(gap, point.error(program))


def _restrict(parts: Sequence[Part], kept: np.ndarray) -> list[Part]:
    """The same parts in terms of positions within ``kept``, which holds all of their indices."""
    return [(np.searchsorted(kept, index), inner) for index, inner in parts]


def _without(parts: list[Part], gone: np.ndarray) -> list[Part]:
    """The parts without the instances ``gone``."""
    if not parts or not gone.size:
        return parts
    kept = [(index, np.flatnonzero(~np.isin(index, gone)), inner) for index, inner in parts]
    return [(index[k], inner if k.size == index.size else inner.take(k)) for index, k, inner in kept if k.size]
