"""What holds for the package as a whole: imports, documents, threads."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest

import conelayers
from conelayers import Layer, SolveError
from conelayers.solve.backends import SOLVERS, Settings
from conelayers.solve.starting_methods import Backend

ROOT = Path(__file__).parents[2]


def test_import_brings_no_framework() -> None:
    # cvxpy itself imports them where it finds solvers written with them.
    code = """
import sys, cvxpy
before = set(sys.modules)
import conelayers
assert not {"torch", "jax"} & (set(sys.modules) - before)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_public_names_exist_and_are_documented() -> None:
    for name in conelayers.__all__:
        assert getattr(conelayers, name).__doc__


def test_code_in_the_readme_runs_as_written() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_oldest_versions_tested_are_the_lower_bounds() -> None:
    """`make package` installs the versions of .ci/oldest.txt; a bound changed in one place only would go untested."""
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / ".ci" / "oldest.txt").read_text(), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *(r for name in ("jax", "plot", "progress", "lasso") for r in extras[name])]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([^,]+).*", requirement).groups() for requirement in required)
    assert pinned == bounds | {"jaxlib": bounds["jax"]}


def test_one_layer_from_many_threads() -> None:
    """Warm starts are kept per thread; results do not depend on who else is solving."""
    x, a = cp.Variable(3), cp.Parameter(3)
    layer = Layer(cp.Problem(cp.Minimize(cp.norm(x - a) + cp.sum_squares(x))), [a], [x], solver="SCS", warm_start=True)
    values = np.random.default_rng(0).standard_normal((24, 3))
    expected = [layer.solve(v).variables[0] for v in values]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda v: layer.solve(v).variables[0], values))
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("jobs", [1, 2, -1])
def test_results_do_not_depend_on_the_number_of_threads(jobs: int) -> None:
    x, a = cp.Variable(4), cp.Parameter(4)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.sum(x) == 1, x >= 0]), [a], [x])
    values = np.random.default_rng(0).standard_normal((9, 4))
    solution = layer.solve(values, solver_args={"n_jobs_forward": jobs, "n_jobs_backward": jobs})
    reference = layer.solve(values, solver_args={"n_jobs_forward": 1})
    np.testing.assert_array_equal(solution.variables[0], reference.variables[0])
    np.testing.assert_array_equal(solution.vjp(values)[0], reference.vjp(values)[0])


def test_warm_start_survives_another_batch_size() -> None:
    x, a = cp.Variable(3), cp.Parameter(3)
    layer = Layer(cp.Problem(cp.Minimize(cp.norm(x - a) + cp.sum_squares(x))), [a], [x], solver="SCS")
    values = np.random.default_rng(0).standard_normal((5, 3))
    for size in (5, 3, 5, 0, 1):
        warm = layer.solve(values[:size], warm_start=True).variables[0]
        np.testing.assert_allclose(warm, layer.solve(values[:size]).variables[0], atol=1e-9)


@pytest.mark.usefixtures("without_core")
def test_default_for_quadratic_programs_falls_back(monkeypatch) -> None:
    """A loose first solve that fails hands over to Clarabel; its word on infeasibility is not taken."""
    x, a = cp.Variable(4), cp.Parameter(4)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.sum(x) == 1, x >= 0, x <= a[0]]), [a], [x])
    values = np.array([[0.7, 2.0, 0.5, -1.0], [0.4, 2.0, 0.5, -1.0]])
    first = layer.solve(values)
    poor = Backend(SOLVERS["SCS"], Settings(max_iters=1), trusted=False, proximal_steps=0)
    monkeypatch.setattr("conelayers.solve.order.SmallQuadratic.suits", lambda structure: False)
    monkeypatch.setattr("conelayers.solve.order.loose", lambda structure, settings: poor)
    monkeypatch.setattr("conelayers.solve.starting_methods.Backend.plain_steps", 1)
    second = layer.solve(values)
    assert set(second.solver) == {"CLARABEL"}
    np.testing.assert_allclose(first.variables[0], second.variables[0], atol=1e-10)
    np.testing.assert_allclose(first.vjp(values)[0], second.vjp(values)[0], atol=1e-9)
    with pytest.raises(SolveError, match="not solved by CLARABEL: primal infeasible at batch index 1"):
        layer.solve(np.array([values[0], np.full(4, 0.1)]))


@pytest.mark.parametrize("gap", [1e-5, 1e-8])
def test_nearly_feasible_quadratic_programs_are_infeasible(gap: float) -> None:
    """A loose point with a small residual does not outweigh a certificate."""
    x, b = cp.Variable(2), cp.Parameter()
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x[0] <= 0, x[0] >= b]), [b], [x])
    with pytest.raises(SolveError, match="primal infeasible"):
        layer.solve(gap)


def test_factor_of_the_last_newton_step_is_reused(monkeypatch) -> None:
    """On orthants D does not change in the last step: the backward pass of a QP factors nothing."""
    x, a = cp.Variable(4), cp.Parameter(4)
    layer = Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [cp.sum(x) == 1, x >= 0]), [a], [x])
    value = np.array([0.9, 0.5, -1.0, 0.1])
    expected = layer.solve(value, solver_args={"solve_method": "ECOS"}).vjp(np.ones(4) * value)[0]
    solution = layer.solve(value)
    monkeypatch.setattr("conelayers.numerics.linearized_system.factorize", None)
    np.testing.assert_allclose(solution.vjp(np.ones(4) * value)[0], expected, atol=1e-10)
