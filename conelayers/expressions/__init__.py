"""Expressions of parameters alone, evaluated for a batch in NumPy, PyTorch or JAX, whose own differentiation works on them."""

from conelayers.expressions.arithmetic import Arithmetic
from conelayers.expressions.nodes import Node, evaluate
from conelayers.expressions.numpy_arithmetic import NUMPY, pullback, pushforward

__all__ = ["NUMPY", "Arithmetic", "Node", "evaluate", "pullback", "pushforward"]
