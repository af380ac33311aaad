"""A batch factored in parts: instances that converge at different steps keep the factors of their own last step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import numpy as np

from conelayers.numerics.kkt.factorization import Factorization

__all__ = ["CompositeFactorization", "Part", "combine"]

Part = tuple[np.ndarray, Factorization]


def combine(
    parts: Sequence[Part], batch: int, factor: Callable[[np.ndarray], Factorization] | None = None
) -> Factorization:
    """One factorization of instances 0 … batch − 1 from parts (indices, factors); ``factor`` makes the rest."""
    parts = [(index, inner) for index, inner in parts if index.size]
    if factor is not None and sum(index.size for index, _ in parts) < batch:
        here = np.zeros(batch, dtype=bool)
        for index, _ in parts:
            here[index] = True
        missing = np.flatnonzero(~here)
        parts.append((missing, factor(missing)))
    if len(parts) == 1 and np.array_equal(parts[0][0], np.arange(batch)):
        return parts[0][1]
    return CompositeFactorization(parts, batch)


@final
class CompositeFactorization(Factorization):
    """A factorization that passes each instance to the part that holds it."""

    def __init__(self, parts: Sequence[Part], batch: int) -> None:
        self._parts, self._batch = tuple(parts), batch
        self._part, self._position = np.empty(batch, dtype=np.int64), np.empty(batch, dtype=np.int64)
        for k, (index, _) in enumerate(self._parts):
            self._part[index], self._position[index] = k, np.arange(index.size)

    @property
    def singular(self) -> np.ndarray:
        singular = np.zeros(self._batch, dtype=bool)
        for index, inner in self._parts:
            singular[index] = inner.singular
        return singular

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = np.empty_like(p1), np.empty_like(p2)
        for index, inner in self._parts:
            dx[index], dy[index] = inner.solve(p1[index], p2[index])
        return dx, dy

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        return self._parts[self._part[instance]][1].null_vectors(int(self._position[instance]))

    def null_sample(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        return self._parts[self._part[instance]][1].null_sample(int(self._position[instance]))

    def free_columns(self) -> np.ndarray | None:
        free: np.ndarray | None = None
        for index, inner in self._parts:
            part = inner.free_columns()
            if part is None:
                return None
            free = np.empty((self._batch, part.shape[1]), dtype=bool) if free is None else free
            free[index] = part
        return free

    def take(self, index: np.ndarray | list[int]) -> Factorization:
        index = np.asarray(index)
        parts = []
        for k, (_, inner) in enumerate(self._parts):
            here = np.flatnonzero(self._part[index] == k)
            if here.size:
                parts.append((here, inner.take(self._position[index[here]])))
        return parts[0][1] if len(parts) == 1 else CompositeFactorization(parts, index.size)

    def use_pseudo_inverse(self, instances: np.ndarray) -> CompositeFactorization:
        parts = []
        for k, (index, inner) in enumerate(self._parts):
            here = self._position[instances[self._part[instances] == k]]
            parts.append((index, inner.use_pseudo_inverse(here) if here.size else inner))
        return CompositeFactorization(parts, self._batch)
