"""The core's Python face: arrays in, arrays out, a batch in one call without the GIL."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple, final

import numpy as np

from conelayers.core.extension import load
from conelayers.core.model import Model, Terms

__all__ = ["Core", "Flags", "Outcome", "Selection", "Solutions"]


class Outcome(IntEnum):
    """How the core leaves an instance: it says nothing about one that is OPEN; STOPPED is one that a limit ended."""

    SOLVED = 0
    OPEN = 1
    PRIMAL_INFEASIBLE = 2
    STOPPED = 3


class Flags(IntFlag):
    """What the system of a derivative was: nothing for a regular one that was solved."""

    SINGULAR = 1  # it may be: a rank test has to tell
    INACCURATE = 2  # it was not solved to 1e−10
    NOT_A_SOLUTION = 4  # the point is none
    AT_KINK = 8  # rounding may have decided which element was taken


class Selection(IntEnum):
    """Which Clarke element is taken at v = 0: 0, 0, 1, or ½ in the user's units."""

    DEFAULT = 0
    LOW = 1
    HIGH = 2
    MID = 3


@final
class Solutions(NamedTuple):
    """x (B, n), y (B, m), s (B, m), outputs (B, ·) side by side.

    errors (B, 3) of rows, columns and gap; places (B, 2) of the first two; outcome (B,).
    kept: where it was asked for, the workspaces with their points and factors; else None.
    """

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    outputs: np.ndarray
    errors: np.ndarray
    places: np.ndarray
    outcome: np.ndarray
    kept: Any


_Point = tuple[np.ndarray, np.ndarray, np.ndarray]
_NO_LIMIT = -1.0


def _address(values: np.ndarray) -> int:
    return int(values.__array_interface__["data"][0])  # .ctypes.data takes a microsecond


def _arrays(terms: Terms) -> tuple[int, ...]:
    return (terms.constant.size, *map(_address, terms))


@final
class Core:
    """Linear and quadratic programs of one model.

    Values of parameters are contiguous float64 arrays, (*shape) where the batch shares them or (B, *shape); those of
    a framework may also be pairs (address, numbers from one instance to the next). Raises ValueError for arrays of
    other sizes.
    threads: up to so many. lanes: instances in a register, 0 for what is fastest; no result depends on either, nor on
    the batch that an instance is in. level: another instruction set's module (extension.py), with the same results.
    """

    def __init__(self, model: Model, level: str | None = None) -> None:
        self.model, self._level = model, level
        P, A = ([*map(_address, pattern)] for pattern in (model.P, model.A))
        data, outputs = _arrays(model.data_terms), _arrays(model.output_terms)
        self._sizes = tuple(p.size for p in model.parameters)
        self._shapes = tuple(p.shape for p in model.parameters)
        self._native = load(level).make(model.n, model.m, model.zero, *P, *A, model.inert, data, outputs, self._sizes)
        self._outputs = model.output_terms.constant.size

    def __reduce__(self) -> tuple[Any, ...]:
        return Core, (self.model, self._level)

    @property
    def workspace_bytes(self) -> int:
        """The memory that a call with ``keep`` holds for each instance."""
        return int(self._native.workspace_bytes)

    @property
    def work(self) -> float:
        """Multiplications of one factorization."""
        return float(self._native.work)

    def solve(
        self,
        theta: Sequence[np.ndarray],
        batch: int,
        *,
        start: _Point | None = None,
        threads: int = 1,
        lanes: int = 0,
        max_seconds: float | None = None,
        stop: np.ndarray | None = None,
        keep: bool = False,
    ) -> Solutions:
        """Solve a batch, from the points ``start`` (x, y, s) if there are some.

        stop: an int32 that ends the call when it is not 0.
        keep: also give back what derivatives can use in the place of the points, at half the cost and for megabytes.
        """
        n, m, outputs = self.model.n, self.model.m, self._outputs
        # One block for all results: each array of its own would cost as much as the arithmetic of a small program.
        numbers, integers = np.empty(batch * (n + 2 * m + outputs + 3)), np.empty(3 * batch, dtype=np.int32)
        seconds = _NO_LIMIT if max_seconds is None else max_seconds
        kept = self._native.solve(batch, theta, numbers, integers, start, threads, lanes, seconds, stop, keep)
        at_y, at_s, at_outputs = batch * n, batch * (n + m), batch * (n + 2 * m)
        at_errors = at_outputs + batch * outputs
        return Solutions(
            numbers[:at_y].reshape(batch, n),
            numbers[at_y:at_s].reshape(batch, m),
            numbers[at_s:at_outputs].reshape(batch, m),
            numbers[at_outputs:at_errors].reshape(batch, outputs),
            numbers[at_errors:].reshape(batch, 3),
            integers[: 2 * batch].reshape(batch, 2),
            integers[2 * batch :],
            kept,
        )

    def adjoint(
        self,
        theta: Sequence[np.ndarray],
        points: _Point,
        cotangents: np.ndarray,
        *,
        wanted: Sequence[bool] | None = None,
        selection: Selection = Selection.DEFAULT,
        threads: int = 1,
        lanes: int = 0,
        kept: Any = None,
    ) -> tuple[list[np.ndarray | None], np.ndarray]:
        """The gradients (B, *shape) of ⟨cotangents (B, outputs), outputs⟩ for ``wanted`` parameters, and flags (B,)."""
        batch = len(points[0])
        sizes = self._sizes if wanted is None else [k if w else 0 for k, w in zip(self._sizes, wanted, strict=True)]
        flat, flags = np.zeros(batch * sum(sizes)), np.empty(batch, dtype=np.int32)
        self._native.adjoint(batch, theta, points, selection, cotangents, flat, wanted, flags, threads, lanes, kept)
        gradients, at = list[np.ndarray | None](), 0
        for size, shape in zip(sizes, self._shapes, strict=True):
            gradients.append(flat[at : at + batch * size].reshape(batch, *shape) if size else None)
            at += batch * size
        return gradients, flags

    def tangent(
        self,
        theta: Sequence[np.ndarray],
        points: _Point,
        dtheta: Sequence[np.ndarray | None],
        *,
        selection: Selection = Selection.DEFAULT,
        threads: int = 1,
        lanes: int = 0,
        kept: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The outputs' tangents (B, outputs) along dθ (None for zero), and flags (B,)."""
        batch = len(points[0])
        out, flags = np.empty((batch, self._outputs)), np.empty(batch, dtype=np.int32)
        self._native.tangent(batch, theta, points, selection, dtheta, out, flags, threads, lanes, kept)
        return out, flags

    def linear(
        self,
        theta: Sequence[np.ndarray],
        points: _Point,
        r1: np.ndarray,
        r2: np.ndarray,
        *,
        selection: Selection = Selection.DEFAULT,
        threads: int = 1,
        lanes: int = 0,
        kept: Any = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """J·[dx; dv] = [r₁; r₂] for right-hand sides (B, k, n) and (B, k, m): dx, dy, ds likewise, and flags (B,)."""
        first, second = r1.copy(), r2.copy()
        third = np.empty_like(second)
        sides = first, second, third
        return (*sides, self._linear(theta, points, False, sides, selection, threads, lanes, kept))

    def transposed_linear(
        self,
        theta: Sequence[np.ndarray],
        points: _Point,
        gx: np.ndarray,
        gy: np.ndarray,
        gs: np.ndarray,
        *,
        selection: Selection = Selection.DEFAULT,
        threads: int = 1,
        lanes: int = 0,
        kept: Any = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Jᵀ·[λ; μ] = [gx; D gy + (D − I) gs] for cotangents (B, k, ·): λ (B, k, n), μ (B, k, m), and flags (B,)."""
        first, second, third = gx.copy(), gy.copy(), gs.copy()
        sides = first, second, third
        return first, second, self._linear(theta, points, True, sides, selection, threads, lanes, kept)

    def _linear(
        self,
        theta: Sequence[np.ndarray],
        points: _Point,
        transposed: bool,
        sides: tuple[np.ndarray, np.ndarray, np.ndarray],
        selection: Selection,
        threads: int,
        lanes: int,
        kept: Any,
    ) -> np.ndarray:
        batch, count = sides[0].shape[:2]
        flags = np.empty(batch, dtype=np.int32)
        self._native.linear(batch, theta, points, selection, count, transposed, *sides, flags, threads, lanes, kept)
        return flags
