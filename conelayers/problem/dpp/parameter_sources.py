"""Where the values of a program's parameters come from, given the user's."""

from __future__ import annotations

from collections.abc import Sequence

import cvxpy as cp

from conelayers.problem.canonicalize.data import Part
from conelayers.problem.dpp.replacements import Factor
from conelayers.problem.dpp.translate import translate
from conelayers.problem.expressions import Expression, build
from conelayers.problem.input_map import Source

__all__ = ["sources_of"]


def sources_of(
    parts: Sequence[Part],
    parameters: Sequence[cp.Parameter],
    definitions: Sequence[tuple[cp.Parameter, cp.Expression | Factor]],
) -> tuple[tuple[Source, ...], tuple[Expression, ...]]:
    """A source for each part (a user's parameter, or the expression that a new one stands for), and the expressions."""
    place = {p.id: i for i, p in enumerate(parameters)}
    known: dict[int, Expression] = {}
    for p, definition in definitions:
        expression = definition.P if isinstance(definition, Factor) else definition
        (node,) = translate([expression], parameters, known)
        if isinstance(definition, Factor):
            name = f"quad_form's matrix {definition.P}"
            node = build.node("cholesky", node, shape=node.shape, sign=definition.sign, name=name)
        known[p.id] = node
    used = [ident for ident in dict.fromkeys(part.parameter.id for part in parts) if ident not in place]
    number = {ident: k for k, ident in enumerate(used)}
    sources = []
    for part in parts:
        ident = part.parameter.id
        kind = None if not part.parameter.is_complex() else "imag" if part.imaginary else "real"
        sources.append(Source(place.get(ident), number.get(ident), part.positions is not None, kind))
    return tuple(sources), tuple(known[ident] for ident in used)
