"""The symmetric reduced KKT matrix: assembled, factored, solved."""

from conelayers.numerics.kkt.choice import factorize, prefers_dense
from conelayers.numerics.kkt.composite import CompositeFactorization, Part, combine
from conelayers.numerics.kkt.condensed import CondensedFactorization
from conelayers.numerics.kkt.deflated import DeflatedFactorization
from conelayers.numerics.kkt.dense import DenseFactorization
from conelayers.numerics.kkt.elimination import EliminatedFactorization
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.kkt.krylov import KrylovFactorization
from conelayers.numerics.kkt.rank import null_space
from conelayers.numerics.kkt.sparse import SparseFactorization

__all__ = [
    "CompositeFactorization",
    "CondensedFactorization",
    "DeflatedFactorization",
    "DenseFactorization",
    "EliminatedFactorization",
    "Factorization",
    "KrylovFactorization",
    "Part",
    "SparseFactorization",
    "combine",
    "factorize",
    "null_space",
    "prefers_dense",
]
