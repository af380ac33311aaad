"""The symmetric reduced KKT matrix: assembled, factored, solved."""

from conelayers.kkt.choice import factorize, prefers_dense
from conelayers.kkt.composite import CompositeFactorization, Part, combine
from conelayers.kkt.condensed import CondensedFactorization
from conelayers.kkt.deflated import DeflatedFactorization
from conelayers.kkt.dense import DenseFactorization
from conelayers.kkt.elimination import EliminatedFactorization
from conelayers.kkt.factorization import Factorization
from conelayers.kkt.krylov import KrylovFactorization
from conelayers.kkt.rank import null_space
from conelayers.kkt.sparse import SparseFactorization

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
