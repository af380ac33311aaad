"""Small dense strictly convex quadratic programs, solved to machine precision; their factors are used for the
derivative.
"""

from conelayers.numerics.quadratic.factorization import ActiveSetFactorization
from conelayers.numerics.quadratic.solution import ActiveSetSolution, Code, Factors
from conelayers.numerics.quadratic.solve import solve_quadratic

__all__ = ["ActiveSetFactorization", "ActiveSetSolution", "Code", "Factors", "solve_quadratic"]
