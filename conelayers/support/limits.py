"""The two things that end a call early: its time limit (``max_seconds``), and an interruption of its batch."""

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

# Both belong to the context, which run_parallel copies into its threads.
_DEADLINE: ContextVar[float] = ContextVar("conelayers_deadline", default=math.inf)
_HALTED: ContextVar[threading.Event | None] = ContextVar("conelayers_halted", default=None)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Limit the time within to ``seconds`` from now, or to that of an enclosing time_limit if it ends earlier."""
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    token = _DEADLINE.set(min(deadline, _DEADLINE.get()))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def remaining() -> float:
    """The seconds left: ∞ without a limit, negative after it."""
    deadline = _DEADLINE.get()
    return math.inf if deadline == math.inf else deadline - time.monotonic()


def out_of_time() -> bool:
    """Whether the limit has passed."""
    return remaining() <= 0


class OutOfTime(Exception):
    """The time limit passed in the middle of work that is useless unless finished.

    The code that began the work catches it.
    """


def check_time() -> None:
    """Raise OutOfTime if the limit has passed; to be called between the steps of long work."""
    if out_of_time():
        raise OutOfTime(OUT_OF_TIME)


@contextmanager
def halting() -> Iterator[threading.Event]:
    """Make an event that is the ``halting_event`` of all contexts copied within."""
    event = threading.Event()
    token = _HALTED.set(event)
    try:
        yield event
    finally:
        _HALTED.reset(token)


def halting_event() -> threading.Event | None:
    """The event that is set when the batch that this thread works on is given up; None in threads that run no batch's
    work.
    """
    return _HALTED.get()
