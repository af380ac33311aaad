"""Tables that objects show in notebooks, as HTML that needs no style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["MOST_ROWS", "figure", "html_table"]

MOST_ROWS = 20  # instances that a table shows


def figure(value: float) -> str:
    """A number with two digits, or a dash for NaN."""
    return "–" if value != value else f"{value:.1e}"


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """A table with a title above and notes below; all text is escaped."""
    cell = 'style="text-align: left; padding: 0.1em 0.8em 0.1em 0"'
    top = "".join(f"<th {cell}>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td {cell}>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    below = "".join(f'<p style="margin: 0.3em 0">{escape(note)}</p>' for note in notes)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div><p><strong>{escape(title)}</strong></p>{table}{below}</div>"
