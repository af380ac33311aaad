"""The framework-free layer over NumPy arrays: options, calls, solutions, failures, workers.

In come a cvxpy problem (or a cone program) and values of its parameters; out go solutions that know their derivatives.
"""

from conelayers.layer.layer import Layer
from conelayers.layer.solution import LayerSolution

__all__ = ["Layer", "LayerSolution"]
