"""No code from data, no network, no writes that nobody asked for; the audit says what it did not do (docs/security.md)."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for folder in ("conelayers", "benchmarks", "examples") for p in (ROOT / folder).rglob("*.py"))

MODULES = frozenset(
    [
        "aiohttp",
        "cffi",
        "cloudpickle",
        "dill",
        "ftplib",
        "http",
        "httpx",
        "joblib",
        "marshal",
        "pickle",
        "requests",
        "shelve",
        "smtplib",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
        "telnetlib",
        "urllib",
        "urllib3",
        "xmlrpc",
        "yaml",
    ]
)
CALLS = frozenset(
    [
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "os.fork",
        "os.execv",
        "os.execve",
        "os.spawnv",
        "os.posix_spawn",
        "torch.load",
        "torch.hub.load",
        "numpy.save",
        "numpy.savez",
        "importlib.import_module",
        "runpy.run_path",
        "runpy.run_module",
        "tempfile.mktemp",
    ]
)
OPENERS = frozenset(["open", "io.open", "os.open", "pathlib.Path.open"])
METHODS = frozenset(["write_text", "write_bytes", "unlink", "rmdir", "mkdir", "rename", "touch"])

# (file, what is used): why it may.
ALLOWED = {
    (
        "conelayers/core/build.py",
        "subprocess",
    ): "calls cmake where a developer builds the core again; it is not in the wheel",
    ("conelayers/core/extension.py", "importlib.import_module"): "the core's own modules, from a fixed list",
    ("benchmarks/run.py", ".write_text"): "the file that --json names",
    ("benchmarks/public/__main__.py", ".write_text"): "the file that --json names",
    ("benchmarks/scale_out.py", "open"): "the file that --json names",
    ("benchmarks/scale_out.py", "pickle"): "weighs what is sent to workers, and what it has just written itself",
    ("benchmarks/suite/memory.py", ".write_text"): "/proc/self/clear_refs: resets the kernel's note of the peak",
    ("benchmarks/suite/worker.py", "os.open"): "the null device, for what solvers print",
    ("benchmarks/suite/overhead_worker.py", "importlib.import_module"): "a module of ours, by a fixed name",
    ("benchmarks/suite/contenders/__init__.py", "importlib.import_module"): "modules of ours, from a fixed table",
    ("conelayers/lasso/requirements.py", "importlib.import_module"): "optional dependencies, by fixed names",
}


def findings(path: Path) -> list[tuple[str, int]]:
    """What a file uses of the above, with the line; names are resolved through its imports."""
    names: dict[str, str] = {}
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                if alias.name.split(".")[0] in MODULES:
                    found.append((alias.name.split(".")[0], node.lineno))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            if str(node.module).split(".")[0] in MODULES:
                found.append((str(node.module).split(".")[0], node.lineno))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        parts, target = [], node.func
        while isinstance(target, ast.Attribute):
            parts.append(target.attr)
            target = target.value
        if isinstance(target, ast.Name):
            called = ".".join([names.get(target.id, target.id), *reversed(parts)])
            if called in CALLS or (called in OPENERS and _writes(node)):
                found.append((called, node.lineno))
        keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        for name, harmless in (("allow_pickle", False), ("shell", False), ("weights_only", True)):
            if keywords.get(name, harmless) is not harmless:
                found.append((f"{name}=", node.lineno))
        if parts and parts[0] in METHODS:
            found.append((f".{parts[0]}", node.lineno))
    return found


def _writes(call: ast.Call) -> bool:
    mode = call.args[1] if len(call.args) > 1 else next((k.value for k in call.keywords if k.arg == "mode"), None)
    return mode is not None and not (isinstance(mode, ast.Constant) and set(str(mode.value)) <= set("rbt"))


def test_no_source_runs_data_talks_or_writes() -> None:
    used = {(str(p.relative_to(ROOT)), what): line for p in SOURCES for what, line in findings(p)}
    assert len(SOURCES) > 150
    assert {key: line for key, line in used.items() if key not in ALLOWED} == {}
    assert set(ALLOWED) <= set(used), "an exception that nothing needs any more"


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import pickle as p; p.loads(b'')", "pickle"),
        ("from urllib.request import urlopen", "urllib"),
        ("def f(): return eval('1')", "eval"),
        ("import os as o; o.system('ls')", "os.system"),
        ("from os import popen as q; q('ls')", "os.popen"),
        ("import numpy as np; np.load('a', allow_pickle=True)", "allow_pickle="),
        ("import torch; torch.load('a')", "torch.load"),
        ("open('a', 'w')", "open"),
        ("open('a', mode=m)", "open"),
        ("import pathlib; pathlib.Path('a').write_text('b')", ".write_text"),
    ],
)
def test_the_search_finds(code: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(code, encoding="utf-8")
    assert what in [name for name, _ in findings(path)]


_RUN = """
import os, sys
{framework}
import numpy as np, scipy.sparse.linalg, cvxpy as cp  # others' affairs, done before
seen = []
quiet = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir", "os.rmdir",
         "pty.", "urllib.", "http.", "ftplib.", "smtplib.", "shutil.", "tempfile.", "pickle.find_class", "webbrowser.")
def hook(event, args):
    if event == "open":
        path, mode, flags = args
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC) and "__pycache__" not in str(path):
            seen.append((event, str(path)))
    elif event.startswith(quiet):
        seen.append((event, str(args)[:200]))
sys.addaudithook(hook)
{body}
print(len(seen), seen)
"""
_ENGINE = """
import conelayers, conelayers.lasso
from conelayers import Layer, Monitor
x, a = cp.Variable(3), cp.Parameter(3)
for objective in (cp.sum_squares(x - a), cp.norm(x - a) + cp.norm1(x), cp.sum(cp.exp(x - a)) + cp.sum_squares(x)):
    for solver in (None, "SCS", "ECOS", "CLARABEL"):
        layer = Layer(cp.Problem(cp.Minimize(objective), [x >= -1, x <= 2]), [a], [x], solver=solver)
        for jobs in (1, 2):
            solution = layer.solve(np.arange(60).reshape(20, 3) / 30, solver_args={{"n_jobs_forward": jobs}})
            solution.vjp(np.ones((20, 3)))
        layer.certify(np.full(3, 0.1))
        with Monitor(layer):
            layer.solve(np.full(3, 0.2))
"""
_TORCH = """
from conelayers.torch import ConeLayer
x, a = cp.Variable(3), cp.Parameter(3)
layer = ConeLayer(cp.Problem(cp.Minimize(cp.norm(x - a) + cp.norm1(x)), [x >= -1]), [a], [x])
value = torch.ones(5, 3, requires_grad=True)
layer(value)[0].sum().backward()
"""


@pytest.mark.parametrize(
    ("framework", "body"), [("", _ENGINE), ("import torch, torch._dynamo", _TORCH)], ids=["engine", "torch"]
)
def test_nothing_is_written_sent_or_started(framework: str, body: str) -> None:
    """By an audit hook, in a fresh process: from our import to the gradients of every backend."""
    code = _RUN.format(framework=framework, body=body.format())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_audit_hook_sees() -> None:
    body = "import socket; s = socket.socket(); open(os.devnull, 'w').close()"
    code = _RUN.format(framework="", body=body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "socket.__new__" in done.stdout
    assert "/dev/null" in done.stdout


# ------------------------------------------------------------------------------------------------ the audit of dependencies


def report(*dependencies: dict) -> str:
    return json.dumps({"dependencies": list(dependencies)})


CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "scipy", "skip_reason": "Dependency not found on PyPI"}
OURS = {"name": "conelayers", "skip_reason": "Dependency not found on PyPI"}
BAD = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.0"], "aliases": ["CVE-1"], "description": ""}],
}


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (None, 0, "AUDIT NOT DONE: pip-audit's service could not be reached"),
        ("", 0, "AUDIT NOT DONE"),
        ("[]", 0, "AUDIT NOT DONE"),
        (report(OURS, UNKNOWN), 0, "AUDIT NOT DONE: the service does not know 1 of 1 packages (scipy)"),
        (report(OURS, UNKNOWN, CLEAN), 0, "AUDIT NOT COMPLETE: the service does not know 1 of 2 packages (scipy)"),
        (report(OURS, CLEAN), 0, "audit: no known vulnerabilities in 1 packages"),
        (report(CLEAN, BAD), 1, "VULNERABLE: jinja2 2.4.1: PYSEC-1, fixed in: 3.0"),
        (report(UNKNOWN, BAD), 1, "VULNERABLE"),
    ],
)
def test_the_audit_is_honest(given: str | None, code: int, said: str) -> None:
    """pip-audit itself says "no known vulnerabilities" where it could look up none of the packages."""
    lines, got = runpy.run_path(str(ROOT / ".ci" / "audit.py"))["verdict"](given)
    assert got == code
    assert said in "\n".join(lines)
    assert ("no known" in "\n".join(lines)) == (code == 0 and said.startswith("audit")) or "NOT COMPLETE" in said


def test_ignored_vulnerabilities_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = runpy.run_path(str(ROOT / ".ci" / "audit.py"))
    audit["verdict"].__globals__["IGNORED"] = {"CVE-1": "templates are not rendered here"}
    lines, code = audit["verdict"](report(CLEAN, BAD))
    assert (lines, code) == (["ignored: jinja2 2.4.1: PYSEC-1: templates are not rendered here"], 0)
