"""CBLIB's format (cblib.zib.de, versions 1 to 4): affine expressions of scalar and matrix variables in cones.

    EXP    x₁ ≥ x₂ e^{x₃/x₂}                       ours with the order reversed
    EXP*   its dual, {u : (u₃ − u₂, −u₃, u₁) ∈ our exponential cone}
    QR     2x₁x₂ ≥ ‖(x₃, …)‖²                      ((x₁ + x₂)/√2, (x₁ − x₂)/√2, x₃, …) in the second-order cone
    POW    Πx_i^{αᵢ/σ} ≥ ‖(x_{k+1}, …)‖, σ = Σαᵢ     a chain of three-row cones with auxiliary variables where k > 2 or the norm is one of
                                                    several entries
    POW*   its dual, {u : (uᵢσ/αᵢ, u_{k+1}, …) ∈ POW}

Only the first instance of a file is read (what follows CHANGE are others). Integer variables: Unsupported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import final

import numpy as np
import scipy.sparse as sp

from benchmarks.public.problem import (
    LARGEST_ORDER,
    Problem,
    Rows,
    Unreadable,
    Unsupported,
    check_count,
    inside,
    matrix,
    svec_positions,
)

__all__ = ["read_cblib"]

_ROOT = np.sqrt(2.0)


def read_cblib(content: bytes) -> Problem:
    """The first problem of a file's content. Raises Unreadable, Unsupported."""
    text = content.decode("utf-8", errors="replace")
    return _Reader(h for h in (line.split("#", 1)[0].split() for line in text.splitlines()) if h).read().build()


@final
@dataclass
class _Sections:
    """What a file says, section by section; coordinates as (entries, columns) with the value last."""

    version: int = 0
    maximize: bool | None = None
    powers: dict[str, list[np.ndarray]] = field(default_factory=dict)
    variables: list[tuple[str, int]] | None = None
    constraints: list[tuple[str, int]] = field(default_factory=list)
    psd_variables: list[int] = field(default_factory=list)
    psd_constraints: list[int] = field(default_factory=list)
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)
    constant: float = 0.0

    def build(self) -> Problem:
        if not self.version or self.maximize is None:
            raise Unreadable("no VER, or no OBJSENSE")
        return _Builder(self).problem()


# How many numbers a line of each has: indices, and the value.
_COORDINATES = {
    "OBJFCOORD": 4,
    "OBJACOORD": 2,
    "FCOORD": 5,
    "ACOORD": 3,
    "BCOORD": 2,
    "HCOORD": 5,
    "DCOORD": 4,
}


@final
class _Reader:
    def __init__(self, lines: Iterator[list[str]]) -> None:
        self._lines, self._found = lines, _Sections()

    def read(self) -> _Sections:
        found = self._found
        sections: dict[str, Callable[[], None]] = {
            "VER": self._version,
            "OBJSENSE": self._sense,
            "VAR": self._variables,
            "CON": self._constraints,
            "PSDVAR": lambda: found.psd_variables.extend(self._orders()),
            "PSDCON": lambda: found.psd_constraints.extend(self._orders()),
            "POWCONES": lambda: self._powers("POW"),
            "POW*CONES": lambda: self._powers("POW*"),
            "INT": self._integers,
            "OBJBCOORD": self._constant,
        }
        for words in self._lines:
            name = words[0]
            if name == "CHANGE":
                break
            if name in _COORDINATES:
                found.coordinates[name] = self._table(self._count(), _COORDINATES[name])
            elif name in sections:
                sections[name]()
            else:
                raise Unreadable(f"unknown section {name[:40]!r}")
        return found

    def _next(self, size: int) -> list[str]:
        words = next(self._lines, None)
        if words is None or len(words) < size:
            raise Unreadable("the file ends too early, or a line is too short")
        return words

    def _count(self) -> int:
        return check_count("a section's length", int(self._next(1)[0]))

    def _table(self, count: int, width: int) -> np.ndarray:
        return np.array([self._next(width)[:width] for _ in range(count)], dtype=float).reshape(count, width)

    def _version(self) -> None:
        self._found.version = check_count("VER", int(self._next(1)[0]), 1, 4)

    def _sense(self) -> None:
        (sense, *_) = self._next(1)
        if sense not in ("MIN", "MAX"):
            raise Unreadable(f"OBJSENSE: got {sense[:40]!r}, expected MIN or MAX")
        self._found.maximize = sense == "MAX"

    def _domains(self) -> list[tuple[str, int]]:
        words = self._next(2)
        total, count = (check_count("cones", int(h)) for h in words[:2])
        cones = [(h[0], check_count("a cone's size", int(h[1]), 1)) for h in (self._next(2) for _ in range(count))]
        if sum(size for _, size in cones) != total:
            raise Unreadable("the cones' sizes do not add up")
        return cones

    def _variables(self) -> None:
        self._found.variables = self._domains()

    def _constraints(self) -> None:
        self._found.constraints = self._domains()

    def _orders(self) -> list[int]:
        return [check_count("order", int(self._next(1)[0]), 1, LARGEST_ORDER) for _ in range(self._count())]

    def _powers(self, kind: str) -> None:
        count = check_count("power cones", int(self._next(2)[0]))
        cones = []
        for _ in range(count):
            alpha = self._table(self._count(), 1).ravel()
            if not alpha.size or not (alpha > 0).all():
                raise Unreadable(f"{kind}: the exponents are not positive")
            cones.append(alpha / alpha.sum())
        self._found.powers[kind] = cones

    def _integers(self) -> None:
        if self._count():
            raise Unsupported("integer variables")

    def _constant(self) -> None:
        self._found.constant = float(self._next(1)[0])


@final
class _Builder:
    """Columns: scalar variables, the scaled vectors of matrix variables, auxiliary variables of power cones."""

    def __init__(self, sections: _Sections) -> None:
        self._sections = sections
        self._scalars = sum(size for _, size in sections.variables or [])
        sizes = [order * (order + 1) // 2 for order in sections.psd_variables]
        self._starts = self._scalars + np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._own = int(self._starts[-1])
        check_count("variables", self._own)
        domains = [*(sections.variables or []), *sections.constraints]
        self._spare = sum(max(size - 2, 0) for kind, size in domains if "POW" in kind)
        self._n, self._used = self._own + self._spare, self._own
        self._rows = Rows(self._n)

    def problem(self) -> Problem:
        sections = self._sections
        q = np.zeros(self._n)
        objective = sections.coordinates.get("OBJACOORD", np.zeros((0, 2)))
        np.add.at(q, inside("OBJACOORD", objective[:, 0].astype(np.int64), self._scalars), objective[:, 1])
        cols, values = self._matrix_columns("OBJFCOORD", sections.coordinates.get("OBJFCOORD", np.zeros((0, 4))))
        np.add.at(q, cols, values)
        start = 0
        for kind, size in sections.variables or []:
            if kind != "F":
                self._add(kind, self._unit(start, size), np.zeros(size))
            start += size
        for k, order in enumerate(sections.psd_variables):
            size = order * (order + 1) // 2
            self._add_semidefinite(self._unit(int(self._starts[k]), size), np.zeros(size), order)
        self._add_constraints()
        self._add_matrix_constraints()
        m = sum(size for _, size in sections.constraints)
        m += sum(order * (order + 1) // 2 for order in sections.psd_constraints)
        n = self._used  # without the auxiliary variables that no cone asked for
        problem = self._rows.build(sp.csc_array((self._n, self._n)), -q if sections.maximize else q, self._own, m)
        return Problem(self._own, m, problem.P[:n, :n], problem.q[:n], problem.A[:, :n], problem.b, problem.cones)

    def _unit(self, start: int, size: int) -> sp.csr_array:
        places = np.arange(size)
        return matrix(np.ones(size), places, start + places, (size, self._n))

    def _triangle(self, what: str, orders: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of entries in the scaled vectors of matrices of these orders, and their scales."""
        inside(what, i, orders)
        inside(what, j, orders)
        place = np.zeros(i.size, dtype=np.int64)
        for order in np.unique(orders).tolist():
            here = orders == order
            place[here] = svec_positions(order)[i[here], j[here]]
        return place, np.where(i == j, 1.0, _ROOT)

    def _matrix_columns(self, what: str, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and coefficients of ⟨F, X⟩ from (variable, i, j, value)."""
        which, i, j = (table[:, k].astype(np.int64) for k in range(3))
        orders = np.array(self._sections.psd_variables, dtype=np.int64)
        inside(what, which, orders.size)
        place, scale = self._triangle(what, orders[which], i, j)
        return self._starts[which] + place, scale * table[:, 3]

    def _add_constraints(self) -> None:
        domains, coordinates = self._sections.constraints, self._sections.coordinates
        m = sum(size for _, size in domains)
        scalar = coordinates.get("ACOORD", np.zeros((0, 3)))
        rows, cols = (scalar[:, k].astype(np.int64) for k in range(2))
        inside("ACOORD", cols, self._scalars)
        matrices = coordinates.get("FCOORD", np.zeros((0, 5)))
        psd_cols, psd_values = self._matrix_columns("FCOORD", matrices[:, 1:])
        rows = inside("ACOORD and FCOORD", np.concatenate([rows, matrices[:, 0].astype(np.int64)]), m)
        G = matrix(np.concatenate([scalar[:, 2], psd_values]), rows, np.concatenate([cols, psd_cols]), (m, self._n))
        h, constants = np.zeros(m), coordinates.get("BCOORD", np.zeros((0, 2)))
        np.add.at(h, inside("BCOORD", constants[:, 0].astype(np.int64), m), constants[:, 1])
        start = 0
        for kind, size in domains:
            if kind != "F":
                self._add(kind, G[start : start + size], h[start : start + size])
            start += size

    def _add_matrix_constraints(self) -> None:
        """Σⱼ xⱼHⱼ + D ⪰ 0."""
        orders = np.array(self._sections.psd_constraints, dtype=np.int64)
        H = self._sections.coordinates.get("HCOORD", np.zeros((0, 5)))
        D = self._sections.coordinates.get("DCOORD", np.zeros((0, 4)))
        inside("HCOORD", H[:, 0], orders.size)
        inside("DCOORD", D[:, 0], orders.size)
        for k, order in enumerate(orders.tolist()):
            size = order * (order + 1) // 2
            linear, constant = H[H[:, 0] == k], D[D[:, 0] == k]
            place, scale = self._places("HCOORD", order, linear[:, 2:4])
            cols = inside("HCOORD", linear[:, 1].astype(np.int64), self._scalars)
            G = matrix(scale * linear[:, 4], place, cols, (size, self._n))
            place, scale = self._places("DCOORD", order, constant[:, 1:3])
            h = np.zeros(size)
            np.add.at(h, place, scale * constant[:, 3])
            self._add_semidefinite(G, h, order)

    def _places(self, what: str, order: int, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        i, j = (pairs[:, k].astype(np.int64) for k in range(2))
        return self._triangle(what, np.full(i.size, order), i, j)

    def _add_semidefinite(self, G: sp.csr_array, h: np.ndarray, order: int) -> None:
        if order == 1:
            self._rows.add("nonneg", G, h)
        else:
            self._rows.add("psd", G, h, order)

    def _add(self, kind: str, G: sp.csr_array, h: np.ndarray) -> None:
        """G x + h in a cone of CBLIB's."""
        if kind == "L=":
            self._rows.add("zero", G, h)
        elif kind == "L+":
            self._rows.add("nonneg", G, h)
        elif kind == "L-":
            self._rows.add("nonneg", -G, -h)
        elif kind == "Q":
            self._add_second_order(G, h)
        elif kind == "QR":
            if h.size < 2:
                raise Unreadable("QR: fewer than two rows")
            turned = sp.eye_array(h.size, format="lil")
            turned[:2, :2] = np.array([[1.0, 1.0], [1.0, -1.0]]) / _ROOT
            turned = sp.csr_array(turned)
            self._rows.add("soc", sp.csr_array(turned @ G), turned @ h, h.size)
        elif kind in ("EXP", "EXP*"):
            if h.size != 3:
                raise Unreadable(f"{kind}: expected three rows")
            T = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
            if kind == "EXP*":
                T = np.array([[0.0, -1, 1], [0, 0, -1], [1, 0, 0]])
            self._rows.add("exp", sp.csr_array(sp.csr_array(T) @ G), T @ h)
        elif kind.startswith("@"):
            self._add_power(kind, G, h)
        else:
            raise Unreadable(f"unknown cone {kind[:40]!r}")

    def _add_second_order(self, G: sp.csr_array, h: np.ndarray) -> None:
        if h.size == 1:
            self._rows.add("nonneg", G, h)
        else:
            self._rows.add("soc", G, h, h.size)

    def _add_power(self, kind: str, G: sp.csr_array, h: np.ndarray) -> None:
        position, _, name = kind[1:].partition(":")
        cones = self._sections.powers.get(name, [])
        alpha = cones[int(inside(kind, np.array([int(position)]), len(cones))[0])]
        k = alpha.size
        if h.size < k:
            raise Unreadable(f"{kind}: got {h.size} rows for {k} exponents")
        if name == "POW*":
            T = sp.diags_array(np.concatenate([1 / alpha, np.ones(h.size - k)]), format="csr")
            G, h = sp.csr_array(T @ G), T @ h
        if h.size == k:
            self._rows.add("nonneg", G, h)
            return
        root, shift = G[k:], h[k:]
        if h.size - k > 1:  # t ≥ ‖·‖
            t = self._auxiliary()
            self._add_second_order(sp.vstack([t, root], format="csr"), np.concatenate([[0.0], shift]))
            root, shift = t, np.zeros(1)
        if k == 1:
            self._add_second_order(sp.vstack([G[:1], root], format="csr"), np.concatenate([h[:1], shift]))
            return
        # |t| ≤ x₁^{α₁} u₁^{1−α₁}, 0 ≤ u₁ ≤ x₂^{β} u₂^{1−β}, β = α₂/(α₂ + … + αₖ), and so on; the last u is xₖ.
        left = 1.0
        for i in range(k - 1):
            exponent = alpha[i] / left
            left -= alpha[i]
            last = i == k - 2
            other, other_shift = (G[k - 1 : k], h[k - 1 : k]) if last else (self._auxiliary(), np.zeros(1))
            block = sp.vstack([G[i : i + 1], other, root], format="csr")
            self._rows.add("power", block, np.concatenate([h[i : i + 1], other_shift, shift]), float(exponent))
            root, shift = other, other_shift

    def _auxiliary(self) -> sp.csr_array:
        """The row that reads a fresh variable."""
        self._used += 1
        return self._unit(self._used - 1, 1)
