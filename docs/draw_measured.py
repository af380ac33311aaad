"""Draws docs/measured.svg from docs/benchmarks_measured/jax_steps.json: time of a step by contender, the gradient's error written beside each bar."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).parent
COLOURS = ["#8c8c8c", "#1f6fb4", "#7fb2dc", "#c2562d", "#e3a184"]


def main() -> None:
    """One panel for each problem and batch, one bar for each contender."""
    result = json.loads((HERE / "benchmarks_measured" / "jax_steps.json").read_text())
    names = [row["name"] for row in result["rows"]]
    mpl.rcParams["svg.hashsalt"] = "measured"
    figure = Figure(figsize=(10, 5.4), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).T.flat
    order = [0, 2, 1, 3]  # a column for each problem, a row for each batch size
    for axes, k in zip(panels, order, strict=True):
        for place, (row, colour) in enumerate(zip(result["rows"], COLOURS, strict=True)):
            ms, error = row["ms"][k], row["error"][k]
            axes.barh(place, ms, color=colour)
            said = "reference" if error is None else f"error {error:.0e}"
            axes.annotate(f" {ms:.3g} ms, {said}", (ms, place), va="center", fontsize=9, color="#222")
        axes.set_xscale("log")
        axes.set(xlim=(1, 1500), title=result["columns"][k])
        axes.set_yticks(range(len(names)), names)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    for axes in (panels[1], panels[3]):
        axes.set_xlabel("ms for forward and backward, logarithmic")
    figure.suptitle(f"{result['machine']}; {result['measured'].split(',')[0]}, one run; float64", fontsize=10)
    figure.savefig(HERE / "measured.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
