"""What people see: reprs, tables for notebooks, progress bars, and ``python -m conelayers check``."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import cvxpy as cp
import numpy as np
import pytest

from conelayers import Layer
from conelayers.__main__ import main
from conelayers.support.display import html_table


def _layer(**options) -> Layer:
    x, c, u = cp.Variable(2, name="x"), cp.Parameter(2, name="c<b>"), cp.Parameter(name="u")
    return Layer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= u]), [c, u], [x], **options)


def _values(batch: int) -> list[np.ndarray]:
    values = [np.random.default_rng(0).normal(size=(batch, 2)), np.ones(batch)]
    values[1][3] = -1.0
    return values


class _Balanced(HTMLParser):
    """Fails on a tag that is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_reprs_say_what_matters_in_one_line() -> None:
    layer = _layer(on_failure="nan")
    solution = layer.solve(*_values(30))
    assert repr(layer).startswith("Layer(parameters c<b> (2,), u (); n = ")
    assert repr(layer).endswith("solver default)")
    assert repr(solution) == "LayerSolution(x (30, 2); 29 solved, 1 primal infeasible)"
    assert repr(layer.last) == "CallInfo(29 solved, 1 primal infeasible)"
    assert repr(solution.certify()[0]).startswith("Certificate(classical, solved, margin ")


def test_tables_are_well_formed_and_escaped() -> None:
    layer = _layer(on_failure="nan")
    solution = layer.solve(*_values(30))
    for thing in (layer, solution, layer.last, solution.certify(), solution.certify()[0]):
        html = thing._repr_html_()
        parser = _Balanced()
        parser.feed(html)
        assert not parser.open
        assert "<table>" in html
        assert "c<b>" not in html
    assert "primal infeasible" in layer.last._repr_html_()
    assert layer.last._repr_html_().count("<tr>") == 1 + 20  # the worst ones
    assert "&lt;x&gt;" in html_table("<x>", ("a",), [("b",)])


def test_a_progress_bar_counts_every_instance(capsys: pytest.CaptureFixture) -> None:
    values = _values(40)
    values[1][3] = 1.0
    solution = _layer(progress=True, chunk_size=15).solve(*values)
    shown = capsys.readouterr().err
    assert "solve" in shown
    gradient = solution.vjp(np.ones((40, 2)))
    assert "gradient" in capsys.readouterr().err
    alone = _layer().solve(*values)
    np.testing.assert_allclose(solution.variables[0], alone.variables[0], atol=1e-12)
    np.testing.assert_allclose(gradient[0], alone.vjp(np.ones((40, 2)))[0], atol=1e-11)
    assert capsys.readouterr().err == ""


def test_the_check_passes_and_says_so(capsys: pytest.CaptureFixture) -> None:
    assert main(["check"]) == 0
    said = capsys.readouterr().out
    assert "all is well" in said
    for name in ("cvxpy", "cores", "linear", "semidefinite", "power"):
        assert name in said
    assert "PROBLEM" not in said


def test_a_wrong_answer_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from conelayers import __main__ as command

    def wrong(solver):
        layer, values, expected, jacobian = command._ball(solver)
        return layer, values, expected, jacobian + 1e-3

    monkeypatch.setitem(command._CASES, "second-order", wrong)
    assert main(["check"]) == 1
    assert "PROBLEM" in capsys.readouterr().out


def test_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "conelayers"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "check" in done.stderr
