"""The process of one contender: it opens cases, takes turns and answers, until it is told to stop or is killed."""

from __future__ import annotations

import importlib.metadata
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, final

from benchmarks.suite import memory
from benchmarks.suite.case import Arrays, Case
from benchmarks.suite.contenders import find
from benchmarks.suite.contenders.contender import Contender, Layer
from benchmarks.suite.families import FAMILIES
from benchmarks.suite.judge import CHECKED, Accuracy, Judge

__all__ = ["Answer", "Opened", "Point", "Turn", "quiet", "respond", "serve", "serve_judge"]


@final
@dataclass(frozen=True)
class Point:
    """Which parameter values: a step of a stream. warm: start from the solution before, where the layer can."""

    step: int
    stream: int = 0
    warm: bool = False


@final
@dataclass(frozen=True)
class Opened:
    """refusal: why the contender does not take the case; otherwise the seconds of building, and what the layer can."""

    refusal: str | None
    build: float = 0.0
    warm_starts: bool = False
    differentiates: bool = True


@final
@dataclass(frozen=True)
class Answer:
    """One call with what came out of it, instances that are checked only."""

    forward: float
    backward: float | None
    variables: Arrays
    gradients: Arrays | None


@final
@dataclass(frozen=True)
class Turn:
    """Seconds of consecutive calls."""

    forward: list[float]
    backward: list[float]


@final
class Worker:
    """A contender with the case that is open."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._case: Case | None = None
        self._values: Callable[[int, int], Arrays] | None = None
        self._layer: Layer | None = None
        self._cotangents: Any = None
        self._resident = 0

    def version(self) -> str:
        try:
            return importlib.metadata.version(self._contender.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "?"

    def open(self, family: str, size: int, batch: int) -> Opened:
        self._layer = self._cotangents = self._values = None
        self._case = case = Case(FAMILIES[family], size, batch)
        refusal = self._contender.refuses(case.model(), case)
        if refusal is not None:
            return Opened(refusal)
        model = case.model()  # afresh: cvxpy remembers what it compiled for the refusal
        self._values, cotangents = case.stream(model), case.cotangents(model)
        self._resident = memory.start()
        start = time.perf_counter()
        self._layer = self._contender.build(model, case)
        build = time.perf_counter() - start
        if self._layer.differentiates:
            self._cotangents = self._layer.inputs(self._strip(cotangents))
        return Opened(None, build, self._layer.warm_starts, self._layer.differentiates)

    def answer(self, point: Point) -> Answer:
        """One call, both ways."""
        outputs, forward = self._forward(point)
        variables = self._restore(self._layer.arrays(outputs))
        if not self._layer.differentiates:
            return Answer(forward, None, variables, None)
        gradients, backward = self._backward()
        return Answer(forward, backward, variables, self._restore(self._layer.arrays(gradients)))

    def turn(self, first: Point, calls: int, seconds: float) -> Turn:
        """Calls at consecutive steps until either limit; a warm turn is seeded by a call that does not count."""
        if first.warm:
            self._forward(Point(first.step - 1, first.stream, warm=True))
        forward: list[float] = []
        backward: list[float] = []
        for k in range(calls):
            forward.append(self._forward(Point(first.step + k, first.stream, first.warm))[1])
            if self._layer.differentiates:
                backward.append(self._backward()[1])
            if sum(forward) + sum(backward) > seconds:
                break
        return Turn(forward, backward)

    def close(self) -> int:
        """The growth of memory since the case was opened, in bytes, at its peak. The layer is let go."""
        growth = memory.peak_growth(self._resident)
        self._layer = self._cotangents = self._values = None
        memory.start()
        return growth

    def _forward(self, point: Point) -> tuple[Any, float]:
        inputs = self._layer.inputs(self._strip(self._values(point.step, point.stream)))
        start = time.perf_counter()
        outputs = self._layer.forward(inputs, point.warm)
        return outputs, time.perf_counter() - start

    def _backward(self) -> tuple[Any, float]:
        start = time.perf_counter()
        gradients = self._layer.backward(self._cotangents)
        return gradients, time.perf_counter() - start

    def _strip(self, arrays: Arrays) -> Arrays:
        return arrays if self._case.batched else [a[0] for a in arrays]

    def _restore(self, arrays: Arrays) -> Arrays:
        return [a[:CHECKED] for a in arrays] if self._case.batched else [a[None] for a in arrays]


@final
class JudgeWorker:
    """The judge behind the same protocol; it never holds more than one case."""

    def __init__(self) -> None:
        self._judge: Judge | None = None

    def open(self, family: str, size: int, batch: int) -> float:
        """Seconds of the reference at the case's first point."""
        start = time.perf_counter()
        self._judge = Judge.of(Case(FAMILIES[family], size, batch))
        self._judge.references(0, 0)
        return time.perf_counter() - start

    def accuracy(self, point: Point, answer: Answer) -> Accuracy:
        return self._judge.accuracy(point.step, point.stream, answer.variables, answer.gradients)


def serve(connection: Connection, name: str) -> None:
    """Answer requests (method, arguments) with ("ok", value) or ("error", text)."""
    quiet()
    try:
        worker = Worker(find(name))
    except Exception as failure:  # a missing or broken package is a result
        connection.send(("error", f"does not import: {_text(failure)}"))
        return
    connection.send(("ok", worker.version()))
    respond(connection, worker)


def serve_judge(connection: Connection) -> None:
    quiet()
    connection.send(("ok", ""))
    respond(connection, JudgeWorker())


def respond(connection: Connection, target: object) -> None:
    """Call the target's methods by name until the other end closes."""
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            reply = ("ok", getattr(target, method)(*arguments))
        except Exception as failure:  # whatever a contender raises is a failure of that call
            reply = ("error", _text(failure))
        connection.send(reply)


def _text(failure: Exception) -> str:
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0][:160] if lines else ''}"


def quiet() -> None:
    """Solvers print from C."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    warnings.simplefilter("ignore")
