"""From a cvxpy problem to a parametric cone program, and from the user's values to its parameters.

In come a problem and the names of its parameters and variables; out go affine maps of θ to (P, q, A, b)
and of (x, y) to variables.
"""
