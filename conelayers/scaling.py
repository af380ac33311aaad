"""Equilibration of a program: v = y − s compares multipliers with slacks, so both should be of one size.

With d > 0 (n,), e > 0 (m,) such that diag(e) maps the cone onto itself, and β, γ > 0, the program in

    x' = β x/d,   s' = β e s,   y' = γ y/e,

has the data P' = (γ/β) d P d, q' = γ d q, A' = e A d, b' = β e b and the same cone. log d and log e are the least squares fit of

    log|Aᵢⱼ| + log eᵢ + log dⱼ ≈ 0,    log|Pⱼₖ| + log dⱼ + log dₖ ≈ 0     over the entries that are not zero

(Curtis, Reid, "On the automatic scaling of matrices for Gaussian elimination", 1972). Whatever units the user chose for variables, rows
and objective, the fit ends in the same program: units add to the logarithms what it takes away again. An iteration that brings norms
to one (Ruiz, 2001) has many fixed points, and ends in one that depends on the units. Where a part of the program that hangs together has no P,
the fit leaves one factor open, d·t and e/t; it is chosen so that q' and b' are of one size there. β and γ bring b' and q' to size 1.

All are powers of two, so that scaling rounds nothing (but for the third row of a power cone), and 1 where the data are of moderate size already.

Right-hand sides that dwarf the others, such as a bound of 1e10 that is there for form's sake, would make everything else look like
rounding. Rows of the nonnegative cone with such a b, and those without a bound (b = ∞), are found here and set aside (bounds.py).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final
from weakref import WeakKeyDictionary

import numpy as np
import qdldl
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from conelayers.cones import Cones
from conelayers.program import ConeProgram, Segments, Structure, at, largest, part

__all__ = ["Equilibrated", "Scaling", "equilibrate_program"]

_TOLERATED = 1.0  # and sizes of b and q
_ROUGH = 0.5  # binary orders of magnitude up to which factors are left alone
_LIMIT = 300.0
_APART = (
    40.0  # of q to b, or of b to q, beyond which the smaller one counts as zero: its rounding is not to be scaled up
)
_DWARFS = 20.0  # by which a right-hand side is above all others when its row is set aside: a factor of 1e6
_SEVERAL = frozenset({"psd", "hermitian", "power", "power_dual"})  # cones with more than one factor a block
_WEAK = 1e-2  # weight of q and b in the fit, so that they decide only what P and A leave open
_SPREAD = 1e-8  # what is smaller than so much of the largest entry of a point is scaled like that much of it
_RIDGE = 1e-10  # of the fit's matrix, which is singular
_DENSE = 400  # unknowns up to which its inverse is kept
_PATTERNS = 16  # of zeros among the values, whose matrices are remembered
_UNIT, _BIAS = 2.0**-20, 1023.0  # of the exponent and the mantissa in the high word of a double
_ZERO = -1000.0  # a logarithm below this is that of zero


@final
@dataclass(frozen=True)
class Scaling:
    """d (B, n) and e (B, m), (1, ·) where they are shared, β (B, 1) and γ (B, 1) of a batch, and the translations between the two programs."""

    d: np.ndarray
    e: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray

    @classmethod
    def identity(cls, program: ConeProgram) -> Scaling:
        """The scaling that changes nothing."""
        one = np.ones((program.batch, 1))
        return cls(np.ones_like(program.q), np.ones_like(program.b), one, one)

    @classmethod
    def of_point(cls, cones: Cones, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> Scaling:
        """Units in which all of a point is about 1: d = |x|, e² = ‖y‖/‖s‖ block by block, β and γ; x (B, n), y and s (B, m)."""
        d = _power_of_two(_bounded(np.abs(x)))
        slacks, multipliers = (_bounded(cones.block_maxima(np.abs(h))) for h in (s, y))
        e = _power_of_two(np.sqrt(multipliers / slacks))
        beta = 1 / _power_of_two(np.maximum(largest(x / d), largest(e * s)))[:, None]
        gamma = 1 / _power_of_two(largest(y / e))[:, None]
        return cls(d, e, beta, gamma)

    def then(self, other: Scaling) -> Scaling:
        """This one, and ``other`` after it."""
        return Scaling(self.d * other.d, self.e * other.e, self.beta * other.beta, self.gamma * other.gamma)

    @cached_property
    def trivial(self) -> bool:
        """Whether it changes nothing."""
        return all(bool((h == 1).all()) for h in (self.d, self.e, self.beta, self.gamma))

    def take(self, index: Any) -> Scaling:
        """A part of the batch."""
        return Scaling(part(self.d, index), part(self.e, index), part(self.beta, index), part(self.gamma, index))

    def program(self, program: ConeProgram) -> ConeProgram:
        """The scaled program."""
        P, A, ratio = program.P, program.A, self.gamma / self.beta
        if not ((self.d == 1).all() and (self.e == 1).all()):
            P, A = program.structure.P.scale(P, self.d, self.d), program.structure.A.scale(A, self.e, self.d)
        if not (ratio == 1).all():
            P = P * (ratio[:1] if (ratio == ratio[0]).all() else ratio)
        return ConeProgram(program.structure, P, self.gamma * self.d * program.q, A, self.beta * self.e * program.b)

    def scale(self, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x', y', s' from x, y, s."""
        return self.beta * x / self.d, self.gamma * y / self.e, self.beta * self.e * s

    def unscale(self, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, s from x', y', s'; their tangents likewise."""
        return self.d * x / self.beta, self.e * y / self.gamma, s / (self.e * self.beta)

    def scale_rows(self, r1: np.ndarray, r2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right-hand sides of the first and second row of J: γ d r₁, β e r₂; the adjoint of ``unscale_adjoint``."""
        return self.gamma * self.d * r1, self.beta * self.e * r2

    def scale_cotangents(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The adjoint of ``unscale``."""
        return self.d * gx / self.beta, self.e * gy / self.gamma, gs / (self.e * self.beta)

    @property
    def balance(self) -> np.ndarray:
        """γ/(β e²), (B, m): y'/s' = balance · y/s."""
        return self.gamma / (self.beta * self.e**2)


@final
class Equilibrated(NamedTuple):
    """A program, its scaling, and the rows that are set aside (B, m) bool, None where there are none."""

    program: ConeProgram
    scaling: Scaling
    aside: np.ndarray | None

    def rescaled(self, program: ConeProgram, others: Scaling) -> Equilibrated:
        """The same of ``program`` with further scalings after this one."""
        scaling = self.scaling.then(others)
        return Equilibrated(scaling.program(program), scaling, self.aside)


def equilibrate_program(program: ConeProgram, kept: np.ndarray | None = None) -> Equilibrated:
    """The equilibrated program, each instance by itself. Rows ``kept`` (B, m) bool are set aside only where their b is infinite."""
    structure = program.structure
    if not program.batch:
        return Equilibrated(program, Scaling.identity(program), None)
    d, e, kinds = _fitted(program)
    fitted = bool(d.any() or e.any())
    left, right = (np.exp2(e), np.exp2(d)) if fitted else (np.ones_like(e), np.ones_like(d))
    log_q, log_b = _logarithms(program.q) + d, _logarithms(program.b) + e
    aside = _set_aside(program, kinds, log_q, log_b, kept)
    if aside is not None:
        log_b = np.where(aside, 2 * _ZERO, log_b)
    is_open = any(fit.open_count for _, fit in kinds)
    if is_open:
        shifts = [(members, *fit.shifts(log_q[members], log_b[members])) for members, fit in kinds]
        of_columns, of_rows = np.zeros_like(log_q), np.zeros_like(log_b)
        for members, on_columns, on_rows in shifts:
            of_columns[members], of_rows[members] = on_columns, on_rows
        d, e, log_q, log_b = d + of_columns, e - of_rows, log_q + of_columns, log_b - of_rows
    curved = any(fit.curved for _, fit in kinds)
    beta, gamma = _sizes(log_q, log_b, curved)
    of_d, of_e = (np.exp2(d), np.exp2(e)) if is_open else (right, left)
    scaling = Scaling(of_d, of_e, np.exp2(beta), np.exp2(gamma))
    if scaling.trivial:
        return Equilibrated(program, scaling, aside)
    ratio = np.exp2(gamma - beta)
    ratio = ratio[:1] if (ratio == ratio[0]).all() else ratio
    # The factors of open parts change neither A', where they cancel, nor P', which has no entries there.
    if fitted:
        P, A = structure.P.scale(program.P, ratio * right, right), structure.A.scale(program.A, left, right)
    else:
        P, A = (program.P if (ratio == 1).all() else ratio * program.P), program.A
    q, b = scaling.gamma * scaling.d * program.q, scaling.beta * scaling.e * program.b
    return Equilibrated(ConeProgram(structure, P, q, A, b), scaling, aside)


def _bounded(h: np.ndarray) -> np.ndarray:
    most = largest(h)[:, None]
    return np.maximum(h, np.where(most > 0, _SPREAD * most, 1.0))


def _power_of_two(h: np.ndarray) -> np.ndarray:
    return np.exp2(np.rint(np.log2(np.where(h > 0, h, 1.0))))


def _sizes(log_q: np.ndarray, log_b: np.ndarray, curved: bool) -> tuple[np.ndarray, np.ndarray]:
    """log₂ β and log₂ γ, (B, 1)."""
    q_size = np.max(log_q, axis=1, initial=2 * _ZERO, keepdims=True)
    b_size = np.max(log_b, axis=1, initial=2 * _ZERO, keepdims=True)
    no_q, no_b = q_size < _ZERO, b_size < _ZERO
    gamma, beta = (
        np.where(none | (np.abs(h) <= _TOLERATED), 0.0, -np.rint(h)) for none, h in ((no_q, q_size), (no_b, b_size))
    )
    # Without one of the two, or next to none, P' keeps its size: x ≈ q/P for b = 0, y ≈ P b for q = 0.
    beta = np.where(curved & (no_b | (beta > _APART + gamma)), gamma, beta)
    gamma = np.where(curved & (no_q | (gamma > _APART + beta)), beta, gamma)
    return np.clip(beta, -_LIMIT, _LIMIT), np.clip(gamma, -_LIMIT, _LIMIT)


def _logarithms(values: np.ndarray) -> np.ndarray:
    """log₂|values| to a tenth, and 2·_ZERO for zeros."""
    high = _high_words(values)
    return np.where(high, high * _UNIT - _BIAS, 2 * _ZERO)


def _high_words(values: np.ndarray) -> np.ndarray:
    """Exponent and leading mantissa of |values| as integers: _UNIT times that less _BIAS interpolates log₂ linearly; 0 for zeros."""
    words = np.ascontiguousarray(values).view(np.int32).reshape(*values.shape, 2)
    return words[..., 1 if sys.byteorder == "little" else 0] & 0x7FFFFFFF


class _Entries(NamedTuple):
    """The high words of P, A, q and b, or which of them are not zero; q and b without columns where they have no part in the fit."""

    P: np.ndarray
    A: np.ndarray
    q: np.ndarray
    b: np.ndarray

    @classmethod
    def of(cls, program: ConeProgram) -> _Entries:
        """Those of a batch. Blocks with several factors need q and b, as A alone may leave some of these open."""
        P, A = _high_words(program.P), _high_words(program.A)
        cones = program.structure.cones
        if not cones.kinds & _SEVERAL:
            none = np.zeros((1, 0), dtype=np.int32)
            return cls(P, A, none, none)
        b = _high_words(program.b)
        b[:, cones.zero : cones.zero + cones.nonneg] = 0  # bounds may be of any size
        return cls(P, A, _high_words(program.q), b)

    @property
    def batch(self) -> int:
        """The number of instances, 1 where they share everything."""
        return max(h.shape[0] for h in self)

    def take(self, index: Any) -> _Entries:
        """Those of a part of the batch."""
        return _Entries(*(part(h, index) for h in self))

    def present(self) -> _Entries:
        """Which are not zero."""
        return _Entries(*(h != 0 for h in self))

    def alike(self) -> list[Any]:
        """The instances whose entries are zero in the same places."""
        if self.batch == 1:
            return [slice(None)]
        bits, found = [np.packbits(h, axis=1) for h in self], dict[bytes, list[int]]()
        for i in range(self.batch):
            found.setdefault(b"".join(at(h, i).tobytes() for h in bits), []).append(i)
        return [np.array(h) for h in found.values()]


@final
class _Fit:
    """The least squares fit over the entries that are not zero: one matrix for all that share them.

    The unknowns are log d (n,), the coordinates η of log e = S η (``Cones.scalings``), and the sizes of q and b.
    """

    def __init__(self, structure: Structure, present: _Entries) -> None:
        P, A, n, S = structure.P, structure.A, structure.n, structure.cones.scalings
        self._n, self._S = n, S
        self._single = structure.cones.kinds <= {"zero", "nonneg"}  # a factor of its own for every row
        in_P, in_A, in_q, in_b = (np.flatnonzero(h[0]) for h in present)

        def equations(columns: list[np.ndarray], rows: np.ndarray | None, size: int | None = None) -> sp.csr_array:
            count = columns[0].size if columns else rows.size if rows is not None else 0
            of_d = sum((_rows_of(h, n) for h in columns), sp.csr_array((count, n)))
            of_e = sp.csr_array((count, S.shape[1])) if rows is None else S[rows]
            last = sp.csr_array((count, 2)) if size is None else _rows_of(np.full(count, size), 2)
            return sp.csr_array(sp.hstack([of_d, of_e, last]))

        weighed = [
            (equations([P.rows[in_P], P.cols[in_P]], None), 1.0),
            (equations([A.cols[in_A]], A.rows[in_A]), 1.0),
            (equations([in_q], None, 0), _WEAK),
            (equations([], in_b, 1), _WEAK),
        ]
        normal = sp.csc_array(sum(w * (G.T @ G) for G, w in weighed))
        self._bias = _BIAS * sum(w * G.sum(axis=0) for G, w in weighed)
        self.curved = bool(in_P.size)
        self._find_parts(structure, weighed[0][0].T @ weighed[0][0] + weighed[1][0].T @ weighed[1][0], in_P)
        self._size = normal.shape[0]
        ridge = _RIDGE * max(1.0, float(normal.diagonal().max(initial=0.0)))
        if self._size <= _DENSE:
            self._inverse: np.ndarray | None = np.linalg.inv(normal.toarray() + ridge * np.eye(self._size))
        else:
            self._inverse = None
            self._factor = qdldl.Solver(sp.csc_matrix(normal + ridge * sp.eye_array(self._size)))

    def _find_parts(self, structure: Structure, normal: sp.csr_array, in_P: np.ndarray) -> None:
        """The part of each column and row, of those that hang together; open are those with columns and without entries of P."""
        S = self._S
        first = S.indices[S.indptr[:-1]] if structure.m else np.zeros(0, dtype=np.int64)
        # All coordinates of a block belong together.
        owner = np.repeat(
            first[structure.cones.block_starts],
            np.add.reduceat(np.diff(S.indptr), structure.cones.block_starts) if structure.m else 0,
        )
        size = normal.shape[0]
        blocks = sp.csr_array((np.ones(owner.size), (owner + self._n, S.indices + self._n)), shape=(size, size))
        count, labels = connected_components(normal + blocks, directed=False)
        self._column, self._row = labels[: self._n], labels[self._n :][first]
        self._of_P = np.zeros(count, dtype=bool)
        self._of_P[self._column[structure.P.cols[in_P]]] = True
        opened = np.setdiff1d(self._column, np.flatnonzero(self._of_P))
        self.open_count = opened.size
        place = np.full(count, opened.size)  # that of all others
        place[opened] = np.arange(opened.size)
        self._open_column, self._open_row = place[self._column], place[self._row]

    def shifts(self, log_q: np.ndarray, log_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log t of the columns and of the rows, zero but in open parts: there q' and b' become of one size, where there are both."""
        of_b = _maxima(log_b, self._open_row, self.open_count)
        of_q = _maxima(log_q, self._open_column, self.open_count)
        shift = np.where((of_b > _ZERO) & (of_q > _ZERO), np.rint(0.5 * (of_b - of_q)), 0.0)
        shift = np.concatenate([np.where(np.abs(shift) <= _ROUGH, 0.0, shift), np.zeros((len(shift), 1))], axis=1)
        return shift[:, self._open_column], shift[:, self._open_row]

    def dwarfing(self, candidates: np.ndarray, sizes: np.ndarray, others: np.ndarray, log_q: np.ndarray) -> np.ndarray:
        """Which candidates, of sizes log|b'|, lie above a gap of ``_DWARFS`` over all that is smaller in their part of the program.

        What is no candidate counts there as one size: its b, ``others`` (m,), and where P gives x a size, q.
        """
        parts = self._of_P.size
        base = np.full(parts, 2 * _ZERO)
        np.maximum.at(base, self._row, others)
        of_q = self._of_P[self._column]
        np.maximum.at(base, self._column[of_q], log_q[of_q])
        based = np.flatnonzero(base > _ZERO)
        label = np.concatenate([based, self._row[candidates]])
        size = np.concatenate([base[based], sizes])
        order = np.lexsort((size, label))
        label, size = label[order], size[order]
        after = np.diff(label, prepend=-1) == 0
        before = np.concatenate([[2 * _ZERO], size[:-1]])
        gap = after & (size - before > _DWARFS) & (before >= base[label])
        gaps = np.cumsum(gap)
        start = np.flatnonzero(~after)
        above = gaps - np.repeat(gaps[start], np.diff(np.append(start, label.size)))
        found = np.zeros(label.size, dtype=bool)
        found[order] = above > 0
        return found[based.size :]

    def solve(self, structure: Structure, words: _Entries) -> tuple[np.ndarray, np.ndarray]:
        """log₂ d (B, n) and log₂ e (B, m) for these entries, whole numbers but for the third rows of power cones."""
        rows = words.batch
        of_d = _UNIT * (structure.A.column_sums(words.A) + 2 * structure.P.column_sums(words.P))
        of_e = _UNIT * structure.A.row_sums(words.A)
        last = np.zeros((1, 2))
        if words.b.shape[1]:
            weak = _WEAK * _UNIT
            of_d, of_e = of_d + weak * words.q, of_e + weak * words.b
            last = weak * np.stack(
                [words.q.sum(axis=1, dtype=float) + np.zeros(rows), words.b.sum(axis=1, dtype=float)], axis=1
            )
        of_e = of_e if self._single else (self._S.T @ of_e.T).T
        sums = (np.broadcast_to(h, (rows, h.shape[1])) for h in (of_d, of_e, last))
        rhs = self._bias - np.concatenate(list(sums), axis=1)
        if not rhs.any():
            return np.zeros((rows, self._n)), np.zeros((rows, self._S.shape[0]))
        found = rhs @ self._inverse if self._inverse is not None else np.stack([self._factor.solve(h) for h in rhs])
        found = np.clip(np.rint(found[:, :-2]), -_LIMIT / 2, _LIMIT / 2)
        d, eta = found[:, : self._n], found[:, self._n :]
        return d, eta if self._single else (self._S @ eta.T).T


_FITS: WeakKeyDictionary[Structure, dict[bytes, _Fit]] = WeakKeyDictionary()


def _fit(structure: Structure, present: _Entries | None, words: _Entries) -> _Fit:
    """The fit over these entries (None: all that are stored), from memory if it was made before."""
    known = _FITS.setdefault(structure, {})
    key = b"" if present is None else b"|".join(np.packbits(h[0]).tobytes() for h in present)
    if key not in known:
        while len(known) >= _PATTERNS:
            known.pop(next(iter(known)), None)  # threads may be here at once
        known[key] = _Fit(structure, words.present() if present is None else present)
    return known[key]


_Kinds = list[tuple[Any, _Fit]]  # positions in the batch, and the fit of what is not zero there


def _fitted(program: ConeProgram) -> tuple[np.ndarray, np.ndarray, _Kinds]:
    """log₂ d and log₂ e, (1, ·) where all instances share what they are fitted to; and the fits."""
    structure, words = program.structure, _Entries.of(program)
    if all(bool(h.all()) for h in words):
        fit = _fit(structure, None, words)
        return *fit.solve(structure, words), [(slice(None), fit)]
    present, kinds = words.present(), []
    d, e = np.empty((words.batch, structure.n)), np.empty((words.batch, structure.m))
    for some in present.alike():
        fit = _fit(structure, present.take(some), words)
        d[some], e[some] = fit.solve(structure, words.take(some))
        kinds.append((some, fit))
    return d, e, kinds


def _set_aside(
    program: ConeProgram, kinds: _Kinds, log_q: np.ndarray, log_b: np.ndarray, kept: np.ndarray | None
) -> np.ndarray | None:
    """The rows of the nonnegative cone whose b is infinite, or dwarfs what else there is in the same part of the program."""
    cones = program.structure.cones
    if not cones.nonneg or not (_span(log_b, log_q if program.structure.P.nnz else log_b) > _DWARFS).any():
        return None
    rows = slice(cones.zero, cones.zero + cones.nonneg)
    b = program.b[:, rows]
    loose = (b > 0) & (b < np.inf)
    if kept is not None:
        loose &= ~kept[:, rows]
    sizes = np.where(loose, log_b[:, rows], 2 * _ZERO)
    least = np.where(loose, log_b[:, rows], np.inf).min(axis=1, initial=np.inf)
    if program.structure.P.nnz:
        least = np.minimum(least, np.where(log_q > _ZERO, log_q, np.inf).min(axis=1, initial=np.inf))
    infinite = np.isinf(b)
    others = log_b.copy()
    others[:, rows] = np.where(loose | infinite, 2 * _ZERO, log_b[:, rows])
    least = np.minimum(least, np.where(others > _ZERO, others, np.inf).min(axis=1, initial=np.inf))
    suspects = np.flatnonzero(sizes.max(axis=1, initial=2 * _ZERO) - least > _DWARFS)
    if not suspects.size and not infinite.any():
        return None
    aside = np.zeros(program.b.shape, dtype=bool)
    aside[:, rows] = infinite
    for members, fit in kinds:
        some = np.arange(program.batch)[members]
        for i in some[np.isin(some, suspects)]:
            candidates = cones.zero + np.flatnonzero(loose[i])
            aside[i, candidates[fit.dwarfing(candidates, log_b[i, candidates], others[i], log_q[i])]] = True
    return aside if aside.any() else None


def _span(log_b: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """From the smallest to the largest of what is not zero, (B,)."""
    least = [np.where(h > _ZERO, h, np.inf).min(axis=1, initial=np.inf) for h in (log_b, log_q)]
    return log_b.max(axis=1, initial=-np.inf) - np.minimum(*least)


def _maxima(values: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """The maximum of the columns of each part, (B, count), for values (B, ·) above 2·_ZERO; places from ``count`` on are left out."""
    out = np.full((values.shape[0], count), 2 * _ZERO)
    if count == 1 and not place.any():
        out[:, 0] = values.max(axis=1, initial=2 * _ZERO)
    elif count:
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(count))
        out = (
            Segments(starts, int((place < count).sum())).maxima(
                values[:, order[: int((place < count).sum())]] - 4 * _ZERO
            )
            + 4 * _ZERO
        )
    return out


def _rows_of(columns: np.ndarray, size: int) -> sp.csr_array:
    """Unit rows with their ones in these columns."""
    return sp.csr_array((np.ones(columns.size), columns, np.arange(columns.size + 1)), shape=(columns.size, size))
