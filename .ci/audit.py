"""Known vulnerabilities of what is installed, from pip-audit's report: python .ci/audit.py REPORT.json.

pip-audit alone would say "No known vulnerabilities found" where the service knows none of the packages, as on a mirror that
has files only: here that is an audit not done, said loudly, and not a failure. A vulnerability that is found is one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# Vulnerabilities that cannot be avoided yet: their id, and why they do not reach users of this package.
IGNORED: dict[str, str] = {}
OURS = frozenset({"conelayers"})  # not on any index


def verdict(report: str | None) -> tuple[list[str], int]:
    """What to print, and the exit code: 1 where a vulnerability was found."""
    try:
        dependencies = [d for d in json.loads(report or "")["dependencies"] if d["name"] not in OURS]
        skipped = [d["name"] for d in dependencies if "skip_reason" in d]
        found = [(d["name"], d["version"], v) for d in dependencies if "skip_reason" not in d for v in d["vulns"]]
    except (ValueError, KeyError, TypeError):
        return ["AUDIT NOT DONE: pip-audit's service could not be reached, or it gave no report."], 0
    lines = []
    if skipped:
        few = ", ".join(skipped[:5]) + (", …" if len(skipped) > 5 else "")
        how = "AUDIT NOT DONE" if len(skipped) == len(dependencies) else "AUDIT NOT COMPLETE"
        lines.append(f"{how}: the service does not know {len(skipped)} of {len(dependencies)} packages ({few}).")
    code = 0
    for name, version, one in found:
        fix = ", ".join(one.get("fix_versions", ())) or "none yet"
        reason = next((IGNORED[i] for i in (one["id"], *one.get("aliases", ())) if i in IGNORED), None)
        if reason is None:
            lines.append(f"VULNERABLE: {name} {version}: {one['id']}, fixed in: {fix}")
            code = 1
        else:
            lines.append(f"ignored: {name} {version}: {one['id']}: {reason}")
    if not found and len(skipped) < len(dependencies):
        lines.append(f"audit: no known vulnerabilities in {len(dependencies) - len(skipped)} packages.")
    return lines, code


if __name__ == "__main__":
    path = Path(sys.argv[1])
    lines, code = verdict(path.read_text(encoding="utf-8") if path.exists() else None)
    print("\n".join(lines))
    raise SystemExit(code)
