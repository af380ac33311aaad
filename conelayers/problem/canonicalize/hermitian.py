"""Semidefinite blocks of complex problems as the Hermitian ones that they are.

cvxpy writes H ⪰ 0 as [Re H, −Im H; Im H, Re H] ⪰ 0, of twice the order. Multipliers of that which differ by anything
orthogonal to all matrices of this structure do the same to the data: they are never unique, and the Jacobian of the
optimality conditions would be singular at every solution. Such blocks are found by their rows of A and b, which have
the structure for all values of the parameters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from conelayers.numerics.cones import embedding
from conelayers.program.cones import Cones

__all__ = ["hermitian_form"]

_SAME = 1e-12


def hermitian_form(program: Any, cones: Cones) -> tuple[Cones, sp.csr_array | None]:
    """The cones with Hermitian blocks, and the matrix E, EᵀE = I, from their rows to cvxpy's; None without any."""
    n = program.x.size
    structured = []
    for rows, order in zip(cones.psd_rows, cones.psd, strict=True):
        structured.append(order % 2 == 0 and _has_structure(program.A, n, cones.dimension, rows, embedding(order // 2)))
    if not any(structured):
        return cones, None
    kept = tuple(k for k, turned in zip(cones.psd, structured, strict=True) if not turned)
    orders = tuple(k // 2 for k, turned in zip(cones.psd, structured, strict=True) if turned)
    new = replace(cones, psd=kept, hermitian=orders)
    first = cones.zero + cones.nonneg + sum(cones.soc)
    column, later = first, first + sum(k * (k + 1) // 2 for k in kept)
    E = sp.lil_array((cones.dimension, new.dimension))
    E[:first, :first] = sp.eye_array(first)
    for rows, order, turned in zip(cones.psd_rows, cones.psd, structured, strict=True):
        block = embedding(order // 2) if turned else sp.eye_array(rows.size)
        start = later if turned else column
        E[rows[0] : rows[-1] + 1, start : start + block.shape[1]] = block
        column, later = (column, later + block.shape[1]) if turned else (column + block.shape[1], later)
    rest = cones.dimension - first - sum(rows.size for rows in cones.psd_rows)
    if rest:
        E[cones.dimension - rest :, new.dimension - rest :] = sp.eye_array(rest)
    return new, sp.csr_array(E)


def _has_structure(tensor: Any, n: int, m: int, rows: np.ndarray, E: sp.csr_array) -> bool:
    """Whether these rows of [A | b], entry (i, j) in row i + j·m of the tensor, are E times something."""
    places = (rows[None, :] + m * np.arange(n + 1)[:, None]).ravel()
    part = sp.csr_array(tensor)[places]
    left = part - sp.kron(sp.eye_array(n + 1), E @ E.T, format="csr") @ part
    return bool(np.abs(left.data).max(initial=0.0) <= _SAME * np.abs(part.data).max(initial=0.0))
