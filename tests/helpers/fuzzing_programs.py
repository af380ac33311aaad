"""Random cone programs for fuzzing, feasible and infeasible by construction, and what must hold of every one of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.sparse as sp
from fuzzing import Finding, blocks, check_warnings, heard, outside, require, within
from hypothesis import strategies as st

from conelayers import (
    Certificate,
    Cones,
    InaccurateSolutionWarning,
    SolveError,
    Status,
    Verdict,
    solve_and_differentiate,
)
from conelayers.layer.conic import ConeSolution
from conelayers.numerics.cones import product_cone
from conelayers.program.solution import Residuals
from conelayers.solve.backends import SOLVERS, Instance, Settings

__all__ = ["ProgramSpec", "check_program", "check_same", "programs", "takers"]

KINDS = ("regular", "kinked", "nearly kinked", "primal infeasible", "dual infeasible", "any")
FLAWS = ("zero row", "duplicate row", "zero column", "opposite row")
SOLVED = 1e-9  # residuals up to which the package says SOLVED, and the larger ones up to which INACCURATE
INACCURATE = 1e-4
GIVEN_UP = (Status.FAILED, Status.ITERATION_LIMIT)


class Data(NamedTuple):
    """A program, and a solution, or a certificate z of infeasibility, that it was built around."""

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    s: np.ndarray | None = None
    certificate: np.ndarray | None = None

    def solve(self, cones: Cones, solver: str | None = None) -> ConeSolution:
        P = self.P if self.P.any() else None
        return solve_and_differentiate(P, self.q, self.A, self.b, cones, solver=solver)

    def value(self, x: np.ndarray) -> float:
        return float(0.5 * x @ self.P @ x + self.q @ x)


@dataclass(frozen=True)
class ProgramSpec:
    """A program by the choices that make it, so that its repr is the example.

    rank: of P, as a part of n. spread: blocks, columns and the objective are scaled by powers of ten up to this one, up or down.
    """

    kind: str
    cones: Cones
    n: int
    rank: float
    integers: bool
    density: float
    flaws: tuple[str, ...]
    spread: int
    seed: int
    normwise: ClassVar[bool] = False  # how residuals are judged

    def build(self) -> Data:
        rng = np.random.default_rng(self.seed)
        cones, n, m = self.cones, self.n, self.cones.dimension

        def draw(*shape: int) -> np.ndarray:
            return rng.integers(-3, 4, shape).astype(float) if self.integers else rng.standard_normal(shape)

        A = draw(m, n) * (rng.random((m, n)) < self.density)
        G = draw(n, int(np.ceil(self.rank * n))) / np.sqrt(n)
        flat = cones.zero + cones.nonneg
        if "zero row" in self.flaws and flat:
            A[rng.integers(flat)] = 0.0
        if "zero column" in self.flaws:
            j = rng.integers(n)
            A[:, j], G[j] = 0.0, 0.0
        inequalities = slice(cones.zero, flat) if cones.nonneg > 1 else slice(0, cones.zero)
        if "duplicate row" in self.flaws and inequalities.stop - inequalities.start > 1:
            A[inequalities.start] = A[inequalities.start + 1]
        if "opposite row" in self.flaws and cones.nonneg > 1:
            A[flat - 1] = -A[flat - 2]
        x, (y, s) = draw(n), self._parts(rng, draw(m))
        P = _clean(G @ G.T)
        made = getattr(self, "_" + self.kind.replace(" ", "_"))(P, A, x, y, s, rng)
        return self._scaled(made, rng)

    def _parts(self, rng: np.random.Generator, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """y ∈ K* and s ∈ K, complementary; in a kinked program some blocks of both are on the boundary, or zero, or nearly so."""
        y, s, _ = product_cone(self.cones).decompose(v)
        if not self.kind.endswith("kinked"):
            return y, s
        for kind, _, rows in blocks(self.cones):
            choice, near = rng.integers(4), 0.0 if self.kind == "kinked" else 10.0 ** rng.uniform(-12, -3)
            if kind != "zero" and choice in (0, 1):
                y[rows] *= near
            if kind != "zero" and choice in (0, 2):
                s[rows] *= near
        return y, s

    def _regular(self, P, A, x, y, s, rng) -> Data:
        return Data(P, _clean(-P @ x - A.T @ y), A, _clean(A @ x + s), x, y, s)

    _kinked = _nearly_kinked = _regular

    def _any(self, P, A, x, y, s, rng) -> Data:
        return Data(P, rng.standard_normal(x.size), A, rng.standard_normal(y.size))

    def _primal_infeasible(self, P, A, x, y, s, rng) -> Data:
        """Aᵀz = 0, bᵀz = −1 for a z ∈ K*; the dual is feasible, so that nothing else may be said of it."""
        z = self._nonzero(rng, dual=True)
        if not z.any():
            return self._regular(P, A, x, y, s, rng)
        for _ in range(
            2
        ):  # what the first leaves of Aᵀz is rounding of A's entries, not of the small ones that it makes
            A = A - np.outer(z, z @ A) / (z @ z)
        A = _clean(A)
        b = A @ x + s
        return Data(P, -P @ x - A.T @ y, A, b - z * (1 + b @ z) / (z @ z), certificate=z)

    def _dual_infeasible(self, P, A, x, y, s, rng) -> Data:
        """P d = 0, A d + k = 0, qᵀd = −1 for a k ∈ K; the primal is feasible."""
        d, k = rng.standard_normal(x.size), self._nonzero(rng, dual=False)
        along = np.eye(x.size) - np.outer(d, d) / (d @ d)
        A = _clean(A @ along - np.outer(k, d) / (d @ d))
        q = rng.standard_normal(x.size)
        return Data(_clean(along @ P @ along), q - d * (1 + q @ d) / (d @ d), A, A @ x + s, certificate=d)

    def _nonzero(self, rng: np.random.Generator, *, dual: bool) -> np.ndarray:
        """A member of K* or K; a zero cone has only one."""
        for _ in range(20):
            y, s, _ = product_cone(self.cones).decompose(rng.standard_normal(self.cones.dimension))
            if np.linalg.norm(y if dual else s) > 0.3:
                break
        return y if dual else s

    def _scaled(self, data: Data, rng: np.random.Generator) -> Data:
        if not self.spread:
            return data
        rows, columns = np.ones(data.b.size), 10.0 ** rng.uniform(-self.spread, self.spread, data.q.size)
        for _, _, block in blocks(self.cones):
            rows[block] = 10.0 ** rng.uniform(-self.spread, self.spread)
        objective = 10.0 ** rng.uniform(-self.spread, self.spread)
        P = objective * columns[:, None] * data.P * columns
        q, A, b = objective * columns * data.q, rows[:, None] * data.A * columns, rows * data.b
        if data.certificate is not None:
            z = data.certificate
            return Data(P, q, A, b, certificate=z / rows if self.kind == "primal infeasible" else z / columns)
        if data.x is None or data.y is None or data.s is None:
            return Data(P, q, A, b)
        return Data(P, q, A, b, data.x / columns, objective * data.y / rows, rows * data.s)


def programs(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[ProgramSpec]:
    """Strategies draw the structure, which shrinks; the numbers come from a seed."""
    small = st.integers(0, 3)
    cones = st.builds(
        Cones,
        zero=small,
        nonneg=st.integers(0, 6),
        soc=st.lists(st.integers(1, 5), max_size=2).map(tuple),
        psd=st.lists(st.integers(1, 4), max_size=2).map(tuple),
        hermitian=st.lists(st.integers(1, 3), max_size=1).map(tuple),
        exp=st.sampled_from((0, 0, 0, 1, 2)),
        exp_dual=st.sampled_from((0, 0, 0, 0, 1)),
        power=st.lists(st.sampled_from((0.5, 0.3, 0.9, 0.05, -0.5, -0.2)), max_size=2).map(tuple)
        | st.just(())
        | st.just(()),
    )
    polyhedral = st.builds(Cones, zero=small, nonneg=st.integers(0, 12))
    return st.builds(
        ProgramSpec,
        kind=st.sampled_from(kinds),
        cones=polyhedral | cones,
        n=st.integers(1, 12),
        rank=st.sampled_from((1.0, 0.0, 1.0, 0.5)),
        integers=st.booleans(),
        density=st.sampled_from((1.0, 0.4)),
        flaws=st.just(()) | st.lists(st.sampled_from(FLAWS), max_size=2, unique=True).map(tuple),
        spread=st.sampled_from((0, 0, 1, 3)),
        seed=st.integers(0, 2**31 - 1),
    )


def check_program(spec: ProgramSpec, counts: Counter | None = None) -> None:
    """Every invariant of one program; a Finding for the first that does not hold."""
    counts = Counter() if counts is None else counts
    with within():
        data = spec.build()
        if 0 < np.abs(data.q).max(initial=0) < 1e-9 and data.certificate is None:
            counts["costs of the size of rounding"] += (
                1  # what was cleaned of it is as large: who knows what is planted there
            )
            return
        _check_plant(spec, data)
        try:
            with heard() as warned:
                solution = data.solve(spec.cones)
        except SolveError as error:
            (status,) = error.statuses
            counts[f"{spec.kind}: {status.value}"] += 1
            if status in GIVEN_UP and takers(data, spec.cones) == ["SCS"]:
                # First-order only: dual exponential and power cones. It may end at its iteration limit on programs that others solve.
                counts["SCS alone gave up"] += 1
                return
            _check_failure(spec, data, status, str(error))
            _check_solvers(spec, data, status, None, counts)
            return
        status = solution.status
        counts[f"{spec.kind}: {status.value}"] += 1
        require(status.usable, "status", f"returned, but {status}")
        require(
            any(isinstance(w, InaccurateSolutionWarning) for w in warned) == (status is Status.INACCURATE),
            "warning",
            f"{status}: {warned}",
        )
        if takers(data, spec.cones) == ["SCS"] and _is_ray(data, solution):
            counts["SCS alone took a ray for a point"] += 1
            return
        require(data.certificate is None, "status", f"a program without a solution was {status.value}")
        _check_point(spec, data, solution)
        _check_solvers(spec, data, status, solution, counts)
        _check_derivative(spec, data, solution, counts)


def _is_ray(data: Data, solution: ConeSolution) -> bool:
    """Whether an inaccurate point is so large that its direction is what a first-order method has found of a program without a solution.

    Errors are relative: those of a ray become small as it grows. It is told to be inaccurate, which is true of it.
    """
    largest = max(float(np.abs(h).max(initial=0)) for h in (solution.x, solution.y, solution.s))
    return data.certificate is not None and solution.status is Status.INACCURATE and largest >= 1e5


def _clean(h: np.ndarray) -> np.ndarray:
    """Without entries that are rounding: scaled up they would be data."""
    return np.where(np.abs(h) < 1e-12, 0.0, h)


def takers(data: Data, cones: Cones) -> list[str]:
    return [name for name, solver in SOLVERS.items() if solver.takes(cones, bool(data.P.any()))]


def _check_plant(spec: ProgramSpec, data: Data) -> None:
    """The construction is what it says; the package's projections, which it uses, are tested by it."""
    if data.x is not None and data.y is not None and data.s is not None:
        size = 1 + np.abs(data.y).max(initial=0) + np.abs(data.s).max(initial=0)
        require(outside(spec.cones, data.s, dual=False) <= 1e-12 * size, "projection", "s is not in K")
        require(outside(spec.cones, data.y, dual=True) <= 1e-12 * size, "projection", "y is not in K*")
        require(abs(data.y @ data.s) <= 1e-12 * size**2, "projection", "y and s are not complementary")
    elif data.certificate is not None:
        z, dual = data.certificate, spec.kind == "primal infeasible"
        member, value = (z, data.b @ z) if dual else (-data.A @ z, data.q @ z)
        require(value < 0, "plant", "the certificate has no sign")
        require(outside(spec.cones, member, dual=dual) <= 1e-10 * (1 + np.abs(member).max(initial=0)), "plant", "cone")


def _check_failure(spec: ProgramSpec, data: Data, status: Status, message: str) -> None:
    infeasible = {"primal infeasible": Status.PRIMAL_INFEASIBLE, "dual infeasible": Status.DUAL_INFEASIBLE}
    if data.certificate is not None:
        require(status is infeasible[spec.kind], "status", f"{spec.kind}, but {status.value}: {message}")
    elif data.x is not None:
        raise Finding("status", f"a program with a solution, but {status.value}: {message}")
    else:
        _check_claim(spec, data, status, message)


def _check_claim(spec: ProgramSpec, data: Data, status: Status, message: str) -> None:
    """Of a program built around nothing: there is a certificate of what was said, or one to three digits, which is how far SCS finds it.

    That is for SCS to find as the solution of another program: minimize ‖Aᵀy‖² with bᵀy = −1, y ∈ K*, or ‖Px‖² with qᵀx = −1, −Ax ∈ K.
    """
    require(status in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE), "status", f"{status.value}: {message}")
    cones, m, n = spec.cones, data.b.size, data.q.size
    data = _equilibrated(cones, data)
    if status is Status.PRIMAL_INFEASIBLE:
        swapped = replace(cones, zero=1, exp=cones.exp_dual, exp_dual=cones.exp, power=tuple(-a for a in cones.power))
        order = np.arange(cones.zero, m)
        if cones.exp_dual:  # of two kinds of rows each comes where the other was
            first, last = m - 3 * (cones.exp + cones.exp_dual + len(cones.power)), m - 3 * len(cones.power)
            middle = first + 3 * cones.exp
            order = np.concatenate(
                [np.arange(cones.zero, first), np.arange(middle, last), np.arange(first, middle), np.arange(last, m)]
            )
        square, gain, members = data.A @ data.A.T, data.b, -np.eye(m)[order]
    else:
        swapped = replace(cones, zero=1 + cones.zero)
        square, gain, members = data.P @ data.P, data.q, data.A
    size = max(1.0, float(np.abs(square).max(initial=0)))
    rows, b = np.vstack([gain, members]), np.zeros(1 + len(members))
    b[0] = -1.0
    instance = Instance(
        sp.csc_array(square / size), np.zeros(n if gain is data.q else m), sp.csc_array(rows), b, swapped
    )
    raw = SOLVERS["SCS"].solve(instance, Settings(tolerance=1e-7, max_iters=20_000))
    error = float(raw.x @ square @ raw.x) / size if np.isfinite(raw.x).all() else np.inf
    require(
        raw.status is not Status.SOLVED or error <= 1e-6,
        "certificate",
        f"{status.value}, but the least error is {error:.1e}",
    )
    require(raw.status is not Status.PRIMAL_INFEASIBLE, "certificate", f"{status.value}, but there is no certificate")


def _equilibrated(cones: Cones, data: Data) -> Data:
    """Blocks of rows, columns and both vectors of size 1, which changes nothing of feasibility."""
    rows, columns = _own_units(cones, data)
    P, A = columns[:, None] * data.P * columns, rows[:, None] * data.A * columns
    q, b = columns * data.q, rows * data.b
    return Data(P, q * _inverse(np.abs(q).max()), A, b * _inverse(np.abs(b).max(initial=0)))


def _own_units(cones: Cones, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the rows, one for each block, and of the columns, that make their largest entries 1."""
    rows = np.ones(data.b.size)
    for _, _, block in blocks(cones):
        rows[block] = _inverse(np.abs(data.A[block]).max())
    A = rows[:, None] * data.A
    return rows, _inverse(np.maximum(np.abs(A).max(axis=0, initial=0), np.sqrt(np.abs(np.diag(data.P)))))


_UNITS = 4  # by which entries may differ between units in which all are about 1: two equilibrations of one program do


def _inverse(size: np.ndarray) -> np.ndarray:
    return 1 / np.where(size > 0, size, 1.0)


def residuals(
    cones: Cones, data: Data, x: np.ndarray, y: np.ndarray, s: np.ndarray, *, normwise: bool = False
) -> dict[str, tuple[float, float]]:
    """The four errors relative to the largest numbers of the program, by plain NumPy and the membership tests of this file, and how much of
    each may be rounding.
    """
    P, q, A, b = data[:4]
    eps, x_, y_ = np.finfo(float).eps, np.abs(x), np.abs(y)

    def largest(*parts: np.ndarray | float) -> float:
        return max(float(np.abs(h).max(initial=0)) for h in map(np.asarray, parts))

    terms = float(x_ @ np.abs(P) @ x_ + np.abs(q) @ x_ + np.abs(b) @ y_)
    in_gap = 100 * eps * (np.abs(P).max(initial=0) * (x @ x) + np.abs(q) @ x_ + np.abs(b) @ y_)
    sums = np.abs(A) @ x_ + np.abs(s) + np.abs(b), np.abs(P) @ x_ + np.abs(A.T) @ y_ + np.abs(q)
    primal_rounding, dual_rounding = 10 * eps * largest(sums[0]), 10 * eps * largest(sums[1])
    if normwise:
        on_rows = _UNITS * 64 * eps * np.abs(A).sum(axis=1) * largest(x)
        on_columns = _UNITS * 64 * eps * (np.abs(P).sum(axis=1) * largest(x) + np.abs(A).sum(axis=0) * largest(y))
        primal_rounding, dual_rounding = primal_rounding + largest(on_rows), dual_rounding + largest(on_columns)
        in_gap += float(x_ @ on_columns + y_ @ on_rows)
    # Relative to the terms: where those cancel, in bᵀy, say, rounding alone may be more than 1e−9 of what is left.
    primal, dual, gap = 1 + largest(sums[0]), 1 + largest(sums[1]), 1 + terms
    cone = max(outside(cones, s, dual=False) / (1 + largest(s)), outside(cones, y, dual=True) / (1 + largest(y)))
    return {
        "primal": (largest(A @ x + s - b) / primal, primal_rounding / primal),
        "dual": (largest(P @ x + A.T @ y + q) / dual, dual_rounding / dual),
        "gap": (max(0.0, float(abs(x @ P @ x + q @ x + b @ y) - in_gap)) / gap, in_gap / gap),
        "cone": (
            cone,
            10 * eps * largest(y, s) / (1 + min(largest(s), largest(y))),
        ),  # one is what v = y − s leaves of the other
    }


def check_residuals(
    cones: Cones,
    data: Data,
    point: tuple[np.ndarray, np.ndarray, np.ndarray],
    said: Residuals,
    status: Status,
    normwise: bool = False,
) -> None:
    """Computed anew, they are what was said, and what the status promises.

    normwise: x and y are not asked for more digits than the largest number of each has, as docs/method.md says of
    floors. Beside weights of 1e8 that is more than all that multipliers of 1 have. It is a statement about units in
    which the program's entries are about 1.
    """
    require(all(np.isfinite(h).all() for h in point), "no NaN", "in a point that was returned")
    limit = SOLVED if status is Status.SOLVED else INACCURATE
    untold = SOLVED if normwise else 1e-12
    if normwise:
        rows, columns = _own_units(cones, data)
        P, A = columns[:, None] * data.P * columns, rows[:, None] * data.A * columns
        data = Data(P, columns * data.q, A, rows * data.b)
        point = (point[0] / columns, point[1] / rows, rows * point[2])
    for name, (ours, rounding) in residuals(cones, data, *point, normwise=normwise).items():
        theirs = float(getattr(said, name))
        require(ours <= 1.01 * limit + rounding, "residual", f"{name} {ours:.2e} of a point that is {status.value}")
        # What is said is relative to each row itself: more than this, but for rounding, which that leaves out.
        require(
            ours <= 4 * theirs + untold + 64 * rounding, "residual", f"{name} is {ours:.2e}, said to be {theirs:.2e}"
        )
    _check_rows(data, *point, said)


def _check_rows(data: Data, x: np.ndarray, y: np.ndarray, s: np.ndarray, said: Residuals) -> None:
    """No error is said to be larger than the worst row's, relative to the sum of its terms."""
    P, q, A, b = data[:4]
    rows = np.abs(A @ x + s - b), np.abs(A) @ np.abs(x) + np.abs(s) + np.abs(b)
    columns = np.abs(P @ x + A.T @ y + q), np.abs(P) @ np.abs(x) + np.abs(A.T) @ np.abs(y) + np.abs(q)
    for name, (error, size) in (("primal", rows), ("dual", columns)):
        worst = float(np.max(np.divide(error, size, out=np.zeros_like(error), where=size > 0), initial=0.0))
        theirs = float(getattr(said, name))
        require(theirs <= 1.01 * worst + 1e-12, "residual", f"{name} is {worst:.2e} at worst, said to be {theirs:.2e}")


def _check_point(spec: ProgramSpec, data: Data, solution: ConeSolution) -> None:
    check_residuals(spec.cones, data, _points(solution), solution.residuals, solution.status, spec.normwise)
    if data.x is not None and data.y is not None:
        _check_value(data, solution, data.x, data.y, SOLVED if solution.status is Status.SOLVED else INACCURATE)


def _check_value(data: Data, solution: ConeSolution, x: np.ndarray, y: np.ndarray, limit: float) -> None:
    """The optimal value: what a feasible point may gain or lose within the residuals, by the multipliers on both sides."""
    ours, planted = data.value(solution.x), data.value(x)
    scale = 1 + max(float(np.abs(h).max(initial=0)) for h in (data.b, data.A @ x, data.A @ solution.x))
    dual = 1 + max(float(np.abs(h).max(initial=0)) for h in (data.q, data.P @ x, data.P @ solution.x))
    slack = scale * (np.abs(y).sum() + np.abs(solution.y).sum()) + dual * (np.abs(x).sum() + np.abs(solution.x).sum())
    tolerance = 10 * limit * (1 + abs(ours) + abs(planted) + slack)
    require(abs(ours - planted) <= tolerance, "value", f"{ours!r}, planted {planted!r}, tolerance {tolerance:.1e}")


def check_same(
    data: Data,
    alone: ConeSolution,
    larger: ConeSolution,
    columns: np.ndarray,
    rows: np.ndarray,
    seed: int,
    counts: Counter,
) -> None:
    """A Finding where a program and a larger one that contains it, at ``columns`` and ``rows``, and adds nothing to it
    differ.

    Values are the same; where every element is invertible so are the points, and where there is one element only,
    gradients too.
    """
    ours, theirs = data.value(alone.x), data.value(larger.x[columns])
    # Where solutions are not unique the larger program's may be far off, and its value is known to the rounding of its own terms.
    far = abs(larger.x[columns])
    rounding = 64 * np.finfo(float).eps * float(far @ abs(data.P) @ far + abs(data.q) @ far)
    # A multiplier that is nearly zero may count as zero within the residual that was said: with r = Px + Aᵀy + q a feasible x' has a
    # value of rᵀx' less at most, which is 2e−6 where r is 1e−12 and x' is 1e6.
    costs = abs(data.q) + abs(data.P) @ abs(alone.x) + abs(data.A).T @ abs(alone.y)
    gained = float(alone.residuals.dual) * float(costs @ far)
    tolerance = 1e-7 * (1 + abs(ours) + abs(data.q) @ abs(alone.x) + abs(data.b) @ abs(alone.y)) + rounding + gained
    both_solved = alone.status is Status.SOLVED and larger.status is Status.SOLVED
    if not both_solved:
        counts["inaccurate"] += 1
        return
    require(abs(ours - theirs) <= tolerance, "value", f"{ours!r} alone, {theirs!r} in the larger program")
    (certificate,), (other,) = alone.certify(), larger.certify()
    if not (certificate.verdict.justified and other.verdict.justified):
        counts[f"{certificate.verdict.value} alone, {other.verdict.value} in the larger program"] += 1
        return
    exact = max(1e-7, 1e-10 * certificate.condition)
    pairs = {"x": (alone.x, larger.x[columns]), "y": (alone.y, larger.y[rows])}
    largest = max(float(np.abs(h).max(initial=0)) for h in (alone.x, alone.y, alone.s))
    for name, (h, k) in pairs.items():
        error, size = float(np.abs(h - k).max(initial=0)), max(float(np.abs(h).max(initial=0)), 1e-3 * largest)
        require(error <= exact * size, "same point", f"{name} differs by {error:.1e}, size {size:.1e}")
    if not certificate.verdict is other.verdict is Verdict.CLASSICAL:
        return
    rng = np.random.default_rng(seed + 2)
    gx, gy = rng.standard_normal(alone.x.size), rng.standard_normal(alone.y.size)
    wide = np.zeros(larger.x.size), np.zeros(larger.y.size)
    wide[0][columns], wide[1][rows] = gx, gy
    with heard() as warned:
        _, dq, _, db = alone.vjp(gx, gy, np.zeros_like(gy))
        _, dq2, _, db2 = larger.vjp(*wide, np.zeros(larger.y.size))
    require(not warned, "verdict", f"classical, and {warned}")
    margin = float(np.min(certificate.margins / np.maximum(1, largest), initial=np.inf))
    if 1e-10 * certificate.condition**2 >= 1e-4 or margin < 1e-4:
        counts["gradients: too near a kink, or too ill-conditioned"] += 1
        return
    size = max(float(np.abs(h).max(initial=0)) for h in (dq, db))
    error = max(float(np.abs(dq - dq2[columns]).max(initial=0)), float(np.abs(db - db2[rows]).max(initial=0)))
    require(error <= 1e-5 * size, "same gradient", f"differs by {error:.1e}, size {size:.1e}")
    counts["gradients: agree"] += 1


def _check_solvers(
    spec: ProgramSpec, data: Data, status: Status, solution: ConeSolution | None, counts: Counter
) -> None:
    """No two backends contradict each other. One that gives up (FAILED, a limit) has no opinion, and is counted."""
    for name in takers(data, spec.cones):
        try:
            with heard():
                other = data.solve(spec.cones, name)
        except SolveError as error:
            (said,) = error.statuses
            if said in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE):
                both = {said, status} == {Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE}
                # Without a construction both may be true.
                require(
                    said is status or (both and spec.kind == "any"), "agreement", f"{name} said {said}, not {status}"
                )
            else:
                counts[f"{name} gave up"] += 1
            continue
        if solution is None and name == "SCS" and _is_ray(data, other):
            counts["SCS took a ray for a point"] += 1
            continue
        require(solution is not None, "agreement", f"{name} found a solution where there is none")
        _check_point(spec, data, other)
        if other.status is Status.INACCURATE:
            counts[f"{name} inaccurate"] += 1


def _check_derivative(spec: ProgramSpec, data: Data, solution: ConeSolution, counts: Counter) -> None:
    (certificate,) = solution.certify()
    verdict = certificate.verdict
    counts[f"verdict: {verdict.value}"] += 1
    require(isinstance(verdict, Verdict) and verdict.value in str(certificate), "verdict", str(certificate))
    require(not np.isnan(certificate.margins).any(), "no NaN", "margins of a solved program")
    require(solution.status is Status.SOLVED or not verdict.justified, "verdict", "justified at an inaccurate point")
    if data.x is not None and data.y is not None and data.s is not None and verdict.justified:
        _check_uniqueness(spec, data, solution, certificate)
    rng = np.random.default_rng(spec.seed + 1)
    direction = Direction.of(data, solution, rng)
    directions = direction.at(data, 0.0)
    g = [rng.standard_normal(h.shape) for h in (solution.x, solution.y, solution.s)]
    with heard() as warned:
        gradients = solution.vjp(*g)
        tangents = solution.jvp(*directions)
    finite = all(np.isfinite(h.data if sp.issparse(h) else h).all() for h in (*gradients, *tangents))
    require(finite, "no NaN", "in a derivative")
    check_warnings(warned, certificate)
    terms = [np.ravel(_dense(a) * d) for a, d in zip(gradients, directions, strict=True)]
    forward = [a * d for a, d in zip(g, tangents, strict=True)]
    adjoint, along = sum(float(t.sum()) for t in terms), sum(float(t.sum()) for t in forward)
    size = sum(float(np.abs(t).sum()) for t in (*terms, *forward))
    condition = certificate.condition if np.isfinite(certificate.condition) else 1e6
    if verdict.justified:
        exact = max(1e-9, 1e-14 * condition)
        require(
            abs(adjoint - along) <= exact * size + 1e-300, "adjointness", f"{adjoint!r} and {along!r}, size {size:.1e}"
        )
    # Nearly kinked, steps would have to be smaller than what separates the kinks.
    if (
        verdict is Verdict.CERTIFIED
        and spec.kind == "kinked"
        and not spec.cones.kinds & {"exp", "exp_dual", "power", "power_dual"}
    ):
        _check_semismooth(spec, data, solution, certificate, g, direction, counts)
    if verdict is Verdict.CLASSICAL:
        _check_differences(spec, data, solution, certificate, g, direction, tangents, adjoint, counts)


def _check_uniqueness(spec: ProgramSpec, data: Data, solution: ConeSolution, certificate: Certificate) -> None:
    """Where every element is invertible the solution is unique, and kinks that were planted there are seen."""
    pairs = ((solution.x, data.x), (solution.y, data.y), (solution.s, data.s))
    largest = max(float(np.abs(h).max(initial=0)) for _, h in pairs)
    for name, (ours, planted) in zip("xys", pairs, strict=True):
        size = max(float(np.abs(planted).max(initial=0)), 1e-3 * largest)
        error = float(np.abs(ours - planted).max(initial=0))
        tolerance = max(1e-6, 1e-10 * certificate.condition) * size
        require(error <= tolerance, "uniqueness", f"{certificate.verdict.value}, and {name} is off by {error:.1e}")
    v, starts = data.y - data.s, spec.cones.block_starts
    planted = product_cone(spec.cones).extremes(v[None], np.zeros((1, v.size)))[2][0, starts]
    finite = np.isfinite(planted)
    known = certificate.tolerances[finite] + 1e-9 * np.abs(v).max(initial=0) + 1e-3 * planted[finite]
    near = np.abs(certificate.margins[finite] - planted[finite]) <= known
    require(near.all(), "margins", lambda: f"{certificate.margins}, planted {planted}")
    exact = planted <= (1e-15 * np.maximum.reduceat(np.abs(v), starts) if starts.size else 0.0)
    require(
        not (exact & ~certificate.kinks).any(), "kinks", f"{certificate.verdict.value}, and a planted kink not seen"
    )


class Direction(NamedTuple):
    """(I + tE)P(I + tE), E diagonal, stays positive semidefinite; dP = EP + PE."""

    e: np.ndarray
    dq: np.ndarray
    dA: np.ndarray
    db: np.ndarray

    @classmethod
    def of(cls, data: Data, solution: ConeSolution, rng: np.random.Generator) -> Direction:
        """Of the size of what changes, on the patterns."""
        P, q, A, b = data[:4]
        x, y = np.abs(solution.x), np.abs(solution.y)
        dq = np.abs(q) + np.abs(P) @ x + np.abs(A.T) @ y
        random = (rng.standard_normal(h.shape) for h in (q, q, A, b))
        e, xi, Xi, zeta = random
        return cls(e, xi * dq, Xi * A, zeta * (np.abs(b) + np.abs(A) @ x))

    def at(self, data: Data, t: float) -> tuple[np.ndarray, ...]:
        """The velocity of ``moved`` at t."""
        e, P = self.e, self.moved(data, t).P
        faster = e / (1 + t * e)
        return faster[:, None] * P + P * faster, self.dq, self.dA, self.db

    def moved(self, data: Data, t: float) -> Data:
        scale = 1 + t * self.e
        return Data(scale[:, None] * data.P * scale, data.q + t * self.dq, data.A + t * self.dA, data.b + t * self.db)


def _check_differences(
    spec: ProgramSpec,
    data: Data,
    solution: ConeSolution,
    certificate: Certificate,
    g: list[np.ndarray],
    direction: Direction,
    tangents: tuple[np.ndarray, ...],
    adjoint: float,
    counts: Counter,
) -> None:
    """Central differences at steps that stay away from the next kink, ever shorter ones; one of them must agree, to 1e-4 or as far as noise lets it.

    Near an apex the curvature is such that only short steps tell.
    """
    dv = np.abs(tangents[1] - tangents[2])
    margins = np.repeat(certificate.margins, spec.cones.block_sizes)
    longest = float(np.min(margins / np.where(dv > 0, dv, 1e-300), initial=np.inf))
    first = min(1e-4, 0.05 * longest)
    size = sum(float(np.abs(a) @ np.abs(d)) for a, d in zip(g, tangents, strict=True))
    points = _points(solution)
    values = sum(float(np.abs(a) @ np.abs(h)) for a, h in zip(g, points, strict=True))
    noise = 1e-15 * certificate.condition * max(values, size)
    if noise >= 3e-5 * size * first:
        counts["differences: too near a kink, or too ill-conditioned"] += 1
        return

    def along(t: float) -> float:
        moved = direction.moved(data, t).solve(spec.cones)
        return sum(float(a @ h) for a, h in zip(g, _points(moved), strict=True))

    errors = []
    for step in (first / 8**k for k in range(7)):
        blur = noise / (size * step)
        if errors and blur >= 1e-3:
            break
        with heard():
            difference = (along(step) - along(-step)) / (2 * step)
        errors.append(abs(difference - adjoint) / size)
        if errors[-1] <= max(1e-4, 10 * blur):
            counts["differences: agree"] += 1
            return
    raise Finding("differences", f"relative errors {', '.join(f'{e:.1e}' for e in errors)} at steps from {first:.1e}")


def _check_semismooth(
    spec: ProgramSpec,
    data: Data,
    solution: ConeSolution,
    certificate: Certificate,
    g: list[np.ndarray],
    direction: Direction,
    counts: Counter,
) -> None:
    """At a kink that is certified, S(θ + Δ) − S(θ) − J Δ = o(‖Δ‖) with the derivative J at θ + Δ.

    It holds as the projections are strongly semismooth; those of exponential and power cones come to their limits too slowly for a test.
    """
    errors = []
    for step in (1e-4, 1e-5, 1e-6, 1e-7):
        moved = direction.moved(data, step)
        with heard():
            there = moved.solve(spec.cones)
            tangents = there.jvp(*direction.at(data, step))
        along = [
            (a, h - o, step * d) for a, h, o, d in zip(g, _points(there), _points(solution), tangents, strict=True)
        ]
        size = sum(float(np.abs(a) @ np.maximum(np.abs(h), np.abs(d))) for a, h, d in along)
        values = sum(float(np.abs(a) @ np.abs(h)) for a, h in zip(g, _points(solution), strict=True))
        if size == 0 or 1e-15 * certificate.condition * max(values, size) >= 1e-3 * size:
            break
        errors.append(abs(sum(float(a @ (h - d)) for a, h, d in along)) / size)
        if errors[-1] <= 1e-2:
            counts["semismooth at a kink"] += 1
            return
    require(not errors, "semismooth", f"relative errors {', '.join(f'{e:.1e}' for e in errors)}")
    counts["kink too ill-conditioned"] += 1


def _points(solution: ConeSolution) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return solution.x, solution.y, solution.s


def _dense(matrix) -> np.ndarray:
    return matrix.toarray() if sp.issparse(matrix) else matrix
