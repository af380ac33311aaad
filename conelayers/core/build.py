"""Builds the extension modules into this folder, quicker than an installation: ``python conelayers/core/build.py``.

For the loop while writing C++, by the same CMakeLists.txt. Needs cmake, ninja, nanobind and a C++20 compiler.
--levels v3,v4: some instruction sets only. --sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer, for
``tests/core/run_sanitized.py``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["build"]

_HERE = Path(__file__).parent


def build(
    destination: Path = _HERE, levels: str = "", sanitize: bool = False, folder: Path | None = None
) -> list[Path]:
    """The modules, put into ``destination``. ``folder``: where to build, to build again quickly."""
    with tempfile.TemporaryDirectory() as temporary:
        where = folder or Path(temporary)
        configure = [
            "cmake", "-S", str(_HERE), "-B", str(where), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCORE_LEVELS={levels.replace(',', ';')}", f"-DCORE_SANITIZE={'ON' if sanitize else 'OFF'}",
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(where)], check=True)
        made = [p for p in where.iterdir() if p.suffix in (".so", ".pyd") and p.name.startswith(("_core_", "_cpu"))]
        return [_installed(p, destination / p.name) for p in made]


def _installed(module: Path, target: Path) -> Path:
    # A process that has the old module mapped keeps it: the new one is another file.
    partial = target.with_suffix(".partial")
    shutil.copyfile(module, partial)
    partial.replace(target)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", default="", help="v2, v3, v4 or base, with commas between them")
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--destination", type=Path, default=_HERE)
    parser.add_argument("--folder", type=Path, help="where to build; kept")
    arguments = parser.parse_args()
    for path in build(arguments.destination, arguments.levels, arguments.sanitize, arguments.folder):
        print(path)
