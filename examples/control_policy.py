"""A control policy learned through its quadratic programs
=======================================================

Learn a convex control policy by the gradient of its simulated cost, compiled by JAX from end to end.

    x(t+1) = A x(t) + B u(t) + w(t),    u(t) = argmin over −½ ≤ u ≤ ½ of  ‖u‖² + ‖S (A x(t) + B u)‖²

The policy is a quadratic program with the matrix S to be learned; the cost is the mean of ‖x‖² + ‖u‖² along the way. The simulation is a
``lax.scan`` around the layer, its gradient goes back through every solve, and optax's Adam takes the steps. S starts at
a small multiple of the identity; for comparison, the policy of the linear-quadratic regulator's value function (S = √P), clipped by the same
program. What is learned comes within 3 % of it, though it has never seen P.
"""

from __future__ import annotations

import argparse
import time

import cvxpy as cp
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.linalg import solve_discrete_are, sqrtm

from conelayers.jax import ConeLayer

STATES, INPUTS, HORIZON, BATCH, STEPS = 8, 3, 40, 16, 30


def main(picture: str) -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((STATES, STATES))
    A /= np.abs(np.linalg.eigvals(A)).max()  # marginally stable
    B = 0.5 * rng.standard_normal((STATES, INPUTS))

    u, z = cp.Variable(INPUTS), cp.Variable(STATES)
    S, drift = cp.Parameter((STATES, STATES)), cp.Parameter(STATES)
    objective = cp.Minimize(cp.sum_squares(u) + cp.sum_squares(S @ z))
    layer = ConeLayer(cp.Problem(objective, [z == drift + B @ u, cp.abs(u) <= 0.5]), [S, drift], [u])

    @jax.jit
    def cost(S: jax.Array, noise: jax.Array) -> jax.Array:
        """The mean cost of a stage, for noise (HORIZON, BATCH, STATES)."""

        def stage(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
            moved = x @ A.T
            (u,) = layer(S, moved)
            return moved + u @ B.T + w, jnp.mean(jnp.sum(x**2, axis=1) + jnp.sum(u**2, axis=1))

        return jnp.mean(jax.lax.scan(stage, jnp.zeros((BATCH, STATES)), noise)[1])

    optimizer = optax.adam(0.1)

    @jax.jit
    def step(S: jax.Array, state: optax.OptState, key: jax.Array) -> tuple[jax.Array, optax.OptState]:
        noise = 0.3 * jax.random.normal(key, (HORIZON, BATCH, STATES))
        updates, state = optimizer.update(jax.grad(cost)(S, noise), state)
        return optax.apply_updates(S, updates), state

    test = 0.3 * jax.random.normal(jax.random.key(1), (HORIZON, BATCH, STATES))
    S_t = 0.2 * jnp.eye(STATES)
    state, curve = optimizer.init(S_t), [float(cost(S_t, test))]
    start = time.perf_counter()
    for key in jax.random.split(jax.random.key(0), STEPS):
        S_t, state = step(S_t, state, key)
        curve.append(float(cost(S_t, test)))
    seconds = time.perf_counter() - start
    P = solve_discrete_are(A, B, np.eye(STATES), np.eye(INPUTS))
    regulator = float(cost(jnp.asarray(sqrtm(P).real, jnp.float32), test))
    print(f"cost of a stage: {curve[0]:.2f} at the start, {regulator:.2f} clipped regulator, {curve[-1]:.2f} learned")
    print(f"{STEPS} steps of {HORIZON} × {BATCH} solves and their gradients: {seconds:.1f} s")
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(curve, label="learned policy")
    axes.axhline(regulator, color="grey", linestyle="--", label="regulator's value function")
    axes.set_xlabel("step of Adam")
    axes.set_ylabel("mean cost of a stage, held-out noise")
    axes.legend()
    figure.savefig(picture, dpi=150)
    # No policy of this form need be the best; the regulator's would be without the bound. Learning does not see its P.
    assert regulator < 0.5 * curve[0]
    assert curve[-1] < 1.03 * regulator


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture", "--out", default="control_policy.png", help="where the learning curve goes")
    main(parser.parse_args().picture)
