"""The least squares fit of the logarithms of a program's entries, for its equilibration (scaling.py).

    log|Aᵢⱼ| + log eᵢ + log dⱼ ≈ 0,    log|Pⱼₖ| + log dⱼ + log dₖ ≈ 0     over the entries that are not zero

(Curtis, Reid, "On the automatic scaling of matrices for Gaussian elimination", 1972), where log e = S η
(``Cones.scalings``). The matrix of the normal equations depends on the pattern of nonzero entries only, so it is
factored once for each pattern. In semidefinite and power cones A alone may not determine all factors of a block; there
q and b take part in the fit with a small weight.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, final

import numpy as np
import qdldl
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import Segments, instance_values, values_of_part
from conelayers.program.per_structure import once_per_structure

__all__ = ["DWARFS", "LARGE", "ZERO", "Fit", "Fits", "fitted", "logarithms"]

_ROUGH = 0.5  # binary orders of magnitude by which q' and b' may differ in an open part
_LIMIT = 300.0  # largest |log₂| of a factor
DWARFS = 20.0  # binary orders by which a right-hand side lies above all others and is set aside: a factor of 1e6
LARGE = 7.0  # binary orders for the same in a program that was not solved with that row: a factor of 128
_SEVERAL = frozenset({"psd", "hermitian", "power", "power_dual"})  # cones with more than one factor a block
_WEAK = 1e-2  # weight of q and b in the fit, so that they decide only what P and A leave open
_RIDGE = 1e-10  # added to the diagonal of the fit's matrix, which is singular, relative to its largest entry
_DENSE = 400  # number of unknowns up to which the inverse of the matrix is kept, not its sparse factor
_PATTERNS = 16  # number of patterns of nonzero entries of one structure whose fits are kept
_UNIT, _BIAS = 2.0**-20, 1023.0  # unit of the exponent in the high word of a double, and its bias
_HIDDEN = round(46 / _UNIT)  # 46 binary orders in units of high words: 64 times the rounding of 1
ZERO = -1000.0  # a logarithm below this stands for zero; 2·ZERO is stored


def logarithms(values: np.ndarray) -> np.ndarray:
    """log₂|values| with an error below 0.1, and 2·ZERO for zeros."""
    high = _high_words(values)
    return np.where(high, high * _UNIT - _BIAS, 2 * ZERO)


def _high_words(values: np.ndarray) -> np.ndarray:
    """Exponent and leading mantissa of |values| as integers h (0: zero); _UNIT·h − _BIAS interpolates log₂."""
    words = np.ascontiguousarray(values).view(np.int32).reshape(*values.shape, 2)
    return words[..., 1 if sys.byteorder == "little" else 0] & 0x7FFFFFFF


@once_per_structure
def _diagonal_of_P(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The positions in P's values of the entries off the diagonal, and of the diagonal entries of their rows and
    columns.

    A diagonal entry that is not stored has the position nnz.
    """
    P = structure.P
    place = np.full(structure.n, P.nnz)
    on = np.flatnonzero(P.rows == P.cols)
    place[P.rows[on]] = on
    off = np.flatnonzero(P.rows != P.cols)
    return off, place[P.rows[off]], place[P.cols[off]]


def _without_rounding(structure: Structure, words: np.ndarray) -> np.ndarray:
    """The high words of P; zero for a |Pⱼₖ| that is rounding of √(Pⱼⱼ Pₖₖ), its largest possible value in any units.

    A product GᵀG has entries of 1e−17 for orthogonal columns, which must not be scaled to the size of the others.
    """
    off, rows, columns = _diagonal_of_P(structure)
    if not off.size:
        return words
    wider = np.concatenate([words, np.zeros((len(words), 1), dtype=words.dtype)], axis=1)
    most = wider[:, rows] // 2 + wider[:, columns] // 2
    rounding = words[:, off] < most - _HIDDEN
    if not rounding.any():
        return words
    words = words.copy()
    words[:, off] = np.where(rounding, 0, words[:, off])
    return words


class _Entries(NamedTuple):
    """The high words of P, A, q and b, or which of them are not zero; q and b have no columns if they take no part in
    the fit.
    """

    P: np.ndarray
    A: np.ndarray
    q: np.ndarray
    b: np.ndarray

    @classmethod
    def of(cls, program: ConeProgram) -> _Entries:
        """The high words of a batch. q and b take part if a block has several factors, since A alone may not determine
        them.
        """
        P, A = _without_rounding(program.structure, _high_words(program.P)), _high_words(program.A)
        cones = program.structure.cones
        if not cones.kinds & _SEVERAL:
            none = np.zeros((1, 0), dtype=np.int32)
            return cls(P, A, none, none)
        b = _high_words(program.b)
        b[:, cones.zero : cones.zero + cones.nonneg] = 0  # bounds may be of any size
        return cls(P, A, _high_words(program.q), b)

    @property
    def batch(self) -> int:
        """The number of instances; 1 if they share all entries."""
        return max(h.shape[0] for h in self)

    def take(self, index: Any) -> _Entries:
        """The entries of a part of the batch."""
        return _Entries(*(values_of_part(h, index) for h in self))

    def present(self) -> _Entries:
        """Which entries are not zero."""
        return _Entries(*(h != 0 for h in self))

    def alike(self) -> list[Any]:
        """The instances, grouped by the pattern of their nonzero entries."""
        if self.batch == 1:
            return [slice(None)]
        bits, found = [np.packbits(h, axis=1) for h in self], dict[bytes, list[int]]()
        for i in range(self.batch):
            found.setdefault(b"".join(instance_values(h, i).tobytes() for h in bits), []).append(i)
        return [np.array(h) for h in found.values()]


@final
class Fit:
    """The least squares fit over the nonzero entries: one matrix for all instances with one pattern.

    The unknowns are log d (n,), the coordinates η of log e = S η (``Cones.scalings``), and the sizes of q and b.
    """

    def __init__(self, structure: Structure, present: _Entries) -> None:
        P, A, n, S = structure.P, structure.A, structure.n, structure.cones.scalings
        self._n, self._S = n, S
        self._single = structure.cones.kinds <= {"zero", "nonneg"}  # whether every row has its own factor
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
        """Find the connected part of each column and row. A part is open if it has columns, but no entries of P."""
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
        place = np.full(count, opened.size)  # the last place stands for all parts that are not open
        place[opened] = np.arange(opened.size)
        self._open_column, self._open_row = place[self._column], place[self._row]

    def shifts(self, log_q: np.ndarray, log_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log t of the columns and of the rows, which brings q' and b' to one size in each open part that has both.

        It is zero in parts that are not open. A part that has only one of q' and b' is brought to the largest size in
        the other parts, because all parts share β and γ: beside an x ≤ 1e14 that no other row or cost determines, the
        rest would be rounding.
        """
        of_b = _maxima(log_b, self._open_row, self.open_count)
        of_q = _maxima(log_q, self._open_column, self.open_count)
        both = (of_b > ZERO) & (of_q > ZERO)
        shift = np.where(both, np.rint(0.5 * (of_b - of_q)), 0.0)
        if not both.all() and self._of_P.size > 1:
            rest_b, rest_q = (
                np.maximum(
                    np.where(both, of_h + sign * shift, 2 * ZERO).max(axis=1, initial=2 * ZERO),
                    self._largest_closed(log_h, place),
                )[:, None]
                for of_h, log_h, place, sign in (
                    (of_b, log_b, self._open_row, -1.0),
                    (of_q, log_q, self._open_column, 1.0),
                )
            )
            shift = np.where((of_b > ZERO) & (of_q <= ZERO) & (rest_b > ZERO), np.rint(of_b - rest_b), shift)
            shift = np.where((of_q > ZERO) & (of_b <= ZERO) & (rest_q > ZERO), np.rint(rest_q - of_q), shift)
        shift = np.concatenate([np.where(np.abs(shift) <= _ROUGH, 0.0, shift), np.zeros((len(shift), 1))], axis=1)
        return shift[:, self._open_column], shift[:, self._open_row]

    def _largest_closed(self, logarithms: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The largest logarithm of the columns, or rows, that are in no open part, (B,)."""
        return logarithms[:, place == self.open_count].max(axis=1, initial=2 * ZERO)

    def dwarfing(
        self, candidates: np.ndarray, sizes: np.ndarray, others: np.ndarray, log_q: np.ndarray, gap: float = DWARFS
    ) -> np.ndarray:
        """Which candidates, of sizes log|b'|, lie above such a gap over all smaller sizes in their part of the program.

        The largest size of all other data of a part counts as one size: b of the other rows, ``others`` (m,), and q if
        the part has entries of P, which then give x a size. A part without any other data, even without q, is satisfied
        by x = 0: there the largest size of all parts counts. A candidate that lies as much as two gaps above the other
        data dwarfs them too, though the sizes of other candidates lie between: 1e6, 1e10 and 1e15 beside 1.
        """
        parts = self._of_P.size
        base = np.full(parts, 2 * ZERO)
        np.maximum.at(base, self._row, others)
        of_q = self._of_P[self._column]
        np.maximum.at(base, self._column[of_q], log_q[of_q])
        asked = base > ZERO
        asked[self._column[log_q > ZERO]] = True
        base[~asked] = base.max(initial=2 * ZERO)
        based = np.flatnonzero(base > ZERO)
        label = np.concatenate([based, self._row[candidates]])
        size = np.concatenate([base[based], sizes])
        order = np.lexsort((size, label))
        label, size = label[order], size[order]
        after = np.diff(label, prepend=-1) == 0
        before = np.concatenate([[2 * ZERO], size[:-1]])
        gaps = np.cumsum(after & (size - before > gap) & (before >= base[label]))
        start = np.flatnonzero(~after)
        above = gaps - np.repeat(gaps[start], np.diff(np.append(start, label.size)))
        far = after & (base[label] > ZERO) & (size - base[label] > 2 * gap)
        found = np.zeros(label.size, dtype=bool)
        found[order] = (above > 0) | far
        return found[based.size :]

    def solve(self, structure: Structure, words: _Entries) -> tuple[np.ndarray, np.ndarray]:
        """log₂ d (B, n) and log₂ e (B, m) for these entries, integers except in the third rows of power cones."""
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


@once_per_structure
def _fits(structure: Structure) -> dict[bytes, Fit]:
    """The fits kept for this structure, by the pattern of nonzero entries; empty at first."""
    return {}


def _fit(structure: Structure, present: _Entries | None, words: _Entries) -> Fit:
    """The fit for this pattern of nonzero entries (None: all stored ones), made only if it is not kept already."""
    known = _fits(structure)
    key = b"" if present is None else b"|".join(np.packbits(h[0]).tobytes() for h in present)
    if key not in known:
        while len(known) >= _PATTERNS:
            known.pop(next(iter(known)), None)  # another thread may have taken it
        known[key] = Fit(structure, words.present() if present is None else present)
    return known[key]


Fits = list[tuple[Any, Fit]]  # positions in the batch, and the fit for their pattern of nonzero entries


def fitted(program: ConeProgram) -> tuple[np.ndarray, np.ndarray, Fits]:
    """log₂ d and log₂ e, (1, ·) if all instances share the entries that are fitted; and the fits."""
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


def _maxima(values: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """The maximum over each part, (B, count), of values (B, ·) above 2·ZERO; parts from number ``count`` on are left
    out.
    """
    out = np.full((values.shape[0], count), 2 * ZERO)
    if count == 1 and not place.any():
        out[:, 0] = values.max(axis=1, initial=2 * ZERO)
    elif count:
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(count))
        out = (
            Segments(starts, int((place < count).sum())).maxima(
                values[:, order[: int((place < count).sum())]] - 4 * ZERO
            )
            + 4 * ZERO
        )
    return out


def _rows_of(columns: np.ndarray, size: int) -> sp.csr_array:
    """Rows of the identity matrix: row i has its one in columns[i]."""
    return sp.csr_array((np.ones(columns.size), columns, np.arange(columns.size + 1)), shape=(columns.size, size))
