"""The solvers themselves, on conic data in SCS's convention: what a layer cannot be faster than if it calls them."""

from __future__ import annotations

import clarabel
import numpy as np
import scipy.sparse as sp
import scs

from benchmarks.suite.conic_form import ConeData, ConeDims

__all__ = ["ClarabelSolver", "ScsSolver", "clarabel_order"]


def _clarabel_cones(dims: ConeDims) -> list[object]:
    cones = [clarabel.ZeroConeT(dims.zero)] if dims.zero else []
    cones += [clarabel.NonnegativeConeT(dims.nonneg)] if dims.nonneg else []
    cones += [clarabel.SecondOrderConeT(k) for k in dims.soc]
    cones += [clarabel.PSDTriangleConeT(k) for k in dims.psd]
    return cones + [clarabel.ExponentialConeT() for _ in range(dims.exponential)]


def clarabel_order(dims: ConeDims, m: int) -> np.ndarray:
    """Clarabel's rows in SCS's: it stores the upper triangle of a semidefinite matrix by columns, SCS the lower."""
    order, start = np.arange(m), dims.smooth_start + sum(dims.soc)
    for n in dims.psd:
        rows, cols = (h.T[np.triu_indices(n)] for h in np.indices((n, n)))  # the lower triangle, by columns
        size = rows.size
        # column-major upper entry (j, i), j ≤ i, is number i(i+1)/2 + j
        order[start + rows * (rows + 1) // 2 + cols] = start + np.arange(size)
        start += size
    return order


class ClarabelSolver:
    """One instance; construction sets the solver up, ``solve`` returns (x, y, s)."""

    def __init__(self, data: ConeData, **settings: object) -> None:
        options = clarabel.DefaultSettings()
        options.verbose = False
        for name, value in settings.items():
            setattr(options, name, value)
        self._order = clarabel_order(data.dims, data.b.size)
        P = sp.csc_matrix(sp.triu(data.P))
        A = sp.csc_matrix(data.A[self._order] if data.dims.psd else data.A)
        self._solver = clarabel.DefaultSolver(P, data.q, A, data.b[self._order], _clarabel_cones(data.dims), options)

    def solve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        solution = self._solver.solve()
        y, s = np.empty(self._order.size), np.empty(self._order.size)
        y[self._order], s[self._order] = solution.z, solution.s
        return np.array(solution.x), y, s


class ScsSolver:
    """One instance; construction factors the KKT matrix, ``solve`` returns (x, y, s)."""

    def __init__(self, data: ConeData, **settings: object) -> None:
        cone = {
            "z": data.dims.zero,
            "l": data.dims.nonneg,
            "q": list(data.dims.soc),
            "s": list(data.dims.psd),
            "ep": data.dims.exponential,
        }
        matrices = {"P": sp.csc_matrix(sp.triu(data.P)), "A": sp.csc_matrix(data.A), "b": data.b, "c": data.q}
        self._solver = scs.SCS(matrices, cone, verbose=False, **settings)

    def solve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        solution = self._solver.solve()
        return solution["x"], solution["y"], solution["s"]
