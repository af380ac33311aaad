"""Which columns are known to be inert from construction on (program/inert.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conelayers.problem.parametric import AffineMap
from conelayers.program.cone_program import Structure
from conelayers.program.inert import InertColumns

__all__ = ["with_inert_columns"]


def with_inert_columns(structure: Structure, maps: dict[str, AffineMap], auxiliary: np.ndarray) -> Structure:
    """The structure that knows them: columns that are not the user's, in no equality, and neither in P nor in q's map.

    An equality is always active; besides, presolve would express other columns by it.
    """
    A, q = structure.A, maps["q"]
    inert = auxiliary.copy()
    inert[structure.P.cols] = False
    inert[q.rows] = False
    inert[A.cols[A.rows < structure.cones.zero]] = False
    if not inert.any():
        return structure
    entries = maps["A"].rows[inert[A.cols[maps["A"].rows]]]
    return replace(structure, inert=InertColumns(inert, A.rows[entries], A.cols[entries]))
