"""Two public failures of differentiable cone programs, built anew: both gradients must be exact to 1e−7.

The hypergradient of l1-regularized logistic regression (reported wrong by order 1), and a Sinkhorn-like layer: an
entropy-regularized assignment.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from conelayers.torch import ConeLayer


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS", "ECOS"])
def test_hypergradient_of_sparse_logistic_regression(solver: str) -> None:
    """In closed form on the support E: dw_E/dλ = −(X_EᵀS X_E)⁻¹ sign(w_E), S = diag(σ(1 − σ))."""
    rng = np.random.default_rng(0)
    samples, features = 40, 10
    X = rng.standard_normal((samples, features))
    truth = np.concatenate([[2.0, -2.0, 1.5], np.zeros(features - 3)])
    labels = np.where(rng.random(samples) < 1 / (1 + np.exp(-X @ truth)), 1.0, -1.0)
    X_val = rng.standard_normal((30, features))
    y_val = np.where(rng.random(30) < 1 / (1 + np.exp(-X_val @ truth)), 1.0, -1.0)
    w, lam = cp.Variable(features), cp.Parameter(nonneg=True)
    loss = cp.sum(cp.logistic(cp.multiply(-labels, X @ w)))
    layer = ConeLayer(cp.Problem(cp.Minimize(loss + lam * cp.norm1(w))), [lam], [w], solver=solver)
    log_lam = torch.tensor(np.log(2.0), dtype=torch.float64, requires_grad=True)
    (solution,) = layer(log_lam.exp())
    validation = torch.nn.functional.softplus(-torch.tensor(y_val) * (torch.tensor(X_val) @ solution)).mean()
    validation.backward()

    value = solution.detach().numpy()
    support = np.abs(value) > 1e-9
    assert 0 < support.sum() < features
    sigma = 1 / (1 + np.exp(-X @ value))
    XE = X[:, support]
    dw = -np.linalg.solve(XE.T @ ((sigma * (1 - sigma))[:, None] * XE), np.sign(value[support]))
    margins = y_val * (X_val @ value)
    gradient = X_val[:, support].T @ (-y_val / (1 + np.exp(margins))) / len(y_val)
    assert abs(log_lam.grad.item() - 2.0 * gradient @ dw) <= 1e-7


@pytest.mark.parametrize("solver", ["CLARABEL", "SCS", "ECOS"])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_entropy_regularized_assignment(solver: str, temperature: float) -> None:
    """minimize ⟨C, P⟩ − τ H(P) over doubly stochastic P: its derivative in C follows from P and two scalings."""
    n = 5
    rng = np.random.default_rng(1)
    C = rng.uniform(0, 1, (n, n))
    P, cost = cp.Variable((n, n)), cp.Parameter((n, n))
    constraints = [cp.sum(P, axis=0) == 1, cp.sum(P, axis=1) == 1]
    objective = cp.Minimize(cp.sum(cp.multiply(cost, P)) - temperature * cp.sum(cp.entr(P)))
    layer = ConeLayer(cp.Problem(objective, constraints), [cost], [P], solver=solver)
    C_t = torch.tensor(C, requires_grad=True)
    (plan,) = layer(C_t)
    g = rng.standard_normal((n, n))
    plan.backward(torch.tensor(g))

    K = np.exp(-C / temperature)
    u, v = np.ones(n), np.ones(n)
    for _ in range(5000):
        u = 1 / (K @ v)
        v = 1 / (K.T @ u)
    expected = u[:, None] * K * v[None, :]
    np.testing.assert_allclose(plan.detach().numpy(), expected, atol=1e-9)
    # KKT: C + τ(log P + 1) + f 1ᵀ + 1 gᵀ = 0. The adjoint solves on the space where rows and columns sum to zero.
    A = np.vstack([np.kron(np.eye(n), np.ones((1, n))), np.kron(np.ones((1, n)), np.eye(n))])
    H = np.diag(temperature / expected.ravel())
    system = np.block([[H, A.T], [A, np.zeros((2 * n, 2 * n))]])
    adjoint = np.linalg.lstsq(system, np.concatenate([g.ravel(), np.zeros(2 * n)]), rcond=1e-12)[0][: n * n]
    error = np.abs(C_t.grad.numpy().ravel() + adjoint).max()
    assert error <= 1e-7 * max(1.0, float(np.linalg.norm(adjoint)))
