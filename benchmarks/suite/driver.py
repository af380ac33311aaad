"""One process per contender; on every case they take turns, round by round, so that the machine's noise hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import numpy as np

from benchmarks.suite.case import Case
from benchmarks.suite.judge import Accuracy
from benchmarks.suite.remote import CallFailed, Remote, TimedOut
from benchmarks.suite.row import Quartiles, Row
from benchmarks.suite.worker import Answer, Opened, Point, Turn, serve, serve_judge

__all__ = ["FULL", "QUICK", "Driver", "Effort"]

# OpenBLAS threads spin for some 20 ms after their work; the next contender starts after that.
PAUSE = 0.03
COLD, WARM = 0, 1  # streams of parameter values
START_LIMIT = 120.0  # seconds for imports
GIVEN_UP = 2  # failures on one case


@final
@dataclass(frozen=True)
class Effort:
    """rounds of turns of up to ``calls`` calls or ``turn`` seconds; seconds for one contender on one case; time limits.

    slow_reference: with a reference slower than this (seconds) the answer after a warm start is not checked.
    """

    rounds: int
    calls: int
    turn: float
    budget: float
    open_limit: float
    call_limit: float
    slow_reference: float
    total: float


FULL = Effort(7, 7, 0.3, 12.0, 120.0, 60.0, 5.0, np.inf)
QUICK = Effort(3, 5, 0.06, 1.0, 8.0, 5.0, 1.0, 450.0)


@final
@dataclass
class Seat:
    """A contender's process, and its running results on the open case."""

    name: str
    remote: Remote
    case: Case | None = None
    row: Row | None = None
    opened: Opened | None = None
    spent: float = 0.0
    samples: dict[str, list[float]] = field(default_factory=dict)
    too_large: list[tuple[Case, str]] = field(default_factory=list)  # on which time or memory ran out, and how

    @property
    def playing(self) -> bool:
        return self.row.first is not None and self.remote.alive and len(self.row.failures) < GIVEN_UP

    def take(self, case: Case) -> None:
        """Start a new row."""
        refusal = self.hopeless(case)
        self.row = Row(case.family.name, case.size, case.label, case.batch, self.name, refusal=refusal)
        self.case, self.samples, self.spent, self.opened = case, {}, 0.0, None

    def hopeless(self, case: Case) -> str | None:
        """Why there is no point in asking: what happened on a case no larger than this one."""
        for known, reason in self.too_large:
            if known.family is case.family and known.size <= case.size and known.batch <= case.batch:
                return f"not asked: {reason} at {known.label}, batch {known.batch}"
        return None


@contextmanager
def _charged(seat: Seat) -> Iterator[None]:
    """The benchmark's own time on a row."""
    begin = time.perf_counter()
    yield
    seat.row.elapsed += time.perf_counter() - begin


@final
class Driver:
    """Starts the contenders; ``measure`` takes one case through all of them. Use as a context manager."""

    def __init__(self, contenders: Sequence[str], effort: Effort, log: Callable[[str], None]) -> None:
        self._effort, self._log = effort, log
        self._judge = Remote(serve_judge)
        self._seats = [Seat(name, Remote(serve, name)) for name in contenders]
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Driver:
        for remote in [self._judge, *(seat.remote for seat in self._seats)]:
            remote.launch()
        self._judge.greet(START_LIMIT)
        for seat in self._seats:
            try:
                self.versions[seat.name] = seat.remote.greet(START_LIMIT)
            except CallFailed as failure:
                self.missing[seat.name] = str(failure)
                self._log(f"{seat.name}: {failure}")
        self._seats = [seat for seat in self._seats if seat.name not in self.missing]
        return self

    def __exit__(self, *_: object) -> None:
        for remote in [self._judge, *(seat.remote for seat in self._seats)]:
            remote.stop()

    def measure(self, case: Case) -> list[Row]:
        """The rows of all contenders."""
        reference_seconds = self._open_reference(case)
        for seat in self._seats:
            seat.take(case)
            with _charged(seat):
                self._open(seat)
        for k in range(self._effort.rounds):
            start = k % len(self._seats)
            for seat in self._seats[start:] + self._seats[:start]:
                # The first round is everyone's: a first call may have been slow for compiling.
                if seat.playing and (k == 0 or seat.spent < self._effort.budget):
                    with _charged(seat):
                        self._round(seat, k)
        for seat in self._seats:
            with _charged(seat):
                self._close(seat, reference_seconds < self._effort.slow_reference)
        return [seat.row for seat in self._seats]

    def _open_reference(self, case: Case) -> float:
        try:
            if not self._judge.alive:
                self._judge.start(self._effort.open_limit)
            seconds = self._judge.call(5 * self._effort.open_limit, "open", *_key(case))
        except CallFailed as failure:
            self._log(f"{case.key}: no reference: {failure}")
            self._judge.stop()
            return np.inf
        return seconds

    def _open(self, seat: Seat) -> None:
        """Build, call once, judge."""
        if seat.row.refusal is not None:
            return
        try:
            if not seat.remote.alive:
                seat.remote.start(START_LIMIT)
            seat.opened = seat.remote.call(self._effort.open_limit, "open", *_key(seat.case))
            if seat.opened.refusal is not None:
                seat.row.refusal = seat.opened.refusal
                return
            seat.row.build = seat.opened.build
            answer = seat.remote.call(self._effort.open_limit, "answer", Point(0, COLD))
        except CallFailed as failure:
            self._fail(seat, failure)
            return
        seat.row.first = answer.forward + (answer.backward or 0.0)
        seat.spent = seat.row.first
        seat.row.accuracy = self._accuracy(Point(0, COLD), answer)

    def _round(self, seat: Seat, k: int) -> None:
        """A cold turn, and a warm one for those who can."""
        step = 1 + k * (self._effort.calls + 1)
        turns = [("", Point(step, COLD))]
        slow = seat.row.first > self._effort.budget
        if seat.opened.warm_starts and seat.row.first < 2 * self._effort.budget:
            turns.append(("warm_", Point(step, WARM, warm=True)))
        for prefix, point in turns:
            time.sleep(PAUSE)
            begin = time.perf_counter()
            arguments = (point, 1 if slow else self._effort.calls, self._effort.turn)
            try:
                turn: Turn = seat.remote.call(2 * self._effort.call_limit, "turn", *arguments)
            except CallFailed as failure:
                self._fail(seat, failure)
                return
            finally:
                seat.spent += time.perf_counter() - begin
            for name in ("forward", "backward"):
                if times := getattr(turn, name):
                    seat.samples.setdefault(prefix + name, []).append(float(np.median(times)))

    def _close(self, seat: Seat, check_warm: bool) -> None:
        """The warm answer's accuracy, memory, medians."""
        row = seat.row
        if seat.playing and seat.opened is not None:
            try:
                if check_warm and "warm_forward" in seat.samples:
                    # The step after the seed's: a genuine move.
                    seat.remote.call(self._effort.call_limit, "answer", Point(0, WARM, warm=True))
                    answer = seat.remote.call(self._effort.call_limit, "answer", Point(1, WARM, warm=True))
                    row.warm_accuracy = self._accuracy(Point(1, WARM), answer)
                row.memory = seat.remote.call(self._effort.call_limit, "close")
            except CallFailed as failure:
                self._fail(seat, failure)
        for name in ("forward", "backward", "warm_forward", "warm_backward"):
            setattr(row, name, Quartiles.of(seat.samples.get(name, [])))

    def _accuracy(self, point: Point, answer: Answer) -> Accuracy | None:
        if not answer.variables or not self._judge.alive:
            return None
        try:
            return self._judge.call(5 * self._effort.open_limit, "accuracy", point, answer)
        except CallFailed as failure:
            self._log(f"the judge: {failure}")
            return None

    def _fail(self, seat: Seat, failure: CallFailed) -> None:
        seat.row.failures.append(str(failure))
        self._log(f"{seat.name} on {seat.row.family} {seat.row.label}: {failure}")
        if isinstance(failure, TimedOut) or not seat.remote.alive:
            seat.too_large.append((seat.case, str(failure)))


def _key(case: Case) -> tuple[str, int, int]:
    return case.family.name, case.size, case.batch
