"""Docstrings as reST: prose in which ``code`` is the only markup, blocks indented by four spaces, and "name: text" for arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["as_rest"]

_CODE = re.compile(r"(``.+?``|https?://\S+|:\w+:`[^`]+`|(?<!\w)\*\w[\w ]*\w\*(?!\w))")
_PAGE = re.compile(r"\bdocs/(\w+)\.md\b")
_DOCS = Path(__file__).parents[1]
_SPECIAL = re.compile(r"([\\*|`])|(?<=\w)(_)(?!\w)")


def as_rest(lines: Sequence[str], names: Sequence[str] = ()) -> list[str]:
    """The lines of a docstring as reST. names: arguments whose descriptions ("name: text") become a field list."""
    out: list[str] = []
    for block in _blocks(lines):
        if all(line.startswith("    ") for line in block):
            if out and out[-2:-1] and out[-2].rstrip().endswith("::"):  # reST already
                out += [*block, ""]
            else:
                out += [
                    ".. code-block:: none",
                    "   :class: equation",
                    "",
                    *(f"   {line}" for line in _flush(block)),
                    "",
                ]
        elif block[0].startswith("| ") and block[1:] and set(block[1]) <= set("|-: "):
            out += _table(block)
        elif re.match(r"(\.\. |:\w+|[=\-~^]{4,}$)", block[0]) or (
            len(block) > 1 and re.fullmatch(r"[=\-~^]{4,}", block[1])
        ):
            out += [*block, ""]  # a directive, fields, or a title
        elif all(re.match(r"(- |  )", line) for line in block):
            out += [*(line[:2] + _escape(line[2:]) for line in block), ""]
        else:
            out += _paragraph(" ".join(line.strip() for line in block), names)
    return out


def _blocks(lines: Sequence[str]) -> list[list[str]]:
    """Paragraphs and indented blocks; indented blocks keep their empty lines."""
    blocks: list[list[str]] = []
    gap = True
    for line in lines:
        if not line.strip():
            gap = True
            continue
        indented = line.startswith("    ")
        if gap and indented and blocks and blocks[-1][0].startswith("    "):
            blocks[-1] += ["    ", line]
        elif gap or indented != blocks[-1][-1].startswith("    "):
            blocks.append([line])
        else:
            blocks[-1].append(line)
        gap = False
    return blocks


def _flush(block: Sequence[str]) -> list[str]:
    indent = min(len(line) - len(line.lstrip()) for line in block if line.strip())
    return [line[indent:] for line in block]


def _escape(text: str) -> str:
    """The text with what reST would take for markup made harmless, outside of ``code``, and links to the pages that it names."""
    parts = _CODE.split(text)
    plain = [_SPECIAL.sub(lambda m: "\\" + m.group(0), p) for p in parts[::2]]
    parts[::2] = [_PAGE.sub(_link, p) for p in plain]
    return "".join(parts)


def _link(match: re.Match[str]) -> str:
    return f":doc:`/{match.group(1)}`" if (_DOCS / f"{match.group(1)}.md").exists() else match.group(0)


def _paragraph(text: str, names: Sequence[str]) -> list[str]:
    """Prose, then a field for each "name: text" in it, then what it raises."""
    tail: list[str] = []
    for word in ("Returns", "Raises"):
        at = re.search(rf"(?:^|(?<=[.)] )){word} ", text)
        if at and at.start() > 0:
            tail = _paragraph(text[at.start() :], ()) + tail
            text = text[: at.start()].rstrip()
    fields: list[str] = []
    if names:
        one = "|".join(re.escape(n) for n in sorted(names, key=len, reverse=True))
        found = list(re.finditer(rf"(?:^|(?<=[.)…] ))((?:{one})(?:(?:, | and )(?:{one}))*): ", text))
        for match, following in zip(found, [*found[1:], None], strict=False):
            described = text[match.end() : following.start() if following else len(text)].strip()
            label = ", ".join(f"``{n}``" for n in re.split(r", | and ", match.group(1)))
            fields += [f"{label}", f"   {_escape(described)}", ""]
        if found:
            text = text[: found[0].start()].strip()
    return ([_escape(text), ""] if text else []) + fields + tail


def _table(block: Sequence[str]) -> list[str]:
    rows = [[c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in block]
    out = [".. list-table::", "   :header-rows: 1", ""]
    for row in (rows[0], *rows[2:]):
        out += [f"   {'* -' if k == 0 else '  -'} {_escape(cell)}" for k, cell in enumerate(row)]
    return [*out, ""]
