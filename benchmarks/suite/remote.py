"""A worker process that can be asked, timed out, killed and started again."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, final

__all__ = ["CallFailed", "Remote", "TimedOut"]

SHARE = (
    0.75  # of the machine's memory, for one worker's data: a failed allocation is a result, an exhausted machine is not
)


class CallFailed(Exception):
    """The worker raised or died; the text says what."""


@final
class TimedOut(CallFailed):
    """The worker was killed at its time limit."""


@final
class Remote:
    """target: (connection, *arguments) in a fresh interpreter, speaking the protocol of ``worker``."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self._target, self._arguments = target, arguments
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def start(self, seconds: float) -> str:
        """Start the process; returns its greeting. Raises CallFailed."""
        self.launch()
        return self.greet(seconds)

    def launch(self) -> None:
        """Start the process and do not wait."""
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = (self._target, other, *self._arguments)
        self._process = context.Process(target=_limited, args=arguments, daemon=True)
        self._process.start()
        other.close()

    def greet(self, seconds: float) -> str:
        """The greeting of a process that was launched. Raises CallFailed."""
        return self._receive(seconds)

    def call(self, seconds: float, method: str, *arguments: Any) -> Any:
        """What the method returned. Raises TimedOut, CallFailed."""
        try:
            self._connection.send((method, arguments))
        except OSError as failure:
            raise CallFailed(self._obituary()) from failure
        return self._receive(seconds)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def _receive(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            self.stop()
            raise TimedOut(f"killed after {seconds:.0f} s")
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError) as failure:
            raise CallFailed(self._obituary()) from failure
        if kind == "error":
            raise CallFailed(value)
        return value

    def _obituary(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        self.stop()
        return f"died with exit code {code}"


def _limited(target: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    limit = int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    target(connection, *arguments)
