"""The families of problems."""

from benchmarks.suite.families.conic import CORRELATION, SDP, SOCP
from benchmarks.suite.families.exponential import ENTROPY, LOGISTIC
from benchmarks.suite.families.linear import ASSIGNMENT, PATH
from benchmarks.suite.families.quadratic import DENSE_QP, MPC, PORTFOLIO, SIMPLEX, SPARSE_QP

__all__ = ["FAMILIES"]

FAMILIES = {
    family.name: family
    for family in (
        DENSE_QP,
        SIMPLEX,
        PORTFOLIO,
        SPARSE_QP,
        MPC,
        SOCP,
        CORRELATION,
        SDP,
        LOGISTIC,
        ENTROPY,
        ASSIGNMENT,
        PATH,
    )
}
