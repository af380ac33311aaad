"""Soft-thresholding and projections in PyTorch: values, derivatives, and the elements chosen at kinks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import jacfwd, jacrev, vmap

from conelayers import Cones
from conelayers.derivatives.certificate import Verdict
from conelayers.implicit import PiecewiseLinear, Separable
from conelayers.implicit.torch import (
    certify_fixed_point,
    fixed_point,
    project_box,
    project_cone,
    project_l1_ball,
    project_l2_ball,
    project_simplex,
    soft_threshold,
)
from conelayers.numerics.cones import product_cone

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


def _of(*values: float, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) <= tolerance


ALL_CONES = Cones(zero=1, nonneg=2, soc=(3,), psd=(2,), exp=1, exp_dual=1, power=(0.3, -0.4))
PRIMITIVES = {
    "soft_threshold": (soft_threshold, 6),
    "box": (lambda v, r, *s: project_box(v, -r, 2 * r, *s), 6),
    "simplex": (project_simplex, 6),
    "l1_ball": (project_l1_ball, 6),
    "l2_ball": (project_l2_ball, 6),
    "cone": (lambda v, r, *s: r * project_cone(v, ALL_CONES, *s), ALL_CONES.dimension),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives_differentiate_in_every_mode(name):
    function, n = PRIMITIVES[name]
    v, r = 2 * _rand(2, n), torch.tensor(1.3, dtype=DOUBLE)
    inputs = (v.clone().requires_grad_(), r.clone().requires_grad_())
    assert gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)
    _close(jacfwd(function)(v, r), jacrev(function)(v, r))
    _close(vmap(function, (0, None))(v, r), function(v, r))
    for selection in ("low", "high", "mid"):  # no kink here: all the same
        _close(jacrev(function)(v, r, selection), jacrev(function)(v, r))
        _close(jacfwd(function)(v, r, selection), jacrev(function)(v, r))


def test_projections_are_the_nearest_points():
    v = 3 * _rand(20, 5)
    for project, contains in (
        (project_simplex, lambda x: (x >= 0).all() and (x.sum(1) - 1).abs().max() < 1e-12),
        (project_l1_ball, lambda x: x.abs().sum(1).max() < 1 + 1e-12),
        (project_l2_ball, lambda x: x.norm(dim=1).max() < 1 + 1e-12),
    ):
        x = project(v)
        assert contains(x)
        others = project(_rand(200, 5))  # ⟨v − x, y − x⟩ ≤ 0 for every y of the set
        assert float(((v - x)[:, None] * (others - x[:, None])).sum(-1).max()) < 1e-10


@pytest.mark.parametrize("selection", ["default", "low", "high", "mid"])
def test_selections_at_kinks(selection):
    half = {"default": 0.0, "low": 0.0, "high": 1.0, "mid": 0.5}[selection]
    D = lambda function, v: jacrev(lambda v: function(v, selection))(torch.tensor(v, dtype=DOUBLE))  # noqa: E731
    _close(
        D(lambda v, s: soft_threshold(v, 1.0, s), [1.0, -1.0, 2.0]).diagonal(),
        torch.tensor([half, half, 1], dtype=DOUBLE),
    )
    _close(
        D(lambda v, s: project_box(v, 0.0, 1.0, s), [0.0, 1.0, 0.5, 2.0]).diagonal(),
        torch.tensor([half, half, 1, 0], dtype=DOUBLE),
    )
    pair, triple = torch.zeros(3, 3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE) - 1 / 3
    pair[:2, :2] = torch.eye(2) - 0.5
    _close(D(lambda v, s: project_simplex(v, 1.0, s), [0.5, 0.5, 0.0]), (1 - half) * pair + half * triple)
    inside = 1.0 if selection == "default" else half
    normal = torch.tensor([[0.36, 0.48], [0.48, 0.64]], dtype=DOUBLE)
    eye = torch.eye(2, dtype=DOUBLE)
    _close(D(lambda v, s: project_l2_ball(v, 5.0, s), [3.0, 4.0]), eye - (1 - inside) * normal)
    _close(
        D(lambda v, s: project_l1_ball(v, 7.0, s), [3.0, -4.0]),
        eye - (1 - inside) * torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=DOUBLE),
    )
    _close(
        D(lambda v, s: project_cone(v, Cones(nonneg=2), s), [0.0, 1.0]).diagonal(),
        torch.tensor([inside, 1], dtype=DOUBLE),
    )


@pytest.mark.parametrize("selection", ["default", "low", "high", "mid"])
@pytest.mark.parametrize("dual", [False, True])
def test_the_cone_projection_has_the_cones_own_elements(selection, dual):
    cones = Cones(nonneg=2, soc=(3,), psd=(2,), exp=1)
    v = _rand(cones.dimension)
    v[0], v[2:5] = 0, torch.tensor([5.0, 3.0, 4.0])
    D = jacrev(lambda v: project_cone(v, cones, selection, dual=dual))(v)
    sign, turned = (1, selection) if dual else (-1, {"low": "high", "high": "low"}.get(selection, selection))
    element = product_cone(cones).element(sign * v.numpy(), turned).apply(np.eye(cones.dimension))
    np.testing.assert_allclose(D.numpy(), element if dual else np.eye(cones.dimension) - element, atol=1e-12)


KINKS = [
    (soft_threshold, [1.0, -1.0, 2.0, 0.0], 1.0),
    (lambda v, r, *s: project_box(v, -r, 2 * r, *s), [-1.0, 2.0, 0.5, 3.0], 1.0),
    (project_simplex, [0.5, 0.5, 0.0, 0.0, -3.0], 1.0),
    (project_simplex, [1.0, 0.0, 0.0], 1.0),
    (project_l1_ball, [3.0, -4.0, 0.0, 1.0, 1.0], 5.0),
    (project_l1_ball, [3.0, -4.0, 0.0], 7.0),
    (project_l1_ball, [3.0 + 7e-9, -4.0, 0.0], 7.0),  # within the tolerance of two kinks
    (project_l2_ball, [3.0, 4.0], 5.0),
]


@pytest.mark.parametrize(("function", "v", "r"), KINKS)
def test_the_element_at_a_kink_is_the_limit_of_derivatives_nearby_in_v_and_radius_together(function, v, r):
    v, r = _of(*v), torch.tensor(r, dtype=DOUBLE)

    def D(v: Tensor, r: Tensor, selection: str = "default") -> Tensor:
        dv, dr = jacrev(lambda v, r: function(v, r, selection), (0, 1))(v, r)
        return torch.cat([dv, dr[:, None]], 1)

    nearby = vmap(D)(v + 1e-7 * _rand(1000, len(v)), r + 1e-7 * _rand(1000))
    for selection in ("default", "low", "high"):
        assert float((nearby - D(v, r, selection)).abs().amax((1, 2)).min()) < 1e-5
        _close(function(v, r, selection), function(v, r), 0.0)
    _close(D(v, r, "mid"), (D(v, r, "low") + D(v, r, "high")) / 2)


ALL = {
    "soft_threshold": soft_threshold,
    "box": lambda v, r, *s: project_box(v, 0.0, r, *s),
    "simplex": project_simplex,
    "l1_ball": project_l1_ball,
    "l2_ball": project_l2_ball,
}


@pytest.mark.parametrize("name", ALL)
def test_nan_in_gives_nan_out_and_so_does_a_set_that_there_is_none_of(name):
    nan = float("nan")
    assert ALL[name](_of(3.0, nan), 1.0)[1].isnan()
    for r in (nan, -1.0):
        assert ALL[name](_of(3.0, 2.0), torch.tensor(r, dtype=DOUBLE)).isnan().all()


def test_large_and_infinite_entries_lose_no_digits():
    for project in (project_simplex, project_l1_ball):
        x = project(_of(1e4 + 0.25, 1e4, 3.0, dtype=torch.float32))
        _close(x, _of(0.625, 0.375, 0.0, dtype=torch.float32), 1e-7)
        _close(project(_of(1e20, 1e20, dtype=torch.float32)), _of(0.5, 0.5, dtype=torch.float32), 0.0)
    _close(project_l2_ball(_of(3e20, 4e20, dtype=torch.float32)), _of(0.6, 0.8, dtype=torch.float32), 1e-6)
    masked = _of(1.0, -torch.inf, 1.5)
    _close(project_simplex(masked), _of(0.25, 0.0, 0.75))
    assert jacrev(project_simplex)(masked).isfinite().all()
    for selection in ("default", "low", "high", "mid"):  # values do not depend on it
        assert soft_threshold(_of(torch.inf, 1.0), 1.0, selection).tolist() == [torch.inf, 0.0]


def test_degenerate_sets():
    for selection in ("default", "low", "high", "mid"):
        D = jacrev(lambda v: project_box(v, 1.0, 1.0, selection))(_of(1.0, 2.0))  # noqa: B023
        _close(D, _zeros(2, 2))  # nothing moves between equal bounds
        assert jacrev(lambda v: project_l2_ball(v, 0.0, selection))(_zeros(2)).isfinite().all()  # noqa: B023
        assert soft_threshold(_zeros(0), 1.0, selection).shape == (0,)
        assert soft_threshold(torch.tensor(3.0), 1.0, selection) == 2.0
    assert project_box(_zeros(3), -torch.ones(2, 3), 1.0).shape == (2, 3)


def test_arguments_that_do_not_fit():
    v, rows = (
        _rand(3, 3),
        "radius: got the shape .3,., expected a number or .*one for each row of v; write radius.*None",
    )
    for project in (project_simplex, project_l1_ball, project_l2_ball):
        with pytest.raises(ValueError, match=rows):
            project(v, torch.ones(3, dtype=DOUBLE))
        with pytest.raises(ValueError, match=r"radius: got -1.0, expected a number ≥ 0"):
            project(v, -1.0)
        with pytest.raises(ValueError, match=r"v: got the shape \(0,\), expected \(\.\.\., n\) with n ≥ 1"):
            project(_zeros(0))
        with pytest.raises(TypeError, match=r"v: got a tensor of torch.int64, expected a floating-point tensor"):
            project(torch.tensor([3, 1]))
    with pytest.raises(TypeError, match="soft_threshold: v: got list"):
        soft_threshold([3.0], 1.0)
    with pytest.raises(ValueError, match="soft_threshold: threshold: got -1, expected a number ≥ 0"):
        soft_threshold(v, -1)
    with pytest.raises(ValueError, match="lower, upper: got 2 and 1, expected lower ≤ upper"):
        project_box(v, 2, 1)
    with pytest.raises(TypeError, match=r"project_cone: v: got a tensor of torch.int64"):
        project_cone(torch.tensor([3, 4, 1]), Cones(soc=(3,)))
    with pytest.raises(ValueError, match=r"v: got the shape \(3, 3\), expected \(\.\.\., 2\)"):
        project_cone(v, Cones(nonneg=2))
    with pytest.raises(ValueError, match="selection: got 'up'"):
        soft_threshold(v, 1.0, "up")


# in layers


def test_a_cone_program_as_a_fixed_point_of_the_projected_gradient_has_the_layers_derivative():
    """z = Π_K(z − t(Mz + q)) solves minimize ½zᵀMz + qᵀz over K; dz by hand from D."""
    cones, A = Cones(nonneg=2, soc=(3,)), _rand(5, 5)
    M = A @ A.T / 5 + 0.5 * torch.eye(5, dtype=DOUBLE)
    layer = lambda q: fixed_point(lambda z: project_cone(z - 0.2 * (M @ z + q), cones), _zeros(5))  # noqa: E731
    q = _rand(5).requires_grad_()
    assert gradcheck(layer, (q,), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(layer, (q,), fast_mode=True)
    z, eye = layer(q).detach(), torch.eye(5, dtype=DOUBLE)
    D = jacrev(lambda v: project_cone(v, cones))(z - 0.2 * (M @ z + q.detach()))
    _close(jacrev(layer)(q.detach()), torch.linalg.solve(eye - D @ (eye - 0.2 * M), -0.2 * D))


def test_the_lasso_as_a_fixed_point_of_soft_thresholding_has_the_derivative_of_its_support():
    X, y, t = _rand(8, 5), _rand(8), torch.tensor(3.0, dtype=DOUBLE)
    step = 0.9 / torch.linalg.matrix_norm(X, 2) ** 2

    def lasso(y: Tensor, t: Tensor) -> Tensor:
        return fixed_point(lambda z: soft_threshold(z - step * X.T @ (X @ z - y), step * t), _zeros(5))

    z = lasso(y, t)
    S = z != 0
    assert 0 < int(S.sum()) < 5
    G = torch.linalg.inv(X[:, S].T @ X[:, S])
    dy, dt = jacrev(lasso, (0, 1))(y, t)
    _close(dy[S], G @ X[:, S].T, 1e-8)
    _close(dt[S], -G @ z[S].sign(), 1e-8)
    _close(dy[~S], torch.zeros_like(dy[~S]))
    pre = lambda z, y, t: z - step * X.T @ (X @ z - y)  # noqa: E731
    f = lambda z, y, t: soft_threshold(pre(z, y, t), step * t)  # noqa: E731
    separable = Separable(pre, PiecewiseLinear.soft_threshold(float(step * t)))
    assert certify_fixed_point(f, z, y, t, separable=separable).verdict is Verdict.CLASSICAL
