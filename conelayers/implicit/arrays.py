"""The functions of a framework that the formulas for PyTorch and JAX use: one ``Arrays`` for each framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

__all__ = ["Arrays", "Trees"]


@final
class Trees(NamedTuple):
    """Functions for trees, which are nested lists, tuples and dicts of arrays.

    flatten: from a tree to (leaves, structure).
    unflatten: from (leaves, structure) to the tree.
    concatenate: joins arrays along the last axis.
    """

    flatten: Callable[[Any], tuple[Sequence[Any], Any]]
    unflatten: Callable[[Sequence[Any], Any], Any]
    concatenate: Callable[[Sequence[Any]], Any]


@final
@dataclass(frozen=True, eq=False)
class Arrays:
    """The functions of one framework, and its words in error messages.

    xp: the module (``torch`` or ``jax.numpy``), for functions with one name and meaning in both: where, abs, amax, …
    noun: "a tensor" or "an array".
    conversion: what a user writes to make an array of floating-point numbers of z0.
    trees: the functions for trees.
    leaves: the leaves of a tree, as the user gave them.
    floats: the dtypes in which equations are solved.
    is_array: whether a value counts as an array.
    dtype_of: the dtype that the framework gives to such a value.
    is_floating: whether a dtype is one of floating-point numbers.
    given: a user's value as an array, or None if it is none.
    parameter: a number or an array, in the dtype of the array v.
    converted: ``h`` in the dtype of ``like``.
    made: numbers as an array of the dtype (and on the device) of ``like``.
    constant: the same values, without derivatives.
    ratio: a/b for a, b ≥ 0, where 0/0 is 0, and infinite instead of NaN.
    sorted_down: h sorted along the last axis, the largest entry first.
    taken: the entries of h at indices along the last axis.
    counts: 1, 2, …, n for h (..., n).
    eager: whether values are known as soon as they are computed, so that work that no instance needs can be left out.
    either: ``either(condition, yes, no)`` is yes() or no().
    loop: ``loop(unfinished, step, state)`` replaces the state by ``step(state)`` while it is unfinished.
    scalar: a number as the state of a loop holds it, in the dtype of ``like``.
    counter: 0, as the state of a loop counts steps.
    """

    xp: Any
    noun: str
    conversion: str
    trees: Trees
    leaves: Callable[[Any], Sequence[Any]]
    floats: tuple[Any, ...]
    is_array: Callable[[Any], bool]
    dtype_of: Callable[[Any], Any]
    is_floating: Callable[[Any], bool]
    given: Callable[[Any], Any]
    parameter: Callable[[Any, Any], Any]
    converted: Callable[[Any, Any], Any]
    made: Callable[[Any, Any], Any]
    constant: Callable[[Any], Any]
    ratio: Callable[[Any, Any], Any]
    sorted_down: Callable[[Any], Any]
    taken: Callable[[Any, Any], Any]
    counts: Callable[[Any], Any]
    eager: bool
    either: Callable[[Any, Callable[[], Any], Callable[[], Any]], Any]
    loop: Callable[[Callable[[Any], Any], Callable[[Any], Any], Any], Any]
    scalar: Callable[[float, Any], Any]
    counter: Callable[[], Any]

    def may_lack(self, done: Any) -> bool:
        """Whether some instance may not be done yet; then the rest of the work is done for all of them."""
        return not self.eager or not bool(done.all())

    def rounding(self, h: Any) -> float:
        """The unit of rounding ε of h's dtype."""
        return float(self.xp.finfo(h.dtype).eps)

    def sizes(self, h: Any) -> Any:
        """|h|, with 0 instead of infinite and NaN entries."""
        return self.xp.nan_to_num(self.xp.abs(h), posinf=0.0)

    def most(self, h: Any) -> Any:
        """The largest entry (N,) of each row of h (N, n), h ≥ 0; 0 for n = 0."""
        return self.xp.amax(h, axis=1) if h.shape[1] else h.sum(1)

    def lengths(self, h: Any) -> Any:
        """The Euclidean norms of the rows of h (N, n)."""
        return self.xp.linalg.norm(h, axis=1)

    def inverses(self, size: Any) -> Any:
        """1/size for size ≥ 0, and 0 where it is 0."""
        where = self.xp.where
        return where(size > 0, 1 / where(size > 0, size, 1.0), 0.0)
