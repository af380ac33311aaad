"""A parametric cone program becomes a smaller one that says the same for all values of the parameters.

In come the structure and the affine maps of cvxpy's own form; out go those of the smaller program, and the two linear
maps that lead its x and y back. Each rule has a file and its proof in it.
"""

from conelayers.problem.simplify.inert import with_inert_columns
from conelayers.problem.simplify.simplify import Simplified, simplified

__all__ = ["Simplified", "simplified", "with_inert_columns"]
