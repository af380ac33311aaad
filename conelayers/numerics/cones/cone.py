"""The interface of cones: the projection onto the dual cone, and one Clarke element of it in spectral form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from conelayers.numerics.cones.arrays import Array, namespace
from conelayers.numerics.cones.selection import Selection

__all__ = ["Cone", "Element", "Extremes", "IdentityBasisElement", "ReducedElement", "Triplets", "no_triplets"]

_COLUMN_ENTRIES = 2**22  # entries of the columns of U that are computed at a time, to limit memory


class Triplets(NamedTuple):
    """A sparse matrix by its entries."""

    data: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    shape: tuple[int, int]


def no_triplets(rows: int) -> Triplets:
    """A matrix without columns."""
    none = np.zeros(0, dtype=np.int64)
    return Triplets(np.zeros(0), none, none, (rows, 0))


class ReducedElement(NamedTuple):
    """D restricted to its range, in the form that the reduced KKT matrix needs (NumPy and SciPy, one instance).

    With D = B C Bᵀ, C ≻ 0, the matrix N = C⁻¹ − BᵀB is positive semidefinite, and dy = D·dv is dy = Bη with
    Bᵀ A dx − N η = −Bᵀ r₂ (see kkt/factorization.py). N may be given in lifted form, N = diag(n) constrained to Wᵀη =
    0.
    """

    basis: Triplets  # B, (rows of the blocks, r)
    diagonal: np.ndarray  # n, (r,)
    lift: Triplets  # W, (r, number of lifting columns)


@dataclass(frozen=True)
class Element(ABC):
    """D = U diag(values) Uᵀ ∈ ∂Π_{K*}(v) for a group of equal blocks; every field leads with the axes of v.

    ``values`` has the shape of v, (..., blocks, d), and lies in [0, 1]. ``to_basis`` and ``from_basis`` apply Uᵀ and U
    to an array (..., blocks, d); further leading axes broadcast.
    """

    values: Array

    @abstractmethod
    def to_basis(self, h: Array) -> Array:
        """Uᵀh."""

    @abstractmethod
    def from_basis(self, h: Array) -> Array:
        """U h."""

    def apply(self, h: Array) -> Array:
        """D h."""
        return self.from_basis(self.values * self.to_basis(h))

    def take(self, index: Any) -> Element:
        """The element of a part of the batch, by any index of the leading axes."""
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    def reduced(self) -> ReducedElement:
        """B = U√Λ and N = I − Λ on the columns with Λ > 0; for one instance, values (blocks, d)."""
        blocks, d = self.values.shape
        block, direction = np.nonzero(self.values > 0)
        root = np.sqrt(self.values[block, direction])
        data = np.empty((block.size, d))
        kept = np.unique(direction)
        step = max(1, _COLUMN_ENTRIES // max(blocks * d, 1))
        for start in range(0, kept.size, step):
            some = kept[start : start + step]
            # Column j of U, U e_j, for all blocks at once.
            unit = np.zeros((some.size, 1, d))
            unit[np.arange(some.size), 0, some] = 1.0
            columns = self.from_basis(np.broadcast_to(unit, (some.size, blocks, d)))
            here = np.flatnonzero((direction >= some[0]) & (direction <= some[-1]))
            data[here] = columns[np.searchsorted(some, direction[here]), block[here]] * root[here, None]
        rows = block[:, None] * d + np.arange(d)
        cols = np.broadcast_to(np.arange(block.size)[:, None], rows.shape)
        basis = Triplets(data.ravel(), rows.ravel(), cols.ravel(), (blocks * d, block.size))
        return ReducedElement(basis, 1 - self.values[block, direction], no_triplets(block.size))


@dataclass(frozen=True)
class IdentityBasisElement(Element):
    """A diagonal element: U = I."""

    def to_basis(self, h: Array) -> Array:
        return h

    def from_basis(self, h: Array) -> Array:
        return h

    def reduced(self) -> ReducedElement:
        values = self.values.ravel()
        keep = np.flatnonzero(values > 0)
        basis = Triplets(np.sqrt(values[keep]), keep, np.arange(keep.size), (values.size, keep.size))
        return ReducedElement(basis, 1 - values[keep], no_triplets(keep.size))


class Extremes(NamedTuple):
    """The smallest and the largest Clarke element of Π_{K*} at the kink near v, and its distance from v.

    Every element D there has ``low`` ⪯ D ⪯ ``high``, and both are elements. If no kink is within the tolerance, both
    are the derivative at v. ``distance`` (..., blocks) is the distance of v from the nearest kink, infinite if there is
    none. In the interior of a curved cone and of its polar it is a first-order estimate, which is sharp near the
    boundary.
    """

    low: Element
    high: Element
    distance: Array


class Cone(ABC):
    """A closed convex cone K ⊆ R^d. Everything is batched: v is (..., blocks, d), one copy of K a block."""

    @abstractmethod
    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        """Π_{K*}(v) and an element of its Clarke Jacobian at v; ``selection`` chooses the element at a kink."""

    @abstractmethod
    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        """The extreme elements at the kink within ``tolerance`` (..., blocks) of v (..., blocks, d), or at v if there
        is none.
        """

    def decompose(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Array, Element]:
        """y = Π_{K*}(v), s = Π_K(−v) = y − v, and the element.

        Cones that can compute both parts directly override this: if y and v agree in most digits, the difference is
        rounding.
        """
        y, element = self.project_dual(v, selection)
        return y, y - v, element

    @abstractmethod
    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        """D²Π_{K*}(v)[a, c], the derivative of D(v)c along a, for v, a, c (..., blocks, d) where Π_{K*} is smooth.

        It is symmetric in a and c. At kinks, and at the few other points without a second derivative, the result is
        that of a smooth piece nearby, or 0.
        """

    def distances(self, y: Array, s: Array) -> tuple[Array, Array]:
        """Each block's distances of y from K* and of s from K in the maximum norm, or bounds of them: (..., blocks)
        from (..., blocks, d).
        """
        # Moreau: s − Π_K(s) = −Π_{K*}(−s).
        xp = namespace(y, s)
        outside = y - self.project_dual(y)[0], self.project_dual(-s)[0]
        return xp.max(xp.abs(outside[0]), axis=-1), xp.max(xp.abs(outside[1]), axis=-1)
