"""What the formulas that PyTorch and JAX share ask of a framework: one ``Arrays`` for each, made in its own folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

__all__ = ["Arrays", "Trees"]


@final
class Trees(NamedTuple):
    """Nested lists, tuples and dicts: tree → (leaves, structure), and back; concatenate: arrays, on the last axis."""

    flatten: Callable[[Any], tuple[Sequence[Any], Any]]
    unflatten: Callable[[Sequence[Any], Any], Any]
    concatenate: Callable[[Sequence[Any]], Any]


@final
@dataclass(frozen=True, eq=False)
class Arrays:
    """The functions of one framework, and its words in error messages.

    xp: the module (``torch`` or ``jax.numpy``), used for what has one name and one meaning in both: where, abs, amax,
    isnan, … noun: "a tensor" or "an array". conversion: what a user writes to make z0 one of floating-point numbers.
    leaves: those of a tree, as the user gave them. floats: the dtypes that equations are solved in. is_array: whether a
    value counts as an array. dtype_of: the dtype that the framework gives to such a value. is_floating: whether a dtype
    is one of floating-point numbers. given: a user's value as an array, or None where it is none. parameter: a number
    or an array that goes with the array v. converted: ``h`` in the dtype of ``like``. made: numbers as an array of the
    dtype (and on the device) of ``like``. constant: the same values, without derivatives. ratio: a/b for a, b ≥ 0,
    where 0/0 is 0 and what is not a number is infinite. sorted_down, taken, counts: along the last axis, h from its
    largest entry on; its entries at the indices; 1, 2, …, n. eager: whether values are known as soon as they are
    computed, so that work that no instance needs can be left out. either: ``either(condition, yes, no)`` is yes() or
    no(). loop: ``loop(unfinished, step, state)`` steps while unfinished. scalar: a number as the state of a loop holds
    it, in the dtype of ``like``; counter: 0, as a state counts steps.
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
        """Whether some instance may not be done: what is left to do is done for all of them then."""
        return not self.eager or not bool(done.all())

    def rounding(self, h: Any) -> float:
        """The unit of rounding ε of h's dtype."""
        return float(self.xp.finfo(h.dtype).eps)

    def sizes(self, h: Any) -> Any:
        """|h|, with 0 where that is not finite."""
        return self.xp.nan_to_num(self.xp.abs(h), posinf=0.0)

    def most(self, h: Any) -> Any:
        """The largest entry (N,) of the rows of h (N, n), h ≥ 0; 0 where there is none."""
        return self.xp.amax(h, axis=1) if h.shape[1] else h.sum(1)

    def lengths(self, h: Any) -> Any:
        """The Euclidean norms of the rows of h (N, n)."""
        return self.xp.linalg.norm(h, axis=1)

    def inverses(self, size: Any) -> Any:
        """1/size for size ≥ 0, and 0 where it is 0."""
        where = self.xp.where
        return where(size > 0, 1 / where(size > 0, size, 1.0), 0.0)
