"""Linear programs: their solutions do not move with the costs, so the gradient is zero; the duals are degenerate."""

from __future__ import annotations

from collections.abc import Callable

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import dijkstra

from benchmarks.suite.case import Arrays, Family, Model, QuadraticForm, Solved, sparse

__all__ = ["ASSIGNMENT", "PATH"]


def _program(A: sp.csc_array, b: np.ndarray, optimum: Callable[[np.ndarray], np.ndarray]) -> Model:
    """minimize costsᵀx subject to A x = b, x ≥ 0."""
    n = A.shape[1]
    x, costs = cp.Variable(n), cp.Parameter(n, name="costs")

    def exact(values: Arrays, cotangents: Arrays) -> Solved:
        best = optimum(values[0])
        cost = float(values[0] @ best)

        def check(variables: Arrays) -> float:
            x = variables[0]
            return float(max(np.abs(A @ x - b).max(), -x.min(), abs(values[0] @ x - cost) / (1 + abs(cost))))

        return Solved([best], [np.zeros(n)], 0.0, check)

    constants = {"P": sparse((n, n)), "A": A, "b": b, "G": sparse(-sp.eye_array(n)), "h": np.zeros(n)}
    form = QuadraticForm(n, constants, lambda xp, costs: {"q": costs}, [(slice(0, n), (n,))])
    problem = cp.Problem(cp.Minimize(costs @ x), [A @ x == b, x >= 0])
    return Model(problem, [costs], [x], lambda rng: [rng.uniform(1, 2, n)], form, exact=exact)


def assignment(n: int, _: np.random.Generator) -> Model:
    """n workers and n tasks, x row-major. One of the 2n equalities is redundant, and every vertex is degenerate."""
    A = sparse(sp.vstack([sp.kron(sp.eye_array(n), np.ones((1, n))), sp.kron(np.ones((1, n)), sp.eye_array(n))]))

    def optimum(costs: np.ndarray) -> np.ndarray:
        x = np.zeros((n, n))
        x[linear_sum_assignment(costs.reshape(n, n))] = 1.0
        return x.ravel()

    return _program(A, np.ones(2 * n), optimum)


def path(n: int, _: np.random.Generator) -> Model:
    """The shortest path from corner to corner of an n×n grid, edges to the right and down and one equality a node but the last."""
    node = np.arange(n * n).reshape(n, n)
    tails = np.concatenate([node[:, :-1].ravel(), node[:-1].ravel()])
    heads = np.concatenate([node[:, 1:].ravel(), node[1:].ravel()])
    edges = np.arange(tails.size)
    ones = np.ones(tails.size)
    incidence = sp.coo_array((np.append(ones, -ones), (np.append(tails, heads), np.append(edges, edges))))
    number = {(int(t), int(h)): e for e, (t, h) in enumerate(zip(tails, heads, strict=True))}
    flow = np.zeros(n * n - 1)
    flow[0] = 1.0

    def optimum(costs: np.ndarray) -> np.ndarray:
        graph = sp.csr_array(sp.coo_array((costs, (tails, heads)), shape=(n * n, n * n)))
        before = dijkstra(graph, indices=0, return_predecessors=True)[1]
        x, at = np.zeros(tails.size), n * n - 1
        while at != 0:
            x[number[int(before[at]), at]] = 1.0
            at = int(before[at])
        return x

    return _program(sparse(sp.csr_array(incidence)[:-1]), flow, optimum)


ASSIGNMENT = Family("LP assignment", assignment, [(12, 1)], [(12, 1)], lambda n: f"{n}×{n}")
PATH = Family("LP path", path, [(12, 1)], [(12, 1)], lambda n: f"{n}×{n}")
