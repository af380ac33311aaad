"""From a cvxpy problem to a parametric cone program; the only package that knows cvxpy's internals."""

from conelayers.canonicalize.compile import canonicalize
from conelayers.canonicalize.data import parameter_specs
from conelayers.canonicalize.refusals import known_backend

__all__ = ["canonicalize", "known_backend", "parameter_specs"]
