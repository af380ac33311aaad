"""Small things that lift.py does with cvxpy's expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.binary_operators import MulExpression, multiply
from cvxpy.atoms.affine.conj import conj
from cvxpy.atoms.affine.conv import conv as old_convolve
from cvxpy.atoms.affine.conv import convolve
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.affine.transpose import transpose
from cvxpy.atoms.affine.wraps import Wrap, nsd_wrap, psd_wrap

__all__ = [
    "attributes",
    "convolution",
    "definite",
    "gram_root",
    "is_convolution",
    "is_product",
    "is_quadratic_over_parameter",
    "kronecker",
    "said",
    "scaled_core",
    "text",
    "with_args",
    "wrapped",
]

_LONGEST = 120


def is_convolution(e: Any) -> bool:
    """Whether e convolves its first argument with its second."""
    return isinstance(e, (old_convolve, convolve))


def convolution(e: Any) -> Any:
    """The same as a product T x, in which cvxpy's rules take parameters in T."""
    c, x = e.args
    i, j = np.divmod(np.arange(c.size * x.size), x.size)
    length = c.size + x.size - 1
    select = sp.csr_array((np.ones(i.size), (i + j + length * j, i)), shape=(length * x.size, c.size))
    T = cp.reshape(select @ cp.vec(c, order="F"), (length, x.size), order="F")
    return cp.reshape(T @ cp.vec(x, order="F"), e.shape, order="F")


def kronecker(e: Any) -> Any:
    """A Kronecker product as one entry by entry, in which cvxpy's rules take parameters."""
    A, B = e.args
    (m, n), (p, q) = A.shape, B.shape
    first = np.kron(np.eye(m), np.ones((p, 1))) @ A @ np.kron(np.eye(n), np.ones((1, q)))
    return cp.multiply(first, np.kron(np.ones((m, 1)), np.eye(p)) @ B @ np.kron(np.ones((1, n)), np.eye(q)))


def with_args(e: Any, args: list[Any]) -> Any:
    """e with other arguments."""
    return e if all(new is old for new, old in zip(args, e.args, strict=True)) else e.copy(args)


def is_product(e: Any) -> bool:
    """Whether e is a product of its two arguments that may hold parameters in either."""
    return len(e.args) == 2 and isinstance(e, (multiply, MulExpression))


def is_quadratic_over_parameter(e: Any) -> bool:
    """Whether e is Σx²/c for a parameter c that is declared positive; one that may be zero has no reciprocal."""
    if not isinstance(e, cp.quad_over_lin) or e.axis is not None or e.args[0].is_complex():
        return False
    c = e.args[1]
    return isinstance(c, cp.Parameter) and c.size == 1 and bool(c.attributes["pos"])


def definite(factor: Any, P: Any) -> Any:
    """factor·P, which is as definite as DCP has found it to be."""
    scaled = cp.multiply(factor, P)
    positive = P.is_psd() if factor.is_nonneg() else P.is_nsd()
    return psd_wrap(scaled) if positive else nsd_wrap(scaled)


def wrapped(parameter: Any, e: Any) -> Any:
    """The parameter for e, as definite as e: cvxpy's Hermitian parameters cannot be declared so."""
    if not parameter.is_complex() or e.ndim != 2 or e.shape[0] != e.shape[1] or not (e.is_psd() or e.is_nsd()):
        return parameter
    return psd_wrap(parameter) if e.is_psd() else nsd_wrap(parameter)


def _unwrapped(e: Any, definition: Callable[[Any], Any]) -> Any:
    e = definition(e)
    while isinstance(e, Wrap):
        e = definition(e.args[0])
    return e


def scaled_core(P: Any, definition: Callable[[Any], Any]) -> tuple[Any, Any]:
    """(c, S) for P = c S with a scalar c ≥ 0, else (None, P). ``definition``: what a new parameter stands for."""
    written = _unwrapped(P, definition)
    if isinstance(written, multiply):
        for factor, other in (written.args, written.args[::-1]):
            while isinstance(factor, Promote):
                factor = factor.args[0]
            known = (other.is_psd() or gram_root(other, definition) is not None) if P.is_psd() else other.is_nsd()
            if factor.is_scalar() and factor.is_nonneg() and known:
                scale, core = scaled_core(other, definition)
                return factor if scale is None else cp.multiply(factor, scale), core
    return None, P


def gram_root(P: Any, definition: Callable[[Any], Any]) -> Any:
    """M for P written as Mᵀ M, or Mᴴ M; None for another one."""
    written = _unwrapped(P, definition)
    if type(written) is MulExpression:
        left, right = written.args
        for one, other, root in ((left, right, right), (right, left, left.H)):
            if not isinstance(one, transpose):
                continue
            inner: Any = one.args[0]
            if (inner is other and not other.is_complex()) or (isinstance(inner, conj) and inner.args[0] is other):
                return root
    return None


def attributes(e: Any) -> dict[str, bool]:
    """e's sign, symmetry and definiteness, as attributes of a parameter; one of them where cvxpy takes one only."""
    square = e.ndim == 2 and e.shape[0] == e.shape[1]
    if e.is_complex():
        if e.is_imag():
            return {"imag": True}
        return {"hermitian": True} if square and e.is_hermitian() else {"complex": True}
    if square and (e.is_psd() or e.is_nsd()):
        return {"PSD": True} if e.is_psd() else {"NSD": True}
    if e.is_nonneg() or e.is_nonpos():
        return {"nonneg": True} if e.is_nonneg() else {"nonpos": True}
    return {"symmetric": True} if square and e.size > 1 and e.is_symmetric() else {}


def said(parameter: cp.Parameter) -> str:
    """Its attributes in words."""
    names = ("pos", "nonneg", "nonpos", "symmetric", "PSD", "NSD", "complex", "imag", "hermitian")
    return ", ".join(a for a in names if parameter.attributes[a])


def text(e: Any) -> str:
    """An expression on one line, without what cvxpy adds to what the user wrote."""
    line = _demoted(" ".join(str(e).split()))
    for name in ("PnormApprox", "PowerApprox", "GeoMeanApprox"):
        line = line.replace(name, name.removesuffix("Approx").lower().replace("geomean", "geo_mean"))
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def _demoted(line: str) -> str:
    """Promote(e, shape) as e."""
    start = line.find("Promote(")
    if start < 0:
        return line
    depth, comma, end = 0, -1, -1
    for i in range(start + len("Promote"), len(line)):
        depth += (line[i] in "([") - (line[i] in ")]")
        if line.startswith(", (", i) and depth == 1:
            comma = i
        if depth == 0:
            end = i
            break
    if comma < 0 or end < 0:
        return line
    return _demoted(line[:start] + line[start + len("Promote(") : comma] + line[end + 1 :])
