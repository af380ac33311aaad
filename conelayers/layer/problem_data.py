"""The cone program of a call as the user sees it: P, q, A, b and the cones."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import numpy as np

from conelayers.problem.parameters import Batch
from conelayers.problem.parametric import ParametricProgram
from conelayers.program.cones import Cones
from conelayers.program.patterns import instance_values

__all__ = ["ProblemData", "problem_data"]


@final
class ProblemData(NamedTuple):
    """The data of a cone program; see ``Layer.problem_data``."""

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    cones: Cones


def problem_data(compiled: ParametricProgram, batch: Batch) -> ProblemData:
    """The data at the values of a call; lists of matrices, and vectors with B in front, in a batched one."""
    program = compiled.program(batch.theta)
    structure = program.structure
    P, A = (
        [pattern.matrix(instance_values(values, i)) for i in range(len(batch.theta))]
        for pattern, values in ((structure.P, program.P), (structure.A, program.A))
    )
    if batch.batched:
        return ProblemData(P, program.q, A, program.b, structure.cones)
    return ProblemData(P[0], program.q[0], A[0], program.b[0], structure.cones)
