"""The long run: `python tests/helpers/fuzz.py --seconds 3600` draws examples until the time is up, tells each finding so that it can be repeated,
and goes on; exit code 1 if there were any.

Each round is a process of its own with its own seed. It notes the example that it is at, so that one which hangs or crashes outside of
Python is told too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fuzzing import LIMIT, Finding
from fuzzing_adapters import AdapterSpec, adapters, check_adapters
from fuzzing_bounds import BoundSpec, bounds, check_bounds
from fuzzing_geometric import GeometricSpec, geometric_programs
from fuzzing_penalties import PenaltySpec, check_penalties, penalties
from fuzzing_problems import ProblemSpec, check_problem, problems
from fuzzing_programs import ProgramSpec, check_program, programs
from fuzzing_simplified import SimplifiedSpec, check_simplified, simplified_problems
from fuzzing_warm import WarmSpec, check_warm, warm_starts
from hypothesis import HealthCheck, Phase, given, seed, settings
from unit_changes import Family, UnitSpec, check_units, unit_changes

from conelayers import Cones


class Kind(NamedTuple):
    """What is drawn, how it is checked, and how many examples a round has."""

    spec: type
    strategy: Callable[[], Any]
    check: Callable[[Any, Counter], None]
    examples: int


KINDS = {
    "programs": Kind(ProgramSpec, programs, check_program, 200),
    "problems": Kind(ProblemSpec, problems, check_problem, 50),
    "simplified": Kind(SimplifiedSpec, simplified_problems, check_simplified, 100),
    "units": Kind(UnitSpec, unit_changes, check_units, 100),
    "bounds": Kind(BoundSpec, bounds, check_bounds, 200),
    "penalties": Kind(PenaltySpec, penalties, check_penalties, 100),
    "geometric": Kind(GeometricSpec, geometric_programs, check_problem, 50),
    "warm": Kind(WarmSpec, warm_starts, check_warm, 50),
    "adapters": Kind(AdapterSpec, adapters, check_adapters, 30),
}
_PATIENCE = 4  # times the limit of an example in CPU time: the time on the clock after which its process is stopped


def one_round(kind: str, number: int, examples: int, shrink: bool, notes: Path) -> None:
    """Draw examples in this process; what came of it goes to ``notes``."""
    _, strategy, check, _ = KINDS[kind]
    counts: Counter = Counter()
    failed: dict[str, str] = {}
    current = notes / "current"

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(strategy())
    def run(spec: Any) -> None:
        current.write_text(repr(spec))
        counts["examples"] += 1
        try:
            check(spec, counts)
        except Exception as error:  # the last one is the smallest
            text = (
                "".join(traceback.format_exception(error, limit=-3)) if not isinstance(error, Finding) else str(error)
            )
            failed.update(spec=repr(spec), error=text)
            raise

    try:
        run()
    except Exception as error:
        failed.setdefault("error", repr(error))
    (notes / "result").write_text(json.dumps({"counts": counts, "failed": failed}))


def supervise(kind: str, number: int, examples: int, shrink: bool) -> tuple[Counter, dict[str, str]]:
    """A round in a process of its own: its counts, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder)
        command = [sys.executable, __file__, "--round", kind, str(number), str(examples), str(int(shrink)), folder]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        current, began = notes / "current", time.time()
        while process.poll() is None:
            time.sleep(0.1)
            last = current.stat().st_mtime if current.exists() else began
            if time.time() - last > _PATIENCE * LIMIT:
                process.kill()
                process.wait()
                return Counter(), {
                    "spec": current.read_text() if current.exists() else "",
                    "error": "no hang: had to be stopped",
                }
        if not (notes / "result").exists():
            return Counter(), {
                "spec": current.read_text() if current.exists() else "",
                "error": f"no crash: the process ended with {process.returncode}",
            }
        result = json.loads((notes / "result").read_text())
        return Counter(result["counts"]), result["failed"]


def one_example(text: str) -> int:
    """Check the example that a finding printed; raises what it raised."""
    names = {"Cones": Cones, "Family": Family, "inf": math.inf} | {
        kind.spec.__name__: kind.spec for kind in KINDS.values()
    }
    spec, counts = eval(text, names), Counter()
    next(kind for kind in KINDS.values() if type(spec) is kind.spec).check(spec, counts)
    print(dict(counts))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, help="of the whole run; a new one if left out")
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--no-shrink", action="store_true", help="tell findings as they were drawn, at once")
    parser.add_argument("--round", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--example", help="check one example again, as a finding printed it")
    options = parser.parse_args()
    if options.example:
        return one_example(options.example)
    if options.round:
        kind, number, examples, shrink, folder = options.round
        one_round(kind, int(number), int(examples), shrink == "1", Path(folder))
        return 0
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    kinds = list(KINDS) if options.kind == "all" else [options.kind]
    print(f"seed {first}, {options.seconds:g} s, {', '.join(kinds)}", flush=True)
    began, totals, findings = time.time(), {kind: Counter() for kind in kinds}, 0
    number = first
    while time.time() - began < options.seconds:
        kind = kinds[(number - first) % len(kinds)]
        counts, failed = supervise(kind, number, KINDS[kind].examples, not options.no_shrink)
        totals[kind] += counts
        print(f"{time.time() - began:7.0f} s  {kind} seed {number}: {counts['examples']} examples", flush=True)
        if failed:
            findings += 1
            print(f"FINDING {findings} ({kind}, seed {number})\n  {failed.get('error', '')}", flush=True)
            if "spec" in failed:
                print(f'  python tests/helpers/fuzz.py --example "{failed["spec"]}"', flush=True)
        number += 1
    for kind, counts in totals.items():
        print(f"\n{kind}: {counts.pop('examples', 0)} examples")
        for name, count in sorted(counts.items()):
            print(f"  {count:8d}  {name}")
    print(f"\n{findings} findings in {time.time() - began:.0f} s, seed {first}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
