"""From a cvxpy problem to a parametric cone program; the only package that knows cvxpy's internals."""

from conelayers.problem.canonicalize.compile import canonicalize
from conelayers.problem.canonicalize.data import parameter_specs
from conelayers.problem.canonicalize.refusals import known_backend

__all__ = ["canonicalize", "known_backend", "parameter_specs"]
