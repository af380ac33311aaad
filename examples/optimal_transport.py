"""Optimal transport, its potentials, and the costs behind a plan
===============================================================

Mass at the points xᵢ goes to the points yⱼ at the least cost, kept apart from the boundary by its entropy:

    V(C, a, b) = minimum of ⟨C, T⟩ + ε Σ Tᵢⱼ log Tᵢⱼ     over T 1 = a, Tᵀ 1 = b.

Written in cvxpy it is a layer, here in JAX. By theory ∂V/∂C is the plan T and ∂V/∂a, ∂V/∂b are the potentials; both are compared with
Sinkhorn's iteration in the log domain, which knows nothing of the layer. Then the inverse problem: given a plan, which costs
made it? With C = Σₖ θₖ Dₖ for distances Dₖ along each axis, the convex function ⟨C(θ), T_obs⟩ − V(C(θ)) is least at the θ sought
(up to what the marginals fix anyhow), and Newton's method by ``jax.grad`` and ``jax.hessian`` through the layer finds it in a few steps.

Sources: Cuturi, "Sinkhorn distances", 2013; Galichon and Salanié, "Cupid's invisible hand", 2022.
"""

from __future__ import annotations

import argparse

import cvxpy as cp
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.special import logsumexp

from conelayers.jax import ConeLayer

SOURCES, SINKS, EPSILON, PAIRS = 10, 12, 0.1, 20_000
TRUTH = np.array([1.5, 0.4])


def transport(n: int, m: int) -> ConeLayer:
    """Costs and marginals in, plan out."""
    T = cp.Variable((n, m), name="T")
    C, a, b = cp.Parameter((n, m), name="C"), cp.Parameter(n, name="a"), cp.Parameter(m, name="b")
    objective = cp.Minimize(cp.sum(cp.multiply(C, T)) - EPSILON * cp.sum(cp.entr(T)))
    # The last sink's balance follows from the others'.
    return ConeLayer(cp.Problem(objective, [cp.sum(T, axis=1) == a, cp.sum(T, axis=0)[:-1] == b[:-1]]), [C, a, b], [T])


def sinkhorn(C: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plan exp((f + g − C)/ε − 1) and potentials, with the last sink's at zero."""
    g = np.zeros_like(b)
    for _ in range(5000):
        f = EPSILON * (1 + np.log(a) - logsumexp((g - C) / EPSILON, axis=1))
        g = EPSILON * (1 + np.log(b) - logsumexp((f[:, None] - C) / EPSILON, axis=0))
    return np.exp((f[:, None] + g - C) / EPSILON - 1), f + g[-1], g - g[-1]


def distances(x: np.ndarray, y: np.ndarray) -> jax.Array:
    """Squared distances along each axis, (2, sources, sinks)."""
    return jnp.asarray((x[:, None, :] - y) ** 2).transpose(2, 0, 1)


def recover(layer: ConeLayer, D: jax.Array, plan: jax.Array) -> list[np.ndarray]:
    """θ by Newton's method from zero."""
    a, b = plan.sum(axis=1), plan.sum(axis=0)

    @jax.jit
    def derivatives(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(theta: jax.Array) -> jax.Array:
            C = jnp.tensordot(theta, D, axes=1)
            return jnp.sum(C * plan) - layer.value(C, a, b)

        return jax.grad(loss)(theta), jax.hessian(loss)(theta)

    path = [np.zeros(len(D))]
    for _ in range(20):
        gradient, hessian = derivatives(jnp.asarray(path[-1]))
        path.append(path[-1] - np.linalg.solve(hessian, gradient))
        if np.abs(path[-1] - path[-2]).max() < 1e-10:
            break
    return path


def draw(x: np.ndarray, y: np.ndarray, plan: np.ndarray, paths: dict[str, list[np.ndarray]]) -> plt.Figure:
    figure, (places, costs) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for (i, j), mass in np.ndenumerate(plan):
        places.plot(*zip(x[i], y[j], strict=True), color="0.5", linewidth=80 * mass, zorder=1)
    places.scatter(*x.T, s=1000 * plan.sum(axis=1), color="tab:blue", label="sources", zorder=2)
    places.scatter(*y.T, s=1000 * plan.sum(axis=0), color="tab:red", label="sinks", zorder=2)
    places.set(
        title="the plan: width is mass", xlabel="first axis (dear: θ₁ = 1.5)", ylabel="second axis (cheap: θ₂ = 0.4)"
    )
    for (name, path), style in zip(paths.items(), ("-", "--"), strict=True):
        for k, color in enumerate(("tab:blue", "tab:orange")):
            costs.plot(np.array(path)[:, k], style, marker=".", color=color, label=f"θ{'₁₂'[k]}, {name}")
    for truth in TRUTH:
        costs.axhline(truth, color="black", linewidth=0.8, linestyle=":")
    costs.set(
        title="the costs recovered from the plan (dotted: true)", xlabel="Newton step", ylabel="weight of a distance"
    )
    places.legend()
    costs.legend(loc="center right")
    return figure


def main(out: str | None) -> None:
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1, (SOURCES, 2)), rng.uniform(0, 1, (SINKS, 2))
    a, b = rng.dirichlet(np.full(SOURCES, 5.0)), rng.dirichlet(np.full(SINKS, 5.0))
    layer, D = transport(SOURCES, SINKS), distances(x, y)
    C = jnp.tensordot(TRUTH, D, axes=1)

    (plan,) = layer(C, a, b)
    dC, da, db = jax.grad(layer.value, argnums=(0, 1, 2))(C, jnp.asarray(a), jnp.asarray(b))
    T, f, g = sinkhorn(np.asarray(C), a, b)
    errors = [float(jnp.abs(u - v).max()) for u, v in ((plan, T), (dC, T), (da, f), (db, g))]
    verdict = layer.certify(C, a, b)[0].verdict.value
    print("against Sinkhorn: plan {:.0e}, ∂V/∂C {:.0e}, ∂V/∂a {:.0e}, ∂V/∂b {:.0e}; {}".format(*errors, verdict))
    exact = recover(layer, D, plan)
    counts = rng.multinomial(PAIRS, np.asarray(plan / plan.sum()).ravel()).reshape(plan.shape)
    seen = recover(layer, D, jnp.asarray(counts / PAIRS))
    error = np.abs(exact[-1] - TRUTH).max()
    print(f"costs from the plan itself: error {error:.0e} after {len(exact) - 1} Newton steps")
    print(f"costs from {PAIRS:,} pairs drawn from it: {np.round(seen[-1], 3)}, true {TRUTH}")
    figure = draw(x, y, T, {"plan": exact, "drawn pairs": seen})
    if out:
        figure.savefig(out, dpi=150)
    assert max(errors) < 1e-9
    assert error < 1e-8
    assert np.abs(seen[-1] - TRUTH).max() < 0.05


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="where the picture goes")
    main(parser.parse_args().out)
