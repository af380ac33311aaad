"""The affine map from the user's parameters to P, q, A and b, composed from cvxpy's own and its replaced parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.reductions.complex2real.complex2real import Complex2Real
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr, lower_value
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp
from cvxpy.settings import PARAM_PREFIX

from conelayers.problem.parameters import ParameterSpec
from conelayers.problem.parametric import AffineMap
from conelayers.program.cone_program import Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern
from conelayers.support.errors import CanonicalizationError

__all__ = ["Part", "cones_of", "data_maps", "is_unnamed", "parameter_map", "parameter_specs", "part_specs", "parts_of"]

_SYMMETRIC = ("symmetric", "PSD", "NSD")
_SIGNS = ("nonneg", "nonpos", "pos", "neg")
_DISCRETE = ("boolean", "integer")
_CHECKED = (*_SIGNS, *_DISCRETE, "diag", "symmetric", "PSD", "NSD", "complex", "imag", "hermitian")


def is_unnamed(parameter: cp.Parameter) -> bool:
    """Whether the user gave it no name, and cvxpy one like param63."""
    return bool(parameter.name() == f"{PARAM_PREFIX}{parameter.id}")


def parameter_specs(parameters: Sequence[cp.Parameter]) -> tuple[ParameterSpec, ...]:
    """Name, shape, place in θ and attributes of each of the user's parameters."""
    specs, offset = [], 0
    for i, p in enumerate(parameters):
        positions = None
        if p.attributes["diag"] or p.attributes["sparsity"]:
            positions = tuple(int(i) for i in _lowering(p))
        bounds: Any = p.attributes["bounds"]
        specs.append(
            ParameterSpec(
                name=p.name(),
                shape=tuple(p.shape),
                offset=offset,
                attributes=frozenset(
                    a for a in _CHECKED if p.attributes[a] and (a not in _DISCRETE or p.attributes[a] is True)
                ),
                positions=positions,
                bounds=None if bounds is None else tuple(b.toarray() if sp.issparse(b) else b for b in bounds),
                position=i if is_unnamed(p) else None,
            )
        )
        offset += p.size
    return tuple(specs)


@final
@dataclass(frozen=True)
class Part:
    """A parameter of cvxpy's as the program takes it: its real or imaginary part.

    positions: the entries that may differ from zero (column-major); None for all.
    """

    parameter: cp.Parameter
    imaginary: bool
    positions: np.ndarray | None

    @property
    def name(self) -> str:
        """The parameter's, or that of its part."""
        return f"the imaginary part of {self.parameter.name()}" if self.imaginary else self.parameter.name()

    @property
    def shape(self) -> tuple[int, ...]:
        """(entries,) where only some are taken."""
        return tuple(self.parameter.shape) if self.positions is None else (self.positions.size,)


def parts_of(parameters: Sequence[cp.Parameter]) -> tuple[Part, ...]:
    """What the program takes of each parameter, in an order in which real parts come before imaginary ones."""
    parts = []
    for p in parameters:
        if not p.is_complex():
            parts.append(Part(p, False, _lowering(p) if p.attributes["diag"] or p.attributes["sparsity"] else None))
            continue
        if not p.is_imag():
            parts.append(Part(p, False, None))
        parts.append(Part(p, True, None))
    return tuple(parts)


def part_specs(parts: Sequence[Part], parameters: Sequence[cp.Parameter]) -> tuple[ParameterSpec, ...]:
    """The parts' places in the program's θ and the attributes to be checked; ``parameters`` are the user's."""
    specs, offset = [], 0
    places = {p.id: i for i, p in enumerate(parameters) if is_unnamed(p)}
    for part in parts:
        own = ParameterSpec(part.name, part.shape, offset)
        if not part.parameter.is_complex():
            (whole,) = parameter_specs([part.parameter])
            own = replace(whole, offset=offset) if part.positions is None else _at_positions(whole, part, offset)
        specs.append(replace(own, position=places.get(part.parameter.id)))
        offset += own.size
    return tuple(specs)


def _at_positions(whole: ParameterSpec, part: Part, offset: int) -> ParameterSpec:
    """What is known of the entries that may differ from zero."""
    bounds = whole.bounds
    if bounds is not None:
        taken = [
            np.ravel(np.broadcast_to(np.asarray(h, float), whole.shape), order="F")[part.positions] for h in bounds
        ]
        bounds = (taken[0], taken[1])
    return ParameterSpec(
        part.name, part.shape, offset, whole.attributes & frozenset((*_SIGNS, *_DISCRETE)), bounds=bounds
    )


def _mirrored(p: cp.Parameter) -> np.ndarray:
    """Where, column-major, the mirror image of each entry lies."""
    return np.swapaxes(np.arange(p.size).reshape(p.shape, order="F"), -1, -2).ravel(order="F")


def _skew_triangle(p: cp.Parameter, chosen: sp.csr_array) -> sp.csr_array:
    """½(θᵢⱼ − θⱼᵢ) of the strict upper triangle, row by row: what cvxpy takes of a Hermitian imaginary part."""
    i, j = np.triu_indices(p.shape[0], k=1)
    upper, lower = i + j * p.shape[0], j + i * p.shape[0]
    return sp.csr_array(0.5 * (chosen[upper] - chosen[lower]))


def _lowering(p: cp.Parameter) -> np.ndarray:
    """cvxpy's reduced form of a parameter with attributes, as positions (column-major) in the full one."""
    labels = np.arange(p.size, dtype=float).reshape(p.shape, order="F")
    return np.ravel(lower_value(p, labels), order="F").astype(np.int64)


def parameter_map(
    program: Any,
    reductions: list[tuple[Any, Any]],
    parts: Sequence[Part],
    specs: Sequence[ParameterSpec],
    gp: bool,
) -> sp.csr_array:
    """From (φ, 1) to the parameter vector of cvxpy's own program, (its size + 1, size of φ + 1)."""
    total = sum(spec.size for spec in specs)
    size = 2 * total if gp else total
    # id of a parameter at the current stage -> selection matrix from φ to its entries
    maps: dict[int, sp.csr_array] = {}
    imaginary: dict[int, sp.csr_array] = {}
    compact = {part.parameter.id for part in parts if part.positions is not None}
    identity = sp.eye_array(size, format="csr")
    for part, spec in zip(parts, specs, strict=True):
        (imaginary if part.imaginary else maps)[part.parameter.id] = identity[spec.columns]
    for reduction, _ in reductions:
        if isinstance(reduction, Dgp2Dcp):
            for part, spec in zip(parts, specs, strict=True):
                for log_id in reduction.param_id_map.get(part.parameter.id, []):
                    maps[log_id] = identity[total + spec.offset : total + spec.offset + spec.size]
                    if part.parameter.id in compact:
                        compact.add(log_id)
        elif isinstance(reduction, Complex2Real):
            methods: Any = reduction.canon_methods
            for p, (real, imag) in methods._parameters.items():
                if real is not None:
                    maps[real.id] = maps[p.id]
                if imag is not None:
                    maps[imag.id] = _skew_triangle(p, imaginary[p.id]) if p.is_hermitian() else imaginary[p.id]
        elif isinstance(reduction, CvxAttr2Constr):
            for p, reduced in reduction._parameters.items():
                if p.id in compact:
                    maps[reduced.id] = maps[p.id]
                    continue
                select = _lowering(p)
                chosen = maps[p.id][select]
                if any(p.attributes[a] for a in _SYMMETRIC):
                    # ½(θᵢⱼ + θⱼᵢ): the gradient with respect to the full matrix is then the symmetric one.
                    chosen = 0.5 * (chosen + maps[p.id][_mirrored(p)[select]])
                maps[reduced.id] = sp.csr_array(chosen)
        elif reduction.param_id_map:
            raise CanonicalizationError(f"problem: parameters replaced by {type(reduction).__name__} are not supported")
    rows, cols, values = [], [], []
    for ident, start in program.param_id_to_col.items():
        if ident not in program.id_to_param:
            continue  # the constant's column
        if ident not in maps:
            raise CanonicalizationError(
                f"problem: cvxpy introduced a parameter of its own ({program.id_to_param[ident]}); please report this "
                "problem"
            )
        part = maps[ident].tocoo()
        rows.append(part.row + start)
        cols.append(part.col)
        values.append(part.data)
    last = program.total_param_size
    rows.append(np.array([last]))
    cols.append(np.array([size]))
    values.append(np.ones(1))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
    return sp.csr_array(sp.coo_array(entries, shape=(last + 1, size + 1)))


def data_maps(
    program: Any, lift: sp.csr_array, cones: Cones, E: sp.csr_array | None
) -> tuple[Structure, dict[str, AffineMap]]:
    """The patterns of P and A, and the affine maps from φ to P's and A's stored values, q, b and the offset d.

    Rows are those of cvxpy, or their images under Eᵀ (hermitian.py); ``cones`` are theirs.
    """
    n, m = program.x.size, cones.dimension
    q = sp.csr_array(program.q) @ lift
    # Entry (i, j) of [A | b] is row i + j·m; rows may exceed 32 bits.
    tensor = sp.coo_array(program.A if E is None else sp.kron(sp.eye_array(n + 1), E.T) @ program.A)
    position = tensor.row.astype(np.int64)
    row, col = position % m if m else position, position // m if m else position
    is_b = col == n
    keys, inverse = np.unique(position[~is_b], return_inverse=True)
    A_map = sp.csr_array(
        sp.coo_array((-tensor.data[~is_b], (inverse, tensor.col[~is_b])), shape=(keys.size, tensor.shape[1]))
    )
    b_map = sp.csr_array(sp.coo_array((tensor.data[is_b], (row[is_b], tensor.col[is_b])), shape=(m, tensor.shape[1])))
    A_pattern = _pattern(keys % m if m else keys, keys // m if m else keys, (m, n))
    if program.P is None:
        keys = np.zeros(0, dtype=np.int64)
        P_map = sp.csr_array((0, tensor.shape[1]))
    else:
        P = sp.coo_array(program.P)
        position = P.row.astype(np.int64)
        i, j = position % n, position // n
        # ½(P + Pᵀ), so that the stored pattern is that of a full symmetric matrix whatever cvxpy hands over.
        both = np.concatenate([i + j * n, j + i * n])
        keys, inverse = np.unique(both, return_inverse=True)
        values, cols = np.concatenate([P.data, P.data]) / 2, np.concatenate([P.col, P.col])
        P_map = sp.csr_array(sp.coo_array((values, (inverse, cols)), shape=(keys.size, P.shape[1])))
    structure = Structure(_pattern(keys % n, keys // n, (n, n)), A_pattern, cones)
    maps = {"P": P_map @ lift, "q": q[:n], "A": A_map @ lift, "b": b_map @ lift, "d": q[n:]}
    return structure, {name: AffineMap.of(sp.csr_array(matrix)) for name, matrix in maps.items()}


def _pattern(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> Pattern:
    """A Pattern from entries that are already sorted by column, then row."""
    indptr = np.zeros(shape[1] + 1, dtype=np.int64)
    np.cumsum(np.bincount(cols, minlength=shape[1]), out=indptr[1:])
    return Pattern(shape, rows.astype(np.int64), indptr)


def cones_of(program: Any) -> Cones:
    """The cones of cvxpy's rows."""
    dims = program.cone_dims
    if dims.pnd:
        raise CanonicalizationError(
            "problem: an N-dimensional power cone was not split into three-dimensional ones; please report this problem"
        )
    cones = Cones(
        zero=dims.zero,
        nonneg=dims.nonneg,
        soc=tuple(dims.soc),
        psd=tuple(dims.psd),
        exp=dims.exp,
        power=tuple(dims.p3d),
    )
    if cones.dimension != program.constr_size:
        raise CanonicalizationError(
            "problem: cvxpy's cones do not account for all of its rows; please report this problem"
        )
    return cones
