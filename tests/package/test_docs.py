"""What the site is built with: docstrings as reST, the benchmark page from JSON, every page in a table of contents. The build itself is ``make docs``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from conelayers.solve.backends import SOLVERS

DOCS = Path(__file__).parents[2] / "docs"
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from prose import as_rest  # noqa: E402


def test_arguments_become_a_list_and_equations_blocks() -> None:
    lines = as_rest(
        ["Solve it.", "", "    F(x) = 0", "", "x: where, |x| ≤ 1. tol, n: how. Raises ValueError for n_ < 0."],
        ["x", "tol", "n"],
    )
    text = "\n".join(lines)
    assert ".. code-block:: none" in text
    assert "   F(x) = 0" in text
    assert "``x``\n   where, \\|x\\| ≤ 1." in text
    assert "``tol``, ``n``\n   how." in text
    assert text.rstrip().endswith("Raises ValueError for n\\_ < 0.")


def test_code_is_left_alone() -> None:
    assert as_rest(["See ``f(*args)`` and *every* a*b."]) == ["See ``f(*args)`` and *every* a\\*b.", ""]


def _row(contender: str, seconds: float, error: float | None, **changes: Any) -> dict[str, Any]:
    quartiles = {"low": seconds, "median": seconds, "high": seconds, "samples": 3}
    row = {"family": "dense QP", "size": 10, "label": "n = 10", "batch": 32, "contender": contender, "refusal": None}
    row |= {"build": 0.1, "first": 0.01, "forward": quartiles, "backward": quartiles, "memory": None, "failures": []}
    row |= {"warm_forward": None, "warm_backward": None, "warm_accuracy": None, "elapsed": 1.0}
    row["accuracy"] = {"residual": 1e-12, "distance": 1e-12, "gradient": error}
    return row | changes


def test_the_benchmark_page_says_what_the_json_says(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import benchmark_page

    rows = [
        _row("conelayers", 0.001, 1e-13),
        _row("cvxpylayers", 0.02, 0.03),
        _row("osqp", 0.0, None, refusal="no such cone", forward=None),
    ]
    result = {
        "machine": "a machine",
        "quick": True,
        "minutes": 1.0,
        "versions": {"conelayers": "0.1"},
        "missing": {"qpax": "no"},
    }
    result |= {"left_out": ["SDP 20"], "rows": rows, "targets": []}
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "tiny.json").write_text(json.dumps(result))
    benchmark_page.write(tmp_path)
    text = (tmp_path / "_generated" / "benchmarks.md").read_text()
    assert "| cvxpylayers | 1 | 20× | 20× (dense QP n = 10) | 3e-02 | 1 | 0 |" in text
    assert "| n = 10, batch 32 | cvxpylayers | 100 ms | 10 ms | 20 ms | 20 ms | – | 1e-12 | 3e-02 **!** |" in text
    assert "osqp on n = 10, batch 32: no such cone" in text
    assert "qpax" in text
    assert "SDP 20" in text
    assert (tmp_path / "_generated" / "benchmarks_tiny.svg").exists()


def test_without_json_the_page_says_so(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import benchmark_page

    benchmark_page.write(tmp_path)
    assert "No results are committed yet" in (tmp_path / "_generated" / "benchmarks.md").read_text()


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text()
    listed = {
        line.split("<")[-1].rstrip(">")
        for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.S)
        for line in block.split("\n")
    }
    for page in DOCS.glob("*.md"):
        assert page.stem in listed | {"index"}, page


def test_the_comparison_names_tests_that_exist_and_links_that_are_defined() -> None:
    text = (DOCS / "comparison.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 15
    for file, name in named:
        (found,) = (DOCS.parent / "tests").rglob(file)
        assert f"def {name}(" in found.read_text(), (file, name)
    defined = dict(re.findall(r"^\[(\w+)\]: (https://\S+)$", text, re.M))
    used = set(re.findall(r"\]\[(\w+)\]", text))
    assert used == set(defined)
    for page in re.findall(r"\]\((\w+\.md)\)", text):
        assert (DOCS / page).exists(), page


def test_every_cell_of_the_comparison_can_be_checked() -> None:
    """A link, a "?" that says that there is none, or a "–" where the question does not arise; but the rows that name a file below."""
    table = (DOCS / "comparison.md").read_text().split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 15
    for name, ours, *theirs in rows:
        assert "](" in ours or name in {"State", "Licence"}, name
        assert len(theirs) == 6, name
        for cell in theirs:
            assert cell in {"?", "–"} or "][" in cell, (name, cell)


def test_the_measured_figures_are_those_of_the_page() -> None:
    result = json.loads((DOCS / "benchmarks_measured" / "jax_steps.json").read_text())
    lines = {line.split(" | ")[0].strip("| "): line for line in (DOCS / "jax.md").read_text().splitlines()}
    for row in result["rows"]:
        cells = lines[row["name"]].strip("| ").split(" | ")[1:]
        for cell, ms, error in zip(cells, row["ms"], row["error"], strict=True):
            assert cell.startswith(f"{ms:.2f} ms"), (row["name"], cell)
            assert cell.endswith(f"error {error:.0e}") if error is not None else "error" not in cell, (
                row["name"],
                cell,
            )


def test_the_page_on_extending_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend and a cone as the page writes them are all that is needed; the build of the site is too slow to tell."""
    monkeypatch.setitem(SOLVERS, "LINPROG", None)  # so that it is taken away again
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(), re.S)
    assert len(blocks) >= 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
