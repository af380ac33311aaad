"""SDPLIB's sparse format: minimize cᵀx subject to Σᵢ xᵢFᵢ − F₀ ⪰ 0, block by block.

Lines of comments (" or *), the number of constraints, the number of blocks, their orders (negative: a diagonal block), c, and
then an entry a line: matrix, block, row, column, value. Numbers may be separated by commas, braces and parentheses, and
what follows the numbers that a line needs is a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from benchmarks.public.problem import (
    LARGEST_COUNT,
    LARGEST_ORDER,
    Problem,
    Rows,
    Unreadable,
    check_count,
    inside,
    matrix,
    svec_positions,
)

__all__ = ["read_sdplib"]

_SEPARATORS = str.maketrans(dict.fromkeys("{}(),;\t", " "))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?")


def read_sdplib(content: bytes) -> Problem:
    """The problem of a file's content. Raises Unreadable."""
    lines = [h for h in content.decode("ascii", errors="replace").splitlines() if h.strip()]
    source = iter([h for h in lines if h.lstrip()[0] not in '"*'])
    m = check_count("constraints", int(_leading(source, 1)[0]), 1)
    count = check_count("blocks", int(_leading(source, 1)[0]), 1)
    orders = _whole(np.array(_leading(source, count)))
    for order in orders.tolist():
        check_count("order of a block", abs(order), 1, LARGEST_ORDER if order > 0 else LARGEST_COUNT)
    c = np.array(_leading(source, m))
    tokens = " ".join(source).translate(_SEPARATORS).split()
    if len(tokens) % 5:
        raise Unreadable("the entries are not five numbers each: matrix, block, row, column, value")
    entries = np.array([_number(token) for token in tokens]).reshape(-1, 5)
    which, block, i, j = (_whole(entries[:, k]) - (k > 0) for k in range(4))
    inside("matrix", which, m + 1)
    inside("block", block, count)
    inside("row", i, np.abs(orders)[block])
    inside("column", j, np.abs(orders)[block])
    rows = Rows(m)
    for k, order in enumerate(orders.tolist()):
        here = block == k
        _add(rows, order, m, which[here], i[here], j[here], entries[here, 4])
    return rows.build(sp.csc_array((m, m)), c, int(np.abs(orders).sum()), m)


def _add(rows: Rows, order: int, m: int, which: np.ndarray, i: np.ndarray, j: np.ndarray, values: np.ndarray) -> None:
    """One block's rows: G x + h = svec(Σ xᵢFᵢ − F₀)."""
    if order < 0 or order == 1:
        if (i != j).any():
            raise Unreadable("an entry off the diagonal of a diagonal block")
        size, place, scale = abs(order), i, np.ones(i.size)
    else:
        size = order * (order + 1) // 2
        place, scale = svec_positions(order)[i, j], np.where(i == j, 1.0, np.sqrt(2.0))
        key = which * size + place
        mirrored = (i > j) & np.isin(key, key[i < j])  # some writers give both triangles
        which, place, scale, values = (h[~mirrored] for h in (which, place, scale, values))
    whole = matrix(scale * values, place, which, (size, m + 1)).tocsc()
    G, h = sp.csr_array(whole[:, 1:]), -whole[:, [0]].toarray().ravel()
    if order < 0 or order == 1:
        rows.add("nonneg", G, h)
    else:
        rows.add("psd", G, h, order)


def _leading(lines: Iterator[str], count: int) -> list[float]:
    """The next ``count`` numbers; they may run over several lines, and the rest of the last one is a comment."""
    found: list[float] = []
    while len(found) < count:
        line = next(lines, None)
        if line is None:
            raise Unreadable("the file ends too early")
        here = []
        for token in line.translate(_SEPARATORS).split():
            if not _NUMBER.fullmatch(token):
                break
            here.append(_number(token))
        if not here:
            raise Unreadable(f"expected a number, got {line.strip()[:40]!r}")
        found += here
    return found[:count]


def _number(token: str) -> float:
    if not _NUMBER.fullmatch(token):
        raise Unreadable(f"expected a number, got {token[:40]!r}")
    return float(token.replace("d", "e").replace("D", "e"))


def _whole(values: np.ndarray) -> np.ndarray:
    if (values != np.floor(values)).any() or (np.abs(values) > 2**52).any():
        raise Unreadable("an index is not an integer")
    return values.astype(np.int64)
