"""Where the values of a program's parameters come from, given the user's."""

from __future__ import annotations

from collections.abc import Sequence

import cvxpy as cp

from conelayers.canonicalize.data import Part
from conelayers.canonicalize.lift import Factor
from conelayers.canonicalize.translate import translate
from conelayers.expressions import Expression, build
from conelayers.interface import Source

__all__ = ["sources_of"]


def sources_of(
    parts: Sequence[Part],
    parameters: Sequence[cp.Parameter],
    definitions: Sequence[tuple[cp.Parameter, cp.Expression | Factor]],
) -> tuple[Source, ...]:
    """One for each part: the user's parameter, or the expression that a new one stands for."""
    place = {p.id: i for i, p in enumerate(parameters)}
    nodes: dict[int, Expression] = {}
    for p, definition in definitions:
        expression = definition.P if isinstance(definition, Factor) else definition
        (node,) = translate([expression], parameters, nodes)
        if isinstance(definition, Factor):
            node = build.node(
                "cholesky", node, shape=node.shape, sign=definition.sign, name=f"quad_form's matrix {definition.P}"
            )
        nodes[p.id] = node
    sources = []
    for part in parts:
        ident = part.parameter.id
        kind = None if not part.parameter.is_complex() else "imag" if part.imaginary else "real"
        own = ident in place
        sources.append(
            Source(place[ident] if own else None, None if own else nodes[ident], part.positions is not None, kind)
        )
    return tuple(sources)
