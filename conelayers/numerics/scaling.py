"""Equilibration of a program: the entries of v = y − s compare multipliers with slacks, so both should be of one size.

With d > 0 (n,), e > 0 (m,) such that diag(e) maps the cone onto itself, and β, γ > 0, the program in

    x' = β x/d,   s' = β e s,   y' = γ y/e,

has the data P' = (γ/β) d P d, q' = γ d q, A' = e A d, b' = β e b and the same cone. d and e are the least squares fit
that brings the entries of P' and A' to one size (curtis_reid.py). The fit ends in the same program whatever units the
user chose for variables, rows and objective, since it subtracts from the logarithms what the units add. An iteration
that brings norms to one (Ruiz, 2001) has many fixed points, and ends in one that depends on the units. If a connected
part of the program has no P, the fit leaves one factor t open, d·t and e/t; it is chosen so that q' and b' are of one
size there. β and γ bring b' and q' to size 1. All factors are powers of two, so that scaling causes no rounding errors
(except in the third row of a power cone).

A right-hand side far above the others, such as a bound of 1e10 that is never active, would make everything else look
like rounding errors. Rows of the nonnegative cone with such a b, and those without a bound (b = ∞), are found here and
set aside (bounds.py). They have no part in the fit: the rest is equilibrated as if they were not there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np

from conelayers.numerics.curtis_reid import DWARFS, LARGE, ZERO, Fits, fitted, logarithms
from conelayers.program.cone_program import ConeProgram
from conelayers.program.cones import Cones
from conelayers.program.patterns import largest, values_of_part

__all__ = ["Equilibrated", "Scaling", "equilibrate_program"]

_TOLERATED = 1.0  # binary orders of magnitude by which q' and b' may differ from 1
_LIMIT = 300.0  # largest |log₂ β| and |log₂ γ|
# Binary orders of magnitude by which q' or b' is smaller than the other and counts as zero: it may be rounding errors,
# which
# must not be scaled up.
_APART = 40.0
_SPREAD = 1e-8  # entries of a point below this fraction of the largest one are scaled as if they were this fraction


@final
@dataclass(frozen=True)
class Scaling:
    """d (B, n) and e (B, m), (1, ·) if all instances share them, β (B, 1) and γ (B, 1), and the maps between the two
    programs.
    """

    d: np.ndarray
    e: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray

    @classmethod
    def identity(cls, program: ConeProgram) -> Scaling:
        """The scaling that changes nothing."""
        return cls.identity_of(program.q, program.b)

    @classmethod
    def identity_of(cls, x: np.ndarray, v: np.ndarray) -> Scaling:
        """The scaling that changes nothing, for points x (B, n) and v (B, m)."""
        one = np.ones((len(x), 1))
        return cls(np.ones_like(x), np.ones_like(v), one, one)

    @classmethod
    def of_point(cls, cones: Cones, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> Scaling:
        """The scaling that brings a point to size 1: d = |x|, e² = ‖y‖/‖s‖ by blocks, β and γ; for x (B, n), y and s
        (B, m).
        """
        d = _power_of_two(_bounded(np.abs(x)))
        slacks, multipliers = (_bounded(cones.block_maxima(np.abs(h))) for h in (s, y))
        e = _power_of_two(np.sqrt(multipliers / slacks))
        beta = 1 / _power_of_two(np.maximum(largest(x / d), largest(e * s)))[:, None]
        gamma = 1 / _power_of_two(largest(y / e))[:, None]
        return cls(d, e, beta, gamma)

    def then(self, other: Scaling) -> Scaling:
        """The scaling by this one and then by ``other``."""
        return Scaling(self.d * other.d, self.e * other.e, self.beta * other.beta, self.gamma * other.gamma)

    @cached_property
    def trivial(self) -> bool:
        """Whether it changes nothing."""
        return all(bool((h == 1).all()) for h in (self.d, self.e, self.beta, self.gamma))

    def take(self, index: Any) -> Scaling:
        """The scaling of a part of the batch."""
        return Scaling(
            values_of_part(self.d, index),
            values_of_part(self.e, index),
            values_of_part(self.beta, index),
            values_of_part(self.gamma, index),
        )

    def program(self, program: ConeProgram) -> ConeProgram:
        """The scaled program."""
        P, A, ratio = program.P, program.A, self.gamma / self.beta
        if not ((self.d == 1).all() and (self.e == 1).all()):
            P, A = program.structure.P.scale(P, self.d, self.d), program.structure.A.scale(A, self.e, self.d)
        if not (ratio == 1).all():
            P = P * (ratio[:1] if (ratio == ratio[0]).all() else ratio)
        return ConeProgram(program.structure, P, self.gamma * self.d * program.q, A, self.beta * self.e * program.b)

    def scale(self, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x', y', s' from x, y, s."""
        return self.beta * x / self.d, self.gamma * y / self.e, self.beta * self.e * s

    def unscale(self, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, s from x', y', s'; their tangents likewise."""
        return self.d * x / self.beta, self.e * y / self.gamma, s / (self.e * self.beta)

    def scale_rows(self, r1: np.ndarray, r2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right-hand sides of the first and second row of J: γ d r₁, β e r₂; the adjoint of ``unscale_adjoint``."""
        return self.gamma * self.d * r1, self.beta * self.e * r2

    def scale_cotangents(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The adjoint of ``unscale``."""
        return self.d * gx / self.beta, self.e * gy / self.gamma, gs / (self.e * self.beta)

    @property
    def balance(self) -> np.ndarray:
        """γ/(β e²), (B, m): y'/s' = balance · y/s."""
        return self.gamma / (self.beta * self.e**2)


@final
class Equilibrated(NamedTuple):
    """A scaled program, its scaling, and the rows that are set aside, (B, m) bool; None if there are none."""

    program: ConeProgram
    scaling: Scaling
    aside: np.ndarray | None

    def rescaled(self, program: ConeProgram, others: Scaling) -> Equilibrated:
        """``program`` with this scaling and further ones after it."""
        scaling = self.scaling.then(others)
        return Equilibrated(scaling.program(program), scaling, self.aside)


def equilibrate_program(
    program: ConeProgram, kept: np.ndarray | None = None, unsolved: np.ndarray | None = None
) -> Equilibrated:
    """Equilibrate each instance by itself.

    Rows ``kept``, (B, m) bool, are set aside only if their b is infinite. In instances ``unsolved``, (B,) bool, rows
    are set aside even if their b is only large.
    """
    structure = program.structure
    if not program.batch:
        return Equilibrated(program, Scaling.identity(program), None)
    d, e, kinds, aside = _fitted_and_set_aside(program, kept, unsolved)
    moved = bool(d.any() or e.any())
    left, right = (np.exp2(e), np.exp2(d)) if moved else (np.ones_like(e), np.ones_like(d))
    log_q, log_b = logarithms(program.q) + d, logarithms(program.b) + e
    if aside is not None:
        log_b = np.where(aside, 2 * ZERO, log_b)
    is_open = any(fit.open_count for _, fit in kinds)
    if is_open:
        shifts = [(members, *fit.shifts(log_q[members], log_b[members])) for members, fit in kinds]
        of_columns, of_rows = np.zeros_like(log_q), np.zeros_like(log_b)
        for members, on_columns, on_rows in shifts:
            of_columns[members], of_rows[members] = on_columns, on_rows
        d, e, log_q, log_b = d + of_columns, e - of_rows, log_q + of_columns, log_b - of_rows
    curved = any(fit.curved for _, fit in kinds)
    beta, gamma = _sizes(log_q, log_b, curved)
    of_d, of_e = (np.exp2(d), np.exp2(e)) if is_open else (right, left)
    scaling = Scaling(of_d, of_e, np.exp2(beta), np.exp2(gamma))
    if scaling.trivial:
        return Equilibrated(program, scaling, aside)
    ratio = np.exp2(gamma - beta)
    ratio = ratio[:1] if (ratio == ratio[0]).all() else ratio
    # The factors of open parts change neither A', where they cancel, nor P', which has no entries there.
    if moved:
        P, A = structure.P.scale(program.P, ratio * right, right), structure.A.scale(program.A, left, right)
    else:
        P, A = (program.P if (ratio == 1).all() else ratio * program.P), program.A
    q, b = scaling.gamma * scaling.d * program.q, scaling.beta * scaling.e * program.b
    return Equilibrated(ConeProgram(structure, P, q, A, b), scaling, aside)


def _fitted_and_set_aside(
    program: ConeProgram, kept: np.ndarray | None, unsolved: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Fits, np.ndarray | None]:
    """log₂ d, log₂ e and the fits, and the rows that are set aside.

    Rows that are set aside take no part in the fit, so that the rest of the program is in the same units as it would be
    without them.
    """
    infinite = np.isinf(program.b)
    aside = infinite if infinite.any() else None
    d, e, kinds = _fitted_without(program, aside)
    log_q, log_b = logarithms(program.q) + d, logarithms(program.b) + e
    found = _set_aside(program, kinds, log_q, log_b, kept, unsolved)
    if found is not None and (aside is None or (found & ~aside).any()):
        d, e, kinds = _fitted_without(program, found)
    return d, e, kinds, found


def _fitted_without(program: ConeProgram, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, Fits]:
    """The fit of the program without these rows, (B, m) bool; these get the factors that the fit's d asks for."""
    if rows is None:
        return fitted(program)
    A = program.structure.A
    entries = rows[:1] if (rows == rows[0]).all() else rows
    without = replace(program, A=np.where(entries[:, A.rows], 0.0, program.A))
    d, e, kinds = fitted(without)
    present = program.A != 0
    logs = np.where(present, logarithms(program.A) + d[:, A.cols], 0.0)
    mean = A.row_sums(logs) / np.maximum(A.row_sums(present.astype(float)), 1.0)
    return d, np.where(entries, -np.rint(mean), e), kinds


def _bounded(h: np.ndarray) -> np.ndarray:
    """h with its small entries raised to a fraction of the largest one; 1 if all are zero."""
    most = largest(h)[:, None]
    return np.maximum(h, np.where(most > 0, _SPREAD * most, 1.0))


def _power_of_two(h: np.ndarray) -> np.ndarray:
    return np.exp2(np.rint(np.log2(np.where(h > 0, h, 1.0))))


def _sizes(log_q: np.ndarray, log_b: np.ndarray, curved: bool) -> tuple[np.ndarray, np.ndarray]:
    """log₂ β and log₂ γ, (B, 1)."""
    q_size = np.max(log_q, axis=1, initial=2 * ZERO, keepdims=True)
    b_size = np.max(log_b, axis=1, initial=2 * ZERO, keepdims=True)
    no_q, no_b = q_size < ZERO, b_size < ZERO
    gamma, beta = (
        np.where(none | (np.abs(h) <= _TOLERATED), 0.0, -np.rint(h)) for none, h in ((no_q, q_size), (no_b, b_size))
    )
    # If one of the two is zero, or nearly, P' keeps its size, since x ≈ q/P for b = 0 and y ≈ P b for q = 0.
    beta = np.where(curved & (no_b | (beta > _APART + gamma)), gamma, beta)
    gamma = np.where(curved & (no_q | (gamma > _APART + beta)), beta, gamma)
    return np.clip(beta, -_LIMIT, _LIMIT), np.clip(gamma, -_LIMIT, _LIMIT)


def _set_aside(
    program: ConeProgram,
    kinds: Fits,
    log_q: np.ndarray,
    log_b: np.ndarray,
    kept: np.ndarray | None,
    unsolved: np.ndarray | None,
) -> np.ndarray | None:
    """Which rows have a b that is infinite, or far above all other data of its part of the program, (B, m) bool.

    They are rows of the nonnegative cone, or of blocks that are void without their bound.
    """
    cones, void = program.structure.cones, program.structure.void
    if not cones.nonneg and void is None:
        return None
    rows, of_rows = np.arange(cones.zero, cones.zero + cones.nonneg), log_b[:, cones.zero : cones.zero + cones.nonneg]
    if void is not None:  # a block counts by its head
        rows, of_rows = np.append(rows, void.heads), np.concatenate([of_rows, void.maxima(log_b)], axis=1)
    b = program.b[:, rows]
    spans = _span(log_b, log_q if program.structure.P.nnz else log_b)
    gaps = np.full(program.batch, DWARFS) if unsolved is None else np.where(unsolved, LARGE, DWARFS)
    if not (spans > gaps).any() and not np.isinf(b).any():  # if all are infinite, the span is not above any gap
        return None
    loose = (b > 0) & (b < np.inf)
    if kept is not None:
        loose &= ~kept[:, rows]
    sizes = np.where(loose, of_rows, 2 * ZERO)
    least = np.where(loose, of_rows, np.inf).min(axis=1, initial=np.inf)
    if program.structure.P.nnz:
        least = np.minimum(least, np.where(log_q > ZERO, log_q, np.inf).min(axis=1, initial=np.inf))
    infinite = np.isinf(b)
    others = log_b.copy()
    others[:, rows] = np.where(loose | infinite, 2 * ZERO, log_b[:, rows])
    if void is not None:
        others[:, void.rows] = np.where(loose[:, -void.heads.size :][:, void.of], 2 * ZERO, log_b[:, void.rows])
    least = np.minimum(least, np.where(others > ZERO, others, np.inf).min(axis=1, initial=np.inf))
    suspects = np.flatnonzero(sizes.max(axis=1, initial=2 * ZERO) - least > gaps)
    if not suspects.size and not infinite.any():
        return None
    aside = np.zeros(program.b.shape, dtype=bool)
    aside[:, rows] = infinite
    for members, fit in kinds:
        some = np.arange(program.batch)[members]
        for i in some[np.isin(some, suspects)]:
            some_rows = np.flatnonzero(loose[i])
            candidates = rows[some_rows]
            found = fit.dwarfing(candidates, of_rows[i, some_rows], others[i], log_q[i], float(gaps[i]))
            aside[i, candidates[found]] = True
    if not aside.any():
        return None
    return aside if void is None else void.spread(aside)


def _span(log_b: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """The difference of the largest and the smallest logarithm of a nonzero entry, (B,)."""
    least = [np.where(h > ZERO, h, np.inf).min(axis=1, initial=np.inf) for h in (log_b, log_q)]
    return log_b.max(axis=1, initial=-np.inf) - np.minimum(*least)
