"""From a cvxpy problem to a parametric cone program; the only package that knows cvxpy's internals."""

from conelayers.canonicalize.compile import canonicalize

__all__ = ["canonicalize"]
