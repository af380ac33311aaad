"""What ends a call early: its time limit (``max_seconds``), and the interruption of the batch that an instance belongs to."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = [
    "OUT_OF_TIME",
    "OutOfTime",
    "check_time",
    "halting",
    "halting_event",
    "out_of_time",
    "remaining",
    "time_limit",
]

OUT_OF_TIME = "max_seconds was reached"

# They travel with the context: run_parallel takes it along into its threads.
_DEADLINE: ContextVar[float] = ContextVar("conelayers_deadline", default=math.inf)
_HALTED: ContextVar[threading.Event | None] = ContextVar("conelayers_halted", default=None)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Within it the time is limited to ``seconds`` from now, or to the limit around it if that is shorter."""
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    token = _DEADLINE.set(min(deadline, _DEADLINE.get()))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def remaining() -> float:
    """Seconds left, ∞ without a limit, negative past it."""
    deadline = _DEADLINE.get()
    return math.inf if deadline == math.inf else deadline - time.monotonic()


def out_of_time() -> bool:
    """Whether the limit has passed."""
    return remaining() <= 0


class OutOfTime(Exception):
    """The limit has passed in the middle of work that is of no use unless it is finished; whoever began it catches
    this.
    """


def check_time() -> None:
    """Raise OutOfTime if the limit has passed: between the steps of long work."""
    if out_of_time():
        raise OutOfTime(OUT_OF_TIME)


@contextmanager
def halting() -> Iterator[threading.Event]:
    """Contexts copied within it have this ``halting_event``."""
    event = threading.Event()
    token = _HALTED.set(event)
    try:
        yield event
    finally:
        _HALTED.reset(token)


def halting_event() -> threading.Event | None:
    """What is set when the batch that this thread works on is given up; None where there is none, as in the thread that waits."""
    return _HALTED.get()
