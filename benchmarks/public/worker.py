"""The process that has one instance at a time: it reads, solves, differentiates and certifies, one call each."""

from __future__ import annotations

import gzip
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, final

import numpy as np

from benchmarks.public.cblib import read_cblib
from benchmarks.public.judge import Perturbation, derivative_residual, kkt_residual
from benchmarks.public.matlab import read_matlab
from benchmarks.public.problem import Problem, Unreadable, Unsupported, read_with
from benchmarks.public.rays import certified_infeasible
from benchmarks.public.sdplib import read_sdplib
from benchmarks.suite.worker import quiet, respond
from conelayers import ConeSolution, Singular, SolveError, Status, solve_and_differentiate

__all__ = ["READERS", "Answer", "serve"]

READERS = {".mat": read_matlab, ".dat-s": read_sdplib, ".cbf": read_cblib}
Answer = dict[str, Any]  # keys of the row, and a reason where something is wrong


@final
class Bench:
    """The calls, in their order; after an answer without a usable status there is nothing more to ask."""

    _problem: Problem
    _solution: ConeSolution

    def read(self, path: str, suffix: str) -> Answer:
        """n and m, or why there are none."""
        try:
            self._problem = read_with(READERS[suffix], _content(Path(path)))
        except Unreadable as error:
            return {"status": "unreadable", "reason": str(error)}
        except Unsupported as error:
            return {"status": "unsupported", "reason": str(error)}
        return {"n": self._problem.n, "m": self._problem.m}

    def solve(self) -> Answer:
        """status and kkt_residual; of an infeasible one also the verdict."""
        p = self._problem
        try:
            solution = solve_and_differentiate(p.P, p.q, p.A, p.b, p.cones, singular=Singular.LEAST_SQUARES)
        except SolveError as error:
            return self._without_solution(error)
        except ValueError as error:  # not convex
            return {"status": "unsupported", "reason": str(error)}
        self._solution = solution
        residual = kkt_residual(p, solution.x, solution.y, solution.s)
        return {"status": _text(solution.status), "kkt_residual": _finite(residual)}

    def differentiate(self) -> Answer:
        """derivative_residual."""
        p, solution = self._problem, self._solution
        moved = Perturbation(p)
        tangent = solution.jvp(moved.P, moved.q, moved.A, moved.b)
        found = derivative_residual(p, (solution.x, solution.y, solution.s), moved, tangent)
        return {"derivative_residual": _finite(found)}

    def certify(self) -> Answer:
        """verdict."""
        (certificate,) = self._solution.certify()
        return {"verdict": certificate.verdict.value, "reason": certificate.advice}

    def _without_solution(self, error: SolveError) -> Answer:
        (status,) = error.statuses
        if status not in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE):
            return {"status": _text(status), "reason": str(error)}
        if certified_infeasible(self._problem, status):
            return {"status": _text(status), "verdict": _text(status)}
        return {"status": "failed", "reason": f"said to be {status.value}, but no certificate stood the check"}


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(str(error)) from error
    if not content.strip():
        raise Unreadable("the file is empty")
    return content


def _text(status: Status) -> str:
    return status.value.replace(" ", "_")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def serve(connection: Connection) -> None:
    """The worker's main function."""
    quiet()
    connection.send(("ok", ""))
    respond(connection, Bench())
