"""The rules one after the other, and what is left of the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, final

import numpy as np
import scipy.sparse as sp

from conelayers.problem.parametric import AffineMap
from conelayers.problem.simplify.definitions import eliminate_definitions
from conelayers.problem.simplify.duplicates import drop_superfluous
from conelayers.problem.simplify.epigraphs import substitute_epigraphs
from conelayers.problem.simplify.form import Form
from conelayers.program.cone_program import Structure
from conelayers.program.void_blocks import VoidBlocks

__all__ = ["Simplified", "simplified"]

_ROUNDS = 20  # of substitutions: expressions that are nested more deeply than this keep some variables


@final
class Simplified(NamedTuple):
    """The smaller program.

    columns, rows: which of the larger one's are left. R: its rows are R times those of the larger one, whose
    multipliers are Rᵀy'.
    """

    structure: Structure
    maps: dict[str, AffineMap]
    columns: np.ndarray
    rows: np.ndarray
    R: sp.csr_array


def simplified(
    structure: Structure,
    maps: Mapping[str, AffineMap],
    auxiliary: np.ndarray,
    wanted: np.ndarray,
    infinite: np.ndarray,
) -> Simplified | None:
    """The smaller program, or None where no rule applies.

    auxiliary: which columns belong to no variable of the user's, (n,) bool. wanted: of which rows a multiplier is
    returned, (m,) bool. infinite: which entries of φ may be infinite.
    """
    form = Form.of(structure, maps, auxiliary, wanted, np.append(infinite, False))
    for _ in range(_ROUNDS):
        before = form
        for rule in (substitute_epigraphs, eliminate_definitions, drop_superfluous):
            form = _repeated(rule, form)
        if form is before:
            break
    if form.R is None:
        return None
    smaller, found = form.data(structure.P, maps["P"])
    smaller = replace(smaller, void=VoidBlocks.at(form.cones, form.void))
    return Simplified(smaller, found, np.flatnonzero(~form.removed), form.origin, form.R)


def _repeated(rule: Callable[[Form], Form | None], form: Form) -> Form:
    for _ in range(_ROUNDS):
        following = rule(form)
        if following is None:
            return form
        form = following
    return form
