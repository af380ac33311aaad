"""Runs the Python of the Markdown pages at every build, each page in a process of its own; an exception is a warning, and so fails ``make docs``.

A page's ```python blocks run in their order, in one namespace. Blocks that cannot run by themselves are listed in ``FRAGMENTS``. A page that has
not changed since it last ran, nor the package, is not run again (docs/_build/executed.json); ``make clean`` forgets that.

A block that is followed by an indented block or one of ```text is not compared with it: figures differ between machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sphinx.util import logging

__all__ = ["setup"]

# What does not run: pages whose blocks name a problem of the reader's, or need a cluster; or words of a block that does.
FRAGMENTS = {
    "failures": "layer = ConeLayer(problem",
    "scale_out": "(problem, parameters, variables, executor",
    "trust": "train()",
}
_BLOCK = re.compile(r"^(`{3,})\{?(?:code-block\} )?python\}?\n(.*?)^\1 *$", flags=re.DOTALL | re.MULTILINE)
_SECONDS = 300
_log = logging.getLogger(__name__)


def _code(page: Path) -> str:
    """The page's blocks, at the line numbers that they have there."""
    text, code, fragment = page.read_text(), "", FRAGMENTS.get(page.stem)
    for match in _BLOCK.finditer(text):
        block = match.group(2)
        if fragment is not None and fragment in block:
            continue
        line = text.count("\n", 0, match.start(2))
        code += "\n" * (line - code.count("\n")) + block
    return code


def _package(root: Path) -> str:
    stamps = [f"{p.relative_to(root)}{p.stat().st_mtime_ns}" for p in sorted(root.rglob("*.py"))]
    return hashlib.sha256("".join(stamps).encode()).hexdigest()


def _run(app: Any) -> None:
    source = Path(app.srcdir)
    memory = source / "_build" / "executed.json"
    package = _package(source.parent / "conelayers")
    known = json.loads(memory.read_text()) if memory.exists() else {}
    environment = {**os.environ, "PYTHONPATH": f"{source.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment["MPLBACKEND"] = "Agg"
    for page in sorted(source.glob("*.md")):
        code = _code(page)
        if not code.strip():
            continue
        digest = hashlib.sha256((package + code).encode()).hexdigest()
        if known.get(page.name) == digest:
            continue
        _log.info("running the Python of %s", page.name)
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / f"{page.stem}.py"
            script.write_text(code)
            try:
                done = subprocess.run(
                    [sys.executable, str(script)],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=_SECONDS,
                )
            except subprocess.TimeoutExpired:
                _log.warning("%s: its Python takes longer than %d s", page.name, _SECONDS)
                continue
        if done.returncode:
            _log.warning("%s: its Python fails:\n%s", page.name, done.stderr[-2000:])
            continue
        known[page.name] = digest
    memory.parent.mkdir(exist_ok=True)
    memory.write_text(json.dumps(known, indent=1))


def setup(app: Any) -> dict[str, Any]:
    """Run the pages before they are read."""
    app.connect("builder-inited", _run)
    return {"parallel_read_safe": True}
