"""solve_cone_program: data in conic form, dense or on a sparsity pattern."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from conelayers import Cones, SolveError, solve_and_differentiate
from conelayers.torch import solve_cone_program

Tensor = torch.Tensor
DOUBLE = torch.float64
CONES = Cones(zero=1, nonneg=3, soc=(3,))


def _data(batch: tuple[int, ...] = (), seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    L, q, A = (torch.randn((*batch, *s), dtype=DOUBLE, generator=rng) for s in ((4, 4), (4,), (7, 4)))
    b = torch.tensor([0.2, 1.0, 1.0, 1.0, 2.0, 0.0, 0.0], dtype=DOUBLE).expand(*batch, 7).clone()
    return [L @ L.mT + 0.5 * torch.eye(4, dtype=DOUBLE), 2 * q, A, b]


def _leaves(data: list[Tensor]) -> list[Tensor]:
    return [d.clone().requires_grad_() for d in data]


def test_it_is_the_engines_answer_and_gradient() -> None:
    data = _leaves(_data())
    solution = solve_cone_program(*data, CONES)
    expected = solve_and_differentiate(*[d.detach().numpy() for d in data], CONES)
    g = [torch.randn(4, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE)]
    sum((h * k).sum() for h, k in zip(solution, g, strict=True)).backward()
    for got, want in zip(solution, (expected.x, expected.y, expected.s), strict=True):
        np.testing.assert_allclose(got.detach(), want, atol=1e-10)
    for leaf, want in zip(data, expected.vjp(*[h.numpy() for h in g]), strict=True):
        np.testing.assert_allclose(leaf.grad, want.toarray() if sp.issparse(want) else want, atol=1e-9)


def test_batches_share_what_has_no_batch_axis() -> None:
    P, q, A, b = _leaves(_data((5,)))
    shared = [P[0].detach().requires_grad_(), q, A[0].detach().requires_grad_(), b]
    solution = solve_cone_program(*shared, CONES)
    assert solution.x.shape == (5, 4)
    solution.x.sum().backward()
    singles = []
    for i in range(5):
        each = _leaves([shared[0].detach(), q[i].detach(), shared[2].detach(), b[i].detach()])
        solve_cone_program(*each, CONES).x.sum().backward()
        singles.append([h.grad for h in each])
    torch.testing.assert_close(shared[0].grad, sum(s[0] for s in singles), atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(q.grad, torch.stack([s[1] for s in singles]), atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(shared[2].grad, sum(s[2] for s in singles), atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("form", ["matrix", "indices"])
def test_values_on_a_pattern(form: str) -> None:
    P, q, A, b = _data((3,))
    mask = torch.rand(7, 4, generator=torch.Generator().manual_seed(1)) < 0.7
    diagonal = torch.eye(4, dtype=torch.bool)
    P, A = torch.where(diagonal, P, torch.zeros_like(P)), torch.where(mask, A, torch.zeros_like(A))
    rows, cols = np.nonzero(mask.numpy())
    patterns = (np.arange(4), np.arange(4)), (rows, cols)
    if form == "matrix":
        patterns = tuple(
            sp.coo_array((np.ones(r.size), (r, c)), shape=s)
            for (r, c), s in zip(patterns, ((4, 4), (7, 4)), strict=True)
        )
    dense, sparse = _leaves([P, q, A, b]), _leaves([P[:, range(4), range(4)], q, A[:, rows, cols], b])
    expected = solve_cone_program(*dense, CONES)
    got = solve_cone_program(*sparse, CONES, P_pattern=patterns[0], A_pattern=patterns[1])
    for h, k in zip(got, expected, strict=True):
        torch.testing.assert_close(h, k, atol=1e-10, rtol=1e-9)
    for solution in (got, expected):
        (solution.x.sum() + (solution.s**2).sum()).backward()
    torch.testing.assert_close(sparse[0].grad, dense[0].grad[:, range(4), range(4)], atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(sparse[2].grad, dense[2].grad[:, rows, cols], atol=1e-9, rtol=1e-8)


def test_linear_programs_float32_and_vmap() -> None:
    A = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    q, b = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    solution = solve_cone_program(None, q, A, b, {"z": 1, "l": 2})
    assert solution.x.dtype is torch.float32
    torch.testing.assert_close(solution.x, torch.tensor([1.0, 0.0]))
    (g,) = torch.autograd.grad(solution.x[0], b)
    torch.testing.assert_close(g, torch.tensor([1.0, 0.0, 1.0]))
    stacked = torch.stack([b.detach(), 2 * b.detach()])
    mapped = torch.vmap(lambda t: solve_cone_program(None, q.detach(), A, t, {"z": 1, "l": 2}).x)(stacked)
    torch.testing.assert_close(mapped, torch.tensor([[1.0, 0.0], [2.0, 0.0]]))


def test_bad_input_is_named() -> None:
    P, q, A, b = _data()
    for arguments, phrase, error in (
        ((P.numpy(), q, A, b), "P: got ndarray", TypeError),
        ((P, q > 0, A, b), "q: got dtype", TypeError),
        ((P, q, A[:6], b), r"parameter 2 \(A\)", ValueError),
        ((P, q, A, b[:6]), r"parameter 3 \(b\)", ValueError),
        ((-P, q, A, b), "P: got an eigenvalue", ValueError),
        ((P + torch.triu(torch.ones_like(P), 1), q, A, b), "symmetric", ValueError),
        ((P, q * torch.nan, A, b), "q", ValueError),
    ):
        with pytest.raises(error, match=phrase):
            solve_cone_program(*arguments, CONES)
    with pytest.raises(ValueError, match="ECOS takes no quadratic objective"):
        solve_cone_program(P, q, A, b, CONES, solver="ECOS")
    values = A.reshape(-1)
    for pattern, phrase in (
        (sp.eye_array(4), "A_pattern: got shape"),
        ((np.array([0, 9]), np.array([0, 0])), "outside a matrix"),
        ((np.array([0, 0]), np.array([1, 1])), "twice"),
        (3, "A_pattern: got int"),
    ):
        with pytest.raises(ValueError, match=phrase):
            solve_cone_program(P, q, values[:2], b, CONES, A_pattern=pattern)
    with pytest.raises(SolveError, match="infeasible"):
        solve_cone_program(
            None, q[:1], torch.tensor([[1.0], [-1.0]], dtype=DOUBLE), torch.tensor([0.0, -1.0], dtype=DOUBLE), {"l": 2}
        )
