"""The parametric cone program: θ → (P, q, A, b) and (x, y) → variables, with tangents and adjoints, for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.problem.input_map import InputMap
from conelayers.problem.parameter_checks import where_in_batch
from conelayers.problem.parameters import Batch, ParameterSpec
from conelayers.problem.void_rows import VoidRows
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.data_gradients import A_gradient, P_gradient, b_gradient, q_gradient
from conelayers.program.names import Names, Naming

__all__ = ["AffineMap", "OutputSpec", "ParametricProgram", "bounds_only"]


@final
@dataclass(frozen=True)
class AffineMap:
    """values = constant + L φ. Only the entries ``rows`` depend on φ: values[rows] = constant[rows] + linear φ."""

    constant: np.ndarray
    rows: np.ndarray
    linear: sp.csr_array

    @classmethod
    def of(cls, matrix: sp.csr_array) -> AffineMap:
        """From the matrix that multiplies (φ, 1), without duplicates."""
        size, width = matrix.shape
        row, is_constant = np.repeat(np.arange(size), np.diff(matrix.indptr)), matrix.indices == width - 1
        constant = np.zeros(size)
        constant[row[is_constant]] = matrix.data[is_constant]
        kept = ~is_constant & (matrix.data != 0)
        lengths = np.bincount(row[kept], minlength=size)
        rows = np.flatnonzero(lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[rows])])
        linear = sp.csr_array((matrix.data[kept], matrix.indices[kept], starts), shape=(rows.size, width - 1))
        return cls(constant, rows, linear)

    @property
    def whole(self) -> sp.csr_array:
        """L with a row for each value."""
        counts = np.zeros(self.constant.size, dtype=np.int64)
        counts[self.rows] = np.diff(self.linear.indptr)
        starts = np.concatenate([[0], np.cumsum(counts)])
        shape = (self.constant.size, self.linear.shape[1])
        return sp.csr_array((self.linear.data, self.linear.indices, starts), shape=shape)

    @property
    def unusable(self) -> np.ndarray:
        """Which values have an infinite or NaN constant or coefficient, (rows,) bool."""
        found = ~np.isfinite(self.constant)
        coefficients = ~np.isfinite(self.linear.data)
        found[self.rows[self.linear.tocoo().row[coefficients]]] = True
        return found

    @cached_property
    def _selection(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(column, factor) of each row of L if every row has one entry: φ's entries are copied then."""
        if self.linear.nnz != self.rows.size:
            return None
        return self.linear.indices, self.linear.data

    def _linear(self, phi: np.ndarray) -> np.ndarray:
        if self._selection is None:
            return (self.linear @ phi.T).T
        columns, factors = self._selection
        picked = np.take(phi, columns, axis=1)
        picked *= factors
        return picked

    def value(self, phi: np.ndarray) -> np.ndarray:
        """(B, rows) from φ (B, size)."""
        out = np.empty((phi.shape[0], self.constant.size))
        out[:] = self.constant
        if self.rows.size:
            out[:, self._places] += self._linear(phi)
        return out

    @cached_property
    def _places(self) -> slice | np.ndarray:
        """``rows``, as a slice where they follow each other."""
        first, last = int(self.rows[0]), int(self.rows[-1])
        return slice(first, last + 1) if last - first + 1 == self.rows.size else self.rows

    def tangent(self, dphi: np.ndarray) -> np.ndarray:
        """L dφ, (B, rows)."""
        out = np.zeros((dphi.shape[0], self.constant.size))
        if self.rows.size:
            out[:, self._places] = self._linear(dphi)
        return out

    def restricted(self, keep: np.ndarray) -> AffineMap:
        """The map with the columns of L outside ``keep`` set to zero."""
        columns = sp.diags_array(keep.astype(float))
        linear = sp.csr_array(self.linear @ columns)
        linear.eliminate_zeros()
        inner = np.flatnonzero(np.diff(linear.indptr))
        return AffineMap(self.constant, self.rows[inner], sp.csr_array(linear[inner]))

    def adjoint(self, cotangent: np.ndarray) -> np.ndarray:
        """Lᵀ cotangent, (B, size), from the cotangents of the entries ``rows`` only."""
        if self._selection is None or not self._selects_once:
            return (self._transposed @ cotangent.T).T
        columns, factors = self._selection
        out = np.zeros((cotangent.shape[0], self.linear.shape[1]))
        out[:, columns] = cotangent * factors
        return out

    def adjoint_size(self, cotangent: np.ndarray) -> np.ndarray:
        """|L|ᵀ cotangent, (B, size)."""
        return (abs(self._transposed) @ cotangent.T).T

    @cached_property
    def _selects_once(self) -> bool:
        """Whether no entry of φ is copied twice."""
        return bool(np.unique(self.linear.indices).size == self.linear.nnz)

    @cached_property
    def _transposed(self) -> sp.csr_array:
        return sp.csr_array(self.linear.T)


@final
@dataclass(frozen=True)
class OutputSpec:
    """One returned variable: value = matrix·x (``primal``) or matrix·y, its exponential for a geometric program."""

    name: str
    shape: tuple[int, ...]
    primal: bool
    matrix: sp.csr_array
    exponential: bool = False

    def value(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(B, size), column-major."""
        flat = (self.matrix @ (x if self.primal else y).T).T
        return np.exp(flat) if self.exponential else flat

    def tangent(self, value: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """The tangent of ``value`` (B, size)."""
        flat = (self.matrix @ (dx if self.primal else dy).T).T
        return value * flat if self.exponential else flat

    def size(self, value: np.ndarray, x_unit: np.ndarray, y_unit: np.ndarray) -> np.ndarray:
        """The largest tangent that dx and dy of these sizes, (n,) and (m,), can have, (1, size)."""
        flat = (self._magnitude @ (x_unit if self.primal else y_unit))[None]
        return np.abs(value) * flat if self.exponential else flat

    @cached_property
    def _magnitude(self) -> sp.csr_array:
        return abs(self.matrix)

    def adjoint(self, value: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        """The cotangent of x or y, (B, n) or (B, m)."""
        return (self.matrix.T @ ((value * cotangent) if self.exponential else cotangent).T).T


def bounds_only(structure: Structure, maps: Mapping[str, AffineMap], *, gp: bool = False) -> np.ndarray:
    """Which entries of θ may be infinite, (p,) bool: those that enter only right-hand sides of the nonnegative cone.

    ``maps`` are those to P, q, A, b and the objective's constant.
    """
    b, others = maps["b"], [m for name, m in maps.items() if name != "b"]
    elsewhere = np.zeros(b.linear.shape[1], dtype=bool)
    elsewhere[b.linear[~structure.cones.nonneg_rows[b.rows]].indices] = True
    for affine in others:
        elsewhere[affine.linear.indices] = True
    if not gp:
        return ~elsewhere
    size = elsewhere.size // 2  # θ enters by itself and by its logarithm
    return ~elsewhere[:size] & ~elsewhere[size:]


@final
@dataclass(frozen=True)
class ParametricProgram:
    """What canonicalization leaves of a cvxpy problem: plain data, which pickle and copy."""

    structure: Structure
    parameters: tuple[ParameterSpec, ...]
    P: AffineMap
    q: AffineMap
    A: AffineMap
    b: AffineMap
    constant: AffineMap
    outputs: tuple[OutputSpec, ...]
    maximize: bool
    gp: bool
    naming: Naming
    input_map: InputMap  # from the user's parameters to these, and from these outputs to the user's variables
    logarithmic: np.ndarray  # which entries of θ enter by their logarithms, (p,) bool; none but in a geometric program
    infinite: (
        np.ndarray
    )  # which entries of θ may be ±inf, (p,) bool: ``bounds_only``, as far as the user's values are these
    _restrictions: dict[tuple[bool, ...], ParametricProgram] = field(default_factory=dict)  # memoized ``restricted``

    @cached_property
    def identity(self) -> InputMap:
        """The input map of a caller who knows the program's own parameters and outputs."""
        if self.input_map.is_identity:
            return self.input_map
        return InputMap.identity(self.parameters, len(self.outputs))

    @property
    def names(self) -> Names:
        """The user's names of rows and columns."""
        return self.naming.names

    def phi(self, theta: np.ndarray) -> np.ndarray:
        """θ, or (θ, log θ) for a geometric program."""
        return np.concatenate([theta, np.log(self._base(theta))], axis=1) if self.gp else theta

    def acceptable(self, theta: np.ndarray) -> np.ndarray:
        """Which instances of θ (B, p) make a program, (B,) bool: no NaN, and infinite values in bounds only."""
        finite = np.isfinite(theta)
        if finite.all():
            return np.ones(len(theta), dtype=bool)
        usable = (finite | (self.infinite & ~np.isnan(theta))).all(axis=1)
        usable[usable] = ~np.any(self._undefined_bounds(theta[usable]), axis=1)
        return usable

    def check_bounds(self, theta: np.ndarray, batched: bool) -> None:
        """Raises ValueError, naming the parameters, where infinite ones of θ (B, p) meet in one bound as inf − inf."""
        if np.isfinite(theta).all():
            return
        undefined = self._undefined_bounds(theta)
        if not undefined.any():
            return
        i, row = np.argwhere(undefined)[0].tolist()
        used = self.b.linear[[int(np.searchsorted(self.b.rows, row))]].indices % theta.shape[1]
        used = used[~np.isfinite(theta[i, used])]
        met = [
            spec.label for spec in self.parameters if ((spec.columns.start <= used) & (used < spec.columns.stop)).any()
        ]
        raise ValueError(
            f"parameter{'s' if len(met) > 1 else ''} "
            f"{' and '.join(met)}{where_in_batch(np.any(undefined, axis=1), batched)}: got infinite values that "
            "meet in one bound as inf - inf, expected at most one of them there to be infinite; give each a "
            "constraint of its own"
        )

    def _undefined_bounds(self, theta: np.ndarray) -> np.ndarray:
        """Which right-hand sides are NaN, (B, m) bool."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.isnan(self.b.value(self.phi(theta)))

    def _base(self, theta: np.ndarray) -> np.ndarray:
        # Exponents may be zero or negative: 1 stands where no logarithm is taken.
        return np.where(self.logarithmic, theta, 1.0)

    def program(self, theta: np.ndarray) -> ConeProgram:
        """The cone program of each instance, for θ (B, p)."""
        phi = self.phi(theta)
        P, A = (m.value(phi) if m.rows.size else m.constant[None] for m in (self.P, self.A))  # shared if constant
        b = self._void_rows.cleaned(self.b.value(phi), A, phi)
        if self.structure.void is not None:
            A, b = self.structure.void.without_infinite(self.structure.A.rows, A, b)
        return ConeProgram(self.structure, P, self.q.value(phi), A, b)

    @property
    def may_have_void_rows(self) -> bool:
        """Whether there are rows in which ``program`` takes rounding for zero, since they may have no coefficients."""
        return self._void_rows.rows.size > 0

    @cached_property
    def _void_rows(self) -> VoidRows:
        fixed = self.A.constant.copy()
        fixed[self.A.rows] = 0.0
        return VoidRows.of(self.structure, fixed, self.b.constant, self.b.whole, logarithms=self.gp)

    def is_linear_at(self, batch: Batch) -> bool:
        """Whether the programs of a call are linear programs: linear constraints, and P = 0 in all instances."""
        if self._never_linear:
            return False
        return not (self.P.rows.size and self.P.value(self.phi(batch.theta)).any())

    @cached_property
    def _never_linear(self) -> bool:
        """Whether no parameter's value makes it a linear program."""
        fixed = self.P.constant.copy()
        fixed[self.P.rows] = 0.0
        return bool(fixed.any()) or not self.structure.cones.kinds <= {"zero", "nonneg"}

    def value(self, theta: np.ndarray, program: ConeProgram, x: np.ndarray) -> np.ndarray:
        """The user's objective at x (B, n), (B,)."""
        value = np.einsum("bi,bi->b", 0.5 * program.Px(x) + program.q, x) + self.constant.value(self.phi(theta))[:, 0]
        value = -value if self.maximize else value
        return np.exp(value) if self.gp else value

    def tangent(self, theta: np.ndarray, dtheta: np.ndarray) -> ConeProgram:
        """(dP, dq, dA, db) along dθ (B, p), in the shape of a program."""
        dphi = np.concatenate([dtheta, dtheta / self._base(theta)], axis=1) if self.gp else dtheta
        return ConeProgram(
            self.structure, self.P.tangent(dphi), self.q.tangent(dphi), self.A.tangent(dphi), self.b.tangent(dphi)
        )

    def restricted(self, needed: tuple[bool, ...]) -> ParametricProgram:
        """The same program for ``adjoint`` with respect to some of the parameters only: the others cost nothing."""
        if all(needed):
            return self
        if needed not in self._restrictions:
            keep = np.zeros(sum(spec.size for spec in self.parameters), dtype=bool)
            for spec, wanted in zip(self.parameters, needed, strict=True):
                keep[spec.columns] = wanted
            keep = np.concatenate([keep, keep]) if self.gp else keep
            maps = {name: getattr(self, name).restricted(keep) for name in ("P", "q", "A", "b")}
            self._restrictions[needed] = replace(self, **maps, _restrictions={})
        return self._restrictions[needed]

    @cached_property
    def _A_entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Where in A the entries lie that depend on θ."""
        return self.structure.A.rows[self.A.rows], self.structure.A.cols[self.A.rows]

    @cached_property
    def _P_entries(self) -> tuple[np.ndarray, np.ndarray]:
        return self.structure.P.rows[self.P.rows], self.structure.P.cols[self.P.rows]

    def adjoint(self, theta: np.ndarray, x: np.ndarray, y: np.ndarray, lam: np.ndarray, mu: np.ndarray) -> np.ndarray:
        """The gradient with respect to θ (B, p) for the adjoint solution (λ, μ) of linearization.py.

        The data's gradients (data_gradients.py) are formed only where an entry depends on θ.
        """
        phi = self.A.adjoint(A_gradient(partial(_outer, self._A_entries), x, y, lam, mu))
        if self.P.rows.size:
            phi += self.P.adjoint(P_gradient(partial(_outer, self._P_entries), x, lam))
        if self.q.rows.size:
            phi += self.q.adjoint(q_gradient(lam[:, self.q.rows]))
        if self.b.rows.size:
            phi += self.b.adjoint(b_gradient(mu[:, self.b.rows]))
        if not self.gp:
            return phi
        size = theta.shape[1]
        return phi[:, :size] + phi[:, size:] / self._base(theta)

    def adjoint_size(
        self, theta: np.ndarray, x: np.ndarray, y: np.ndarray, lam_unit: np.ndarray, mu_unit: np.ndarray
    ) -> np.ndarray:
        """The largest gradients (1, p) that λ and μ of these sizes, (n,) and (m,), can make at θ, x and y, (1, ·).

        λ_unit and μ_unit are γd and βe of the equilibration, in whose units x and y are of one size: entries that are
        zero by chance count as much as the others.
        """
        lam, mu = lam_unit[None], mu_unit[None]
        x, y = (np.abs(h) + np.max(np.abs(h) / unit, initial=0.0) * unit for h, unit in ((x, lam), (y, mu)))
        # The formulas of data_gradients.py with every sign positive.
        outer = partial(_outer, self._A_entries)
        phi = self.A.adjoint_size(outer(mu, x) + outer(y, lam))
        if self.P.rows.size:
            outer = partial(_outer, self._P_entries)
            phi += self.P.adjoint_size(0.5 * (outer(lam, x) + outer(x, lam)))
        phi += self.q.adjoint_size(lam[:, self.q.rows]) + self.b.adjoint_size(mu[:, self.b.rows])
        if not self.gp:
            return phi
        size = theta.shape[1]
        return phi[:, :size] + phi[:, size:] / np.abs(self._base(theta))


def _outer(entries: tuple[np.ndarray, np.ndarray], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """These entries, (rows, columns), of a bᵀ, for each instance."""
    rows, columns = entries
    product = np.take(a, rows, axis=1)
    product *= np.take(b, columns, axis=1)
    return product
