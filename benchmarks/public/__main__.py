"""``python -m benchmarks.public DIR … --json FILE``: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import benchmarks.public
from benchmarks.public.run import Row, as_json, files_in, run, summary


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.public",
        description=benchmarks.public.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="walked for files; or a file")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where the rows are written")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="the limit for one file, after which its process is killed (60)"
    )
    arguments = parser.parse_args()
    if not arguments.seconds > 0:
        parser.error("--seconds: expected a positive number")
    for folder in arguments.folders:
        if not folder.exists():
            parser.error(f"{folder}: no such file or folder")
    if arguments.json is not None and (arguments.json.is_dir() or not arguments.json.absolute().parent.is_dir()):
        parser.error(f"--json: {arguments.json} cannot be written")
    return arguments


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    arguments = _arguments()
    rows: list[Row] = []
    try:
        for row in run(list(files_in(arguments.folders, _log)), arguments.seconds, _log):
            rows.append(row)  # noqa: PERF402
    finally:  # an interrupted run has its rows, too
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(as_json(rows), indent=1, allow_nan=False) + "\n")
    print(summary(rows))


if __name__ == "__main__":
    main()
