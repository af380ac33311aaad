"""The operations of a node by name: affine and elementwise ones here, the others in ``reductions`` and ``spectral``.

Each is called with the arithmetic, the shape of its result (without the batch), its operands (b, *shape), b = B or 1,
and its fixed arguments. Operands of an elementwise operation are aligned at their last axes, the batch staying in
front.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from conelayers.problem.expressions import reductions, spectral
from conelayers.problem.expressions.arithmetic import Arithmetic, Array, precision

__all__ = ["OPERATIONS"]

Shape = tuple[int, ...]


def _aligned(xp: Arithmetic, operands: tuple[Array, ...], rank: int) -> list[Array]:
    """All with ``rank`` axes after the batch's."""
    missing = [rank + 1 - len(x.shape) for x in operands]
    return [
        xp.reshape(x, (x.shape[0], *(1,) * k, *x.shape[1:])) if k else x for x, k in zip(operands, missing, strict=True)
    ]


def _add(xp: Arithmetic, shape: Shape, *operands: Array) -> Array:
    return reduce(lambda x, y: x + y, _aligned(xp, operands, len(shape)))


def _negative(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    return -x


def _multiply(xp: Arithmetic, shape: Shape, x: Array, y: Array) -> Array:
    x, y = _aligned(xp, (x, y), len(shape))
    return x * y


def _divide(xp: Arithmetic, shape: Shape, x: Array, y: Array) -> Array:
    x, y = _aligned(xp, (x, y), len(shape))
    return x / y


def _matmul(xp: Arithmetic, shape: Shape, x: Array, y: Array) -> Array:
    """NumPy's rules: a vector is a row on the left and a column on the right, further axes are broadcast."""
    if len(x.shape) == 2:
        x = xp.reshape(x, (x.shape[0], 1, x.shape[1]))
    if len(y.shape) == 2:
        y = xp.reshape(y, (*y.shape, 1))
    x, y = _aligned(xp, (x, y), max(len(x.shape), len(y.shape)) - 1)
    product = xp.matmul(x, y)
    return xp.reshape(product, (product.shape[0], *shape))


def _reshape(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    return xp.reshape(x, (x.shape[0], *shape))


def _permute(xp: Arithmetic, shape: Shape, x: Array, axes: Shape) -> Array:
    return xp.permute(x, (0, *(a + 1 for a in axes)))


def _expand(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    (x,) = _aligned(xp, (x,), len(shape))
    return xp.expand(x, (x.shape[0], *shape))


def _take(xp: Arithmetic, shape: Shape, *operands: Array, index: Array) -> Array:
    """Entries of the operands, each flattened row by row, one after the other."""
    batch = max(x.shape[0] for x in operands)
    parts = []
    for x in operands:
        flat = xp.reshape(x, (x.shape[0], -1))
        parts.append(flat if flat.shape[0] == batch else xp.expand(flat, (batch, flat.shape[1])))
    joined = parts[0] if len(parts) == 1 else xp.join(parts, 1)
    return xp.reshape(xp.take(joined, index), (batch, *shape))


def _real(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    return xp.real(x)


def _imag(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    return xp.imag(x)


def _conjugate(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    return xp.conjugate(x)


def _inverse(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    return xp.inverse(x)


def _function(xp: Arithmetic, shape: Shape, x: Array, name: str) -> Array:
    return xp.elementwise(name, x)


def _power(xp: Arithmetic, shape: Shape, x: Array, p: float) -> Array:
    return xp.power(x, p)


def _variable_power(xp: Arithmetic, shape: Shape, x: Array, p: Array) -> Array:
    return xp.power(*_aligned(xp, (x, p), len(shape)))


def _maximum(xp: Arithmetic, shape: Shape, *operands: Array) -> Array:
    return reduce(xp.maximum, _aligned(xp, operands, len(shape)))


def _minimum(xp: Arithmetic, shape: Shape, *operands: Array) -> Array:
    return -_maximum(xp, shape, *[-x for x in operands])


def _logistic(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    return xp.softplus(x)


def _squared_modulus(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    return xp.real(x * xp.conjugate(x))


def _huber(xp: Arithmetic, shape: Shape, x: Array, M: Array) -> Array:
    """x² where |x| ≤ M, 2M|x| − M² elsewhere."""
    x, M = _full(xp, x, M, len(shape))
    size = xp.elementwise("abs", x)
    return xp.where(xp.stop(size) <= xp.stop(M), x * x, M * (2 * size - M))


def _log(xp: Arithmetic, x: Array) -> Array:
    """log x, at zero that of the least normal number: x log x is then 0 there, with a finite, steep derivative."""
    return xp.elementwise("log", xp.maximum(x, 0 * xp.stop(x) + float(precision(x).tiny)))


def _entr(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    """−x log x, 0 at 0, −∞ below."""
    return xp.where(xp.stop(x) >= 0, -x * _log(xp, x), -np.inf)


def _rel_entr(xp: Arithmetic, shape: Shape, x: Array, y: Array) -> Array:
    """x log(x/y), 0 at x = 0, +∞ outside of the domain."""
    x, y = _full(xp, x, y, len(shape))
    fixed_x, fixed_y = xp.stop(x), xp.stop(y)
    inside = ((fixed_x >= 0) & (fixed_y > 0)) | ((fixed_x == 0) & (fixed_y == 0))
    return xp.where(inside, x * (_log(xp, x) - _log(xp, y)), np.inf)


def _kl_div(xp: Arithmetic, shape: Shape, x: Array, y: Array) -> Array:
    """x log(x/y) − x + y."""
    entropy = _rel_entr(xp, shape, x, y)
    x, y = _aligned(xp, (x, y), len(shape))
    return entropy - x + y


def _full(xp: Arithmetic, x: Array, y: Array, rank: int) -> tuple[Array, Array]:
    """Both broadcast to one shape, which a mask over them has."""
    x, y = _aligned(xp, (x, y), rank)
    shape = tuple(max(m, n) for m, n in zip(x.shape, y.shape, strict=True))
    x, y = (a if tuple(a.shape) == shape else xp.expand(a, shape) for a in (x, y))
    return x, y


OPERATIONS: dict[str, Callable[..., Array]] = {
    "add": _add,
    "cholesky": spectral.cholesky,
    "conjugate": _conjugate,
    "cummax": reductions.cummax,
    "cumprod": reductions.cumprod,
    "cumsum": reductions.cumsum,
    "divide": _divide,
    "entr": _entr,
    "expand": _expand,
    "function": _function,
    "gen_lambda_max": spectral.gen_lambda_max,
    "geo_mean": reductions.geo_mean,
    "huber": _huber,
    "imag": _imag,
    "inverse": _inverse,
    "kl_div": _kl_div,
    "log_det": spectral.log_det,
    "log_sum_exp": reductions.log_sum_exp,
    "logistic": _logistic,
    "matmul": _matmul,
    "max": reductions.maximum,
    "maximum": _maximum,
    "minimum": _minimum,
    "multiply": _multiply,
    "negative": _negative,
    "permute": _permute,
    "pf_eigenvalue": spectral.pf_eigenvalue,
    "pnorm": reductions.pnorm,
    "power": _power,
    "prod": reductions.product,
    "real": _real,
    "rel_entr": _rel_entr,
    "reshape": _reshape,
    "sorted_sum": reductions.sorted_sum,
    "sort": reductions.sort,
    "squared_modulus": _squared_modulus,
    "sum": reductions.total,
    "take": _take,
    "tr_inv": spectral.tr_inv,
    "variable_power": _variable_power,
    "von_neumann_entr": spectral.von_neumann_entr,
    "weighted_eigenvalues": spectral.weighted_eigenvalues,
}
