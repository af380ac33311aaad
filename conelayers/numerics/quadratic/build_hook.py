"""Compiles kernel.c while a wheel, also an editable one, is built. If that is not possible, NumPy takes its place.

The library is plain C, called by ctypes: the wheel depends on the platform, but not on the Python version.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # type: ignore[import-not-found,unused-ignore]

_FOLDER = Path("conelayers", "numerics", "quadratic")
_REQUIRED = ("-O3", "-std=gnu11", "-shared", "-fPIC")
# Tried from left to right; the later sets make the kernel slower only.
_OPTIONAL = (("-fopenmp-simd", "-DCONELAYERS_DISPATCH"), ("-fopenmp-simd",), ())


def _compilers() -> list[list[str]]:
    """The compiler commands to try: $CC alone if it is set."""
    if chosen := os.environ.get("CC"):
        return [shlex.split(chosen)]
    return [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]


def _compile(folder: Path) -> Path | None:
    """Compile the library; None if no compiler can."""
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    library, partial = folder / f"libkernel{suffix}", folder / f"libkernel.{os.getpid()}.partial"
    for compiler in _compilers():
        for optional in _OPTIONAL:
            command = [*compiler, *_REQUIRED, *optional, str(folder / "kernel.c"), "-o", str(partial), "-lm"]
            try:
                done = subprocess.run(command, capture_output=True, check=False, timeout=300)
            except (OSError, subprocess.TimeoutExpired):
                done = None
            if done is not None and done.returncode == 0 and partial.exists():
                # A process that has mapped the old library keeps it, since the new one is another file.
                partial.replace(library)
                return library
            partial.unlink(missing_ok=True)
    return None


@final
class CustomBuildHook(BuildHookInterface):  # type: ignore[misc,unused-ignore]
    """Adds the library to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = _compile(Path(self.root) / _FOLDER)
        if library is None:
            self.app.display_warning(
                "conelayers: no working C compiler; small quadratic programs will be solved by NumPy."
            )
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(f"/{(_FOLDER / library.name).as_posix()}")
