"""cvxpy's expressions of parameters and constants as nodes that every framework evaluates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.binary_operators import MulExpression
from cvxpy.atoms.affine.wraps import Wrap
from cvxpy.atoms.elementwise import logic
from cvxpy.atoms.quad_form import SymbolicQuadForm
from cvxpy.expressions.expression import Expression as CvxpyExpression

from conelayers.problem.dpp.translate_affine import AFFINE, sparse_product
from conelayers.problem.dpp.translate_functions import FUNCTIONS
from conelayers.problem.expressions import Constant, Expression, Parameter
from conelayers.support.errors import CanonicalizationError

__all__ = ["translate"]


def translate(
    expressions: Sequence[Any], parameters: Sequence[cp.Parameter], known: Mapping[int, Expression] | None = None
) -> tuple[Expression, ...]:
    """The expressions' nodes, parameter i being the value at position i; one object among cvxpy's is one node.

    ``known``: nodes that stand for further parameters, by their identifiers. Raises CanonicalizationError for an atom
    that is not covered and for a variable, naming it and the expression.
    """
    translator = _Translator(parameters)
    translator.parameters |= known or {}
    return tuple(translator(e) for e in expressions)


@final
class _Translator:
    def __init__(self, parameters: Sequence[cp.Parameter]) -> None:
        self.nodes: dict[int, Expression] = {}
        self.parameters: dict[int, Expression] = {p.id: Parameter(i, tuple(p.shape)) for i, p in enumerate(parameters)}
        self.kept: list[Any] = []  # so that no id is used again

    def __call__(self, expression: Any) -> Expression:
        node = self.nodes.get(id(expression))
        if node is None:
            node = self.nodes[id(expression)] = self._translate(expression)
            self.kept.append(expression)
        return node

    def _translate(self, e: Any) -> Expression:
        kind: type = type(e)
        if isinstance(e, cp.Parameter):
            if e.id not in self.parameters:
                raise CanonicalizationError(f"expression {e}: {e.name()} is not among the parameters that were given")
            return self.parameters[e.id]
        if isinstance(e, cp.Constant):
            return _constant(e)
        if not isinstance(e, CvxpyExpression) or isinstance(e, cp.Variable) or not hasattr(e, "args"):
            raise CanonicalizationError(
                f"expression {e}: {kind.__name__} is not an expression of parameters and constants"
            )
        if isinstance(e, SymbolicQuadForm):
            return self(e.original_expression)
        if kind is MulExpression and (product := sparse_product(e, self)) is not None:
            return product
        children = [self(argument) for argument in (*e.args, *_further(e))]
        if all(isinstance(child, Constant) for child in children) and not e.variables():
            return _constant(e)
        if isinstance(e, Wrap):
            return children[0]
        rule = _RULES.get(kind)
        if rule is None:
            reason = _REFUSED.get(kind, "it is not among the atoms that are evaluated outside of cvxpy")
            raise CanonicalizationError(
                f"expression {_short(e)}: {kind.__name__} of parameters cannot be evaluated and differentiated: "
                f"{reason}. "
                "Replace it by a new Parameter and pass its value"
            )
        return rule(e, children)


def _short(e: Any) -> str:
    text = " ".join(str(e).split())
    return f"`{text if len(text) <= 200 else text[:200] + '…'}`"


def _further(e: Any) -> list[Any]:
    """Expressions that an atom holds beside its arguments, as further children."""
    if isinstance(e, cp.huber):
        return [e.M]
    if isinstance(e, cp.gmatmul):
        return [e.A]
    return [e.p] if isinstance(e, cp.Power) and e.parameters() and e.p.parameters() else []


def _constant(e: Any) -> Constant:
    with np.errstate(all="ignore"):
        value = e.value
    if value is None:
        raise CanonicalizationError(f"expression {_short(e)}: cvxpy has no value for it")
    return Constant(np.reshape(value.toarray() if sp.issparse(value) else np.asarray(value), e.shape, order="F"))


_RULES = AFFINE | FUNCTIONS
_STEPS = "it is piecewise constant, so that its derivative is zero or does not exist"
_REFUSED: dict[type, str] = {
    **dict.fromkeys((cp.ceil, cp.floor, cp.sign, cp.length, logic.Not, logic.And, logic.Or, logic.Xor), _STEPS),
    cp.quantum_rel_entr: "the logarithm of a matrix has no rule here",
    cp.perspective: "it is a function of variables",
}
