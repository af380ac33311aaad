"""The interface of solver backends: what a backend declares, takes and returns."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import scipy.sparse as sp

from conelayers.numerics.cones import real_form
from conelayers.program.cones import Cones
from conelayers.solve.backends.interrupts import sigint_given_back
from conelayers.solve.backends.layout import Layout, Native
from conelayers.support.errors import Status
from conelayers.support.limits import OUT_OF_TIME, out_of_time, remaining

__all__ = ["Instance", "RawSolution", "Settings", "Solver", "csc32"]

_SHORTEST = 1e-6  # seconds: the least time limit that is passed on, because SCS takes 0 for no limit


@final
@dataclass(frozen=True)
class Settings:
    """The user's options, by their common names; ``native`` holds the backend's own options."""

    tolerance: float | None = None  # None: the backend's own choice
    max_iters: int | None = None
    verbose: bool = False
    native: tuple[tuple[str, Any], ...] = ()


class Instance(NamedTuple):
    """One cone program in the package's convention: P full symmetric, rows of A in the order of ``cones``."""

    P: sp.csc_array
    q: np.ndarray
    A: sp.csc_array
    b: np.ndarray
    cones: Cones
    native: Native | None = None  # the backend's own matrices, if they have been made already


class RawSolution(NamedTuple):
    """A backend's unchecked answer in the package's convention; ``message`` is the backend's own status."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: Status
    message: str


class Solver(ABC):
    """A backend, stateless and safe to call from several threads. Class attributes declare what it can do."""

    name: ClassVar[str]
    cones: ClassVar[frozenset[str]]  # the fields of Cones that it takes
    quadratic: ClassVar[bool]  # whether it takes P ≠ 0
    warm_starts: ClassVar[bool]  # whether it can start at a given point
    first_tolerance: ClassVar[float]  # tolerance of the first solve, after which Newton's steps usually arrive
    tight_tolerance: ClassVar[float]  # tolerance of the second solve, for instances on which they do not
    fallback_iterations: ClassVar[int]  # its iteration limit when it is asked because another backend failed
    needs_rows: ClassVar[bool]  # whether it refuses programs without constraints
    # Iterations that no usual solve exceeds: a user's limit from here on stops nothing. By default every limit may stop
    # a solve.
    usual_iterations: ClassVar[int] = 2**31 - 1
    native_options: ClassVar[frozenset[str]]
    # The native options that set the same tolerances as ``Settings.tolerance``.
    tolerance_options: ClassVar[frozenset[str]] = frozenset()
    file_options: ClassVar[frozenset[str]] = frozenset()  # the native options that make it write a file
    time_option: ClassVar[str | None] = None  # the native option that limits the seconds of a solve
    integer_options: ClassVar[frozenset[str]] = frozenset()  # native limits whose largest value means no limit
    largest_integer: ClassVar[int] = 2**31 - 1  # the largest integer that it takes
    iteration_option: ClassVar[str | None] = None  # the native option that means the same as ``Settings.max_iters``

    def takes(self, cones: Cones, quadratic: bool) -> bool:
        """Whether it takes programs with these cones and, if ``quadratic``, with P ≠ 0."""
        kinds = real_form(cones)[0].kinds if cones.hermitian else cones.kinds
        return kinds <= self.cones and (self.quadratic or not quadratic)

    def limited_by(self, settings: Settings) -> bool:
        """Whether these settings hold a limit, of iterations or of a solve's seconds, that may stop a usual solve."""
        native: dict[str | None, Any] = dict(settings.native)
        seconds = native.get(self.time_option, np.inf)
        iterations = settings.max_iters or native.get(self.iteration_option, self.usual_iterations)
        # SCS takes 0 seconds for no limit.
        return bool(0 < seconds < np.inf or iterations < self.usual_iterations)

    def check_options(self, native: tuple[tuple[str, Any], ...]) -> None:
        """Raises ValueError naming a native option whose value the backend would refuse."""
        for name, value in native:
            try:
                self._check_option(name, self._held(name, value))
            except (TypeError, OverflowError) as error:
                raise ValueError(
                    f"solver_args: {name}: got {value!r}, which {self.name} refused; expected {error}"
                ) from error

    def _check_option(self, name: str, value: Any) -> None:
        """Raises TypeError for a value that the backend would refuse; its text says what was expected."""
        if (
            not name.endswith("_filename")
            and name != "linear_solver"
            and not isinstance(value, numbers.Real | np.bool_)
        ):
            raise TypeError("a number")

    def native(self, P: sp.csc_array, A: sp.csc_array, cones: Cones) -> Native:
        """The matrices that the backend takes, made by selecting and reordering entries of P and A by their patterns
        only.

        By default there are none: for backends that take P and A as they are, or convert them in every solve.
        """
        return ()

    def layout(self, P: sp.csc_array, A: sp.csc_array, cones: Cones) -> Layout | None:
        """The layout of the backend's matrices for a batch with these patterns; None if ``solve`` changes the instances
        first.
        """
        return None if cones.hermitian or A.shape[0] == 0 else Layout.of(self.native, P, A, cones)

    def _native(self, instance: Instance) -> Native:
        return instance.native or self.native(instance.P, instance.A, instance.cones)

    @abstractmethod
    def _solve(self, instance: Instance, settings: Settings, start: RawSolution | None) -> RawSolution:
        """Solve one instance, which has at least one row if ``needs_rows``."""

    def solve(self, instance: Instance, settings: Settings, start: RawSolution | None = None) -> RawSolution:
        """Solve one instance; a Python exception of the backend becomes the status FAILED with its text."""
        if out_of_time():
            return _without_solution(instance, Status.TIME_LIMIT, OUT_OF_TIME)
        if instance.cones.hermitian:
            cones, E = real_form(instance.cones)
            larger = Instance(instance.P, instance.q, sp.csc_array(E @ instance.A), E @ instance.b, cones)
            start = None if start is None else start._replace(y=E @ start.y, s=E @ start.s)
            raw = self.solve(larger, settings, start)
            return raw._replace(y=E.T @ raw.y, s=E.T @ raw.s)
        padded = instance.b.size == 0 and self.needs_rows
        if padded and not instance.q.any():
            nothing = np.zeros(0)
            return RawSolution(np.zeros_like(instance.q), nothing, nothing, Status.SOLVED, "zero objective, no rows")
        if padded and instance.P.nnz == 0:
            nothing = np.zeros(0)
            return RawSolution(-instance.q, nothing, nothing, Status.DUAL_INFEASIBLE, "linear objective, no rows")
        if padded:  # add a row that always holds, 0ᵀx + s = 1, s ≥ 0
            empty = sp.csc_array((1, instance.q.size))
            instance = Instance(instance.P, instance.q, empty, np.ones(1), Cones(nonneg=1))
            start = None
        try:
            with sigint_given_back():
                raw = self._solve(instance, self._in_range(self._in_time(settings)), start)
        except TypeError as error:  # an option of the wrong type
            raise ValueError(f"solver_args: {self.name} refused {dict(settings.native)!r}: {error}") from error
        except BaseException as error:  # Rust panics arrive as a BaseException of their own
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raw = _without_solution(instance, Status.FAILED, f"{type(error).__name__}: {error}")
        return raw._replace(y=raw.y[:0], s=raw.s[:0]) if padded else raw

    def _held(self, name: str, value: Any) -> Any:
        """The value; a larger integer than the backend takes becomes the largest one, as both mean that there is no
        limit.
        """
        if name not in self.integer_options or not isinstance(value, numbers.Integral) or isinstance(value, bool):
            return value
        return min(int(value), self.largest_integer)

    def _in_range(self, settings: Settings) -> Settings:
        most = None if settings.max_iters is None else min(settings.max_iters, self.largest_integer)
        native = tuple((name, self._held(name, value)) for name, value in settings.native)
        return replace(settings, max_iters=most, native=native)

    def _in_time(self, settings: Settings) -> Settings:
        """The settings with a time limit of what is left of the call's time, if the backend has such an option."""
        left = remaining()
        if left == np.inf or self.time_option is None:
            return settings
        native = dict(settings.native)
        own = native.get(self.time_option, 0.0)
        native[self.time_option] = max(_SHORTEST, min(left, own if own > 0 else np.inf))
        return replace(settings, native=tuple(native.items()))


def _without_solution(instance: Instance, status: Status, message: str) -> RawSolution:
    nothing = np.full(instance.b.size, np.nan)
    return RawSolution(np.full(instance.q.size, np.nan), nothing, nothing, status, message)


def csc32(matrix: sp.csc_array) -> sp.csc_matrix:
    """The same matrix with 32-bit indices, as a csc_matrix: the C interfaces accept nothing else."""
    return sp.csc_matrix(
        (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)), shape=matrix.shape
    )
