"""Draws docs/solution_map.svg: two layers' solutions along a line of parameters, with the gradients and the certificates that the layers return."""

from __future__ import annotations

from pathlib import Path

import cvxpy as cp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from conelayers import Layer, Verdict

COLOURS = {
    Verdict.CLASSICAL: "#1f6fb4",
    Verdict.CERTIFIED: "#2e8b57",
    Verdict.UNCERTIFIED: "#c2562d",
    Verdict.LEAST_SQUARES: "#c2562d",
}
REST = (0.5, 0.0)  # the other two costs


def layer_of(weight: float) -> Layer:
    """Over the simplex: maximize c·x, less ½·weight·‖x‖²."""
    x, c = cp.Variable(3), cp.Parameter(3)
    objective = 0.5 * weight * cp.sum_squares(x) - c @ x if weight else -c @ x
    return Layer(cp.Problem(cp.Minimize(objective), [x >= 0, cp.sum(x) == 1]), [c], [x], singular="least_squares")


def along(t: np.ndarray) -> np.ndarray:
    return np.column_stack([t, np.full_like(t, REST[0]), np.full_like(t, REST[1])])


def draw(axes: object, layer: Layer, title: str, points: list[float]) -> None:
    """x₀ over t; at each point the slope that the layer returns, and its verdict."""
    t = np.linspace(-1.1, 2.1, 1281)
    (x,) = layer.solve(along(t)).variables
    line = x[:, 0].copy()
    line[np.flatnonzero(np.abs(np.diff(line)) > 0.3) + 1] = np.nan  # a jump is not drawn as a slope
    axes.plot(t, line, color="#222", linewidth=2)
    at = np.array(points)
    (value,) = layer.solve(along(at)).variables
    direction = np.zeros((len(at), 3))
    direction[:, 0] = 1
    (slope,) = layer.solve(along(at)).jvp(direction)
    certificates = layer.certify(along(at))
    for point, x0, dx, certificate in zip(at, value[:, 0], slope[:, 0], certificates, strict=True):
        colour = COLOURS[certificate.verdict]
        step = 0.22 / np.hypot(1, dx)
        axes.plot([point - step, point + step], [x0 - step * dx, x0 + step * dx], color=colour, linewidth=5, alpha=0.55)
        axes.plot(point, x0, "o", color=colour, markersize=8)
        name = certificate.verdict.value.replace("_", " ")
        # Labels keep clear of the line: below it in the upper half, above it in the lower one.
        high = x0 > 0.55
        axes.annotate(
            f"dx₀/dt = {round(dx, 9) + 0.0:.2g}\n{name}",
            (point, x0),
            (4, -12) if high else (-8, 10),
            textcoords="offset points",
            ha="left" if high else "right",
            va="top" if high else "bottom",
            color=colour,
            fontsize=10,
        )
    axes.set(xlabel="t", ylabel="x₀", title=title, ylim=(-0.3, 1.3), xlim=(-1.1, 2.1))
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """A quadratic program, whose solution has kinks, beside a linear one, whose solution jumps."""
    mpl.rcParams["svg.hashsalt"] = "solution map"
    figure = Figure(figsize=(10, 4.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    draw(left, layer_of(1.0), "min ½‖x‖² − c·x over the simplex: kinks", [-0.25, 0.1, 0.7, 1.5])
    draw(right, layer_of(0.0), "min −c·x over the simplex: a jump", [0.0, 0.5, 1.2])
    figure.suptitle(
        "c = (t, 0.5, 0): solution (black), gradient (bars) and certificate, as the layers return them", fontsize=11
    )
    figure.savefig(Path(__file__).with_name("solution_map.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
