"""What a solver backend has to offer, and what it returns."""

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

_SHORTEST = 1e-6  # seconds: SCS takes 0 for no limit


@final
@dataclass(frozen=True)
class Settings:
    """What the user asked of the solver, in the words common to all; ``native`` holds the backend's own options."""

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
    native: Native | None = None  # the backend's own matrices, where they are at hand


class RawSolution(NamedTuple):
    """A backend's answer in the package's convention, unchecked; ``message`` is the backend's own status."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: Status
    message: str


class Solver(ABC):
    """A backend: stateless, safe to call from several threads; the capabilities are declared as class attributes."""

    name: ClassVar[str]
    cones: ClassVar[frozenset[str]]  # fields of Cones that it takes
    quadratic: ClassVar[bool]  # takes P ≠ 0
    warm_starts: ClassVar[bool]
    first_tolerance: ClassVar[float]  # where a solve starts: Newton steps do the rest
    tight_tolerance: ClassVar[float]  # and where they do not
    fallback_iterations: ClassVar[int]  # its limit where another backend's failure calls for it
    needs_rows: ClassVar[bool]  # refuses problems without constraints
    # What a solve may take: a user's limit from here on gives it room, and stops nothing. By default every limit may stop it.
    usual_iterations: ClassVar[int] = 2**31 - 1
    native_options: ClassVar[frozenset[str]]
    # Those of them that set the tolerances which ``Settings.tolerance`` sets.
    tolerance_options: ClassVar[frozenset[str]] = frozenset()
    file_options: ClassVar[frozenset[str]] = frozenset()  # those that have it write a file
    time_option: ClassVar[str | None] = None  # the one of them that limits a solve's seconds
    integer_options: ClassVar[frozenset[str]] = frozenset()  # those of them that limit nothing at their largest
    largest_integer: ClassVar[int] = 2**31 - 1  # that its integers hold
    iteration_option: ClassVar[str | None] = None  # the one of them that means what ``Settings.max_iters`` means

    def takes(self, cones: Cones, quadratic: bool) -> bool:
        """Whether it takes programs with these cones and, if asked, P ≠ 0."""
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
        """Raises ValueError for a value of its own options that it will not take."""
        for name, value in native:
            try:
                self._check_option(name, self._held(name, value))
            except (TypeError, OverflowError) as error:
                raise ValueError(
                    f"solver_args: {name}: got {value!r}, which {self.name} refused; expected {error}"
                ) from error

    def _check_option(self, name: str, value: Any) -> None:
        """Raises TypeError, whose text is what was expected."""
        if (
            not name.endswith("_filename")
            and name != "linear_solver"
            and not isinstance(value, numbers.Real | np.bool_)
        ):
            raise TypeError("a number")

    def native(self, P: sp.csc_array, A: sp.csc_array, cones: Cones) -> Native:
        """The matrices that the backend takes: entries of P and A, selected and reordered, as their patterns ask for.

        None by default, for backends that take P and A as they are, or make what they take of them in every solve.
        """
        return ()

    def layout(self, P: sp.csc_array, A: sp.csc_array, cones: Cones) -> Layout | None:
        """Where the entries of these matrices lie for a batch with these patterns; None where ``solve`` changes the instances first."""
        return None if cones.hermitian or A.shape[0] == 0 else Layout.of(self.native, P, A, cones)

    def _native(self, instance: Instance) -> Native:
        return instance.native or self.native(instance.P, instance.A, instance.cones)

    @abstractmethod
    def _solve(self, instance: Instance, settings: Settings, start: RawSolution | None) -> RawSolution:
        """Solve one instance with at least one row, if ``needs_rows``."""

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
        if padded:  # a row 0ᵀx + s = 1, s ≥ 0 that says nothing
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
        """The value, or the largest integer that the backend holds: both mean that there is no limit."""
        if name not in self.integer_options or not isinstance(value, numbers.Integral) or isinstance(value, bool):
            return value
        return min(int(value), self.largest_integer)

    def _in_range(self, settings: Settings) -> Settings:
        most = None if settings.max_iters is None else min(settings.max_iters, self.largest_integer)
        native = tuple((name, self._held(name, value)) for name, value in settings.native)
        return replace(settings, max_iters=most, native=native)

    def _in_time(self, settings: Settings) -> Settings:
        """The settings with what is left of the call's time, where the backend can be told."""
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
    """The same matrix with 32-bit indices, as the C interfaces want them (they accept csc_matrix only)."""
    return sp.csc_matrix(
        (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)), shape=matrix.shape
    )
