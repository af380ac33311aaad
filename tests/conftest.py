"""What pytest is told about the suite: an order of the tests, and a choice for the loop while writing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

# Most of the time of the JAX tests is XLA's compilation, of code that runs once: without LLVM's optimizations it takes a third less.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1")


@pytest.fixture(autouse=True)
def _precision_of_jax() -> Iterator[None]:
    """What a test does to JAX's precision does not reach the tests after it."""
    before = sys.modules["jax"].config.jax_enable_x64 if "jax" in sys.modules else False
    yield
    if "jax" in sys.modules and sys.modules["jax"].config.jax_enable_x64 != before:
        sys.modules["jax"].config.update("jax_enable_x64", before)


@pytest.fixture
def without_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of linear and quadratic programs are solved by the engine in Python, as those of other cones are."""
    monkeypatch.setattr("conelayers.layer.compiled_core.CompiledCore.of", lambda compiled: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--once", action="store_true", help="the first case of every test, without JAX and fuzzing (`make check`)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # JAX's threads and the forked workers of the torch tests do not go together: what starts JAX runs last.
    items.sort(key=lambda item: "jax" in item.path.name or item.path.parent.name == "jax")
    if config.getoption("--once"):
        seen: set[str] = set()
        kept, left = [], []
        for item in items:
            name = item.nodeid.partition("[")[0]
            (left if name in seen or "jax" in name or "test_fuzzing" in name else kept).append(item)
            seen.add(name)
        config.hook.pytest_deselected(items=left)
        items[:] = kept
