"""The product cone K of a program, in one fixed order; equal-sized blocks are handled in one call."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
import scipy.sparse as sp

from conelayers.cones.arrays import Array, device, namespace
from conelayers.cones.cone import Cone, Element, IdentityBasisElement, ReducedElement, Triplets
from conelayers.cones.exponential import Exponential, ExponentialDual
from conelayers.cones.orthant import Orthant
from conelayers.cones.power import Power, PowerDual
from conelayers.cones.psd import HermitianPositiveSemidefinite, PositiveSemidefinite
from conelayers.cones.selection import Selection, as_selection, middle
from conelayers.cones.soc import SecondOrder

__all__ = ["Cones", "ProductElement"]

_AT_KINK = 1e-9
_NOTHING = 1e-8  # s of so much of y is zero on the boundary of K*


class _Group(NamedTuple):
    """All blocks of one cone and size: ``start`` of each block's rows, blocks × dimension."""

    cone: Cone
    starts: np.ndarray
    dimension: int

    @property
    def rows(self) -> np.ndarray:
        return (self.starts[:, None] + np.arange(self.dimension)).ravel()


@final
@dataclass(frozen=True)
class Cones:
    """The cone K = {0}^zero × R₊^nonneg × Q… × S₊… × H₊… × Kexp… × Kexp*… × Kpow…, rows in this order.

    zero, nonneg: numbers of rows. soc: dimension of each second-order cone {(t, u) : ‖u‖ ≤ t}. psd: order n of each
    matrix, n(n+1)/2 rows each: lower triangle, column-major, off-diagonals times √2. hermitian: order n of each complex Hermitian
    matrix, n² rows each: the same of the real part, then √2 times the imaginary part below the diagonal, column-major. exp, exp_dual: numbers of
    three-row cones cl{y e^{x/y} ≤ z, y > 0} and of their duals. power: an exponent α for each three-row cone
    {x^α y^{1−α} ≥ |z|}; −α stands for its dual. Order and scaling are SCS's, but for the Hermitian ones.

    Raises ValueError, naming the field, for negative or non-integer sizes and exponents outside (−1, 1)∖{0}.
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    hermitian: tuple[int, ...] = ()
    exp: int = 0
    exp_dual: int = 0
    power: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("zero", "nonneg", "exp", "exp_dual"):
            object.__setattr__(self, name, _count(name, getattr(self, name), 0))
        for name in ("soc", "psd", "hermitian"):
            sizes = getattr(self, name)
            if not isinstance(sizes, Iterable) or isinstance(sizes, str):
                raise ValueError(
                    f"cones.{name}: got {sizes!r}, expected a sequence of sizes, one for each cone; write [{sizes!r}]"
                )
            object.__setattr__(self, name, tuple(_count(name, size, 1) for size in sizes))
        if not isinstance(self.power, Iterable) or isinstance(self.power, str):
            raise ValueError(
                f"cones.power: got {self.power!r}, expected a sequence of exponents, one for each cone; write [{self.power!r}]"
            )
        for a in (given := tuple(self.power)):
            if not isinstance(a, numbers.Real) or not 0 < abs(a) < 1:
                raise ValueError(
                    f"cones.power: got the exponent {a!r}, expected 0 < |α| < 1 (negative for the dual cone)"
                )
        exponents = tuple(float(a) for a in given)
        object.__setattr__(self, "power", exponents)

    def described(self) -> str:
        """The cones that there are, in words."""
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = (f"{name} {', '.join(map(str, s)) if isinstance(s, tuple) else s}" for name, s in sizes.items() if s)
        return "; ".join(shown) or "no constraints"

    @property
    def dimension(self) -> int:
        """The number of rows, m."""
        psd = sum(n * (n + 1) // 2 for n in self.psd) + sum(n * n for n in self.hermitian)
        return self.zero + self.nonneg + sum(self.soc) + psd + 3 * (self.exp + self.exp_dual + len(self.power))

    @property
    def kinds(self) -> frozenset[str]:
        """What a solver must support: the names of the fields that are not empty, "power_dual" for negative exponents."""
        kinds = {f.name for f in fields(self) if getattr(self, f.name)} - {"power"}
        kinds |= {"power" if a > 0 else "power_dual" for a in self.power}
        return frozenset(kinds)

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
        if flat or not self.dimension:  # a program without rows keeps one empty group: arrays have their shapes
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
    def block_starts(self) -> np.ndarray:
        """The first row of each block that scales as a whole; every row of an orthant is one by itself."""
        return np.concatenate([[0], np.cumsum(self.block_sizes)])[:-1].astype(np.int64)

    @cached_property
    def block_sizes(self) -> np.ndarray:
        """The number of rows of each of them: what is said of blocks is repeated so often to be said of rows."""
        sizes = [1] * (self.zero + self.nonneg) + list(self.soc) + [n * (n + 1) // 2 for n in self.psd]
        sizes += [n * n for n in self.hermitian]
        sizes += [3] * (self.exp + self.exp_dual + len(self.power))
        return np.array(sizes, dtype=np.int64)

    @cached_property
    def scalings(self) -> sp.csr_array:
        """S (m, k): a diagonal matrix diag(2^(S η)) maps the cone onto itself, for every η (k,).

        Each row of an orthant has a factor of its own; a second-order or exponential cone one; a matrix X becomes TXT with T
        diagonal; a power cone's rows have the factors a, b and aᵅb¹⁻ᵅ.
        """
        entries: list[tuple[int, int, float]] = []
        flat = self.zero + self.nonneg
        row, column = flat, flat
        for d in self.soc:
            entries += [(row + i, column, 1.0) for i in range(d)]
            row, column = row + d, column + 1
        for order, is_complex in [*((n, False) for n in self.psd), *((n, True) for n in self.hermitian)]:
            lower = [(i, j) for j in range(order) for i in range(j, order)]
            for i, j in lower + ([(i, j) for i, j in lower if i > j] if is_complex else []):
                entries += [(row, column + i, 1.0), (row, column + j, 1.0)]
                row += 1
            column += order
        for _ in range(self.exp + self.exp_dual):
            entries += [(row + i, column, 1.0) for i in range(3)]
            row, column = row + 3, column + 1
        for a in map(abs, self.power):
            entries += [
                (row, column, 1.0),
                (row + 1, column + 1, 1.0),
                (row + 2, column, a),
                (row + 2, column + 1, 1 - a),
            ]
            row, column = row + 3, column + 2
        rows, cols, values = (np.array(h) for h in zip(*entries, strict=True)) if entries else (np.zeros(0, int),) * 3
        ones = np.arange(flat)
        triplets = np.concatenate([np.ones(flat), values]), (np.concatenate([ones, rows]), np.concatenate([ones, cols]))
        return sp.csr_array(sp.coo_array(triplets, shape=(row, column)))

    @property
    def psd_rows(self) -> list[np.ndarray]:
        """The rows of each semidefinite block."""
        sizes = [n * (n + 1) // 2 for n in self.psd]
        starts = self.zero + self.nonneg + sum(self.soc) + np.concatenate([[0], np.cumsum(sizes)])
        return [start + np.arange(size) for start, size in zip(starts[:-1].tolist(), sizes, strict=True)]

    @cached_property
    def nonneg_rows(self) -> np.ndarray:
        """Which rows are linear inequalities, those of the nonnegative cone, (m,) bool."""
        rows = np.zeros(self.dimension, dtype=bool)
        rows[self.zero : self.zero + self.nonneg] = True
        return rows

    @cached_property
    def orthant_rows(self) -> np.ndarray:
        """Which rows lie in an orthant or the zero cone, (m,) bool."""
        rows = np.zeros(self.dimension, dtype=bool)
        for g in self._groups:
            if isinstance(g.cone, Orthant):
                rows[g.rows] = True
        return rows

    @cached_property
    def _group_rows(self) -> tuple[slice | np.ndarray, ...]:
        """The rows of each group, as a slice where they are contiguous."""
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
        """Rows in the order of the groups, and the permutation back."""
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
        """The Clarke element that ``selection`` asks for, where a block within 1e−9 of its own ‖v‖ of a kink counts as being at it.

        "mid" is the mean in units in which y/s is ``balance`` (..., m) times smaller than here (None: the same ones), of which each block
        has one.
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
        """The default element where each block within ``tolerance`` (..., m) of a kink counts as being at it: rounding decides nothing.

        That is the smallest on orthants and semidefinite cones. On the others it is the largest where v lies on the boundary of K* or at
        the origin, and the smallest everywhere else.
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

    def extremes(self, v: Array, tolerance: Array) -> tuple[ProductElement, ProductElement, Array]:
        """D_min and D_max at the kink near v (..., m), and the distance of each block's v from its nearest kink, on all its rows.

        A block counts as being at a kink where that distance is within its ``tolerance`` (..., m), the largest of its rows.
        Every Clarke element there lies between the two, which are elements themselves; without a kink they are one.
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

    def decompose(
        self, v: Array, selection: Selection | str = Selection.DEFAULT
    ) -> tuple[Array, Array, ProductElement]:
        """y = Π_{K*}(v), s = Π_K(−v) = y − v and the element of ``project_dual``, for v of shape (..., m)."""
        chosen = as_selection(selection)
        parts = [g.cone.decompose(h, chosen) for g, h in zip(self._groups, self.split(v), strict=True)]
        element = ProductElement(self, tuple(e for _, _, e in parts))
        return self.join([y for y, _, _ in parts]), self.join([s for _, s, _ in parts]), element

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        """D²Π_{K*}(v)[a, c], the derivative of D(v)c along a, for v, a, c (..., m) where Π_{K*} is smooth; 0 on orthants."""
        if not self.curved:
            return namespace(v).zeros_like(v + a + c)
        parts = zip(self._groups, self.split(v), self.split(a), self.split(c), strict=True)
        return self.join([g.cone.second_derivative(*h) for g, *h in parts])

    @property
    def curved(self) -> bool:
        """Whether the second derivative of Π_{K*} is not zero everywhere."""
        return any(not isinstance(g.cone, Orthant) for g in self._groups)

    def distances(self, y: Array, s: Array) -> tuple[Array, Array]:
        """The distance, or a tight bound of it, of each block of y from K* and of s from K, (..., blocks) for (..., m)."""
        parts = [g.cone.distances(a, b) for g, a, b in zip(self._groups, self.split(y), self.split(s), strict=True)]
        return self._by_block([a for a, _ in parts]), self._by_block([b for _, b in parts])

    def _by_block(self, parts: list[Array]) -> Array:
        """Figures of the blocks of each group, (..., blocks) each, in the order of the rows."""
        xp = namespace(*parts)
        if all(g.dimension == 1 for g in self._groups):
            return self.join([p[..., None] for p in parts])
        sizes = (g.dimension for g in self._groups)
        spread = [xp.broadcast_to(p[..., None], (*p.shape, d)) for p, d in zip(parts, sizes, strict=True)]
        return xp.take(self.join(spread), xp.asarray(self.block_starts, device=device(parts[0])), axis=-1)

    def block_maxima(self, values: np.ndarray) -> np.ndarray:
        """The largest of each block's rows, on all of them, (..., m); an orthant's rows are blocks by themselves."""
        if self.block_starts.size == self.dimension:
            return values
        maxima = np.maximum.reduceat(values, self.block_starts, axis=-1)
        return np.repeat(maxima, self.block_sizes, axis=-1)

    def block_sums(self, values: np.ndarray) -> np.ndarray:
        """The sums of each block's rows, (..., blocks)."""
        if self.block_starts.size == self.dimension:
            return values
        return np.add.reduceat(values, self.block_starts, axis=-1)

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


@final
@dataclass(frozen=True)
class ProductElement:
    """D = U diag(values) Uᵀ ∈ ∂Π_{K*}(v) for the product cone, (..., m)."""

    cones: Cones
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


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"cones.{name}: got {value!r}, expected an integer ≥ {least}")
    return int(value)
