"""The scripts of examples/ for sphinx-gallery: their docstrings as reST with a title, their arguments, and the pictures that they write."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prose import as_rest

__all__ = ["arguments", "pictures", "reset", "stage"]

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURES = Path(tempfile.mkdtemp(prefix="conelayers-gallery-"))
_ARGUMENTS = re.compile(r"^# Gallery: *(.*)\n", flags=re.MULTILINE)


def stage(source: Path, target: Path) -> None:
    """Copy the scripts, with a title and their docstring as reST; those that did not change are left alone."""
    target.mkdir(exist_ok=True)
    wanted = {path.name: _staged(path) for path in sorted(source.glob("*.py"))}
    wanted["GALLERY_HEADER.rst"] = (source / "GALLERY_HEADER.rst").read_text()
    for path in target.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = target / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _staged(path: Path) -> str:
    text = path.read_text()
    tree = ast.parse(text)
    doc = ast.get_docstring(tree)
    if doc is None:
        raise ValueError(f"{path}: a gallery script begins with a docstring")
    lines = as_rest(doc.splitlines())
    if len(doc.splitlines()) < 2 or not re.fullmatch(r"=+", doc.splitlines()[1]):
        title = path.stem.replace("_", " ").capitalize()
        lines = [title, "=" * len(title), "", *lines]
    asked = _ARGUMENTS.search(text)
    if asked:
        lines += [f"To be quick, this page was made with ``{asked.group(1).strip()}``.", ""]
    end = tree.body[0].end_lineno
    body = _ARGUMENTS.sub("", "\n".join(text.splitlines()[end:]) + "\n")
    quotes = "'''" if '"""' in "\n".join(lines) else '"""'
    return f"r{quotes}\n{chr(10).join(lines)}{quotes}\n{body}"


def arguments(conf: dict[str, Any], variables: dict[str, Any]) -> list[str]:
    """sphinx-gallery's reset_argv: what follows "# Gallery:" in the script, and where pictures go if it has an option for that."""
    path = EXAMPLES / Path(variables["src_file"]).name
    text = path.read_text()
    asked = _ARGUMENTS.search(text)
    given = shlex.split(asked.group(1)) if asked else []
    for old in PICTURES.glob("*"):
        old.unlink()
    if '"--out-dir"' in text:
        return [*given, "--out-dir", str(PICTURES)]
    option = next((o for o in ("--picture", "--out") if f'"{o}"' in text), None)
    return given if option is None else [*given, option, str(PICTURES / f"{path.stem}.png")]


def pictures(block: Any, variables: dict[str, Any], conf: dict[str, Any], **options: Any) -> str:
    """sphinx-gallery's scraper: the PNG files that the script wrote, in the order of writing; without any, the open figures."""
    from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper

    written = sorted(PICTURES.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
    if not written:
        return matplotlib_scraper(block, variables, conf, **options)
    shown = []
    for path in written:  # one below the other: side by side they would be too small to read
        place = next(variables["image_path_iterator"])
        shutil.move(path, place)
        shown.append(figure_rst([place], conf["src_dir"]))
    return "\n".join(shown)


def reset(conf: dict[str, Any], name: str) -> None:
    """What one script set must not reach the next."""
    import warnings

    import matplotlib.pyplot as plt
    import torch

    plt.close("all")
    torch.set_default_dtype(torch.float32)
    warnings.resetwarnings()
    import jax

    jax.config.update("jax_enable_x64", False)
