"""MATLAB files of version 5: Maros-Meszaros quadratic programs and NETLIB linear programs, recognized by their fields.

Maros-Meszaros  minimize ½ xᵀPx + qᵀx + r  subject to  l ≤ Ax ≤ u, the bounds of x being rows of A: P, q, r, A, l, u
NETLIB          minimize cᵀx               subject to  Ax = b, lo ≤ x ≤ hi: A, b, c, lo, hi, at the top level or in a structure
                ``Problem`` (there also as SuiteSparse has it, with c, lo and hi in ``Problem.aux``)
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp

from benchmarks.public.problem import Problem, Rows, Unreadable

__all__ = ["read_matlab"]


def read_matlab(content: bytes) -> Problem:
    """The problem of a file's content. Raises Unreadable."""
    if not content.startswith(b"MATLAB 5.0"):
        raise Unreadable("not a MATLAB file of version 5")
    try:
        fields = _flat(scipy.io.loadmat(io.BytesIO(content)))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes SciPy's reader raise anything
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    if {"P", "q", "A", "l", "u"} <= fields.keys():
        return _quadratic(fields)
    if {"A", "b", "c", "lo", "hi"} <= fields.keys():
        return _linear(fields)
    raise Unreadable("neither P, q, A, l, u nor A, b, c, lo, hi are in it")


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the structures Problem and Problem.aux next to those of the top level."""
    flat = dict(fields)
    for name in ("Problem", "aux"):
        inner = flat.get(name)
        if isinstance(inner, np.ndarray) and inner.dtype.names and inner.size == 1:
            flat |= {key: inner[key].flat[0] for key in inner.dtype.names}
    return flat


def _quadratic(fields: Mapping[str, Any]) -> Problem:
    A = _matrix("A", fields["A"])
    m, n = A.shape
    P, q = _matrix("P", fields["P"], (n, n)), _vector("q", fields["q"], n)
    lower, upper = sp.tril(P, -1), sp.triu(P, 1)
    if not (lower.count_nonzero() and upper.count_nonzero()):  # a triangle alone
        P = P + lower.T + upper.T
    elif abs(P - P.T).max() > 1e-10 * abs(P).max():
        raise Unreadable("P: not symmetric")
    rows = Rows(n)
    rows.add_ranges(A, _vector("l", fields["l"], m), _vector("u", fields["u"], m))
    return rows.build(sp.csc_array(P), q, n, m)


def _linear(fields: Mapping[str, Any]) -> Problem:
    A = _matrix("A", fields["A"])
    m, n = A.shape
    b = _vector("b", fields["b"], m)
    rows = Rows(n)
    rows.add("zero", A, -b)
    rows.add_ranges(sp.eye_array(n, format="csr"), _vector("lo", fields["lo"], n), _vector("hi", fields["hi"], n))
    return rows.build(sp.csc_array((n, n)), _vector("c", fields["c"], n), n, m)


def _matrix(name: str, value: Any, shape: tuple[int, int] | None = None) -> sp.csr_array:
    """The values of MATLAB files have any type and byte order; MATLAB stores zero matrices and scalars as dense ones."""
    if sp.issparse(value):
        stored = type(value)((_numbers(name, value.data), value.indices, value.indptr), shape=value.shape)
        stored.check_format(full_check=True)
    else:
        stored = np.atleast_2d(_numbers(name, value))
    found = sp.csr_array(stored)
    if shape is not None and found.shape != shape:
        raise Unreadable(f"{name}: got shape {found.shape}, expected {shape}")
    return found


def _vector(name: str, value: Any, size: int) -> np.ndarray:
    vector = _matrix(name, value).toarray().ravel() if sp.issparse(value) else _numbers(name, value).ravel()
    if vector.size != size:
        raise Unreadable(f"{name}: got {vector.size} entries, expected {size}")
    return vector


def _numbers(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise Unreadable(f"{name}: got {array.dtype}, expected real numbers")
    return array.astype(np.float64)
