"""Between z as a list, tuple or dict of arrays and the one vector for which equations are solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from conelayers.implicit.arrays import Trees

__all__ = ["Unknowns"]


@final
@dataclass(frozen=True, eq=False)
class Unknowns:
    """The structure of z: a tree whose leaves have the ``shapes``, for one instance.

    Axes in front of the leaves, of a batch or of a vmap, stay in front of the vector.
    """

    trees: Trees
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, name: str, z0: Any, batched: bool, trees: Trees) -> Unknowns:
        """The structure of z0, whose leaves are arrays. Raises ValueError for none, or if their batches differ."""
        leaves, structure = trees.flatten(z0)
        fronts = {tuple(h.shape[:1]) if batched else () for h in leaves}
        if len(fronts) != 1 or (batched and fronts == {()}):
            wanted = "leaves with one leading axis of instances, the same for all" if batched else "at least one leaf"
            raise ValueError(f"{name}: z0: got the shapes {_shapes(z0, trees)}, expected {wanted}")
        return cls(trees, structure, tuple(tuple(h.shape[int(batched) :]) for h in leaves))

    def pack(self, z: Any, front: Sequence[int], got: str) -> Any:
        """The vector (*front, n) of a tree that is structured like z0.

        Raises ValueError for another tree; ``got`` is the beginning of the message.
        """
        leaves, structure = self.trees.flatten(z)
        expected = [(*front, *shape) for shape in self.shapes]
        if structure != self.structure or [tuple(getattr(h, "shape", (None,))) for h in leaves] != expected:
            raise ValueError(
                f"{got} {_shapes(z, self.trees)}, expected the structure and shapes of z0, "
                f"{self.trees.unflatten(expected, self.structure)}"
            )
        return self.trees.concatenate(
            [h.reshape((*front, math.prod(s))) for h, s in zip(leaves, self.shapes, strict=True)]
        )

    def unpack(self, vector: Any) -> Any:
        """The tree of a vector (*front, n)."""
        leaves, start = [], 0
        for shape in self.shapes:
            end = start + math.prod(shape)
            leaves.append(vector[..., start:end].reshape((*vector.shape[:-1], *shape)))
            start = end
        return self.trees.unflatten(leaves, self.structure)

    def function(self, F: Callable[..., Any], name: str) -> Callable[..., Any]:
        """F as a function of the vector."""
        return lambda z, *theta: self.pack(F(self.unpack(z), *theta), z.shape[:-1], f"{name}: it returned")

    def solver(self, solve: Any, name: str) -> Any:
        """A user's callable (F, z0, theta) → z of trees as one of vectors; other solvers are returned as they are."""
        if not callable(solve):
            return solve

        def of_vectors(F: Callable[..., Any], z0: Any, theta: Any) -> Any:
            front = z0.shape[:-1]
            called = f"{name}: it called the function with z of"
            of_trees = lambda z, *theta: self.unpack(F(self.pack(z, front, called), *theta))  # noqa: E731
            return self.pack(solve(of_trees, self.unpack(z0), theta), front, f"{name}: it returned")

        return of_vectors


def _shapes(tree: Any, trees: Trees) -> Any:
    leaves, structure = trees.flatten(tree)
    return trees.unflatten([tuple(h.shape) if hasattr(h, "shape") else type(h).__name__ for h in leaves], structure)
