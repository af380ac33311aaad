"""Sudoku's rules, learned from solved puzzles
===========================================

A network that has never been told the rules of Sudoku finds them, as the constraints of its only layer, a quadratic program:

    z = argmin over z ≥ 0, A z = A z₀  of  ε/2 ‖z‖² − ⟨p, z⟩          to be learned: A (40 × 64) and z₀ > 0

A 4 × 4 grid with 2 × 2 blocks is 64 numbers, one for each cell and digit; p has a one for each clue and zeros for the empty cells. The right-hand side
A z₀ keeps the problem feasible, whatever A is. Trained is on the squared error of z against the solved grids, 200 of the 288 that there are; tested
on puzzles made of the other 88. Each has six clues and one solution.

While training, ε = 1 spreads the derivative over all entries of z; the learned A is then used with ε = 0.03, where the solutions are nearly vertices.
Printed at the end, too: how far the rules (one digit in each cell; each digit once in each row, column and block) are from the span of A's
rows, as the sine of the angle. They were never shown.

After Amos and Kolter, "OptNet: Differentiable optimization as a layer in neural networks" (2017), whose layer had a fixed ε and more training.
"""

from __future__ import annotations

import argparse
import itertools
import time

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch

from conelayers.torch import ConeLayer

RULES, CLUES, BATCH, RATE, SOFT, SHARP = 40, 6, 8, 3e-2, 1.0, 0.03


def grids() -> np.ndarray:
    """All 288 solved grids, each with its digits 0 to 3 in reading order."""
    rows = list(itertools.permutations(range(4)))
    # Two rows of blocks: their four cells of each block differ.
    bands = [(*a, *b) for a in rows for b in rows if all({*a[j : j + 2]}.isdisjoint(b[j : j + 2]) for j in (0, 2))]
    return np.array([(*a, *b) for a in bands for b in bands if all(len({*(a + b)[j::4]}) == 4 for j in range(4))])


def rules() -> np.ndarray:
    """The 64 rules: which entries of z sum to one."""
    row, column, digit = np.indices((4, 4, 4)).reshape(3, 64)
    block = row // 2 * 2 + column // 2
    kinds = ((row, column), (row, digit), (column, digit), (block, digit))
    return np.array([(a == i) & (b == j) for a, b in kinds for i in range(4) for j in range(4)], dtype=float)


def one_hot(digits: np.ndarray) -> np.ndarray:
    return np.eye(4)[digits].reshape(-1, 64)


def puzzles(solved: np.ndarray, everything: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Clues that one grid only has, as p, and the solution."""
    p, solution = np.zeros((len(solved), 16, 4)), one_hot(solved)
    for row, grid, z in zip(p, solved, solution.reshape(-1, 16, 4), strict=True):
        shown = rng.permutation(16)[:CLUES]
        while (everything[:, shown] == grid[shown]).all(axis=1).sum() > 1:
            shown = rng.permutation(16)[:CLUES]
        row[shown] = z[shown]
    return torch.tensor(p.reshape(-1, 64)), torch.tensor(solution)


def solver() -> ConeLayer:
    z, p = cp.Variable(64), cp.Parameter(64)
    A, b, epsilon = cp.Parameter((RULES, 64)), cp.Parameter(RULES), cp.Parameter(nonneg=True)
    objective = cp.Minimize(epsilon / 2 * cp.sum_squares(z) - p @ z)
    return ConeLayer(cp.Problem(objective, [A @ z == b, z >= 0]), [A, b, p, epsilon], [z])


def main(picture: str | None, steps: int) -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    rng, everything, layer = np.random.default_rng(0), grids(), solver()
    solved = rng.permutation(everything)
    train, test = solved[:200], solved[200:]
    p_test, _ = puzzles(test, everything, rng)
    A = (torch.randn(RULES, 64) / 8).requires_grad_()
    log_z0 = torch.full((64,), np.log(1 / 4), requires_grad=True)

    @torch.no_grad()
    def answers() -> np.ndarray:
        (z,) = layer(A, A @ log_z0.exp(), p_test, torch.tensor(SHARP))
        return z.reshape(-1, 16, 4).argmax(dim=2).numpy()

    optimizer = torch.optim.Adam([A, log_z0], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found, start = {0: answers()}, time.perf_counter()
    for step in range(1, steps + 1):
        p, target = puzzles(train[rng.choice(len(train), BATCH)], everything, rng)
        (z,) = layer(A, A @ log_z0.exp(), p, torch.tensor(SOFT))
        optimizer.zero_grad()
        (z - target).square().sum().backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps:
            found[step] = answers()
    seconds = time.perf_counter() - start
    valid = (one_hot(found[steps]) @ rules().T == 1).all(axis=1).mean()
    # The share of cells that are right, and of puzzles.
    shares = np.array([((digits == test).mean(), (digits == test).all(axis=1).mean()) for digits in found.values()])

    rows, unit = np.linalg.qr(A.detach().numpy().T)[0], rules() / 2
    sines = np.linalg.norm(unit - unit @ rows @ rows.T, axis=1)
    print(f"{steps} steps of {BATCH} puzzles: {seconds:.1f} s, with {len(found)} tests")
    for name, (before, *_, after) in zip(("cells right", "puzzles solved"), shares.T, strict=True):
        print(f"held-out {name}: {before:.1%} before, {after:.1%} after training")
    print(f"answers that satisfy all rules: {valid:.1%}")
    print(f"rules and the span of A's rows: sine at most {sines.max():.3f}; of a random A {np.sqrt(24 / 64):.2f}")
    curves = draw(p_test[0].numpy(), {"before training": found[0][0], "after training": found[steps][0]}, test[0])
    curves.plot(list(found), shares, label=["cells", "puzzles"])
    curves.legend()
    if picture:
        plt.savefig(picture, dpi=150)
    assert min(valid, shares[-1, 1]) >= 0.95


def draw(p: np.ndarray, answers: dict[str, np.ndarray], solution: np.ndarray) -> plt.Axes:
    """The axes of the learning curves, and two answers to one puzzle: clues bold, wrong digits red."""
    _, (curves, *boards) = plt.subplots(1, 3, figsize=(11, 3.9), width_ratios=(1.25, 1, 1), layout="constrained")
    curves.set(xlabel="step of Adam", ylabel="share solved, held-out grids", ylim=(0, 1.03))
    for board, (title, digits) in zip(boards, answers.items(), strict=True):
        for cell, digit in enumerate(digits):
            clue, right = p.reshape(16, 4)[cell].any(), digit == solution[cell]
            style = {"color": "tab:red" if not right else "black" if clue else "tab:green"}
            style["weight"] = "bold" if clue else "normal"
            board.text(cell % 4 + 0.5, cell // 4 + 0.5, digit + 1, size=18, ha="center", va="center", **style)
        for line in range(5):
            thick = 2 if line % 2 == 0 else 0.7
            board.plot([0, 4], [line, line], [line, line], [0, 4], color="black", linewidth=thick, clip_on=False)
        board.set(xlabel=title, xlim=(0, 4), ylim=(4, 0), aspect="equal", xticks=[], yticks=[])
    return curves


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FILE", help="where the picture goes")
    parser.add_argument("--steps", type=int, default=400, help="steps of Adam")
    arguments = parser.parse_args()
    main(arguments.out, arguments.steps)
