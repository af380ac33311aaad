"""The symmetric reduced KKT matrix: assembled, factored, solved."""

from conelayers.kkt.choice import factorize
from conelayers.kkt.dense import DenseFactorization
from conelayers.kkt.factorization import Factorization
from conelayers.kkt.sparse import SparseFactorization

__all__ = ["DenseFactorization", "Factorization", "SparseFactorization", "factorize"]
