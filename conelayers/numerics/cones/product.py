"""The projection onto the dual of a program's product cone and its Clarke elements; blocks of one cone and size share
one call.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, final

import numpy as np

from conelayers.numerics.cones.arrays import Array, device, namespace
from conelayers.numerics.cones.cone import Cone, Element, IdentityBasisElement, ReducedElement, Triplets
from conelayers.numerics.cones.exponential import Exponential, ExponentialDual
from conelayers.numerics.cones.orthant import Orthant
from conelayers.numerics.cones.power import Power, PowerDual
from conelayers.numerics.cones.psd import HermitianPositiveSemidefinite, PositiveSemidefinite
from conelayers.numerics.cones.selection import Selection, as_selection, middle
from conelayers.numerics.cones.soc import SecondOrder
from conelayers.program.cones import Cones

__all__ = ["ProductCone", "ProductElement", "product_cone"]

_AT_KINK = 1e-9  # distance from a kink, relative to ‖v‖ of the block, within which a block counts as being at it
_NOTHING = 1e-8  # ‖s‖/‖y‖ of a block up to which s counts as zero, so that v lies on the boundary of K*


class _Group(NamedTuple):
    """All blocks of one cone and size: the first row of each block, and the number of rows of a block."""

    cone: Cone
    starts: np.ndarray
    dimension: int

    @property
    def rows(self) -> np.ndarray:
        return (self.starts[:, None] + np.arange(self.dimension)).ravel()


@final
@dataclass(frozen=True)
class ProductCone(Cones):
    """The arithmetic of a product cone: Π_{K*}, its Clarke elements and second derivative, for arrays (..., m) of any
    array library.

    NumPy's warnings are off in here: the cones compute all cases of an entry, and where numbers of 1e−300 and 1 meet
    one of those that do not count overflows. What is not finite in a result is found by whoever asked for it.
    """

    @cached_property
    def _groups(self) -> tuple[_Group, ...]:
        blocks: dict[tuple[str, int], list[int]] = {}
        row = self.zero + self.nonneg
        for d in self.soc:
            # A second-order cone of dimension 1 is {t ≥ 0}.
            blocks.setdefault(("nonneg", 1) if d == 1 else ("soc", d), []).append(row)
            row += d
        for n in self.psd:
            blocks.setdefault(("psd", n), []).append(row)
            row += n * (n + 1) // 2
        for n in self.hermitian:
            blocks.setdefault(("hermitian", n), []).append(row)
            row += n * n
        groups = []
        flat = self.zero + self.nonneg
        if flat or not self.dimension:  # a program without rows has one empty group, so that arrays get their shapes
            groups.append(_Group(Orthant(self.zero, flat), np.arange(flat), 1))
        for (kind, size), starts in blocks.items():
            if kind == "nonneg":
                groups.append(_Group(Orthant(0, len(starts)), np.array(starts), 1))
            elif kind == "soc":
                groups.append(_Group(SecondOrder(), np.array(starts), size))
            elif kind == "psd":
                groups.append(_Group(PositiveSemidefinite(size), np.array(starts), size * (size + 1) // 2))
            else:
                groups.append(_Group(HermitianPositiveSemidefinite(size), np.array(starts), size * size))
        for cone, count in ((Exponential(), self.exp), (ExponentialDual(), self.exp_dual)):
            if count:
                groups.append(_Group(cone, row + 3 * np.arange(count), 3))
                row += 3 * count
        first, alpha = row + 3 * np.arange(len(self.power)), np.array(self.power)
        if (alpha > 0).any():
            groups.append(_Group(Power(alpha[alpha > 0]), first[alpha > 0], 3))
        if (alpha < 0).any():
            groups.append(_Group(PowerDual(-alpha[alpha < 0]), first[alpha < 0], 3))
        return tuple(groups)

    @cached_property
    def _group_rows(self) -> tuple[slice | np.ndarray, ...]:
        """The rows of each group, as a slice if they are contiguous."""
        slices: list[slice | np.ndarray] = []
        for g in self._groups:
            rows = g.rows
            first = int(rows[0]) if rows.size else 0
            contiguous = np.array_equal(rows, np.arange(first, first + rows.size))
            slices.append(slice(first, first + rows.size) if contiguous else rows)
        return tuple(slices)

    @cached_property
    def _in_order(self) -> bool:
        """Whether the groups follow each other in the order of the rows."""
        return bool(np.array_equal(self._order[0], np.arange(self.dimension)))

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows in the order of the groups, and the inverse permutation."""
        rows = np.concatenate([g.rows for g in self._groups])
        inverse = np.empty_like(rows)
        inverse[rows] = np.arange(rows.size)
        return rows, inverse

    def project_dual(self, v: Array, selection: Selection | str = Selection.DEFAULT) -> tuple[Array, ProductElement]:
        """Π_{K*}(v) and a Clarke element D ∈ ∂Π_{K*}(v), for v of shape (..., m).

        ``selection`` says which element is taken at kinks: "default", "low", "high" or "mid".
        """
        y, _, element = self.decompose(v, selection)
        return y, element

    def element(self, v: Array, selection: Selection | str, balance: Array | None = None) -> ProductElement:
        """The Clarke element that ``selection`` asks for.

        A block whose distance from a kink is within 1e−9 of its ‖v‖ counts as being at it. "mid" is the mean in units
        in which y/s is ``balance`` (..., m) times smaller than here; each block has one balance, and None means 1.
        """
        chosen = as_selection(selection)
        if chosen is Selection.DEFAULT:
            return self.project_dual(v)[1]
        xp = namespace(v)
        low, high, _ = self.extremes(v, _AT_KINK * xp.abs(v))
        if chosen is not Selection.MID:
            return low if chosen is Selection.LOW else high
        one = xp.ones_like(v)
        balances = self.split(one if balance is None else one * balance)
        factors = (xp.exp(xp.mean(xp.log(h), axis=-1, keepdims=True)) for h in balances)
        pairs = zip(low.elements, high.elements, factors, strict=True)
        return ProductElement(self, tuple(replace(a, values=middle(a.values, b.values, k)) for a, b, k in pairs))

    def default_element(self, v: np.ndarray, tolerance: np.ndarray) -> ProductElement:
        """The default element if each block within ``tolerance`` (..., m) of a kink counts as being at it.

        Rounding errors then do not decide which element it is. On orthants and semidefinite cones it is the smallest
        one. On other cones it is the largest one if v lies on the boundary of K* or at the origin, and the smallest one
        elsewhere.
        """
        low, high, _ = self.extremes(v, tolerance)
        y, s, _ = self.decompose(v)
        parts = []
        splits = (self.split(h) for h in (v, y, s, tolerance))
        for g, a, b, *h in zip(self._groups, low.elements, high.elements, *splits, strict=True):
            if isinstance(g.cone, (Orthant, PositiveSemidefinite, HermitianPositiveSemidefinite)):
                parts.append(a)
                continue
            size, of_y, of_s, near = (np.max(np.abs(k), axis=-1, keepdims=True) for k in h)
            parts.append(replace(a, values=np.where((of_s <= _NOTHING * of_y) | (size <= near), b.values, a.values)))
        return ProductElement(self, tuple(parts))

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def extremes(self, v: Array, tolerance: Array) -> tuple[ProductElement, ProductElement, Array]:
        """D_min and D_max at the kink near v (..., m), and for each row its block's distance from the nearest kink.

        A block counts as being at a kink if that distance is within the largest ``tolerance`` (..., m) of its rows.
        Every Clarke element there lies between D_min and D_max, which are elements too; without a kink they are equal.
        """
        xp = namespace(v)
        pairs = zip(self._groups, self.split(v), self.split(tolerance), strict=True)
        parts = [g.cone.extremes(h, xp.max(t, axis=-1)) for g, h, t in pairs]
        low, high = (ProductElement(self, tuple(p[k] for p in parts)) for k in (0, 1))
        sizes = (g.dimension for g in self._groups)
        spread = [
            xp.broadcast_to(p.distance[..., None], (*p.distance.shape, d)) for p, d in zip(parts, sizes, strict=True)
        ]
        return low, high, self.join(spread)

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def decompose(
        self, v: Array, selection: Selection | str = Selection.DEFAULT
    ) -> tuple[Array, Array, ProductElement]:
        """y = Π_{K*}(v), s = Π_K(−v) = y − v and the element of ``project_dual``, for v of shape (..., m)."""
        chosen = as_selection(selection)
        parts = [g.cone.decompose(h, chosen) for g, h in zip(self._groups, self.split(v), strict=True)]
        element = ProductElement(self, tuple(e for _, _, e in parts))
        return self.join([y for y, _, _ in parts]), self.join([s for _, s, _ in parts]), element

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        """D²Π_{K*}(v)[a, c], the derivative of D(v)c along a, for v, a, c (..., m) where Π_{K*} is smooth; 0 on
        orthants.
        """
        if not self.curved:
            return namespace(v).zeros_like(v + a + c)
        parts = zip(self._groups, self.split(v), self.split(a), self.split(c), strict=True)
        return self.join([g.cone.second_derivative(*h) for g, *h in parts])

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def distances(self, y: Array, s: Array) -> tuple[Array, Array]:
        """The distance, or a tight bound of it, of each block of y from K* and of s from K, (..., blocks) from (...,
        m).
        """
        parts = [g.cone.distances(a, b) for g, a, b in zip(self._groups, self.split(y), self.split(s), strict=True)]
        return self._by_block([a for a, _ in parts]), self._by_block([b for _, b in parts])

    def _by_block(self, parts: list[Array]) -> Array:
        """The values of all blocks in the order of the rows, from those of each group, (..., blocks) each."""
        xp = namespace(*parts)
        if all(g.dimension == 1 for g in self._groups):
            return self.join([p[..., None] for p in parts])
        sizes = (g.dimension for g in self._groups)
        spread = [xp.broadcast_to(p[..., None], (*p.shape, d)) for p, d in zip(parts, sizes, strict=True)]
        return xp.take(self.join(spread), xp.asarray(self.block_starts, device=device(parts[0])), axis=-1)

    def split(self, h: Array) -> list[Array]:
        """The rows of (..., m) by group: a list of (..., blocks, d)."""
        xp = namespace(h)
        if len(self._groups) == 1 and self._in_order:
            g = self._groups[0]
            return [xp.reshape(h, (*h.shape[:-1], g.starts.size, g.dimension))]
        parts = []
        for g, rows in zip(self._groups, self._group_rows, strict=True):
            part = h[..., rows] if isinstance(rows, slice) else xp.take(h, xp.asarray(rows, device=device(h)), axis=-1)
            parts.append(xp.reshape(part, (*h.shape[:-1], g.starts.size, g.dimension)))
        return parts

    def join(self, parts: list[Array]) -> Array:
        """The inverse of ``split``."""
        xp = namespace(*parts)
        pieces = [xp.reshape(p, (*p.shape[:-2], p.shape[-2] * p.shape[-1])) for p in parts]
        flat = pieces[0] if len(pieces) == 1 else xp.concat(pieces, axis=-1)
        if self._in_order:
            return flat
        return xp.take(flat, xp.asarray(self._order[1], device=device(flat)), axis=-1)


@lru_cache(maxsize=256)
def _of_fields(*values: Any) -> ProductCone:
    return ProductCone(*values)


def product_cone(cones: Cones) -> ProductCone:
    """The arithmetic of these cones; equal cones share one object."""
    if isinstance(cones, ProductCone):
        return cones
    return _of_fields(*(getattr(cones, f.name) for f in fields(cones)))


@final
@dataclass(frozen=True)
class ProductElement:
    """D = U diag(values) Uᵀ ∈ ∂Π_{K*}(v) for the product cone, (..., m)."""

    cones: ProductCone
    elements: tuple[Element, ...]

    def _map(self, h: Array, action: str) -> Array:
        if self.is_diagonal:
            return self.values * h if action == "apply" else h
        parts = self.cones.split(h)
        return self.cones.join([getattr(e, action)(p) for e, p in zip(self.elements, parts, strict=True)])

    @cached_property
    def values(self) -> Array:
        """The eigenvalues of D in the basis U, (..., m)."""
        return self.cones.join([e.values for e in self.elements])

    @cached_property
    def is_diagonal(self) -> bool:
        """Whether U = I: all cones are orthants."""
        return all(isinstance(e, IdentityBasisElement) for e in self.elements)

    @property
    def diagonal_rows(self) -> np.ndarray:
        """Which rows lie in an orthant or the zero cone, (m,) bool: D is diagonal there."""
        return self.cones.orthant_rows

    def to_basis(self, h: Array) -> Array:
        """Uᵀh for h of shape (..., m)."""
        return self._map(h, "to_basis")

    def from_basis(self, h: Array) -> Array:
        """U h for h of shape (..., m)."""
        return self._map(h, "from_basis")

    def apply(self, h: Array) -> Array:
        """D h for h of shape (..., m)."""
        return self._map(h, "apply")

    def take(self, index: Any) -> ProductElement:
        """The element of a part of the batch."""
        return ProductElement(self.cones, tuple(e.take(index) for e in self.elements))

    def reduced(self) -> ReducedElement:
        """B, n and W of the whole product, for one instance: rows of B in the order of the cone program."""
        parts = [e.reduced() for e in self.elements]
        ranks = np.cumsum([0, *(p.basis.shape[1] for p in parts)])
        lifted = np.cumsum([0, *(p.lift.shape[1] for p in parts)])
        basis = Triplets(
            np.concatenate([p.basis.data for p in parts]),
            np.concatenate([g.rows[p.basis.rows] for g, p in zip(self.cones._groups, parts, strict=True)]),
            np.concatenate([p.basis.cols + start for p, start in zip(parts, ranks, strict=False)]),
            (self.cones.dimension, int(ranks[-1])),
        )
        lift = Triplets(
            np.concatenate([p.lift.data for p in parts]),
            np.concatenate([p.lift.rows + start for p, start in zip(parts, ranks, strict=False)]),
            np.concatenate([p.lift.cols + start for p, start in zip(parts, lifted, strict=False)]),
            (int(ranks[-1]), int(lifted[-1])),
        )
        return ReducedElement(basis, np.concatenate([p.diagonal for p in parts]), lift)
