"""Expressions of parameters and constants, evaluated and differentiated in NumPy, torch or JAX, a batch at a time.

An expression is a graph of ``Parameter``, ``Constant`` and ``Node``; ``conelayers.problem.dpp.translate`` makes one
from cvxpy's. An ``Arithmetic`` is what a framework has to offer for ``evaluate``; NumPy's is ``NumpyArithmetic``, whose
derivatives are ``pullback`` and ``pushforward``.
"""

from conelayers.problem.expressions.arithmetic import Arithmetic
from conelayers.problem.expressions.derivatives import pullback, pushforward
from conelayers.problem.expressions.evaluation import Evaluation, evaluate
from conelayers.problem.expressions.nodes import Constant, Expression, Node, Parameter, positions_in
from conelayers.problem.expressions.numpy_arithmetic import NumpyArithmetic

__all__ = [
    "Arithmetic",
    "Constant",
    "Evaluation",
    "Expression",
    "Node",
    "NumpyArithmetic",
    "Parameter",
    "evaluate",
    "positions_in",
    "pullback",
    "pushforward",
]
