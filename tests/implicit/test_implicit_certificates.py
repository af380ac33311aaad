"""Certificates of roots and fixed points in PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from conelayers.derivatives.certificate import Verdict
from conelayers.implicit import (
    Invertibility,
    PiecewiseLinear,
    Separable,
    check_separable,
)
from conelayers.implicit.torch import (
    certify_fixed_point,
    certify_root,
    fixed_point,
    soft_threshold,
)

# torch's own, when its forward-mode rules are loaded.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
Tensor = torch.Tensor
DOUBLE = torch.float64
gradcheck, gradgradcheck = torch.autograd.gradcheck, torch.autograd.gradgradcheck


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=DOUBLE)


def test_all_elements_are_invertible_iff_the_principal_minors_of_i_minus_w_are_positive():
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(Invertibility, 0)
    for _ in range(300):
        n = int(rng.integers(1, 6))
        W = rng.standard_normal((n, n)) * rng.uniform(0.2, 1.5)
        low, high = np.zeros(n), np.ones(n)
        for i in range(n):
            if rng.random() < 0.3:
                low[i] = high[i] = rng.random() < 0.5
        tested = check_separable(W, low, high)
        vertices = np.array(list(itertools.product(*zip(low, high, strict=True))))
        inner = low + rng.random((200, n)) * (high - low)
        sign, _ = np.linalg.slogdet(np.eye(n) - np.concatenate([vertices, inner])[:, :, None] * W)
        every = bool((sign == sign[0]).all())
        assert (tested.invertibility is Invertibility.EVERY) == every
        counts[tested.invertibility] += 1
        if (low < high).all():
            least = min(
                np.linalg.det((np.eye(n) - W)[np.ix_(S, S)])
                for k in range(1, n + 1)
                for S in itertools.combinations(range(n), k)
            )
            assert every == (least > 0)
            if np.linalg.eigvalsh(np.eye(n) - (W + W.T) / 2)[0] > 0:
                assert every  # strong monotonicity is sufficient
    assert min(counts[Invertibility.EVERY], counts[Invertibility.SOME_SINGULAR]) > 80


def test_scaling_a_p_matrix_leaves_it_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scale = 10.0 ** rng.uniform(-5, 5, 5)
        M = np.eye(5) + 0.2 * rng.uniform(-1, 1, (5, 5))  # diagonally dominant
        assert check_separable(np.eye(5) - scale[:, None] * M / scale).invertibility is Invertibility.EVERY
        assert check_separable(np.eye(5) - scale[:, None] * M).invertibility is Invertibility.EVERY
    assert check_separable(np.triu(1e6 * rng.standard_normal((5, 5)), 1)).invertibility is Invertibility.EVERY


def test_large_systems_are_certified_by_monotonicity_and_only_checked_without():
    rng = np.random.default_rng(0)
    S, A = (rng.standard_normal((40, 40)) / 40**0.5 for _ in range(2))
    monotone = 0.9 * np.eye(40) - S @ S.T + 3 * (A - A.T)
    found = check_separable(monotone)
    assert (found.invertibility, found.method) == (Invertibility.EVERY, "strong monotonicity")
    assert found.monotonicity > 0.09
    weak = np.triu(rng.random((40, 40)), 1)  # every determinant is 1, but I − W is not monotone
    assert check_separable(weak).invertibility is Invertibility.SAMPLED
    assert check_separable(2 * np.eye(40)).invertibility is Invertibility.SOME_SINGULAR
    with pytest.raises(ValueError, match=r"W: got the shape \(2, 3\), expected a square matrix"):
        check_separable(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="low > high"):
        check_separable(np.eye(2), 1.0, 0.0)
    with pytest.raises(ValueError, match="W: got entries that are not finite"):
        check_separable(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match=r"low, high: got the shapes \(3,\) and \(\), expected numbers or \(2,\)"):
        check_separable(np.eye(2), [0, 0, 0])


def test_slopes_of_piecewise_linear_functions():
    v = np.array([-2.0, -1.0, 0.0, 1.0 + 1e-9, 3.0])
    low, high, distance = PiecewiseLinear.soft_threshold(1.0).slopes_at(v, 1e-8)
    np.testing.assert_array_equal(low, [1, 0, 0, 0, 1])
    np.testing.assert_array_equal(high, [1, 1, 0, 1, 1])
    np.testing.assert_allclose(distance, [1, 0, 1, 1e-9, 2], atol=1e-15)
    with pytest.raises(ValueError, match="slopes: got 2 slopes for 2 breakpoints"):
        PiecewiseLinear((0.0, 1.0), (0.0, 1.0))
    for decreasing in (lambda: PiecewiseLinear.soft_threshold(-1.0), lambda: PiecewiseLinear.box(1.0, 0.0)):
        with pytest.raises(ValueError, match="breakpoints: got ones that decrease"):
            decreasing()


def _relu_problem(
    scale: float, kinks: tuple[int, ...]
) -> tuple[Callable[..., Tensor], Separable, Tensor, Tensor, Tensor]:
    """f, its description, the solution with v = 0 at ``kinks``, W, b."""
    W, z = scale * _rand(5, 5), torch.rand(5, dtype=DOUBLE) + 0.5
    z[list(kinks)] = 0
    b = z - W @ z
    pre = lambda z, W, b: W @ z + b  # noqa: E731
    return lambda z, W, b: torch.relu(pre(z, W, b)), Separable(pre), z, W, b


def test_verdicts_of_a_relu_network():
    f, separable, z, W, b = _relu_problem(0.2, ())
    certificate = certify_fixed_point(f, z, W, b, separable=separable)
    assert certificate.verdict is Verdict.CLASSICAL
    assert certificate.everywhere
    B = jacrev(f)(z, W, b) - torch.eye(5, dtype=DOUBLE)
    np.testing.assert_allclose(certificate.smallest_singular_value, np.linalg.svd(B.numpy(), compute_uv=False)[-1])
    f, separable, z, W, b = _relu_problem(0.2, (1, 3))
    certificate = certify_fixed_point(f, z, W, b, separable=separable)
    assert certificate.verdict is Verdict.CERTIFIED
    assert certificate.kinks.tolist() == [False, True, False, True, False]
    assert certificate.elements == 3
    assert "every element" in str(certificate)
    assert certify_fixed_point(f, z, W, b).verdict is Verdict.CHECKED  # only elements nearby were tested
    away = certify_fixed_point(f, z + 0.1, W, b, separable=separable)
    assert away.verdict is Verdict.UNCERTIFIED
    assert "no solution" in away.advice
    assert (
        certify_root(lambda z: z - f(z, W, b), z, separable=Separable(lambda z: W @ z + b)).verdict is Verdict.CERTIFIED
    )


def test_a_kink_at_which_some_element_is_singular_is_uncertified_though_the_chosen_one_is_fine():
    pre = lambda z: torch.stack([2 * z[0], 0.5 * z[1]])  # noqa: E731
    f = lambda z: torch.relu(pre(z))  # noqa: E731
    certificate = certify_fixed_point(f, _zeros(2), separable=Separable(pre))
    assert certificate.smallest_singular_value == 1.0
    assert certificate.verdict is Verdict.UNCERTIFIED
    assert certificate.least_minor < 0
    assert certify_fixed_point(f, _zeros(2)).verdict is Verdict.UNCERTIFIED  # seen by the signs of determinants nearby


def test_smooth_and_singular_roots_and_batches():
    assert certify_root(lambda z: z**3 - 1, torch.ones(2, dtype=DOUBLE), smooth=True).verdict is Verdict.CLASSICAL
    singular = certify_root(lambda z: z**3, _zeros(2), smooth=True)
    assert singular.verdict is Verdict.LEAST_SQUARES
    assert not singular.verdict.justified
    points = torch.tensor([[1.0], [0.0]], dtype=DOUBLE)
    batch = certify_root(lambda z: z**3 - points**3, points, smooth=True, batched=True)
    assert [c.verdict for c in batch] == [Verdict.CLASSICAL, Verdict.LEAST_SQUARES]


def test_thresholds_may_differ_by_coordinate_and_instance():
    C = torch.tensor([[1.0, 0.2], [2.0, -3.0], [1.0, 1.0]], dtype=DOUBLE)
    pre = lambda z: 0.3 * z + C  # noqa: E731
    for t in (
        torch.tensor([[1.0], [0.1], [0.5]], dtype=DOUBLE).requires_grad_(),
        torch.tensor([1.0, 0.1], dtype=DOUBLE),
    ):
        f = lambda z, t=t: soft_threshold(pre(z), t)  # noqa: E731
        z = fixed_point(f, _zeros(3, 2))
        at_kink = ((pre(z).abs() - t).abs() < 1e-12).detach().numpy()
        assert at_kink.any()
        separable = Separable(pre, PiecewiseLinear.soft_threshold(t))
        np.testing.assert_array_equal(certify_fixed_point(f, z, separable=separable).kinks, at_kink.ravel())
        for certificate, kinks in zip(
            certify_fixed_point(f, z, separable=separable, batched=True), at_kink, strict=True
        ):
            np.testing.assert_array_equal(certificate.kinks, kinks)
            assert certificate.verdict is (Verdict.CERTIFIED if kinks.any() else Verdict.CLASSICAL)
    wrong = Separable(pre, PiecewiseLinear.soft_threshold(torch.ones(3)))
    with pytest.raises(ValueError, match=r"breakpoints of shape \(3,\), \(3,\), expected .* broadcast to v's \(3, 2\)"):
        certify_fixed_point(f, z, separable=wrong)


def test_what_is_not_finite_is_uncertified_and_harms_no_other_instance():
    z = torch.tensor([[0.0], [torch.nan]], dtype=DOUBLE)
    for options in ({}, {"smooth": True}, {"separable": Separable(lambda z: z / 2)}):
        good, bad = certify_fixed_point(lambda z: torch.relu(z / 2), z, batched=True, **options)
        assert good.verdict is not Verdict.UNCERTIFIED
        assert bad.verdict is Verdict.UNCERTIFIED
    assert certify_fixed_point(lambda z: z / 2, _zeros(0, 3), batched=True) == ()


def test_arguments_of_certificates():
    f = lambda z: z / 2  # noqa: E731
    with pytest.raises(ValueError, match="certify_fixed_point: tol: got 'x', expected a positive number"):
        certify_fixed_point(f, _zeros(2), tol="x")
    with pytest.raises(ValueError, match="certify_root: samples: got 0, expected an integer"):
        certify_root(f, _zeros(2), samples=0)
    with pytest.raises(TypeError, match="certify_root: separable: got str"):
        certify_root(f, _zeros(2), separable="relu")
    with pytest.raises(TypeError, match="call it outside of grad, vmap"):
        vmap(lambda z: certify_root(f, z).condition)(_zeros(2, 2))


def test_a_description_of_another_function_is_refused():
    f, _, z, W, b = _relu_problem(0.2, ())
    with pytest.raises(
        ValueError,
        match=r"separable: got a description of another function: the derivative of the function differs by .* check pre and activation",
    ):
        certify_fixed_point(f, z, W, b, separable=Separable(lambda z, W, b: W.T @ z + b))
    with pytest.raises(TypeError, match="expected a callable"):
        Separable(3)
