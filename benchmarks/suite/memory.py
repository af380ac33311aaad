"""Peak resident memory of this process over a stretch of work, from /proc."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

__all__ = ["peak_growth", "start"]

STATUS = Path("/proc/self/status")


def _kilobytes(name: str) -> int:
    line = next(h for h in STATUS.read_text().splitlines() if h.startswith(name + ":"))
    return int(line.split()[1])


def start() -> int:
    """Free what is free, reset the peak; returns the resident size in bytes."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _kilobytes("VmRSS") * 1024


def peak_growth(before: int) -> int:
    """Bytes between the resident size at ``start`` and the largest since."""
    return max(0, _kilobytes("VmHWM") * 1024 - before)
