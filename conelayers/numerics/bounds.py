"""Rows of the nonnegative cone whose bound is infinite or very large are set aside while the rest is solved.

A right-hand side that dwarfs all others (scaling.py finds them) makes the rest of the program look like rounding
errors, since solvers stop at tolerances relative to ‖b‖. Its row becomes 0·x + s = 1 (a block of a curved cone that is
void without its bound becomes 0·x + s = e, with e inside the cone), and is checked when the rest is solved: the bounds
that x violates are put back, and all bounds of an instance for which no point was found without them. In a program that
was not solved, rows whose b is only large are set aside too. A program that is infeasible without some of its rows is
infeasible with them. b = ∞ means that there is no bound: such a row has s = ∞ and y = 0, and stays empty. b = −∞ leaves
no feasible x.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conelayers.numerics.cones import product_cone
from conelayers.numerics.residual import Point
from conelayers.numerics.scaling import Equilibrated
from conelayers.program.cone_program import ConeProgram

__all__ = ["emptied", "missing", "put_back", "restored"]


def emptied(program: ConeProgram, rows: np.ndarray | None) -> ConeProgram:
    """The program with 0·x + s = 1 in place of these rows, (B, m) bool."""
    if rows is None or not rows.any():
        return program
    entries = rows[:1] if (rows == rows[0]).all() else rows
    A = np.where(entries[:, program.structure.A.rows], 0.0, program.A)
    void = program.structure.void
    return replace(program, A=A, b=np.where(rows, 1.0 if void is None else void.interior, program.b))


def missing(program: ConeProgram) -> np.ndarray | None:
    """The rows without a bound, (B, m) bool; None if there are none."""
    infinite = np.isinf(program.b)
    return infinite if infinite.any() else None


def _slacks(program: ConeProgram, x: np.ndarray) -> np.ndarray:
    """b − Ax, (B, m); infinite in rows without a bound."""
    return program.b - program.Ax(x)


def put_back(equilibrated: Equilibrated, x: np.ndarray, unsolved: np.ndarray) -> np.ndarray | None:
    """The rows that were set aside and are needed, (B, m) bool; None if there are none.

    These are the rows that x violates, and all rows of the instances ``unsolved``, (B,) bool.
    """
    program, _, aside = equilibrated
    assert aside is not None
    needed = aside & np.isfinite(program.b)
    needed &= _violated(program, x) | unsolved[:, None]
    return needed if needed.any() else None


def _violated(program: ConeProgram, x: np.ndarray) -> np.ndarray:
    """Which rows x violates, (B, m) bool; of a block of a curved cone all or none, if it may be set aside."""
    slacks, void = _slacks(program, x), program.structure.void
    violated = slacks < 0
    if void is None:
        return violated
    # Π_{K*}(−s) = 0 iff s ∈ K.
    finite = np.where(np.isfinite(slacks), slacks, 1.0)
    y, _ = product_cone(program.structure.cones).project_dual(-finite)
    violated[:, void.rows] = False
    violated[:, void.heads] = void.maxima(np.abs(y)) > 0
    return void.spread(violated)


def restored(equilibrated: Equilibrated, point: Point) -> tuple[ConeProgram, np.ndarray]:
    """The equilibrated program with all of its bounds, and v there: y = 0 and the slack in rows that were set aside."""
    program, _, aside = equilibrated
    assert aside is not None
    v = np.where(aside, -_slacks(program, point.x), point.v)
    return emptied(program, missing(program)), np.where(np.isfinite(v), v, -1.0)
