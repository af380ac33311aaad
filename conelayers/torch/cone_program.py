"""The differentiable solve of cone programs that are in conic form already, over tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, final

import numpy as np
import scipy.sparse as sp
import torch

from conelayers.layer.layer import ConicLayer, Layer
from conelayers.layer.options import Options
from conelayers.layer.outcome import OnFailure, as_on_failure
from conelayers.layer.traced_program import TracedProgram
from conelayers.problem.input_map import InputMap
from conelayers.problem.parameters import ParameterSpec
from conelayers.problem.parametric import AffineMap, ParametricProgram, bounds_only
from conelayers.program.cone_dictionaries import as_cones
from conelayers.program.cone_program import Structure
from conelayers.program.cones import Cones
from conelayers.program.names import Names, Naming
from conelayers.program.patterns import Pattern
from conelayers.solve.backends import merge_solver_args
from conelayers.support.arguments import as_integers, described
from conelayers.support.recent import Recent
from conelayers.torch.call import Call
from conelayers.torch.conversion import check_tensor, to_array
from conelayers.torch.operations import traced_program
from conelayers.torch.solve_parameters import solve_parameters

__all__ = ["ConeProgramSolution", "solve_cone_program"]


@final
class ConeProgramSolution(NamedTuple):
    """x (n,), y ∈ K* (m,), s ∈ K (m,), with B in front in a batch."""

    x: torch.Tensor
    y: torch.Tensor
    s: torch.Tensor


def solve_cone_program(
    P: torch.Tensor | None,
    q: torch.Tensor,
    A: torch.Tensor,
    b: torch.Tensor,
    cones: Cones | Mapping[str, Any],
    *,
    P_pattern: Any = None,
    A_pattern: Any = None,
    solver: str | None = None,
    solver_args: Mapping[str, Any] | None = None,
    on_failure: OnFailure | str = OnFailure.RAISE,
) -> ConeProgramSolution:
    """minimize ½ xᵀPx + qᵀx subject to Ax + s = b, s ∈ K, differentiable in P, q, A and b.

    P: (n, n), full symmetric positive semidefinite, or None for zero.
    q: (n,).
    A: (m, n).
    b: (m,), inf in rows of the nonnegative cone that do not bound: there s is inf, y is zero, and gradients are zero.
    cones: a Cones or an SCS-style dict; its order and scaling are those of the rows.
    P_pattern, A_pattern: a scipy sparse matrix, or (rows, columns). Then P and A are the values (nnz,) or (B, nnz) of
    its entries, in the order of (rows, columns), or of the matrix's COO form. P's pattern holds both triangles.
    solver, solver_args, on_failure: as for ConeLayer.

    P, q, A and b may each have a leading B; those that have none are shared by the batch.

    The gradient of P is symmetric. Everything that ConeLayer offers holds here too: torch.func, forward mode, second
    derivatives. Raises ValueError for bad data, naming the argument, SolveError naming the instances that have no
    solution.
    """
    cones = as_cones(cones)
    for name, value in (("P", P), ("q", q), ("A", A), ("b", b)):
        if value is None and name == "P":
            continue
        if not isinstance(value, torch.Tensor) or value.dtype == torch.bool or value.is_complex():
            got = f"dtype {value.dtype}" if isinstance(value, torch.Tensor) else described(value)
            raise TypeError(
                f"{name}: got {got}, expected a torch.Tensor of floating-point numbers; torch.as_tensor makes one"
            )
        check_tensor(name, value, q.device if isinstance(q, torch.Tensor) else value.device)
        if value.dim() == 0:
            raise ValueError(f"{name}: got a scalar, expected an array")
    n, m = q.shape[-1], cones.dimension
    if n == 0:
        raise ValueError("q: got an empty vector, expected at least one variable")
    if P is None and P_pattern is not None:
        raise ValueError("P_pattern: got one, but P is None, expected the values of its entries in P; leave it out")
    P_entries = None if P is None else _entries("P_pattern", P_pattern, (n, n), symmetric=True)
    A_entries = _entries("A_pattern", A_pattern, (m, n))
    solver_args = merge_solver_args({}, solver_args)
    layer, traced = _known(n, cones, P_entries, A_entries, P is not None, solver, solver_args)
    params = (q, A, b) if P is None else (P, q, A, b)
    policy = as_on_failure(on_failure)
    # Under the default, solver_args={"raise_on_error": …} decide, which are the layer's.
    options = {"solver_args": None, "warm_start": None, "on_failure": None if policy is OnFailure.RAISE else policy}
    call = Call(layer, lambda: traced, options, points=True)
    _check_convex(P, P_entries, n)
    return ConeProgramSolution(*solve_parameters(call, params))


_Entries = tuple[np.ndarray, np.ndarray]


def _entries(name: str, pattern: Any, shape: tuple[int, int], *, symmetric: bool = False) -> _Entries | None:
    """The rows and columns of a pattern's entries; None for a dense matrix."""
    if pattern is None:
        return None
    if sp.issparse(pattern):
        coo = pattern.tocoo()
        if coo.shape != shape:
            raise ValueError(f"{name}: got shape {coo.shape}, expected {shape}")
        pattern = coo.row, coo.col
    try:
        rows, cols = (as_integers(h) for h in pattern)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: got {described(pattern)}, expected a sparse matrix or (rows, columns), two arrays of integers"
        ) from error
    if rows.shape != cols.shape or rows.ndim != 1:
        raise ValueError(
            f"{name}: got index arrays of shapes {rows.shape} and {cols.shape}, expected two of one length"
        )
    if rows.size and not (rows.min() >= 0 and rows.max() < shape[0] and cols.min() >= 0 and cols.max() < shape[1]):
        raise ValueError(
            f"{name}: got indices outside a matrix of shape {shape}, expected rows and columns within, from 0"
        )
    if np.unique(rows * shape[1] + cols).size != rows.size:
        raise ValueError(f"{name}: got an entry twice, expected each once; sum duplicates first")
    if symmetric:
        present = set(zip(rows.tolist(), cols.tolist(), strict=True))
        alone = next(((i, j) for i, j in zip(rows.tolist(), cols.tolist(), strict=True) if (j, i) not in present), None)
        if alone is not None:
            raise ValueError(
                f"{name}: got the entry {alone} without {alone[::-1]}, expected the pattern of a symmetric matrix: "
                "both triangles"
            )
    return rows, cols


_LAYERS: Recent[Any, tuple[Layer, TracedProgram]] = Recent(32)


def _known(
    n: int,
    cones: Cones,
    P: _Entries | None,
    A: _Entries | None,
    quadratic: bool,
    solver: str | None,
    solver_args: Mapping[str, Any] | None,
) -> tuple[Layer, TracedProgram]:
    """The layer for programs of this structure, made once: all calls share its symbolic work."""
    sides = tuple(None if e is None else (e[0].tobytes(), e[1].tobytes()) for e in (P, A))
    key = n, cones, sides, quadratic, solver, repr(sorted((solver_args or {}).items()))

    def make() -> tuple[Layer, TracedProgram]:
        compiled = _program(n, cones, P, A, quadratic)
        options = Options(solver=solver, solver_args=solver_args)
        return ConicLayer(compiled, options), traced_program(compiled)

    return _LAYERS.get_or_make(key, make)


def _program(n: int, cones: Cones, P: _Entries | None, A: _Entries | None, quadratic: bool) -> ParametricProgram:
    """The parametric program whose parameters are P, q, A and b themselves."""
    m = cones.dimension
    specs: list[ParameterSpec] = []
    shapes: list[tuple[str, tuple[int, ...]]] = [("q", (n,)), ("A", (m, n) if A is None else A[0].shape), ("b", (m,))]
    if quadratic:
        shapes.insert(0, ("P", (n, n) if P is None else P[0].shape))
    for name, shape in shapes:
        attributes = frozenset({"symmetric"} if name == "P" and P is None else ())
        specs.append(ParameterSpec(name, shape, sum(s.size for s in specs), attributes))
    columns = {spec.name: spec.columns for spec in specs}
    size = sum(spec.size for spec in specs)
    A_pattern, A_map = _matrix_map(A, (m, n), columns["A"], size, symmetric=False)
    if quadratic:
        P_pattern, P_map = _matrix_map(P, (n, n), columns["P"], size, symmetric=True)
    else:
        P_pattern, P_map = _matrix_map((np.zeros(0, int), np.zeros(0, int)), (n, n), slice(0, 0), size, symmetric=True)

    def vector(name: str, length: int) -> AffineMap:
        picked = np.arange(columns[name].start, columns[name].stop)
        linear = sp.csr_array((np.ones(length), (np.arange(length), picked)), shape=(length, size))
        return AffineMap(np.zeros(length), np.arange(length), linear)

    structure, q_map, b_map = Structure(P_pattern, A_pattern, cones), vector("q", n), vector("b", m)
    return ParametricProgram(
        structure=structure,
        parameters=tuple(specs),
        P=P_map,
        q=q_map,
        A=A_map,
        b=b_map,
        constant=AffineMap(np.zeros(1), np.zeros(0, dtype=np.int64), sp.csr_array((0, size))),
        outputs=(),
        maximize=False,
        gp=False,
        naming=Naming(partial(Names.of_rows, n, m)),
        input_map=InputMap.identity(tuple(specs), 0),
        logarithmic=np.zeros(size, dtype=bool),
        infinite=bounds_only(structure, {"P": P_map, "q": q_map, "A": A_map, "b": b_map}),
    )


def _matrix_map(
    entries: _Entries | None, shape: tuple[int, int], columns: slice, size: int, *, symmetric: bool
) -> tuple[Pattern, AffineMap]:
    """The pattern of a matrix, and the map from θ to its values; ½(M + Mᵀ) for a symmetric one."""
    if entries is None:
        # Parameters are flattened column by column, as patterns are stored.
        cols, rows = (h.ravel() for h in np.meshgrid(np.arange(shape[1]), np.arange(shape[0]), indexing="ij"))
    else:
        rows, cols = entries
    source, weight = np.arange(columns.start, columns.stop), np.ones(rows.size)
    if symmetric:
        rows, cols = np.concatenate([rows, cols]), np.concatenate([cols, rows])
        source, weight = np.concatenate([source, source]), np.full(rows.size, 0.5)
    keys, target = np.unique(cols * shape[0] + rows, return_inverse=True)
    linear = sp.csr_array((weight, (target, source)), shape=(keys.size, size))
    linear.sum_duplicates()
    indptr = np.concatenate([[0], np.cumsum(np.bincount(keys // max(shape[0], 1), minlength=shape[1]))])
    pattern = Pattern(shape, (keys % max(shape[0], 1)).astype(np.int64), indptr.astype(np.int64))
    return pattern, AffineMap(np.zeros(keys.size), np.arange(keys.size), linear)


def _check_convex(P: torch.Tensor | None, entries: _Entries | None, n: int) -> None:
    """Raises ValueError if P has a clearly negative eigenvalue."""
    if P is None or torch._C._are_functorch_transforms_active() or entries is not None:
        return  # under transformations values cannot be read; sparse matrices may be large: the solver judges them
    if P.shape[-2:] != (n, n):
        return  # a wrong shape is reported with the other ones
    matrix = to_array(P).reshape(-1, n, n)
    shift = 1e-9 * np.abs(matrix).max(initial=0.0) + 1e-300
    try:
        np.linalg.cholesky(matrix + shift * np.eye(n))
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(0.5 * (matrix + np.swapaxes(matrix, 1, 2)))[:, 0]
        broken = np.flatnonzero(smallest < -10 * shift)
        if broken.size:
            raise ValueError(
                f"P: got an eigenvalue {smallest[broken].min():g} at batch index {broken[:10].tolist()}, expected a "
                "positive semidefinite matrix; the problem is not convex"
            ) from None
