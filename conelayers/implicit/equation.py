"""An equation F(z, θ) = 0 as a function of arrays alone, made from the arguments of root or fixed_point.

    F(z, θ) = 0,  dz = −B⁻¹A dθ,  A = ∂F/∂θ, B = ∂F/∂z

where A and B are what automatic differentiation gives: the Jacobian, or at kinks a conservative one, if F is composed
of functions whose derivatives are (ReLU, max, and the projections of this package). Source: Bolte, Le, Pauwels,
Silveti-Falls, "Nonsmooth implicit differentiation for machine learning and optimization" (2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

from conelayers.implicit.arrays import Arrays
from conelayers.implicit.options import Options
from conelayers.implicit.unknowns import Unknowns
from conelayers.support.arguments import described

__all__ = ["Equation", "Prepared", "Theta", "check_returned", "prepared"]


@final
@dataclass(frozen=True, eq=False)
class Theta:
    """The leaves of a user's theta: arrays at the ``places``, which have derivatives, and ``constants`` elsewhere."""

    places: tuple[int, ...]
    constants: tuple[Any, ...]
    rebuilt: Callable[[Sequence[Any]], Any]  # the tree, from its leaves

    @classmethod
    def of(cls, arrays: Arrays, leaves: Sequence[Any], rebuilt: Callable[[Sequence[Any]], Any]) -> Theta:
        """The arrays and constants among the leaves of the user's tuple."""
        places = tuple(i for i, leaf in enumerate(leaves) if arrays.is_array(leaf))
        return cls(places, tuple(None if arrays.is_array(leaf) else leaf for leaf in leaves), rebuilt)

    def unflatten(self, values: Sequence[Any]) -> Any:
        """The user's tuple with these arrays; further values are ignored."""
        leaves = list(self.constants)
        for i, value in zip(self.places, values, strict=False):
            leaves[i] = value
        return self.rebuilt(leaves)


@final
@dataclass(frozen=True, eq=False)
class Equation:
    """F(z, θ) = 0, or z = f(z, θ) where the options say fixed. The function takes z and the leaves of θ.

    options: the options of the call.
    axes: how many of the first axes of z count instances.
    unflatten: from the leaves to the user's theta.
    flatten: from the user's theta to its arrays.
    restored: from z to the structure of the user's z0.
    direct: the function as the user wrote it, if it may be called with plain arrays.
    """

    options: Options
    function: Callable[..., Any]
    axes: int
    unflatten: Callable[[Sequence[Any]], tuple[Any, ...]]
    flatten: Callable[[Any], list[Any]]
    restored: Callable[[Any], Any]
    direct: Callable[..., Any] | None = None

    def residual(self, z: Any, *leaves: Any) -> Any:
        """F(z, θ), or f(z, θ) − z."""
        value = self.function(z, *leaves)
        return value - z if self.options.fixed else value

    def sizes(self, z: Any) -> tuple[int, int]:
        """The number of instances, and of unknowns of each."""
        return math.prod(z.shape[: self.axes]), math.prod(z.shape[self.axes :])

    def of_user(self, leaves: Sequence[Any]) -> Callable[..., Any]:
        """The function (z, *theta) that a user's solver is given; what it closes over is taken from the leaves."""

        def function(z: Any, *theta: Any) -> Any:
            own = self.flatten(theta)
            return self.function(z, *own, *leaves[len(own) :])

        return function

    def with_axis(self, function: Callable[..., Any]) -> Equation:
        """The equation with one more axis of instances in front of z, which ``function`` takes."""
        return replace(self, function=function, axes=self.axes + 1, direct=None)

    def without_solver(self) -> Equation:
        """The equation for callers that only need derivatives."""
        return replace(self, options=self.options.without_solver())


@final
class Prepared(NamedTuple):
    """An equation for one array z: its options, its function and its z0.

    restored: from z to the structure of the user's z0.
    """

    options: Options
    function: Callable[..., Any]
    z0: Any
    restored: Callable[[Any], Any]


def prepared(arrays: Arrays, options: Options, function: Callable[..., Any], z0: Any) -> Prepared:
    """The user's equation as one for a single array; a tree of unknowns becomes one vector.

    Raises TypeError or ValueError for a function or a z0 that does not fit.
    """
    name, noun = options.name, arrays.noun
    if not callable(function):
        raise TypeError(
            f"{options.function_name}: got {described(function)}, expected a callable (z, *theta) -> {noun.split()[1]} "
            "of z's shape"
        )
    for h in arrays.leaves(z0):
        if not arrays.is_array(h) or arrays.dtype_of(h) not in arrays.floats:
            got = f"{noun} of {arrays.dtype_of(h)}" if arrays.is_array(h) else type(h).__name__
            raise TypeError(
                f"{name}: z0: got {got}, expected {noun} of float32 or float64, or a list, tuple or dict of them; "
                f"write {arrays.conversion}"
            )
    restored: Callable[[Any], Any] = lambda z: z  # noqa: E731
    if not arrays.is_array(z0):
        unknowns = Unknowns.of(name, z0, options.batched, arrays.trees)
        function = unknowns.function(function, options.function_name)
        options = replace(options, solve=unknowns.solver(options.solve, f"{name}: solve"))
        front = arrays.trees.flatten(z0)[0][0].shape[: int(options.batched)]
        z0, restored = unknowns.pack(z0, front, name), unknowns.unpack
    if options.batched and not getattr(z0, "shape", ()):
        raise ValueError(f"{name}: batched: got True and z0 without axes, expected a leading axis of instances in z0")
    return Prepared(options, function, z0, restored)


def check_returned(arrays: Arrays, options: Options, returned: Any, kind: type[Any], z0: Any) -> None:
    """Raises unless the user's function returns at z0 an array (``kind``) of z0's shape, of floating-point numbers."""
    name, noun, shape = options.function_name, arrays.noun, tuple(z0.shape)
    if not isinstance(returned, kind) or tuple(returned.shape) != shape:
        got = f"{noun} of shape {tuple(returned.shape)}" if isinstance(returned, kind) else type(returned).__name__
        raise ValueError(
            f"{name}: it returned {got}, expected {noun} of z0's shape {shape}; write as many equations as unknowns"
        )
    dtype = returned.dtype
    if not arrays.is_floating(dtype) or arrays.xp.promote_types(z0.dtype, dtype) not in arrays.floats:
        raise TypeError(f"{name}: it returned {noun} of {dtype}, expected float32 or float64")
