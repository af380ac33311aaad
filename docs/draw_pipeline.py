"""Draws docs/pipeline.svg: the modules from a cvxpy problem to the gradient, in their order."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

STAGES = [
    ("problem/", "canonicalize/ dpp/ expressions/", "cvxpy problem → cone program, affine in φ(θ)", "once"),
    ("program/", "problem/parametric", "θ → P, q, A, b; values checked", "call"),
    ("numerics/scaling", "bounds, presolve", "powers of two; definitions eliminated", "call"),
    ("solve/order", "starting methods, backends/", "a point near the solution", "call"),
    ("numerics/newton", "residual, kkt/ cones/", "F(x, v) = 0, polished to 1e−13", "call"),
    ("solve/verdict", "infeasibility/", "residuals anew, in the user's units; statuses", "call"),
    ("derivatives/linearization", "policies, smoothing", "one symmetric system, its last factors", "gradient"),
    ("derivatives/regularity", "certificate", "every element invertible? who is to blame?", "asked"),
    ("layer/", "solution, outcome, workers", "NumPy: solve, vjp, jvp, Jacobian, value", "call"),
    ("torch/", "jax/", "tensors in and out, transformations", "call"),
]
COLOURS = {"once": "#7a5195", "call": "#2f6fb0", "gradient": "#c2562d", "asked": "#3a8a5c"}
WHEN = {"once": "once", "call": "in every call", "gradient": "in the backward pass", "asked": "if asked"}
WIDTH, TOP, STEP, HEIGHT = 560, 24, 76, 58


def main() -> None:
    """Boxes from top to bottom, colours for when each runs."""
    total = TOP + STEP * len(STAGES) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" font-family="Helvetica, Arial, sans-serif">',
        "<title>From a cvxpy problem to a gradient</title>",
        '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#777"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{total}" rx="8" fill="#ffffff"/>',
    ]
    for k, (name, helpers, what, when) in enumerate(STAGES):
        y, colour = TOP + k * STEP, COLOURS[when]
        parts += [
            f'<rect x="24" y="{y}" width="{WIDTH - 48}" height="{HEIGHT}" rx="6" fill="{colour}" fill-opacity="0.09" stroke="{colour}" stroke-width="1.5"/>',
            f'<text x="40" y="{y + 24}" font-size="17" font-weight="bold" fill="{colour}">{escape(name)}</text>',
            f'<text x="{WIDTH - 40}" y="{y + 24}" font-size="14" fill="#555" text-anchor="end" font-family="monospace">{escape(helpers)}</text>',
            f'<text x="40" y="{y + 46}" font-size="15" fill="#222">{escape(what)}</text>',
        ]
        if k + 1 < len(STAGES):
            parts.append(
                f'<line x1="{WIDTH / 2}" y1="{y + HEIGHT}" x2="{WIDTH / 2}" y2="{y + STEP - 2}" stroke="#777" marker-end="url(#a)"/>'
            )
    x = 24.0
    for when, colour in COLOURS.items():
        parts += [
            f'<rect x="{x}" y="{total - 28}" width="12" height="12" rx="2" fill="{colour}"/>',
            f'<text x="{x + 17}" y="{total - 17}" font-size="13" fill="#333">{WHEN[when]}</text>',
        ]
        x += 17 + 7.1 * len(WHEN[when]) + 28
    Path(__file__).with_name("pipeline.svg").write_text("\n".join([*parts, "</svg>", ""]))


if __name__ == "__main__":
    main()
