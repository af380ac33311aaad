"""Hermitian blocks as real ones of twice the order, for solvers that take real ones only.

H ⪰ 0 if and only if [Re H, −Im H; Im H, Re H] ⪰ 0.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import scipy.sparse as sp

from conelayers.numerics.cones.psd import matrix_to_svec, svec_to_hermitian
from conelayers.program.cones import Cones

__all__ = ["embedding", "real_form"]


@cache
def embedding(n: int) -> sp.csr_array:
    """E with EᵀE = I that maps the scaled vector of a Hermitian matrix of order n to √½ times that of its real form.

    v is in the cone if and only if E v is, and Π(v) = EᵀΠ(E v).
    """
    H = svec_to_hermitian(np.eye(n * n), n)
    real = np.block([[H.real, -H.imag], [H.imag, H.real]])
    return sp.csr_array(matrix_to_svec(real).T / np.sqrt(2.0))


@cache
def real_form(cones: Cones) -> tuple[Cones, sp.csr_array]:
    """The cones with their Hermitian blocks as real ones, and the matrix E, EᵀE = I, that maps the rows."""
    first = sum(n * (n + 1) // 2 for n in cones.psd) + cones.zero + cones.nonneg + sum(cones.soc)
    last = cones.dimension - first - sum(n * n for n in cones.hermitian)
    blocks = [sp.eye_array(first), *(embedding(n) for n in cones.hermitian), sp.eye_array(last)]
    larger = replace(cones, psd=(*cones.psd, *(2 * n for n in cones.hermitian)), hermitian=())
    return larger, sp.csr_array(sp.block_diag(blocks))
