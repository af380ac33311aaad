"""Sphinx's configuration: Markdown pages, whose Python is run; examples/ as a gallery; the API from docstrings. ``make docs`` builds it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Scripts and pages are small, and idle threads of PyTorch spin where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import api  # noqa: E402
import benchmark_page  # noqa: E402
import scripts  # noqa: E402

project, author, copyright = "conelayers", "the conelayers developers", "the conelayers developers"
version = release = "0.1.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
    "executed",
]
exclude_patterns = [
    "_build",
    "_gallery_source",
    "_ext",
    "_generated",
    "gallery/*.py.md5",
    "gallery/*.ipynb",
    "gallery/*.py",
    "README.md",
]
# Pages in the making: until they are there, the table of contents and links do without.
IN_THE_MAKING = [name for name in ("bad_input", "public_problems") if not (HERE / f"{name}.md").exists()]
suppress_warnings = ["config.cache", *(["myst.xref_missing"] if IN_THE_MAKING else [])]

# Indented blocks of the pages are equations and printed output.
highlight_language = "none"
pygments_style, pygments_dark_style = "friendly", "github-dark"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "conelayers"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []
copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div.highlight-python pre, div.highlight-bash pre"

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

scripts.stage(HERE.parent / "examples", HERE / "_gallery_source")
api.write_pages(HERE / "api")
benchmark_page.write(HERE)

sphinx_gallery_conf = {
    "examples_dirs": str(HERE / "_gallery_source"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "reset_argv": "scripts.arguments",
    "image_scrapers": ("scripts.pictures",),
    "reset_modules": ("matplotlib", "scripts.reset"),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 0,
    "show_memory": False,
    "remove_config_comments": True,
    "copyfile_regex": r"",
    "plot_gallery": True,
    "doc_module": (),
}


def without_missing_pages(app: object, name: str, source: list[str]) -> None:
    """Leaves pages in the making out of the table of contents."""
    if name == "index":
        source[0] = "\n".join(line for line in source[0].splitlines() if line not in IN_THE_MAKING)


def setup(app: object) -> None:
    """Docstrings are prose with unicode mathematics: reST is made of them on the way."""
    app.connect("autodoc-process-docstring", api.process_docstring)
    app.connect("autodoc-skip-member", api.skip_member)
    app.connect("source-read", without_missing_pages)
