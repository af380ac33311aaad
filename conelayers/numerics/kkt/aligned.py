"""Programs with semidefinite variables: in the eigenbasis of D the rows −X ∈ −S₊ of K separate into 2×2 systems.

Where each row of a semidefinite block has one entry of A, a in a column of its own, and P there is c·a² on the
diagonal, let ẑ = Uᵀ(a ∘ x_C). Then, with Λ = diag(λ), ω = 1 − λ (less a proximal term), and Â the other rows in terms
of ẑ, K reads

    c ẑ + √λ η + Âᵀη_o = f      [ẑ; η] = 1/(cω + λ) · [ω, √λ; √λ, −c] · [f − Âᵀη_o; g]
    √λ ẑ − ω η = g

for every direction with cω + λ > 0. These are eliminated. The matrix that is left has the other rows, less
Â diag(ω/(cω + λ)) Âᵀ, and for c = 0 the directions with λ ≈ 0, of which there are r(r + 1)/2 if X has rank r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.composite import combine
from conelayers.numerics.kkt.deflated import LARGEST_WHOLE, DeflatedFactorization
from conelayers.numerics.kkt.dense import SUSPECT, DenseFactorization, SymmetricIndefinite
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.numerics.kkt.pseudo_inverse import DensePseudoInverse
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import instance_values, values_of_part
from conelayers.program.per_structure import once_per_structure

__all__ = ["AlignedFactorization"]

_ELIMINATED_FROM = 1e-3  # cω + λ from which a direction is eliminated
_EQUAL = 1e-12  # relative differences of p/a² within a block that are rounding


@final
@dataclass(frozen=True)
class _Blocks:
    """The rows of aligned blocks with their columns, and all others."""

    rows: np.ndarray
    cols: np.ndarray
    entries: np.ndarray  # positions of the a in A's values
    diagonals: np.ndarray  # positions of the p in P's values, empty where none are stored
    block: np.ndarray  # which block each row belongs to
    other_rows: np.ndarray
    other_cols: np.ndarray


@once_per_structure
def _aligned_blocks(structure: Structure) -> _Blocks | None:
    cones, P, A = structure.cones, structure.P, structure.A
    if not cones.psd or structure.n == 0:
        return None
    column_of = np.full(structure.m, -1)
    single, cols = structure.singletons
    column_of[single] = cols
    coupled = np.zeros(structure.n, dtype=bool)
    coupled[P.cols[P.rows != P.cols]] = True
    stored = np.full(structure.n, -1)
    on_diagonal = np.flatnonzero(P.rows == P.cols)
    stored[P.cols[on_diagonal]] = on_diagonal
    used = np.zeros(structure.n, dtype=bool)
    found: list[np.ndarray] = []
    for rows in cones.psd_rows:
        cols = column_of[rows]
        if (cols < 0).any() or np.unique(cols).size < cols.size or (used[cols] | coupled[cols]).any():
            continue
        used[cols] = True
        found.append(rows)
    if not found:
        return None
    rows = np.concatenate(found)
    other_rows = np.setdiff1d(np.arange(structure.m), rows)
    if not cones.orthant_rows[other_rows].all():
        return None  # other curved blocks would have to be rotated too
    cols = column_of[rows]
    diagonals = stored[cols]
    if (diagonals >= 0).any() and not (diagonals >= 0).all():
        return None
    order, starts = A.by_row
    block = np.repeat(np.arange(len(found)), [part.size for part in found])
    return _Blocks(
        rows=rows,
        cols=cols,
        entries=order[starts[rows]],
        diagonals=diagonals if (diagonals >= 0).all() else np.zeros(0, dtype=np.int64),
        block=block,
        other_rows=other_rows,
        other_cols=np.flatnonzero(~used),
    )


@final
@dataclass(frozen=True)
class _Instance:
    """One instance's 2×2 systems, and the factored rest of K."""

    c: np.ndarray
    lam: np.ndarray
    omega: np.ndarray
    determinant: np.ndarray
    eliminated: np.ndarray  # positions of the eliminated directions among the aligned rows, and of those that are left
    left: np.ndarray
    curved: np.ndarray  # positions within ``left`` where λ > 0
    others: np.ndarray  # the active other rows
    rotated: np.ndarray  # Â of these
    system: SymmetricIndefinite | DensePseudoInverse

    def solve(
        self, f: np.ndarray, g: np.ndarray, p_rest: np.ndarray, g_others: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """ẑ, x on the other columns, η on the aligned rows and on the active others."""
        e, left, root = self.eliminated, self.left, np.sqrt(self.lam)
        forced = (self.omega * f + root * g)[e] / self.determinant[e]
        rhs = np.concatenate([f[left], p_rest, g[left[self.curved]], g_others - self.rotated[:, e] @ forced])
        return self._recover(self.system.solve(rhs), f, g, p_rest.size)

    def null_vectors(self, rest: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """ẑ, x and η like ``solve``'s for each null vector of K."""
        if not isinstance(self.system, DensePseudoInverse):
            return []
        zero = np.zeros_like(self.lam)
        return [self._recover(z, zero, zero, rest) for z in self.system.null_space.T]

    def _recover(
        self, inner: np.ndarray, f: np.ndarray, g: np.ndarray, rest: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        e, root = self.eliminated, np.sqrt(self.lam)
        z, eta = np.zeros_like(f), np.zeros_like(f)
        cuts = np.cumsum([self.left.size, rest, self.curved.size])
        z[self.left], x_rest, eta[self.left[self.curved]], eta_others = np.split(inner, cuts)
        r = f[e] - self.rotated[:, e].T @ eta_others
        z[e] = (self.omega[e] * r + root[e] * g[e]) / self.determinant[e]
        eta[e] = (root[e] * r - self.c[e] * g[e]) / self.determinant[e]
        return z, x_rest, eta, eta_others


@final
class AlignedFactorization(Factorization):
    """K of programs with semidefinite variables; all other rows lie in orthants or the zero cone."""

    def __init__(
        self, blocks: _Blocks, program: ConeProgram, element: ProductElement, a: np.ndarray, instances: list[_Instance]
    ) -> None:
        self._blocks, self._program, self._element, self._a = blocks, program, element, a
        self._instances = instances
        self._root = np.sqrt(element.values)

    @classmethod
    def of(
        cls,
        program: ConeProgram,
        element: ProductElement,
        delta: np.ndarray | None = None,
        cutoff: float | None = None,
    ) -> AlignedFactorization | None:
        """The factorization; None if no block is aligned, in the structure or in the values.

        With a ``cutoff`` the matrix is decomposed whatever its condition, eigenvalues below it being null.
        """
        blocks = _aligned_blocks(program.structure)
        if blocks is None:
            return None
        a = program.A[:, blocks.entries]
        if not (np.abs(a) > 0).all():
            return None
        c = program.P[:, blocks.diagonals] / a**2 if blocks.diagonals.size else np.zeros_like(a)
        first = np.concatenate([[0], np.flatnonzero(np.diff(blocks.block)) + 1])
        uniform = c[:, first][:, blocks.block]
        if not np.all(np.abs(c - uniform) <= _EQUAL * np.abs(uniform)):
            return None
        d = np.zeros(program.batch) if delta is None else delta
        instances = [
            _factor(
                blocks, program, element, i, instance_values(a, i), instance_values(uniform, i), float(d[i]), cutoff
            )
            for i in range(program.batch)
        ]
        return cls(blocks, program, element, a, instances)

    @property
    def singular(self) -> np.ndarray:
        return np.array([isinstance(i.system, DensePseudoInverse) and i.system.nullity > 0 for i in self._instances])

    def _aligned(self, h: np.ndarray, action: str, element: ProductElement) -> np.ndarray:
        """Uᵀ or U on the aligned rows only, for h (…, aligned rows)."""
        whole = np.zeros((*h.shape[:-1], self._program.structure.m))
        whole[..., self._blocks.rows] = h
        return getattr(element, action)(whole)[..., self._blocks.rows]

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        b = self._blocks
        g = self._root * self._element.to_basis(p2)
        f = self._aligned(p1[:, b.cols] / self._a, "to_basis", self._element)
        dx, t, z = np.zeros_like(p1), np.zeros_like(p2), np.empty_like(f)
        for i, instance in enumerate(self._instances):
            parts = instance.solve(f[i], g[i, b.rows], p1[i, b.other_cols], g[i, instance.others])
            z[i], dx[i, b.other_cols], t[i, b.rows], t[i, instance.others] = parts
        dx[:, b.cols] = self._aligned(z, "from_basis", self._element) / self._a
        return dx, self._element.from_basis(self._root * t)

    def null_vectors(self, i: int) -> tuple[np.ndarray, np.ndarray] | None:
        b, inner = self._blocks, self._instances[i]
        null = inner.null_vectors(b.other_cols.size)
        element = self._element.take(i)
        dx, t = (np.zeros((len(null), size)) for size in (self._program.structure.n, self._program.structure.m))
        for k, (z, x_rest, eta, eta_others) in enumerate(null):
            dx[k, b.cols] = self._aligned(z, "from_basis", element) / instance_values(self._a, i)
            dx[k, b.other_cols], t[k, b.rows], t[k, inner.others] = x_rest, eta, eta_others
        return dx, element.from_basis(self._root[i] * t)

    def take(self, index: np.ndarray | list[int]) -> AlignedFactorization:
        program, element = self._program.take(index), self._element.take(index)
        instances = [self._instances[i] for i in index]
        return AlignedFactorization(self._blocks, program, element, values_of_part(self._a, index), instances)

    def use_pseudo_inverse(self, instances: np.ndarray) -> Factorization:
        """The whole K decomposed, or deflated if it is too large: the K that is left here has another minimum-norm
        solution.
        """
        others, structure = np.setdiff1d(np.arange(len(self._instances)), instances), self._program.structure
        decomposed: Factorization
        if structure.n + structure.m > LARGEST_WHOLE:
            decomposed = DeflatedFactorization.of(self.take(instances), instances.size)
        else:
            whole = DenseFactorization.of(self._program.take(instances), self._element.take(instances))
            decomposed = whole.use_pseudo_inverse(np.arange(instances.size))
        return combine([(others, self.take(others)), (instances, decomposed)], len(self._instances))


def _factor(
    blocks: _Blocks,
    program: ConeProgram,
    element: ProductElement,
    i: int,
    a: np.ndarray,
    c: np.ndarray,
    delta: float,
    cutoff: float | None,
) -> _Instance:
    values, n_rest = element.values[i], blocks.other_cols.size
    lam = values[blocks.rows]
    c, omega = c + delta, 1 - lam + delta * lam
    determinant = c * omega + lam
    eliminated, left = np.flatnonzero(determinant >= _ELIMINATED_FROM), np.flatnonzero(determinant < _ELIMINATED_FROM)
    curved = np.flatnonzero(lam[left] > 0)
    others = blocks.other_rows[values[blocks.other_rows] > 0]
    rows = np.sqrt(values[others])[:, None] * instance_values(program.dense_A, i)[others]
    padded = np.zeros((others.size, program.structure.m))
    padded[:, blocks.rows] = rows[:, blocks.cols] / a
    rotated = element.take(i).to_basis(padded)[:, blocks.rows]
    rest = rows[:, blocks.other_cols]

    k = left.size
    cuts = np.cumsum([k, n_rest, curved.size, others.size])
    z, x, eta, o = (slice(start, stop) for start, stop in zip([0, *cuts[:-1]], cuts, strict=True))
    matrix = np.zeros((cuts[-1], cuts[-1]))
    diagonal = matrix.reshape(-1)[:: cuts[-1] + 1]
    diagonal[z] = c[left]
    if n_rest:
        matrix[x, x] = instance_values(program.dense_P, i)[np.ix_(blocks.other_cols, blocks.other_cols)]
        diagonal[x] += delta
    matrix[eta.start + np.arange(curved.size), curved] = np.sqrt(lam[left[curved]])
    diagonal[eta] = -omega[left[curved]]
    matrix[o, z], matrix[o, x] = rotated[:, left], rest
    weighted = rotated[:, eliminated] * (omega[eliminated] / determinant[eliminated])
    matrix[o, o] -= weighted @ rotated[:, eliminated].T
    diagonal[o] -= 1 - values[others] + delta * values[others]
    lower = np.tril(matrix, -1)
    matrix = np.tril(matrix) + lower.T
    system: SymmetricIndefinite | DensePseudoInverse
    if cutoff is not None:
        system = DensePseudoInverse(matrix, cutoff)
    else:
        system = SymmetricIndefinite(matrix)
        if system.rcond < SUSPECT and delta == 0:
            system = DensePseudoInverse(matrix)
    return _Instance(c, lam, omega, determinant, eliminated, left, curved, others, rotated, system)
