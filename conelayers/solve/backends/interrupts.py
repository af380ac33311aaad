"""Ctrl-C while backends written in C run: SCS and ECOS put a handler of their own in place of Python's.

ECOS, and SCS before 3.3, save the handler before them in one static variable. In two threads at a time the second saves the
first one's, and Python's never comes back: Ctrl-C would do nothing until the process ends.
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

_SCS_STATE = "scs_interrupt_state_v1"  # a capsule; the note is the first field of the struct
_ROOM = 512  # more than a struct sigaction anywhere


@cache
def _sigaction() -> Callable[[int, object, object], int] | None:
    if os.name != "posix":
        return None
    function = ctypes.PyDLL(None).sigaction
    function.argtypes, function.restype = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p), ctypes.c_int
    return function


class _Handler:
    """The first solve to begin saves the handler, the last to end puts it back."""

    def __init__(self) -> None:
        self._saved = ctypes.create_string_buffer(_ROOM)
        self._lock, self.inside = threading.Lock(), 0
        self.heeded = False  # what SCS has noted now

    def forked(self) -> None:
        """What a child process needs, in which no other thread goes on solving."""
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
    """After the last of the solves within it, SIGINT goes where it went before the first."""
    _HANDLER.enter()
    try:
        yield
    finally:
        _HANDLER.leave()


@cache
def _scs_flag() -> ctypes.c_int | None:
    """Where SCS's handler notes a SIGINT, in versions that share one note among their extensions."""
    shared = vars(sys.modules.get("_scs_interrupt_registry", ctypes)).get(_SCS_STATE)
    if shared is None:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
    return ctypes.c_int.from_address(pointer(shared, _SCS_STATE.encode()))


def heed_sigint_of_scs(*, begins: bool = False) -> None:
    """Raise KeyboardInterrupt for a SIGINT that SCS took without a word: while it factored, or after the last look of a solve.

    To be called before (``begins``) and after each of its operations, the next of which, in whatever thread, forgets it.
    """
    flag = _scs_flag()
    if flag is None:
        return
    if not flag.value:
        _HANDLER.heeded = False
    elif begins and _HANDLER.inside == 1:
        _HANDLER.heeded = True  # from before
    elif not _HANDLER.heeded:
        _HANDLER.heeded = True
        raise KeyboardInterrupt
