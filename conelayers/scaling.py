"""Equilibration of a program: v = y − s compares multipliers with slacks, so both should be of one size.

With d > 0 (n,), e > 0 (m,) constant on each block of the cone, and β, γ > 0, the program in

    x' = β x/d,   s' = β e s,   y' = γ y/e,

has the data P' = (γ/β) d P d, q' = γ d q, A' = e A d, b' = β e b and the same cone. d and e follow Ruiz's iteration ("A
scaling algorithm to equilibrate both rows and columns norms in matrices", 2001), β and γ bring b' and q' to size 1. All are
powers of two, so that scaling rounds nothing, and 1 where the data are of moderate size already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from conelayers.program import ConeProgram, Segments, Structure, part

__all__ = ["Scaling", "equilibrate_program"]

_PASSES = 12
_TOLERATED = 16.0  # norms between 1/16 and 16 are left alone
_LIMIT = 2.0**40
_APART = (
    2.0**40
)  # ratio of q to b, or of b to q, beyond which the smaller one counts as zero: its rounding is not to be scaled up


@final
@dataclass(frozen=True)
class Scaling:
    """d (B, n) and e (B, m), (1, ·) where they are shared, β (B, 1) and γ (B, 1) of a batch, and the translations between the two programs."""

    d: np.ndarray
    e: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray

    @classmethod
    def identity(cls, program: ConeProgram) -> Scaling:
        """The scaling that changes nothing."""
        one = np.ones((program.batch, 1))
        return cls(np.ones_like(program.q), np.ones_like(program.b), one, one)

    @cached_property
    def trivial(self) -> bool:
        """Whether it changes nothing."""
        return all(bool((h == 1).all()) for h in (self.d, self.e, self.beta, self.gamma))

    def take(self, index: Any) -> Scaling:
        """A part of the batch."""
        return Scaling(part(self.d, index), part(self.e, index), part(self.beta, index), part(self.gamma, index))

    def program(self, program: ConeProgram) -> ConeProgram:
        """The scaled program."""
        P, A, ratio = program.P, program.A, self.gamma / self.beta
        if not ((self.d == 1).all() and (self.e == 1).all()):
            P, A = program.structure.P.scale(P, self.d, self.d), program.structure.A.scale(A, self.e, self.d)
        if not (ratio == 1).all():
            P = P * (ratio[:1] if (ratio == ratio[0]).all() else ratio)
        return ConeProgram(program.structure, P, self.gamma * self.d * program.q, A, self.beta * self.e * program.b)

    def scale(self, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x', y', s' from x, y, s."""
        return self.beta * x / self.d, self.gamma * y / self.e, self.beta * self.e * s

    def unscale(self, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, s from x', y', s'; their tangents likewise."""
        return self.d * x / self.beta, self.e * y / self.gamma, s / (self.e * self.beta)

    def scale_rows(self, r1: np.ndarray, r2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right-hand sides of the first and second row of J: γ d r₁, β e r₂; the adjoint of ``unscale_adjoint``."""
        return self.gamma * self.d * r1, self.beta * self.e * r2

    def scale_cotangents(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The adjoint of ``unscale``."""
        return self.d * gx / self.beta, self.e * gy / self.gamma, gs / (self.e * self.beta)


def equilibrate_program(program: ConeProgram) -> tuple[ConeProgram, Scaling]:
    """The equilibrated program and its scaling, each instance by itself."""
    one = np.ones((program.batch, 1))
    P, A = program.structure.P, program.structure.A
    rows = max(program.P.shape[0], program.A.shape[0])  # 1 where all instances share P and A
    d, e = np.ones((rows, program.structure.n)), np.ones((rows, program.structure.m))
    scaled_P, scaled_A = abs_P, abs_A = np.abs(program.P), np.abs(program.A)
    for _ in range(_PASSES):
        cols, rows = _norms(program.structure, scaled_P, scaled_A)
        rough = ~np.all(_moderate(cols), axis=1, keepdims=True) | ~np.all(_moderate(rows), axis=1, keepdims=True)
        if not rough.any():
            break
        d, e = np.where(rough, _divided(d, cols), d), np.where(rough, _divided(e, rows), e)
        scaled_P, scaled_A = P.scale(abs_P, d, d), A.scale(abs_A, e, d)
    q_size = np.max(np.abs(d * program.q), axis=1, initial=0.0, keepdims=True)
    b_size = np.max(np.abs(e * program.b), axis=1, initial=0.0, keepdims=True)
    gamma, beta = _inverse(q_size), _inverse(b_size)
    if not ((q_size > 0) & (b_size > 0) & (np.maximum(beta, gamma) <= _APART * np.minimum(beta, gamma))).all():
        # Without one of the two, or next to none, P' keeps its size: x ≈ q/P for b = 0, y ≈ P b for q = 0.
        curved = np.max(scaled_P, axis=1, initial=0.0, keepdims=True) > 0
        beta = np.where(curved & ((b_size == 0) | (beta > _APART * gamma)), gamma, beta)
        gamma = np.where(curved & ((q_size == 0) | (gamma > _APART * beta)), beta, gamma)
    scaling = Scaling(d, e, beta * one, gamma * one)
    return (program if scaling.trivial else scaling.program(program)), scaling


def _norms(structure: Structure, P: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maxima of the columns of [P; A] and of the rows of A, those of a block all the same."""
    blocks, cones = structure.cones.block_starts, structure.cones
    cols, rows = structure.A.column_maxima(A), structure.A.row_maxima(A)
    if structure.P.nnz:
        cols = np.maximum(cols, structure.P.column_maxima(P))
    if blocks.size < cones.dimension:
        rows = np.repeat(Segments(blocks, cones.dimension).maxima(rows), cones.block_sizes, axis=1)
    return cols, rows


def _moderate(norms: np.ndarray) -> np.ndarray:
    return (norms == 0) | ((norms >= 1 / _TOLERATED) & (norms <= _TOLERATED))


def _divided(scale: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """scale/√norm as a power of two, where the norm is positive."""
    step = np.exp2(-np.round(0.5 * np.log2(np.where(norms > 0, norms, 1.0))))
    return np.clip(scale * step, 1 / _LIMIT, _LIMIT)


def _inverse(size: np.ndarray) -> np.ndarray:
    return np.where(_moderate(size), 1.0, np.exp2(-np.round(np.log2(np.where(size > 0, size, 1.0)))))
