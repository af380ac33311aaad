"""Draws docs/clarke_set.png: a kink's generalized derivative, and the determinant of J over the Clarke sets of two problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from conelayers import Cones, solve_and_differentiate


def determinant(P: np.ndarray, A: np.ndarray, D: np.ndarray) -> float:
    """det J(D), J = [P, AᵀD; −A, I − D], for D = diag(d)."""
    return float(np.linalg.det(np.block([[P, A.T * D], [-A, np.diag(1 - D)]])))


def main() -> None:
    """Three panels."""
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    kink, regular, singular = figure.subplots(1, 3)
    t = np.linspace(-1, 1, 201)
    kink.plot(t, np.maximum(t, 0), color="black", linewidth=2, label="x(t) = argmin ½(x − t)² over x ≥ 0")
    for slope in np.linspace(0, 1, 9):
        kink.plot(t[60:141], slope * t[60:141], color="tab:orange", linewidth=0.8)
    kink.plot([], [], color="tab:orange", label="the Clarke set at t = 0: slopes from 0 to 1")
    kink.set(xlabel="t", ylabel="x", title="one kink, every slope between", ylim=(-0.5, 1.45))
    kink.legend(loc="upper left", fontsize="small")

    A = np.array([[1.0, -1.0], [-1.0, -1.0]])
    d = np.linspace(0, 1, 81)
    for axes, P, text in (
        (regular, np.diag([1.0, 1.0]), "½(x₀² + x₁²), x₁ ≥ |x₀|"),
        (singular, np.diag([0.0, 1.0]), "½x₁², x₁ ≥ |x₀|"),
    ):
        values = np.array([[determinant(P, A, np.array([a, b])) for a in d] for b in d])
        filled = axes.contourf(d, d, values, levels=np.linspace(0, 4, 17), cmap="viridis")
        figure.colorbar(filled, ax=axes, label="det J(D)")
        (certificate,) = solve_and_differentiate(
            P, np.zeros(2), A, np.zeros(2), Cones(nonneg=2), selection="high"
        ).certify()
        axes.plot([0, 1], [0, 1], "o", color="white", markeredgecolor="black", markersize=9, clip_on=False)
        axes.annotate("D_min", (0.03, 0.06), color="white")
        axes.annotate("D_max", (0.8, 0.91), color="black")
        axes.set(xlabel="d₀", ylabel="d₁", title=f"{text}: {certificate.verdict.value}", aspect="equal")
    figure.savefig(Path(__file__).with_name("clarke_set.png"), dpi=130)


if __name__ == "__main__":
    main()
