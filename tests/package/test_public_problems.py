"""``benchmarks.public``: each format read right, each file a row, infeasibility only with a certificate that was checked."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from benchmarks.public.__main__ import main
from benchmarks.public.cblib import read_cblib
from benchmarks.public.judge import (
    Perturbation,
    derivative_residual,
    is_dual_ray,
    is_primal_ray,
    kkt_residual,
)
from benchmarks.public.matlab import read_matlab
from benchmarks.public.problem import Problem, Unreadable, Unsupported, read_with
from benchmarks.public.run import files_in, names_of, run, split_name
from benchmarks.public.sdplib import read_sdplib
from conelayers import Cones, ConeSolution, solve_and_differentiate

INSTANCES = Path(__file__).parent / "public_instances"
KEYS = ["name", "n", "m", "status", "kkt_residual", "verdict", "derivative_residual", "seconds"]

# minimize x₀² + x₁² + x₀x₁ − 3x₀ subject to x₀ + x₁ = 1, 0 ≤ x ≤ 10, −∞ ≤ x₀ − x₁ ≤ 4: at (1, 0)
QUADRATIC = {
    "P": sp.csc_matrix([[2.0, 1.0], [1.0, 2.0]]),
    "q": np.array([[-3.0], [0.0]]),
    "r": np.array([[7]]),
    "A": sp.csc_matrix([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]),
    "l": np.array([[1.0], [-1e20], [0.0], [0.0]]),
    "u": np.array([[1.0], [4.0], [10.0], [1e20]]),
}
# minimize −x₀ − 2x₁ subject to x₀ + x₁ + x₂ = 4, x₀ + 3x₁ + x₃ = 6, x ≥ 0, x₀ ≤ 2: at (2, 4/3, 2/3, 0)
LINEAR = {
    "A": sp.csc_matrix([[1, 1, 1, 0], [1, 3, 0, 1]], dtype=float),
    "b": np.array([[4], [6]], dtype=np.uint8),
    "c": np.array([[-1], [-2], [0], [0]], dtype=np.int16),
    "lo": np.zeros((4, 1), dtype=np.uint8),
    "hi": np.array([[2.0], [1e20], [np.inf], [1e20]]),
}


def matlab(path: Path, fields: dict[str, object]) -> Path:
    scipy.io.savemat(path, fields, do_compression=True)
    return path


def structure(fields: dict[str, object], nested: bool) -> dict[str, object]:
    """SuiteSparse's layout of a linear program, with the costs and bounds in ``aux`` or not."""
    inner = {key: fields[key] for key in ("c", "lo", "hi")}
    return {"Problem": {"A": fields["A"], "b": fields["b"], **({"aux": inner} if nested else inner)}}


def solved(problem: Problem) -> ConeSolution:
    return solve_and_differentiate(problem.P, problem.q, problem.A, problem.b, problem.cones, singular="least_squares")


def test_a_quadratic_program(tmp_path: Path) -> None:
    problem = read_matlab(matlab(tmp_path / "quadratic.mat", QUADRATIC).read_bytes())
    assert (problem.n, problem.m) == (2, 4)
    assert problem.cones == Cones(zero=1, nonneg=4)  # infinite bounds make no rows
    np.testing.assert_allclose(solved(problem).x, [1.0, 0.0], atol=1e-9)


def test_a_triangle_stands_for_the_whole_quadratic_form(tmp_path: Path) -> None:
    whole = read_matlab(matlab(tmp_path / "whole.mat", QUADRATIC).read_bytes())
    for triangle in (sp.triu, sp.tril):
        fields = {**QUADRATIC, "P": sp.csc_matrix(triangle(QUADRATIC["P"]))}
        half = read_matlab(matlab(tmp_path / "half.mat", fields).read_bytes())
        np.testing.assert_array_equal(half.P.toarray(), whole.P.toarray())


@pytest.mark.parametrize("layout", ["top level", "structure", "nested structure"])
def test_a_linear_program_in_each_layout(tmp_path: Path, layout: str) -> None:
    fields = LINEAR if layout == "top level" else structure(LINEAR, layout == "nested structure")
    problem = read_matlab(matlab(tmp_path / "linear.mat", fields).read_bytes())
    assert (problem.n, problem.m) == (4, 2)
    np.testing.assert_allclose(solved(problem).x, [2.0, 4 / 3, 2 / 3, 0.0], atol=1e-9)


def big_endian(fields: dict[str, object]) -> bytes:
    """An uncompressed file of version 5 as a big-endian machine writes it."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">ii", kind, len(data)) + data + bytes(-len(data) % 8)

    def integers(values: object) -> bytes:
        return element(5, np.asarray(values, dtype=">i4").tobytes())

    parts = [b"MATLAB 5.0 MAT-file".ljust(124), b"\x01\x00MI"]
    for name, value in fields.items():
        sparse = sp.issparse(value)
        values = value.data if sparse else np.asarray(value).ravel(order="F")
        body = element(6, struct.pack(">II", 5 if sparse else 6, values.size))
        body += integers(value.shape) + element(1, name.encode())
        if sparse:
            body += integers(value.indices) + integers(value.indptr)
        parts.append(element(14, body + element(9, values.astype(">f8").tobytes())))
    return b"".join(parts)


def test_numbers_of_the_other_byte_order() -> None:
    """SuiteSparse's files were written on big-endian machines; SciPy's sparse matrices do not take their numbers."""
    problem = read_matlab(big_endian(LINEAR))
    np.testing.assert_allclose(solved(problem).x, [2.0, 4 / 3, 2 / 3, 0.0], atol=1e-9)


def test_a_semidefinite_program_with_comments_braces_and_diagonal_blocks() -> None:
    problem = read_sdplib((INSTANCES / "eigenvalue.dat-s").read_bytes())
    assert (problem.n, problem.m) == (4, 2)
    assert problem.cones == Cones(nonneg=2, psd=(2,))
    np.testing.assert_allclose(solved(problem).x, [3.0, 1.0], atol=1e-9)


def test_every_cone_of_cblib() -> None:
    """Each has a minimum that is known."""
    problem = read_cblib((INSTANCES / "cones.cbf").read_bytes())
    assert (problem.n, problem.m) == (27 + 3, 22 + 3)
    x = solved(problem).x
    known = {
        0: 1.0,  # the smallest eigenvalue of [2 1; 1 2]
        1: 2.0,
        2: -3.0,
        3: 0.0,
        4: 5.0,  # ‖(3, 4)‖
        7: 1.0,  # 2x₇·2 ≥ 2²
        10: np.e,  # 1·e^{1/1}
        13: np.exp(-1),  # −x₁₅ e^{x₁₄/x₁₅ − 1}
        16: 16.0,  # x₁₆^{1/4} 1^{3/4} ≥ 2
        19: 25.0,  # x₁₉^{1/2} ≥ ‖(3, 4)‖
    }
    for k, value in known.items():
        assert x[k] == pytest.approx(value, abs=1e-7), k
    assert 4 * x[24] * x[25] >= x[26] ** 2 - 1e-7  # POW*(½, ½): (2x₂₄)^½ (2x₂₅)^½ ≥ |x₂₆|
    X = np.array([[x[27], x[28] / np.sqrt(2)], [x[28] / np.sqrt(2), x[29]]])
    np.testing.assert_allclose(X, [[0.5, -0.5], [-0.5, 0.5]], atol=1e-7)


def test_integers_are_refused() -> None:
    with pytest.raises(Unsupported, match="integer"):
        read_cblib((INSTANCES / "integer.cbf").read_bytes())


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        (read_matlab, b"not a MATLAB file"),
        (read_matlab, b"MATLAB 5.0 MAT-file" + bytes(200)),
        (read_sdplib, b"2\n1\n2\n1.0"),
        (read_sdplib, b"1\n1\n2\n1.0\n1 1 3 3 1.0"),
        (read_sdplib, b"1\n1\n2\n1.0\n1 1 1 1"),
        (read_sdplib, b"1\n1\n999999999\n1.0\n"),
        (read_sdplib, b"1\n1\n2\nnan\n1 1 1 1 1"),
        (read_cblib, b"VER\n3\nOBJSENSE\nMIN\nVAR\n3 1\nEXP 4"),
        (read_cblib, b"VER\n3\nOBJSENSE\nMIN\nVAR\n3 1\nCONE 3"),
        (read_cblib, b"VER\n3\nOBJSENSE\nMIN\nVAR\n3 1\nL+ 3\nOBJACOORD\n1\n3 1.0"),
        (read_cblib, b"VER\n9\nOBJSENSE\nMIN\nVAR\n3 1\nL+ 3"),
        (read_cblib, b"VER\n3\nOBJSENSE\nMIN\nVAR\n3 1\n@0:POW 3"),
        (read_cblib, b"\xff\xfe\x00"),
    ],
)
def test_damaged_files_are_unreadable_and_nothing_else(reader, content: bytes) -> None:
    with pytest.raises(Unreadable):
        read_with(reader, content)


def test_what_the_judge_measures(tmp_path: Path) -> None:
    """Right answers have residuals of rounding, wrong ones the residuals that they deserve."""
    problem = read_matlab(matlab(tmp_path / "quadratic.mat", QUADRATIC).read_bytes())
    solution = solved(problem)
    point, moved = (solution.x, solution.y, solution.s), Perturbation(problem)
    tangent = solution.jvp(moved.P, moved.q, moved.A, moved.b)
    assert kkt_residual(problem, *point) < 1e-12
    assert derivative_residual(problem, point, moved, tangent) < 1e-12
    assert kkt_residual(problem, point[0] + 0.1, *point[1:]) > 1e-2
    assert kkt_residual(problem, point[0], -point[1], point[2]) > 1e-2
    for k in range(3):
        wrong = [1.1 * h if i == k else h for i, h in enumerate(tangent)]
        assert derivative_residual(problem, point, moved, wrong) > 1e-3


def test_rays() -> None:
    """x ≥ 1 and x ≤ 0: y = (1, 1) says that this cannot be; y = (1, 0) says nothing. And of units nothing depends."""
    problem = Problem(
        1, 2, sp.csc_array((1, 1)), np.zeros(1), sp.csc_array([[-1.0], [1e9]]), -np.eye(2)[0], Cones(nonneg=2)
    )
    assert is_primal_ray(problem, np.array([1.0, 1e-9]))
    assert not is_primal_ray(problem, np.array([1.0, 1.1e-9]))
    assert not is_primal_ray(problem, np.array([1.0, 0.0]))
    assert not is_primal_ray(problem, np.array([-1.0, -1e-9]))
    falling = Problem(1, 1, sp.csc_array((1, 1)), -np.ones(1), sp.csc_array([[-1.0]]), np.zeros(1), Cones(nonneg=1))
    assert is_dual_ray(falling, np.ones(1))
    assert not is_dual_ray(falling, -np.ones(1))


def test_names_and_suffixes() -> None:
    assert split_name(Path("a/QAFIRO.mat")) == ("QAFIRO", ".mat")
    assert split_name(Path("truss1.dat-s")) == ("truss1", ".dat-s")
    assert split_name(Path("nql30.cbf.gz")) == ("nql30", ".cbf")
    assert split_name(Path("README.md")) == ("README.md", "")


def test_every_file_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, from folders to the file of rows."""
    folder = tmp_path / "problems"
    inner = folder / "inner"
    inner.mkdir(parents=True)
    matlab(folder / "quadratic.mat", QUADRATIC)
    matlab(inner / "linear.mat", LINEAR)
    matlab(inner / "empty_box.mat", {**LINEAR, "b": np.array([[-1.0], [6.0]])})
    for name in ("eigenvalue.dat-s", "infeasible.dat-s", "integer.cbf", "unbounded.cbf"):
        shutil.copy(INSTANCES / name, folder / name)
    packed = gzip.compress((INSTANCES / "cones.cbf").read_bytes())
    (inner / "cones.cbf.gz").write_bytes(packed)
    (inner / "truncated.cbf.gz").write_bytes(packed[:100])
    (folder / "text.mat").write_text("hello")
    (folder / "nothing.dat-s").touch()
    (folder / "folder.cbf").mkdir()
    (folder / "NOTES.txt").write_text("not a problem")
    (folder / "linked.mat").symlink_to(tmp_path / "nowhere")
    rows_file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks.public", str(folder), "--json", str(rows_file)])
    main()
    rows = json.loads(rows_file.read_text())
    assert all(list(row) == KEYS for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert {name: row["status"] for name, row in by_name.items()} == {
        "quadratic": "solved",
        "linear": "solved",
        "eigenvalue": "solved",
        "cones": "solved",
        "empty_box": "primal_infeasible",
        "infeasible": "primal_infeasible",
        "unbounded": "dual_infeasible",
        "integer": "unsupported",
        "truncated": "unreadable",
        "text": "unreadable",
        "nothing": "unreadable",
        "folder": "unreadable",
        "linked": "unreadable",
        "NOTES.txt": "unreadable",
    }
    for name in ("quadratic", "linear", "eigenvalue"):
        row = by_name[name]
        assert row["kkt_residual"] < 1e-10
        assert row["derivative_residual"] < 1e-10
        assert row["verdict"] in ("classical", "certified")
        assert row["seconds"] > 0
    assert by_name["empty_box"]["verdict"] == "primal_infeasible"
    assert by_name["empty_box"]["kkt_residual"] is None
    assert (by_name["linear"]["n"], by_name["linear"]["m"]) == (4, 2)
    said = capsys.readouterr()
    assert "14 files" in said.out
    assert len([line for line in said.err.splitlines() if line.split()[0] in by_name]) == 14


def test_an_instance_past_its_limit_is_given_up(tmp_path: Path) -> None:
    (row,) = run([matlab(tmp_path / "late.mat", QUADRATIC)], 1e-4, lambda text: None)
    assert (row.name, row.status, row.verdict) == ("late", "time_limit", None)


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "a" / "same.dat-s", tmp_path / "same.dat-s", tmp_path / "other.cbf"):
        path.touch()
    paths = list(files_in([tmp_path], print))
    assert sorted(names_of(paths)) == sorted(["other", str(tmp_path / "same"), str(tmp_path / "a" / "same")])
