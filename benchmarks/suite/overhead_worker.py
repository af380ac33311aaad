"""The process of conelayers' own quantities: it starts, and fails, apart from the benchmark's."""

from __future__ import annotations

import importlib
from multiprocessing.connection import Connection
from typing import final

from benchmarks.suite.summary import Target
from benchmarks.suite.worker import quiet, respond

__all__ = ["OVERHEADS", "serve_overheads"]

OVERHEADS = ["engine_overhead", "construction", "kept_memory", "backward_over_factorization", "simplex_growth"]


@final
class Overheads:
    """The measurements behind the protocol of the workers."""

    def measure(self, name: str) -> list[Target]:
        # Here, so that a conelayers that does not import is an answer and not the benchmark's end.
        found = getattr(importlib.import_module("benchmarks.suite.overheads"), name)()
        return found if isinstance(found, list) else [found]


def serve_overheads(connection: Connection) -> None:
    quiet()
    connection.send(("ok", ""))
    respond(connection, Overheads())
