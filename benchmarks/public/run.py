"""The walk through folders, and each file's row."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from benchmarks.public.worker import READERS, serve
from benchmarks.suite.remote import CallFailed, Remote, TimedOut

__all__ = ["Row", "as_json", "files_in", "names_of", "run", "split_name", "summary"]

START_SECONDS = 120.0  # until a worker has imported everything, which is not the instance's time
SMALL = 4000  # n + m up to which the aim is to be met
EXACT = 1e-8
SHOWN = 160  # characters of a reason


@final
@dataclass(frozen=True)
class Row:
    """One file's row; ``benchmarks.public`` says what the keys mean."""

    name: str
    n: int | None = None
    m: int | None = None
    status: str = "unreadable"
    kkt_residual: float | None = None
    verdict: str | None = None
    derivative_residual: float | None = None
    seconds: float | None = None

    @property
    def small(self) -> bool:
        """Whether the aim is one for this instance."""
        return self.n is not None and self.m is not None and self.n + self.m <= SMALL

    @property
    def meets_aim(self) -> bool:
        """A derivative with a residual of rounding, or the verdict that says why there is none."""
        if self.status != "solved":
            return self.status in ("primal_infeasible", "dual_infeasible")
        exact = self.derivative_residual is not None and self.derivative_residual <= EXACT
        return self.verdict is not None and (exact or self.verdict == "least_squares")

    def line(self) -> str:
        """For people."""
        number = lambda h: f"{'-' if h is None else h:>9}"  # noqa: E731
        small = lambda h: f"{'-' if h is None else f'{h:.1e}':>9}"  # noqa: E731
        return (
            f"{self.name:24}{number(self.n)}{number(self.m)}  {self.status:18}{small(self.kkt_residual)}  "
            f"{self.verdict or '-':18}{small(self.derivative_residual)}{self.seconds or 0.0:8.1f} s"
        )


def files_in(folders: list[Path], complain: Callable[[str], None]) -> Iterator[Path]:
    """Every file below the folders, and every folder that cannot be listed or has the name of a file; in the order of names."""

    def unlisted(error: OSError) -> None:
        complain(str(error))
        missed.append(Path(error.filename))

    missed: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            yield folder
            continue
        for here, inner, names in os.walk(folder, onerror=unlisted):
            inner.sort()
            disguised = [name for name in inner if split_name(Path(name))[1] in READERS]
            yield from (Path(here) / name for name in sorted([*names, *disguised]))
        yield from missed
        missed.clear()


def split_name(path: Path) -> tuple[str, str]:
    """The name and the suffix that tells the format, .gz aside; the suffix of other files is empty."""
    plain = path.name.removesuffix(".gz")
    for suffix in READERS:
        if plain.lower().endswith(suffix) and len(plain) > len(suffix):
            return plain[: -len(suffix)], suffix
    return path.name, ""


def names_of(paths: list[Path]) -> list[str]:
    """The names of the rows: with the folder where two files share one."""
    names = [split_name(path)[0] for path in paths]
    counts = Counter(names)
    return [str(path.parent / name) if counts[name] > 1 else name for path, name in zip(paths, names, strict=True)]


def run(paths: list[Path], seconds: float, log: Callable[[str], None]) -> Iterator[Row]:
    """A row for each file, as they are found; ``log`` gets the lines for people."""
    worker = Remote(serve)
    try:
        for path, name in zip(paths, names_of(paths), strict=True):
            row, reason = _measure(worker, Row(name), path, split_name(path)[1], seconds)
            log(row.line() + (f"  {reason[:SHOWN]}" if reason else ""))
            yield row
    finally:
        worker.stop()


def _measure(worker: Remote, row: Row, path: Path, suffix: str, seconds: float) -> tuple[Row, str]:
    """The row, and what there is to say about it."""
    if not suffix:
        return row, f"expected a file named {', '.join(f'*{h}' for h in READERS)}, or these with .gz"
    if not path.is_file():
        return row, "not a file" if path.exists() else "no such file"
    if not worker.alive:
        worker.start(START_SECONDS)
    begin = time.monotonic()
    reason = ""
    for call in (("read", str(path), suffix), ("solve",), ("differentiate",), ("certify",)):
        try:
            answer = worker.call(max(seconds - (time.monotonic() - begin), 0.0), *call)
        except TimedOut:
            row, reason = replace(row, status="time_limit"), f"killed after {seconds:g} s, during: {call[0]}"
            break
        except CallFailed as failure:
            # SciPy's reader of MATLAB files may end the process where a file is damaged.
            status = {"read": "unreadable", "solve": "crashed"}.get(call[0], row.status)
            row, reason = replace(row, status=status), f"{call[0]}: {failure}"
            break
        reason = answer.pop("reason", "")
        row = replace(row, **answer)
        if call[0] != "read" and row.status not in ("solved", "inaccurate"):
            break
        if call[0] == "read" and "status" in answer:
            break
    return replace(row, seconds=round(time.monotonic() - begin, 3)), reason


def summary(rows: list[Row]) -> str:
    """How many meet the aim, and which do not."""
    small = [row for row in rows if row.small]
    missed = [row.name for row in small if not row.meets_aim]
    lines = [
        f"{len(rows)} files: " + ", ".join(f"{n} {status}" for status, n in Counter(r.status for r in rows).items()),
        f"{len(small) - len(missed)} of {len(small)} with n + m ≤ {SMALL} have a derivative with a residual ≤ {EXACT:g}, or a "
        "verdict that says why there is none",
    ]
    return "\n".join(lines + ([f"not so: {', '.join(missed)}"] if missed else []))


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as a list of objects."""
    return [asdict(row) for row in rows]
