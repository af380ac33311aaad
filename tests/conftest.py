"""JAX's threads and the forked workers of the torch tests do not go together: what starts JAX runs last."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "jax" in item.path.name)
