"""Bounds that do not bind, from 1e6 to 1e20 and infinite: a random program with them is as it is without them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from fuzzing import Finding, heard, require, within
from fuzzing_programs import Data, ProgramSpec, check_same, programs, takers
from hypothesis import strategies as st

from conelayers import Cones, SolveError, Status
from conelayers.layer.conic import ConeSolution

__all__ = ["BoundSpec", "bounds", "check_bounds"]

SIZES = (1e6, 1e8, 1e10, 1e14, 1e20, math.inf)
KINDS = ("regular", "kinked", "nearly kinked", "primal infeasible", "dual infeasible")


@dataclass(frozen=True)
class BoundSpec:
    """A program and bounds on its variables, so that its repr is the example.

    bounds: a column (counted around), the side, 1 or −1, and the size relative to the largest entry of the planted
    point, or 1.
    """

    program: ProgramSpec
    bounds: tuple[tuple[int, int, float], ...]

    def added(self, data: Data) -> tuple[Cones, Data]:
        """The program with the bounds as the last rows of the nonnegative cone. Finite ones would bound what is
        unbounded.
        """
        cones, n = self.program.cones, data.q.size
        size = max(1.0, float(np.abs(data.x).max(initial=0))) if data.x is not None else 1e3
        rows, b = np.zeros((len(self.bounds), n)), np.empty(len(self.bounds))
        for i, (column, side, bound) in enumerate(self.bounds):
            rows[i, column % n] = side
            b[i] = math.inf if self.program.kind == "dual infeasible" else bound * size
        place = cones.zero + cones.nonneg
        with_rows = Data(data.P, data.q, np.insert(data.A, place, rows, axis=0), np.insert(data.b, place, b))
        return replace(cones, nonneg=cones.nonneg + len(b)), with_rows

    def rows_of_the_program(self) -> np.ndarray:
        """Which rows of the program with bounds are the program's."""
        cones = self.program.cones
        place = cones.zero + cones.nonneg
        return np.delete(np.arange(cones.dimension + len(self.bounds)), slice(place, place + len(self.bounds)))


def bounds() -> st.SearchStrategy[BoundSpec]:
    """One to four bounds of any of the sizes."""
    bound = st.tuples(st.integers(0, 11), st.sampled_from((1, -1)), st.sampled_from(SIZES))
    return st.builds(
        BoundSpec, program=programs(KINDS), bounds=st.lists(bound, min_size=1, max_size=4, unique=True).map(tuple)
    )


def check_bounds(spec: BoundSpec, counts: Counter | None = None) -> None:
    """A Finding where bounds that do not bind change a status, a point, a gradient, or have multipliers or gradients of
    their own.
    """
    counts = Counter() if counts is None else counts
    with within():
        data = spec.program.build()
        cones, bounded = spec.added(data)
        without, said = attempted(data, spec.program.cones)
        solution, told = attempted(bounded, cones)
        counts[f"{spec.program.kind}: {told.value}"] += 1
        if said is not Status.SOLVED and told is not said:
            # What is not solved without bounds either may end in another way; a solution there cannot be.
            infeasible = data.certificate is not None and said.value.endswith("infeasible")
            require(not infeasible, "status", f"{said.value} without the bounds, {told.value} with them")
            counts["not solved without bounds"] += 1
            return
        if told is Status.INACCURATE and takers(bounded, cones) == ["SCS"]:
            counts["SCS alone was inaccurate"] += 1  # a first-order method, for power cones that are dual, say
            return
        require(told is said, "status", f"{said.value} without the bounds, {told.value} with them")
        if without is None or solution is None:
            return
        kept = spec.rows_of_the_program()
        its_own = np.delete(np.arange(solution.y.size), kept)
        require(not (solution.y[its_own] * np.isinf(bounded.b[its_own])).any(), "multiplier", "of an infinite bound")
        check_same(data, without, solution, np.arange(data.q.size), kept, spec.program.seed, counts)


def attempted(data: Data, cones: Cones) -> tuple[ConeSolution | None, Status]:
    """The solution, where there is one, and the status."""
    try:
        with heard():
            solution = data.solve(cones)
    except SolveError as error:
        (status,) = error.statuses
        return None, status
    if not solution.status.usable:
        raise Finding("status", f"returned, but {solution.status}")
    return solution, solution.status
