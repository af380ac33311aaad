"""How constrained least squares depends on its data
==================================================

A polynomial is fitted to noisy data under constraints, and the fit is differentiated with respect to all of the data at once:

    minimize over x  ‖A x − b‖²  subject to  C x = d,  G x ≥ 0

A and b are the data (row i holds the polynomials' values at a point, and b what was measured there), C x = d fixes the fit at the two ends and
G x ≥ 0 keeps it nonnegative on a grid. With the rows E of G that are active at the solution, x and the multipliers (ν, λ) solve

    [ 2AᵀA  Cᵀ  −Eᵀ ] [x]   [2Aᵀb]
    [  C    0    0  ] [ν] = [ d  ]
    [  E    0    0  ] [λ]   [ 0  ]

and the closed form of the sensitivities comes from this matrix: for a loss with gradient g in x, w = K⁻¹(g, 0, 0) gives 2A w with respect to b,
2(b − A x)wᵀ − 2A w xᵀ with respect to A, and the multipliers' part of w with respect to d. The layer's gradients are compared with them; its
dual variables are outputs like any other, and are compared with ν. The picture shows which measurements the fit's value at one point
listens to, with the constraints and without.

The system is in Boyd and Vandenberghe, "Introduction to applied linear algebra" (2018), chapter 16.
"""

from __future__ import annotations

import argparse

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.polynomial.legendre import legvander

from conelayers import Verdict
from conelayers.torch import ConeLayer

SAMPLES, DEGREE, PLACE = 40, 8, 0.35
GRID = np.linspace(-1, 1, 41)[1:-1]


def fit() -> ConeLayer:
    """A, b and d in; the coefficients and the multipliers of the two constraints out."""
    x = cp.Variable(DEGREE + 1, name="x")
    A, b, d = cp.Parameter((SAMPLES, DEGREE + 1)), cp.Parameter(SAMPLES), cp.Parameter(2)
    ends, sign = legvander([-1.0, 1.0], DEGREE) @ x == d, legvander(GRID, DEGREE) @ x >= 0
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [ends, sign])
    return ConeLayer(problem, [A, b, d], [x, ends.dual_variables[0], sign.dual_variables[0]])


def closed_form(
    A: np.ndarray, b: np.ndarray, d: np.ndarray, active: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """x, ν, and the gradients of a loss with respect to A, b, d, by the system of the active constraints."""
    C, E = legvander([-1.0, 1.0], DEGREE), legvander(GRID, DEGREE)[active]
    n, fixed = A.shape[1], np.vstack([C, -E])
    K = np.block([[2 * A.T @ A, fixed.T], [fixed, np.zeros((len(fixed), len(fixed)))]])
    x, nu = np.split(np.linalg.solve(K, np.r_[2 * A.T @ b, d, np.zeros(len(E))])[: n + 2], [n])
    w, rest = np.split(np.linalg.solve(K, np.r_[g, np.zeros(len(fixed))]), [n])
    gradients = 2 * np.outer(b - A @ x, w) - 2 * np.outer(A @ w, x), 2 * A @ w, rest[:2]
    return x, nu, gradients


def main(picture: str | None) -> None:
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(-1, 1, SAMPLES))
    b = np.maximum(np.sin(np.pi * t), 0) + 0.15 * rng.standard_normal(SAMPLES)
    A, d, g = legvander(t, DEGREE), np.zeros(2), legvander([PLACE], DEGREE)[0]

    layer, data = fit(), [torch.tensor(a, requires_grad=True) for a in (A, b, d)]
    x, nu, multipliers = layer(*data)
    (x @ torch.tensor(g)).backward()  # the fit's value at one point
    active = multipliers.detach().numpy() > 1e-9
    (certificate,) = layer.certify(*data)
    x_closed, nu_closed, expected = closed_form(A, b, d, active, g)

    print(
        f"degree {DEGREE}, {SAMPLES} samples; {active.sum()} of {active.size} inequalities active; {certificate.verdict.value}"
    )
    pairs = {"x": (x.detach().numpy(), x_closed), "ν": (nu.detach().numpy(), nu_closed)}
    pairs |= {f"gradient in {name}": (a.grad.numpy(), e) for name, a, e in zip("Abd", data, expected, strict=True)}
    errors = {name: np.abs(ours - closed).max() / np.abs(closed).max() for name, (ours, closed) in pairs.items()}
    for name, (_, closed) in pairs.items():
        print(f"  {name:13} largest entry {np.abs(closed).max():.3e}, relative error {errors[name]:.1e}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    free = np.linalg.lstsq(A, b, rcond=None)[0]
    curve, basis = np.linspace(-1, 1, 401), legvander(np.linspace(-1, 1, 401), DEGREE)
    left.plot(t, b, ".", color="grey", label="data")
    left.plot(curve, basis @ free, "--", color="grey", label="least squares")
    left.plot(curve, basis @ x_closed, color="tab:blue", label="constrained")
    left.plot(GRID[active], 0 * GRID[active], "|", color="tab:red", markersize=12, label="active constraints")
    left.set(xlabel="t", ylabel="fit")
    right.axvline(PLACE, color="black", linewidth=0.8)
    right.plot(t, g @ np.linalg.pinv(A), "--", color="grey", label="least squares")
    right.plot(t, data[1].grad, "o", color="tab:blue", markersize=4, label="constrained, layer's gradient")
    right.plot(t, expected[1], color="tab:blue", linewidth=1, label="constrained, closed form")
    right.set(xlabel="t of a measurement", ylabel=f"∂ fit({PLACE:g}) / ∂ measurement", ylim=(-0.035, 0.15))
    for ax in (left, right):
        ax.legend()
    if picture:
        figure.savefig(picture, dpi=150)
    assert certificate.verdict is Verdict.CLASSICAL
    assert active.any()
    assert max(errors.values()) < 1e-9


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FILE", help="where the picture goes")
    main(parser.parse_args().out)
