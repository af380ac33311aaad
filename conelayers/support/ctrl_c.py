"""A Ctrl-C that arrives: KeyboardInterrupt where Python itself drops exceptions.

Python runs the handler of SIGINT between two instructions of the main thread, whatever they belong to. An exception out
of a callback of the garbage collector (JAX registers one; it is loaded wherever SciPy's array interface finds it), of a
weak reference, of ctypes or of ``__del__`` has nobody to go to: Python calls ``sys.unraisablehook`` with it and goes
on, and the user's Ctrl-C is lost. Collections come often enough for that in a long batch: a signal that arrives inside
of a solver waits for the next instruction, and the objects that the solver returns may start a collection first.

So for as long as the main thread computes, the hook has such a KeyboardInterrupt raised again a moment later, when the
callback has ended.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ctrl_c_arrives"]

_LATER = 0.01  # seconds after which the signal is repeated: a callback and the hook have ended by then


def _interrupt_later() -> None:
    time.sleep(_LATER)
    if not callable(signal.getsignal(signal.SIGINT)):  # the user has set SIGINT back to what ends the process
        return
    if hasattr(signal, "pthread_kill"):
        # A signal to the main thread, because interrupt_main does not wake it where it waits for others.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


class _Hook:
    """``sys.unraisablehook`` while the main thread computes; anything but KeyboardInterrupt goes to the one before."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Not at once: the repeated signal would be handled in here, and dropped again. Not by threading.Thread:
            # the caller may look for threads that were left.
            _thread.start_new_thread(_interrupt_later, ())
        else:
            self.before(unraisable)


@contextmanager
def ctrl_c_arrives() -> Iterator[None]:
    """Raise KeyboardInterrupt within, or right after, also where Python would drop it."""
    if threading.current_thread() is not threading.main_thread() or isinstance(sys.unraisablehook, _Hook):
        yield
        return
    hook = sys.unraisablehook = _Hook(sys.unraisablehook)
    try:
        yield
    finally:
        if sys.unraisablehook is hook:  # and not one that was set within
            sys.unraisablehook = hook.before
