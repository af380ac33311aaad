"""Differentiable optimization layers compared: families × sizes × contenders, one table, and the targets.

``python -m benchmarks.run`` (an hour or two), ``--quick`` (under 10 minutes), ``--families``, ``--contenders`` (names or
their beginnings, separated by commas), ``--json FILE``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.suite.case import Case
from benchmarks.suite.contenders import CONTENDERS, DEFAULT_CONTENDERS
from benchmarks.suite.driver import FULL, QUICK, Driver
from benchmarks.suite.families import FAMILIES
from benchmarks.suite.overhead_worker import OVERHEADS, serve_overheads
from benchmarks.suite.remote import CallFailed, Remote
from benchmarks.suite.row import Row
from benchmarks.suite.summary import Target, ratio_lines, speed_targets
from benchmarks.suite.table import CAPTION, render

OVERHEAD_SECONDS = 120.0  # for each of conelayers' own quantities


def _chosen(text: str | None, names: Sequence[str], default: Sequence[str], what: str) -> list[str]:
    """The names that the parts of the text begin; an exact name means itself alone. Raises SystemExit."""
    if text is None:
        return list(default)
    found: list[str] = []
    for part in text.split(","):
        wanted = part.strip().lower()
        matches = [n for n in names if n.lower() == wanted] or [n for n in names if n.lower().startswith(wanted)]
        if not matches:
            raise SystemExit(f"no {what} begins with {part!r}; there are: {', '.join(names)}")
        found += [name for name in matches if name not in found]
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes, rounds and seconds: under 10 minutes")
    parser.add_argument("--families", help=", ".join(FAMILIES))
    parser.add_argument("--contenders", help=", ".join(CONTENDERS))
    parser.add_argument("--json", type=Path, help="where the results are written")
    parser.add_argument("--no-overheads", action="store_true", help="the table alone")
    return parser.parse_args()


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measure(driver: Driver, cases: Sequence[Case], deadline: float) -> tuple[list[Row], list[str]]:
    """The rows of all cases, and the cases for which no time was left."""
    rows: list[Row] = []
    left_out: list[str] = []
    for case in cases:
        if time.monotonic() > deadline:
            left_out.append(case.key)
            continue
        begin = time.monotonic()
        found = driver.measure(case)
        rows += found
        slow = ", ".join(f"{r.contender} {r.elapsed:.1f}" for r in sorted(found, key=lambda r: -r.elapsed)[:3])
        _log(f"{case.key}: {time.monotonic() - begin:.1f} s ({slow})")
    return rows, left_out


def main() -> None:
    arguments = _arguments()
    effort = QUICK if arguments.quick else FULL
    families = _chosen(arguments.families, list(FAMILIES), list(FAMILIES), "family")
    contenders = _chosen(arguments.contenders, list(CONTENDERS), DEFAULT_CONTENDERS, "contender")
    cases = [case for name in families for case in FAMILIES[name].cases(arguments.quick)]
    begin = time.monotonic()
    with Driver(contenders, effort, _log) as driver:
        rows, left_out = _measure(driver, cases, begin + effort.total)
        versions, missing = driver.versions, driver.missing
    targets = speed_targets(rows)
    if not arguments.no_overheads and "conelayers" in versions:
        targets += _overheads()
    minutes = (time.monotonic() - begin) / 60
    print(CAPTION)
    print()
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    for name, reason in missing.items():
        print(f"not installed: {name} ({reason})")
    print()
    print(render(rows))
    print()
    print("\n".join(ratio_lines(rows)))
    print()
    print(f"Targets ({minutes:.1f} minutes, {'quick' if arguments.quick else 'full'} run):")
    print("\n".join(target.line() for target in targets))
    for key in left_out:
        print(f"no time left for {key}")
    if arguments.json is not None:
        result = {
            "machine": f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
            "quick": arguments.quick,
            "minutes": minutes,
            "versions": versions,
            "missing": missing,
            "left_out": left_out,
            "rows": [row.to_json() for row in rows],
            "targets": [asdict(target) for target in targets],
        }
        arguments.json.write_text(json.dumps(result, indent=1))


def _overheads() -> list[Target]:
    """conelayers' own quantities, in a process of their own."""
    remote, targets = Remote(serve_overheads), []
    for name in OVERHEADS:
        try:
            if not remote.alive:
                remote.start(OVERHEAD_SECONDS)
            targets += remote.call(OVERHEAD_SECONDS, "measure", name)
        except CallFailed as failure:
            targets.append(Target(name, str(failure), None))
    remote.stop()
    return targets


if __name__ == "__main__":
    main()
