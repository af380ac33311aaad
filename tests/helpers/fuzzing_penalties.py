"""Soft constraints with weights from 1e3 to 1e8 on their slacks: exact penalties change nothing, squared ones what they
must.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from fuzzing import within
from fuzzing_bounds import attempted
from fuzzing_programs import Data, ProgramSpec, check_program, check_same, programs
from hypothesis import strategies as st

from conelayers import Cones

__all__ = ["PenaltySpec", "check_penalties", "penalties"]

KINDS = ("regular", "kinked", "nearly kinked")
WEIGHTS = (1e3, 1e4, 1e6, 1e8)


@dataclass(frozen=True)
class PenaltySpec:
    """A program whose equalities and inequalities are made soft, so that its repr is the example.

    form: "linear", weight·(t⁺ + t⁻) with t⁺, t⁻ ≥ 0, or "squared", ½ weight·t². weight: relative to the largest
    multiplier, or 1.
    """

    program: ProgramSpec
    form: str
    weight: float
    normwise: ClassVar[bool] = True  # multipliers of 1 beside weights of 1e8

    @property
    def kind(self) -> str:
        return self.program.kind

    @property
    def seed(self) -> int:
        return self.program.seed

    @property
    def cones(self) -> Cones:
        cones = self.program.cones
        added = 2 * cones.zero + cones.nonneg if self.form == "linear" else 0
        return replace(cones, nonneg=cones.nonneg + added)

    def build(self) -> Data:
        """The soft program, and the solution that follows from that of the hard one."""
        data, cones = self.program.build(), self.program.cones
        x, y, s = data.x, data.y, data.s
        assert x is not None
        assert y is not None
        assert s is not None
        flat, n, m = cones.zero + cones.nonneg, x.size, y.size
        weight = self.weight * max(1.0, float(np.abs(y[:flat]).max(initial=0)))
        if self.form == "squared":
            t = y[:flat] / weight
            P = np.zeros((n + flat, n + flat))
            P[:n, :n], P[n:, n:] = data.P, weight * np.eye(flat)
            A = np.concatenate([data.A, np.eye(m, flat, 0) * -1.0], axis=1)
            b = data.b.copy()
            b[:flat] -= t
            return Data(P, np.append(data.q, np.zeros(flat)), A, b, np.append(x, t), y, s)
        above, below = -np.eye(m, flat), np.eye(m, cones.zero)
        slacks = flat + cones.zero
        P = np.zeros((n + slacks, n + slacks))
        P[:n, :n] = data.P
        A = np.concatenate([data.A, above, below], axis=1)
        A = np.insert(A, flat, np.concatenate([np.zeros((slacks, n)), -np.eye(slacks)], axis=1), axis=0)
        multipliers = weight - np.concatenate([y[:flat], -y[: cones.zero]])
        zeros = np.zeros(slacks)
        return Data(
            P,
            np.append(data.q, np.full(slacks, weight)),
            A,
            np.insert(data.b, flat, zeros),
            np.append(x, zeros),
            np.insert(y, flat, multipliers),
            np.insert(s, flat, zeros),
        )


def penalties() -> st.SearchStrategy[PenaltySpec]:
    """Of programs that have something to make soft."""
    return st.builds(
        PenaltySpec,
        program=programs(KINDS).filter(lambda p: p.cones.zero + p.cones.nonneg > 0),
        form=st.sampled_from(("linear", "squared")),
        weight=st.sampled_from(WEIGHTS),
    )


def check_penalties(spec: PenaltySpec, counts: Counter | None = None) -> None:
    """All that is asked of a program; and with an exact penalty the point and the gradients of the hard program."""
    counts = Counter() if counts is None else counts
    check_program(spec, counts)
    if spec.form != "linear":
        return
    with within():
        hard, cones = spec.program.build(), spec.program.cones
        alone, _ = attempted(hard, cones)
        soft, _ = attempted(spec.build(), spec.cones)
        if alone is None or soft is None:
            return
        flat, added = cones.zero + cones.nonneg, 2 * cones.zero + cones.nonneg
        rows = np.delete(np.arange(soft.y.size), slice(flat, flat + added))
        check_same(hard, alone, soft, np.arange(hard.q.size), rows, spec.seed, counts)
