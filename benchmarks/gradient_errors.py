"""A table of gradient errors: every problem of the tests' zoo with every solver that takes it.

The reference is a fourth-order central difference of the layer itself, along a random direction of each parameter and in
steps 1e−3 … 1e−5 (the best counts: differences have errors of their own); errors are over max(1, ‖g‖). Beside it the worst
KKT residual of the solution. Run ``python benchmarks/gradient_errors.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from reference import central_difference, direction_for
from zoo import ALL, ZOO, Case

from conelayers import Layer


def errors(case: Case, solver: str, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    layer = Layer(case.problem, case.parameters, case.variables, solver=solver, gp=case.gp)
    values = case.draw(rng)
    solution = layer.solve(*values)
    g = [rng.standard_normal(v.shape) for v in solution.variables]
    gradients = solution.vjp(*g)
    scale = max(1.0, float(np.sqrt(sum(np.sum(h**2) for h in gradients))))
    worst = 0.0
    for k, (spec, gradient) in enumerate(zip(layer.parameters, gradients, strict=True)):
        d = direction_for(spec.attributes, spec.positions, spec.shape, rng)

        def along(t: float, k: int = k, d: np.ndarray = d) -> float:
            moved = [v + t * d if i == k else v for i, v in enumerate(values)]
            return sum(float(np.sum(a * b)) for a, b in zip(g, layer.solve(*moved).variables, strict=True))

        adjoint = float(np.sum(gradient * d))
        worst = max(worst, min(abs(central_difference(along, h) - adjoint) for h in (1e-3, 1e-4, 1e-5)))
    return worst / scale, float(solution.residuals.worst)


def main() -> None:
    print(f"{'problem':34}" + "".join(f"{s + ' gradient':>20}{'residual':>10}" for s in ALL))
    found = []
    for name, make in ZOO.items():
        case = make()
        row = f"{name:34}"
        for solver in ALL:
            if solver not in case.solvers:
                row += f"{'–':>20}{'–':>10}"
                continue
            gradient, residual = errors(case, solver, sum(map(ord, name)))
            found.append(gradient)
            row += f"{gradient:20.1e}{residual:10.1e}"
        print(row)
    print(
        f"{len(ZOO)} problems, {len(found)} pairs; worst {max(found):.1e}, {np.mean(np.array(found) <= 1e-8):.0%} at most 1e-8"
    )


if __name__ == "__main__":
    main()
