"""Ctrl-C while backends written in C run: SCS and ECOS replace Python's signal handler by their own.

ECOS, and SCS before 3.3, save the previous handler in one static variable. If two threads solve at a time, the second
one saves the handler of the first, and Python's is never restored: Ctrl-C would do nothing until the process ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["heed_sigint_of_scs", "sigint_given_back"]

_SCS_STATE = "scs_interrupt_state_v1"  # a capsule of a struct, whose first field tells whether a SIGINT came
_ROOM = 512  # bytes: more than a struct sigaction on any platform


@cache
def _sigaction() -> Callable[[int, object, object], int] | None:
    if os.name != "posix":
        return None
    function = ctypes.PyDLL(None).sigaction
    function.argtypes, function.restype = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p), ctypes.c_int
    return function


class _Handler:
    """Saves the signal handler when the first of several overlapping solves begins, and restores it when the last one
    ends.
    """

    def __init__(self) -> None:
        self._saved = ctypes.create_string_buffer(_ROOM)
        self._lock, self.inside = threading.Lock(), 0
        self.heeded = False  # whether the SIGINT that SCS noted has been reported

    def forked(self) -> None:
        """Restore the handler in a forked child process: the threads that were solving do not exist there."""
        if self.inside:
            self._put_back()
        self._lock, self.inside = threading.Lock(), 0

    def enter(self) -> None:
        with self._lock:
            self.inside += 1
            sigaction = _sigaction()
            if self.inside == 1 and sigaction is not None:
                sigaction(signal.SIGINT, None, self._saved)

    def leave(self) -> None:
        with self._lock:
            self.inside -= 1
            if self.inside == 0:
                self._put_back()

    def _put_back(self) -> None:
        sigaction = _sigaction()
        if sigaction is not None:
            sigaction(signal.SIGINT, self._saved, None)


_HANDLER = _Handler()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HANDLER.forked)


@contextmanager
def sigint_given_back() -> Iterator[None]:
    """Restore the SIGINT handler after the last of the overlapping solves within."""
    _HANDLER.enter()
    try:
        yield
    finally:
        _HANDLER.leave()


@cache
def _scs_flag() -> ctypes.c_int | None:
    """The flag that SCS's handler sets at a SIGINT, in those versions whose extensions share one flag; else None."""
    shared = vars(sys.modules.get("_scs_interrupt_registry", ctypes)).get(_SCS_STATE)
    if shared is None:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
    return ctypes.c_int.from_address(pointer(shared, _SCS_STATE.encode()))


def heed_sigint_of_scs(*, begins: bool = False) -> None:
    """Raise KeyboardInterrupt for a SIGINT that SCS received and did not report.

    SCS does not report one that comes while it factors, or after the last check of a solve, and its next operation, in
    whatever thread, clears the flag. So this is called before (``begins``) and after each operation.
    """
    flag = _scs_flag()
    if flag is None:
        return
    if not flag.value:
        _HANDLER.heeded = False
    elif begins and _HANDLER.inside == 1:
        _HANDLER.heeded = True  # an earlier operation's SIGINT
    elif not _HANDLER.heeded:
        _HANDLER.heeded = True
        raise KeyboardInterrupt
