"""Runs tests/core under AddressSanitizer and UndefinedBehaviorSanitizer: ``python tests/core/run_sanitized.py``.

Needs g++ (or $CXX), cmake, ninja and nanobind beside what the tests need. What it builds stays in build/sanitized.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "sanitized"
LEVEL = "v3"


def main() -> int:
    """The exit code of pytest."""
    package = FOLDER / "conelayers"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "conelayers", package, ignore=shutil.ignore_patterns("_core_*", "_cpu*", "__pycache__"))
    builder = os.environ.get("CORE_BUILD_PYTHON", sys.executable)
    script = [builder, str(ROOT / "conelayers/core/build.py"), "--sanitize", "--levels", LEVEL]
    subprocess.run([*script, "--folder", str(FOLDER / "objects"), "--destination", str(package / "core")], check=True)
    compiler = os.environ.get("CXX", "g++")
    # The sanitizers have to be there before anything else is loaded; libstdc++ with them, whose exceptions they watch.
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in names
    ]
    environment = os.environ | {
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": str(FOLDER),
        "CONELAYERS_CORE": LEVEL,
    }
    tests = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/core"]
    return subprocess.run([*tests, *sys.argv[1:]], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
