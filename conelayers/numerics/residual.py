"""The residual map of the homogeneous self-dual embedding in the gauge τ = 1, and its Jacobian.

    F(x, v) = [ P x + AᵀΠ(v) + q ;  −A x + b − Π(v) + v ],    Π the projection onto K*,  v = y − s
    J(D)    = [ P , AᵀD ;  −A , I − D ],                      D ∈ ∂_C Π(v)

F is zero exactly at a solution x, y = Π(v), s = y − v. O'Donoghue (2021); Busseti, Moursi, Boyd (2019).

Backward errors say, row by row, how far a point is from a solution: the relative change of the data that would make the
point exact (Oettli, Prager 1964),

    row i      max(0, |Ax + s − b|ᵢ − φᵢ) / ωᵢ,        ωᵢ = Σ|Aᵢⱼ xⱼ| + |sᵢ| + |bᵢ|
    column j   max(0, |Px + Aᵀy + q|ⱼ − φⱼ) / ωⱼ,      ωⱼ = Σ|Pⱼₖ xₖ| + Σ|Aᵢⱼ yᵢ| + |qⱼ|,            0/0 = 0

In blocks of second-order, semidefinite, exponential and power cones, ω and φ are maxima over the block. At best a
number xⱼ is known to the rounding of the largest one. Where xⱼ itself is next to zero, that is more than all of ω.
Hence the floors of the equilibrated program (Arioli, Demmel, Duff, "Solving sparse linear systems with sparse backward
error", 1989),

    φᵢ = 64 ε Σ|Aᵢⱼ| ‖x‖∞,       φⱼ = 64 ε (Σ|Pⱼₖ| ‖x‖∞ + Σ|Aᵢⱼ| ψᵢ),       ψᵢ = min(‖y‖∞, ‖Ry‖∞ / Rᵢ),   Rᵢ = Σ|Aᵢⱼ|

- R is about 1 there. It counts in programs with curved cones, whose blocks may have units of their own
  (solve/batch.py).
- ‖y‖∞ and ‖x‖∞ count as √ε at least, since the equilibration has given them the size 1. ‖y‖∞ counts as no less than the
  largest Σ|Pⱼₖ xₖ| + |qⱼ|, from which y is found.
- At a solution without active constraints all of y is rounding. If x_k is known to the rounding of the largest x only,
  that of Px + q is 64 ε (Σ|Pⱼₖ| ‖x‖∞ + |qⱼ|). A block of y that is no larger than the largest of these might as well be
  zero, and φⱼ has Σ|Aᵢⱼ yᵢ| of it, too.
- This does not hold in a column where that sum is as large as Σ|Pⱼₖ xₖ| + |qⱼ|, if the latter is more than the rounding
  of the largest one: there y balances a cost that is small, and is no rounding.
- Slacks of a second-order or semidefinite block might as well be zero if they are no larger than 64 ε min(1, ‖y − s‖∞)
  there, and so might an x that is no larger than that: φᵢ has |sᵢ| and Σ|Aᵢⱼ xⱼ| of these.
- A component of the program has nothing to do with the others. In it, ‖x‖∞ and ‖y‖∞ are no larger than its own, or its
  largest |q|.

None of these numbers has a unit, and no row hides behind another.
"""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.cones import ProductElement, product_cone
from conelayers.program.cone_program import ConeProgram
from conelayers.program.patterns import largest

__all__ = [
    "ACCURACY",
    "POLISHED",
    "ROUGH",
    "ROUNDING",
    "BackwardErrors",
    "Point",
    "apply_jacobian",
    "apply_jacobian_transpose",
    "evaluate",
    "relative",
    "rounding_of",
]

_EPSILON = float(np.finfo(float).eps)
ROUNDING = 64 * _EPSILON  # of what a sum is made of: no more digits are asked for
ACCURACY = 1e-9  # backward errors up to which a point counts as a solution, whoever found it
ROUGH = 1e-4  # rough errors up to which it is near one
POLISHED = 1e-13  # and the errors that Newton's steps aim at
_BALANCING = 0.25  # of a column's |P||x| + |q|: multipliers that sum to as much balance it
_LEAST = _EPSILON**0.5  # size that ‖x‖ and ‖y‖ of an equilibrated program have at least


@final
class Point(NamedTuple):
    """F at (x, v), and what it is made of: y = Π(v), s = y − v (in K, complementary to y), D, P x and Aᵀy, batched
    (B, …).
    """

    x: np.ndarray
    v: np.ndarray
    y: np.ndarray
    s: np.ndarray
    element: ProductElement
    F1: np.ndarray
    F2: np.ndarray
    Px: np.ndarray
    ATy: np.ndarray

    def take(self, index: np.ndarray | list[int]) -> Point:
        """The points of a part of the batch."""
        x, v, y, s = (h[index] for h in (self.x, self.v, self.y, self.s))
        F1, F2, Px, ATy = (h[index] for h in (self.F1, self.F2, self.Px, self.ATy))
        return Point(x, v, y, s, self.element.take(index), F1, F2, Px, ATy)

    def errors(self, program: ConeProgram, enough: float = POLISHED) -> BackwardErrors:
        """The backward errors of an equilibrated program's rows and columns; upper bounds of them where these are
        within ``enough``.
        """
        bounds = _error_bounds(program, self)
        open_ = np.flatnonzero(~((bounds.aim <= enough) & (bounds.gap <= ACCURACY)))
        if 2 * open_.size > program.batch:
            return _backward_errors(program, self)
        if open_.size:
            found = _backward_errors(program.take(open_), self.take(open_))
            for all_, some in zip(bounds, found, strict=True):
                all_[open_] = some
        return bounds

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def rough_errors(self, program: ConeProgram) -> np.ndarray:
        """The largest |F| / (ω + φ/64ε), (B,).

        It measures each row by the largest x and y, so that a loose solve can make it small.
        """
        terms = _terms(program, self)
        sizes = _floors(program, self, terms, loose=True)
        rough = np.zeros(program.batch)
        for F, term, size in ((self.F1, terms.columns, sizes.columns), (self.F2, terms.rows, sizes.rows)):
            errors = relative(np.abs(F), 0.0, term + size / ROUNDING)
            rough = np.maximum(rough, errors.max(axis=1, initial=0.0))
        return rough

    def error(self, program: ConeProgram, errors: BackwardErrors | None = None) -> np.ndarray:
        """How far the point is from a solution, (B,): the largest backward error, which is 1 at most, where that or
        ``distance`` is small.

        Elsewhere 1 + ``distance``: as long as some row is wrong altogether, backward errors do not tell better points
        from worse ones. ``errors`` are those of the point, if they are known.
        """
        worst = (errors or self.errors(program)).worst
        if (worst <= ACCURACY).all():
            return worst
        distance = self.distance(program)
        return np.where((worst > ACCURACY) & ~(distance <= ACCURACY), 1 + distance, worst)

    def distance(self, program: ConeProgram) -> np.ndarray:
        """max(‖F₁‖ / (1 + ‖q‖ + ‖Px‖), ‖F₂‖ / (1 + ‖b‖ + ‖s‖)) in the maximum norm, (B,).

        For equilibrated programs only.
        """
        scale1 = 1 + np.maximum(largest(program.q), largest(self.Px))
        scale2 = 1 + np.maximum(largest(program.b), largest(self.s))
        return np.maximum(largest(self.F1) / scale1, largest(self.F2) / scale2)


@final
class BackwardErrors(NamedTuple):
    """The backward errors of the columns (B, n), of the rows (B, m), and of the duality gap, (B,).

    - gap: max(0, |xᵀPx + qᵀx + bᵀy| − φ) / Σ(absolute values of its terms), φ = Σ|xⱼ| φⱼ + Σ|yᵢ| φᵢ. Since y ⊥ s, the
      gap is xᵀF₁ + yᵀF₂.
    - aim: the largest |F| / ω of the rows and columns with ω > φ, (B,). Newton's last steps make it small, though the
      floors may excuse it.
    """

    columns: np.ndarray
    rows: np.ndarray
    gap: np.ndarray
    aim: np.ndarray

    @property
    def worst(self) -> np.ndarray:
        """The largest of the rows and columns, (B,)."""
        return np.maximum(self.columns.max(axis=1, initial=0.0), self.rows.max(axis=1, initial=0.0))


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # of points that are none
def _error_bounds(program: ConeProgram, point: Point) -> BackwardErrors:
    """Bounds of the errors by parts of ω that cost next to nothing: |q| + |Px| + |Aᵀy| and |b| + |s|."""
    abs_q, abs_b = np.abs(program.q), np.abs(program.b)
    columns = relative(np.abs(point.F1), 0.0, abs_q + np.abs(point.Px) + np.abs(point.ATy))
    rows = relative(np.abs(point.F2), 0.0, program.structure.cones.block_maxima(abs_b + np.abs(point.s)))
    worst = np.maximum(columns.max(axis=1, initial=0.0), rows.max(axis=1, initial=0.0))
    gap = relative(_total(point), 0.0, _dot(abs_q, np.abs(point.x)) + _dot(abs_b, np.abs(point.y)))
    return BackwardErrors(columns, rows, gap, worst)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _backward_errors(program: ConeProgram, point: Point) -> BackwardErrors:
    terms = _terms(program, point)
    floors = _floors(program, point, terms)
    abs_x, abs_y, F1, F2 = np.abs(point.x), np.abs(point.y), np.abs(point.F1), np.abs(point.F2)
    gap_floor = _dot(abs_x, floors.columns) + _dot(abs_y, floors.rows)
    gap_terms = _dot(abs_x, terms.own) + _dot(np.abs(program.b), abs_y)
    aim = np.zeros(program.batch)
    for F, term, floor in ((F1, terms.columns, floors.columns), (F2, terms.rows, floors.rows)):
        ratio = np.divide(F, term, out=np.zeros_like(term), where=term > floor)
        aim = np.maximum(aim, ratio.max(axis=1, initial=0.0))
    return BackwardErrors(
        relative(F1, floors.columns, terms.columns),
        relative(F2, floors.rows, terms.rows),
        relative(_total(point), gap_floor, gap_terms),
        aim,
    )


def _total(point: Point) -> np.ndarray:
    """|xᵀPx + qᵀx + bᵀy|, (B,)."""
    return np.abs(_dot(point.x, point.F1) + _dot(point.y, point.F2) + _dot(point.y, point.s))


def rounding_of(program: ConeProgram, point: Point) -> tuple[np.ndarray, np.ndarray]:
    """What rounding makes of F₁ (B, n) and F₂ (B, m) at a point of an equilibrated program, entry by entry."""
    terms = _terms(program, point)
    floors = _floors(program, point, terms)
    share = _EPSILON / ROUNDING
    return _EPSILON * terms.columns + share * floors.columns, _EPSILON * terms.rows + share * floors.rows


@final
class _Floors(NamedTuple):
    """φ of the columns and rows."""

    columns: np.ndarray
    rows: np.ndarray


@final
class _Terms(NamedTuple):
    """ω of the columns and rows; ``own`` is |P||x| + |q|, the part in which y has none."""

    columns: np.ndarray
    rows: np.ndarray
    own: np.ndarray


def _terms(program: ConeProgram, point: Point) -> _Terms:
    sizes, abs_x = program.magnitudes, np.abs(point.x)
    own = np.abs(program.q)
    if program.structure.P.nnz:
        own = own + sizes.P.matvec(abs_x)
    rows = program.structure.cones.block_maxima(sizes.A.matvec(abs_x) + np.abs(point.s) + np.abs(program.b))
    return _Terms(own + sizes.A.rmatvec(np.abs(point.y)), rows, own)


def _floors(program: ConeProgram, point: Point, terms: _Terms, *, loose: bool = False) -> _Floors:
    """φ; ``loose``: 64 ε of the sizes by which a loose solve knows each row and column."""
    sizes, cones, components = program.magnitudes, program.structure.cones, program.structure.components
    least = 0.0 if loose else _LEAST
    # A loose solve finds x from b: where the solution is x = 0, its rows are known to a part of that, and not of x.
    x_least = np.minimum(largest(program.b), 1.0) if loose else _LEAST
    x_size = x_rows = ROUNDING * np.maximum(largest(point.x), x_least)[:, None]
    if components is not None:
        # What a row has nothing to do with, not even through others, does not excuse it.
        data = np.maximum(components.column_maxima(np.abs(program.q)), least)
        of_x = ROUNDING * np.maximum(components.column_maxima(np.abs(point.x)), data)
        x_size, x_rows = (np.minimum(x_size, of_x[:, h]) for h in (components.columns, components.rows))
    Px, abs_y, rows = sizes.columns_of_P * x_size, np.abs(point.y), cones.block_maxima(sizes.rows_of_A)
    blurred = Px + ROUNDING * np.abs(program.q)  # of Px + q, if each x is known as well as the largest one only
    own = blurred if loose else ROUNDING * terms.own
    y_size = np.maximum(ROUNDING * largest(point.y), own.max(axis=1, initial=ROUNDING * least))[:, None]
    blur = blurred.max(axis=1, initial=0.0)[:, None]
    negligible = ROUNDING * terms.own.max(axis=1, initial=0.0)[:, None]
    on_columns = y_size
    if components is not None:
        of_y = np.maximum(ROUNDING * np.maximum(components.row_maxima(abs_y), data), components.column_maxima(own))
        y_size, on_columns = (np.minimum(y_size, of_y[:, h]) for h in (components.rows, components.columns))
        blur = components.column_maxima(blurred)[:, components.rows]
    if cones.curved:
        # Units of a block's own (solve/batch.py) make its rows large and its y small, which is known no worse for that.
        in_units = ROUNDING * np.maximum(largest(rows * abs_y), least)[:, None]
        y_size = np.minimum(y_size, np.divide(in_units, rows, out=np.full(abs_y.shape, np.inf), where=rows > 0))
        columns = Px + sizes.A.rmatvec(y_size)
    else:
        columns = Px + sizes.columns_of_A * on_columns
    noise = np.where(cones.block_maxima(abs_y) <= blur, abs_y, 0.0)
    if noise.any():
        in_columns = sizes.A.rmatvec(noise)
        balances = (terms.own > negligible) & (in_columns >= _BALANCING * terms.own)
        columns = columns + np.where(balances, 0.0, in_columns)
    on_rows = rows * x_rows
    if cones.curved:
        on_rows = on_rows + _noise_of_slacks(program, point)
    return _Floors(columns, on_rows)


def _noise_of_slacks(program: ConeProgram, point: Point) -> np.ndarray:
    """|s| and |A||x| of what might as well be zero, (B, m).

    These are slacks of second-order and semidefinite blocks that are no more than the rounding of v = y − s, and an x
    that is no more than what such slacks make of it. Exponential and power cones compute s directly. v counts as 1 at
    most, the size of b', so that a y that grows for ever excuses nothing.
    """
    cones = program.structure.cones
    directly = np.arange(cones.dimension) >= cones.dimension - 3 * (cones.exp + cones.exp_dual + len(cones.power))
    sizes = np.minimum(cones.block_maxima(np.abs(point.v)), 1.0)
    blur = ROUNDING * np.where(cones.orthant_rows | directly, 0.0, sizes)
    slacks = np.where(cones.block_maxima(np.abs(point.s)) <= blur, np.abs(point.s), 0.0)
    nothing = largest(point.x) <= largest(blur)
    if nothing.any():
        slacks = slacks + program.magnitudes.A.matvec(np.where(nothing[:, None], np.abs(point.x), 0.0))
    return cones.block_maxima(slacks)


def relative(value: np.ndarray, floor: np.ndarray | float, size: np.ndarray) -> np.ndarray:
    """max(0, value − floor)/size, 0/0 = 0; NaN stays."""
    excess = value - floor
    return np.divide(excess, size, out=np.zeros_like(excess), where=~(excess <= 0))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("bi,bi->b", a, b)


def evaluate(program: ConeProgram, x: np.ndarray, v: np.ndarray) -> Point:
    """F(x, v) and the Clarke element at v, for x (B, n) and v (B, m)."""
    y, s, element = product_cone(program.structure.cones).decompose(v)
    Px, ATy = program.Px(x), program.ATy(y)
    F2 = -program.Ax(x) + program.b - s
    return Point(x, v, y, s, element, Px + ATy + program.q, F2, Px, ATy)


def apply_jacobian(
    program: ConeProgram, element: ProductElement, dx: np.ndarray, dv: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """J·[dx; dv]."""
    dy = element.apply(dv)
    return program.Px(dx) + program.ATy(dy), dv - dy - program.Ax(dx)


def apply_jacobian_transpose(
    program: ConeProgram, element: ProductElement, lam: np.ndarray, mu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Jᵀ·[λ; μ]."""
    return program.Px(lam) - program.ATy(mu), mu + element.apply(program.Ax(lam) - mu)
