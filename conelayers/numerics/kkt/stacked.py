"""Batches of small systems: all equilibrated K are inverted at once, in array operations.

Each instance's active rows come first, and rows of the identity pad them up to the largest number of active rows; the
other inactive rows are left out. A variable that no active row touches (cvxpy's epigraph of an inactive norm) has a
zero column: its unit vector is a null vector, and the matrix without this column is tested for singularity by itself.
"""

from __future__ import annotations

from typing import final

import numpy as np

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt.composite import combine
from conelayers.numerics.kkt.dense import SUSPECT, DenseFactorization, rotated_rows
from conelayers.numerics.kkt.factorization import Factorization
from conelayers.program.cone_program import ConeProgram

__all__ = ["LARGEST_STACKED", "StackedFactorization", "factorize_stacked"]

LARGEST_STACKED = 64  # order up to which inverting the batch costs less than a LAPACK call for each instance


def factorize_stacked(program: ConeProgram, element: ProductElement, delta: np.ndarray | None) -> Factorization | None:
    """All instances stacked, ill-conditioned ones apart; None if the order is too large or one is exactly singular."""
    active = element.values > 0
    n, most = program.structure.n, int(active.sum(axis=1).max(initial=0))
    if n + most > LARGEST_STACKED:
        return None
    rows = np.argsort(~active, axis=1, kind="stable")[:, :most]
    K, valid = _assemble(program, element, rows, delta)
    largest = np.max(np.abs(K), axis=2, initial=0.0)
    instances, columns = np.nonzero(largest[:, :n] == 0)
    K[instances, columns, columns] = 1.0
    e = 1 / np.sqrt(np.where(largest > 0, largest, 1.0))
    K *= e[:, :, None]
    K *= e[:, None, :]
    try:
        inverse = np.linalg.inv(K)
    except np.linalg.LinAlgError:
        return None
    size = np.abs(K).sum(axis=1).max(axis=1, initial=0.0) * np.abs(inverse).sum(axis=1).max(axis=1, initial=0.0)
    inverse *= e[:, :, None]
    inverse *= e[:, None, :]
    inverse[instances, columns, columns] = 0.0
    stacked = StackedFactorization(program, element, rows, valid, inverse, largest[:, :n] == 0)
    good = size * SUSPECT < 1  # False for NaN
    if delta is not None or good.all():  # a proximal step is regular by construction
        return stacked
    well, ill = np.flatnonzero(good), np.flatnonzero(~good)
    others = DenseFactorization.of(program.take(ill), element.take(ill))
    return combine([(well, stacked.take(well)), (ill, others)], program.batch)


def _assemble(
    program: ConeProgram, element: ProductElement, rows: np.ndarray, delta: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """K_δ on the gathered rows (B, k), and which of these are active."""
    n, k = program.structure.n, rows.shape[1]
    values = np.take_along_axis(element.values, rows, axis=1)
    valid = values > 0
    gathered = np.take_along_axis(rotated_rows(program, element), rows[:, :, None], axis=1) * valid[:, :, None]
    K = np.zeros((program.batch, n + k, n + k))
    K[:, :n, :n] = program.dense_P
    K[:, n:, :n] = gathered
    K[:, :n, n:] = np.swapaxes(gathered, 1, 2)
    first, last = np.arange(n), np.arange(n, n + k)
    K[:, last, last] = values - 1  # −1 where nothing is active
    if delta is not None:
        K[:, first, first] += delta[:, None]
        K[:, last, last] -= delta[:, None] * values
    return K, valid


@final
class StackedFactorization(Factorization):
    """The inverse of each K without its zero columns (``empty``), which is K⁺ if there are any."""

    def __init__(
        self,
        program: ConeProgram,
        element: ProductElement,
        rows: np.ndarray,
        valid: np.ndarray,
        inverse: np.ndarray,
        empty: np.ndarray,
    ) -> None:
        self._program, self._element = program, element
        self._rows, self._valid, self._inverse, self._empty = rows, valid, inverse, empty
        self._root = np.sqrt(element.values)

    @property
    def singular(self) -> np.ndarray:
        return np.asarray(self._empty.any(axis=1))

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = p1.shape[1]
        g = np.take_along_axis(self._root * self._element.to_basis(p2), self._rows, axis=1) * self._valid
        z = (self._inverse @ np.concatenate([p1, g], axis=1)[:, :, None])[:, :, 0]
        t = np.zeros_like(p2)
        np.put_along_axis(t, self._rows, z[:, n:] * self._valid, axis=1)
        return z[:, :n], self._element.from_basis(self._root * t)

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        dx = np.eye(self._program.structure.n)[self._empty[instance]]
        return dx, np.zeros((len(dx), self._program.structure.m))

    def free_columns(self) -> np.ndarray:
        return self._empty

    def take(self, index: np.ndarray | list[int]) -> StackedFactorization:
        parts = self._rows[index], self._valid[index], self._inverse[index], self._empty[index]
        return StackedFactorization(self._program.take(index), self._element.take(index), *parts)

    def use_pseudo_inverse(self, instances: np.ndarray) -> Factorization:
        others = np.setdiff1d(np.arange(self._inverse.shape[0]), instances)
        decomposed = DenseFactorization.of(self._program.take(instances), self._element.take(instances))
        decomposed = decomposed.use_pseudo_inverse(np.arange(instances.size))
        return combine([(others, self.take(others)), (instances, decomposed)], self._inverse.shape[0])
