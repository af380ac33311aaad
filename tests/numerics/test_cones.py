"""Projections and Clarke elements: identities that hold at every point, and differences away from kinks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conelayers.numerics.cones import ProductCone as Cones
from conelayers.numerics.cones import (
    embedding,
    hermitian_to_svec,
    matrix_to_svec,
    real_form,
    svec_to_hermitian,
    svec_to_matrix,
)
from conelayers.program.cone_dictionaries import as_cones
from conelayers.program.cones import Cones as Description

PRODUCTS = {
    "zero": Cones(zero=4),
    "nonneg": Cones(nonneg=5),
    "soc": Cones(soc=(2, 3, 7)),
    "soc of dimension one": Cones(soc=(1, 4, 1)),
    "large soc": Cones(soc=(20, 40)),
    "psd": Cones(psd=(1, 2, 4)),
    "hermitian": Cones(hermitian=(1, 2, 3)),
    "mixed": Cones(zero=2, nonneg=3, soc=(3, 5, 3), psd=(3, 2, 3)),
    "exp": Cones(exp=4),
    "exp dual": Cones(exp_dual=4),
    "power": Cones(power=(0.5, 0.3, 0.9)),
    "power dual": Cones(power=(-0.5, 0.3, -0.25)),
    "all": Cones(zero=1, nonneg=1, soc=(3,), psd=(2,), hermitian=(2,), exp=2, exp_dual=1, power=(0.4, -0.7)),
    "empty": Cones(),
}


@st.composite
def points(draw, count: int = 1):
    """A product and points of it, over magnitudes, with zeros and copies of entries so that kinks occur."""
    cones = PRODUCTS[draw(st.sampled_from(sorted(PRODUCTS)))]
    seed, exponent = draw(st.integers(0, 2**31)), draw(st.integers(-6, 6))
    rng = np.random.default_rng(seed)
    arrays = []
    for _ in range(count):
        v = rng.standard_normal((2, cones.dimension))
        if draw(st.booleans()):
            v[rng.random(v.shape) < 0.4] = 0.0
        arrays.append(v * 10.0**exponent)
    return (cones, *arrays)


def scale(v: np.ndarray) -> float:
    return max(1e-12, float(np.abs(v).max(initial=0.0)))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(points())
def test_projection_is_one_and_splits_v(data) -> None:
    """Idempotence and Moreau: v = Π_{K*}(v) − Π_K(−v), the parts orthogonal and in their cones."""
    cones, v = data
    p, _ = cones.project_dual(v)
    atol = 1e-13 * scale(v) * max(1, cones.dimension)
    np.testing.assert_allclose(cones.project_dual(p)[0], p, atol=atol)
    s = p - v
    np.testing.assert_allclose(np.sum(p * s, axis=-1), 0, atol=atol * scale(v))
    # s ∈ K ⟺ the projection of −s onto K* is zero.
    np.testing.assert_allclose(cones.project_dual(-s)[0], 0, atol=atol)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(points(count=2))
def test_projection_is_nonexpansive_and_homogeneous(data) -> None:
    cones, v, w = data
    p, q = cones.project_dual(v)[0], cones.project_dual(w)[0]
    assert np.all(np.linalg.norm(p - q, axis=-1) <= np.linalg.norm(v - w, axis=-1) * (1 + 1e-12) + 1e-13 * scale(v))
    np.testing.assert_allclose(cones.project_dual(3 * v)[0], 3 * p, atol=1e-12 * scale(v))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(points())
def test_element_is_a_symmetric_contraction_with_eulers_identity(data) -> None:
    """D = U diag(Λ) Uᵀ with U orthogonal, 0 ≤ Λ ≤ 1, D v = Π(v), D Π(v) = Π(v): at kinks too."""
    cones, v = data
    p, element = cones.project_dual(v)
    m = cones.dimension
    assert np.all((element.values >= 0) & (element.values <= 1))
    eye = np.broadcast_to(np.eye(m)[:, None, :], (m, 2, m))
    U = np.moveaxis(element.from_basis(eye), 0, -1)
    np.testing.assert_allclose(np.swapaxes(U, 1, 2) @ U, np.broadcast_to(np.eye(m), U.shape), atol=1e-12)
    np.testing.assert_allclose(np.moveaxis(element.to_basis(eye), 0, -1), np.swapaxes(U, 1, 2), atol=1e-12)
    atol = 1e-12 * scale(v)
    np.testing.assert_allclose(element.apply(v), p, atol=atol)
    np.testing.assert_allclose(element.apply(p), p, atol=atol)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(points(), st.sampled_from(["low", "high", "mid"]))
def test_every_selection_obeys_euler_and_brackets_the_default(data, selection) -> None:
    """D_low ⪯ D ⪯ D_high, all with D v = Π(v) and the same projection; away from kinks they agree."""
    cones, v = data
    p, element = cones.project_dual(v)
    q, chosen = cones.project_dual(v, selection)
    np.testing.assert_array_equal(p, q)
    np.testing.assert_allclose(chosen.apply(v), p, atol=1e-12 * scale(v))
    m = cones.dimension
    eye = np.broadcast_to(np.eye(m)[:, None, :], (m, 2, m))
    D, other = (np.moveaxis(e.apply(eye), 0, -1) for e in (element, chosen))
    gap = {"low": D - other, "high": other - D}.get(selection)
    if gap is not None and m:
        assert np.linalg.eigvalsh((gap + np.swapaxes(gap, 1, 2)) / 2).min() >= -1e-12


DUALS = {
    "nonneg": (Cones(nonneg=5), Cones(nonneg=5)),
    "soc": (Cones(soc=(2, 4)), Cones(soc=(2, 4))),
    "psd": (Cones(psd=(3,)), Cones(psd=(3,))),
    "hermitian": (Cones(hermitian=(3,)), Cones(hermitian=(3,))),
    "exp": (Cones(exp=3), Cones(exp_dual=3)),
    "power": (Cones(power=(0.3, 0.5, 0.8)), Cones(power=(-0.3, -0.5, -0.8))),
}


@pytest.mark.parametrize("name", DUALS)
def test_moreau_between_a_cone_and_its_dual(name: str) -> None:
    """Π_{K*}(v) − Π_K(−v) = v and D_{K*}(v) + D_K(−v) = I."""
    primal, dual = DUALS[name]
    v = np.random.default_rng(9).standard_normal((30, primal.dimension))
    p, D = primal.project_dual(v)  # onto K*
    q, E = dual.project_dual(-v)  # onto K
    np.testing.assert_allclose(p - q, v, atol=1e-13)
    h = np.random.default_rng(10).standard_normal(v.shape)
    np.testing.assert_allclose(D.apply(h) + E.apply(h), h, atol=1e-12)


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_element_is_the_derivative_away_from_kinks(name: str) -> None:
    cones = PRODUCTS[name]
    rng = np.random.default_rng(1)
    v, d = rng.standard_normal((2, 50, cones.dimension))
    h = 1e-5
    difference = (cones.project_dual(v + h * d)[0] - cones.project_dual(v - h * d)[0]) / (2 * h)
    error = np.abs(difference - cones.project_dual(v)[1].apply(d)).max(axis=-1, initial=0.0)
    assert np.median(error) < 1e-8
    assert np.mean(error < 1e-6) > 0.9  # a random point may lie within h of a kink


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_reduced_form_is_the_element(name: str) -> None:
    """D = B C Bᵀ with C⁻¹ = N + BᵀB on {η : Wᵀη = 0}; a wrong lifting would show here."""
    cones = PRODUCTS[name]
    v = np.random.default_rng(2).standard_normal((4, cones.dimension))
    _, element = cones.project_dual(v)
    for i in range(4):
        reduced = element.take(i).reduced()
        basis, lift = (sp.csr_array((t.data, (t.rows, t.cols)), shape=t.shape) for t in (reduced.basis, reduced.lift))
        diagonal = reduced.diagonal
        B, W = basis.toarray(), lift.toarray()
        r, k = W.shape
        # D h = B η with (diag(n) + BᵀB) η + W ν = Bᵀh, Wᵀη = 0.
        system = np.block([[np.diag(diagonal) + B.T @ B, W], [W.T, np.zeros((k, k))]])
        h = np.random.default_rng(3).standard_normal((cones.dimension, 3))
        eta = np.linalg.solve(system, np.concatenate([B.T @ h, np.zeros((k, 3))]))[:r]
        expected = element.take(i).apply(h.T).T
        np.testing.assert_allclose(B @ eta, expected, atol=1e-12)


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_torch_tensors_give_the_same(name: str) -> None:
    """The cones are written against the array-API standard: same code, same numbers, same namespace out."""
    cones = PRODUCTS[name]
    v = np.random.default_rng(4).standard_normal((3, cones.dimension))
    p, element = cones.project_dual(v)
    tensor_p, tensor_element = cones.project_dual(torch.from_numpy(v))
    assert isinstance(tensor_p, torch.Tensor)
    np.testing.assert_allclose(tensor_p.numpy(), p, atol=1e-13)
    np.testing.assert_allclose(tensor_element.apply(torch.from_numpy(v)).numpy(), element.apply(v), atol=1e-13)


@pytest.mark.parametrize("magnitude", [1e-160, 1e-8, 1e8, 1e160])
def test_second_order_cone_neither_over_nor_underflows(magnitude: float) -> None:
    v = magnitude * np.array([[0.5, 3.0, -4.0]])
    p, element = Cones(soc=(3,)).project_dual(v)
    np.testing.assert_allclose(p / magnitude, [[2.75, 1.65, -2.2]], rtol=1e-14)
    np.testing.assert_allclose(element.values, [[1.0, 0.0, 0.55]], rtol=1e-14)


def test_svec_is_scss_order_and_an_isometry() -> None:
    """Lower triangle, column-major, off-diagonals times √2."""
    X = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
    r = np.sqrt(2)
    np.testing.assert_allclose(matrix_to_svec(X), [1, 2 * r, 3 * r, 4, 5 * r, 6])
    np.testing.assert_allclose(svec_to_matrix(matrix_to_svec(X), 3), X)
    assert np.linalg.norm(matrix_to_svec(X)) == pytest.approx(np.linalg.norm(X))


def test_scs_dict_is_understood() -> None:
    assert as_cones({"z": 1, "l": 2, "q": [3, 4], "s": [2], "ep": 0}) == Description(
        zero=1, nonneg=2, soc=(3, 4), psd=(2,)
    )
    assert as_cones({"f": 1, "q": np.array([3])}).dimension == 4


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda: Cones(zero=-1), "cones.zero: got -1"),
        (lambda: Cones(nonneg=1.5), "cones.nonneg: got 1.5"),
        (lambda: Cones(soc=3), "cones.soc: got 3"),
        (lambda: Cones(psd=(0,)), "cones.psd: got 0"),
        (lambda: Cones(power=(1.5,)), "cones.power: got the exponent 1.5"),
        (lambda: Cones(nonneg=1).project_dual(np.ones((1, 1)), "middle"), "selection: got 'middle'"),
        (lambda: as_cones({"bu": 1}), "cones: got the key 'bu'"),
        (lambda: as_cones({"z": 1, "f": 1}), "keep one"),
    ],
)
def test_bad_cones_are_named(make, phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase.replace("(", r"\(")):
        make()


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_distances_bound_the_distances_to_both_cones(name: str) -> None:
    """Zero for points of the cones, no less than the distance by projection elsewhere, and no more than a hundred times it."""
    cones = PRODUCTS[name]

    def largest_of_blocks(h: np.ndarray) -> np.ndarray:
        return cones.block_maxima(np.abs(h))[:, cones.block_starts]

    v = np.random.default_rng(6).standard_normal((5, cones.dimension))
    y, s, _ = cones.decompose(v)
    for bound in cones.distances(y, s):
        assert np.all(bound <= 1e-13 * (1 + np.abs(v).max(initial=0.0)))
    w = np.random.default_rng(7).standard_normal((2, 5, cones.dimension))
    to_dual, to_primal = cones.distances(*w)
    outside = w[0] - cones.project_dual(w[0])[0], cones.project_dual(-w[1])[0]
    for bound, distance in zip((to_dual, to_primal), map(largest_of_blocks, outside), strict=True):
        assert np.all(bound >= distance - 1e-14)
        assert np.all(bound <= 100 * distance + 1e-13)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(points(count=3))
def test_second_derivative_is_symmetric_and_that_of_d(data) -> None:
    """D²Π(v)[a, c] is symmetric, also as a trilinear form, and the difference quotient of D(v)c where D is smooth."""
    cones, v, a, c = data
    size = scale(v)
    a, c = a / scale(a), c / scale(c)
    got = cones.second_derivative(v, a, c)
    np.testing.assert_allclose(got, cones.second_derivative(v, c, a), rtol=1e-8, atol=1e-9 / size)
    form = np.sum(a * cones.second_derivative(v, a, c), axis=-1)
    np.testing.assert_allclose(form, np.sum(c * cones.second_derivative(v, a, a), axis=-1), rtol=1e-7, atol=1e-8 / size)
    # Away from kinks, and from where the pieces bend too fast for differences: there both one-sided quotients agree.
    h = 1e-5 * size
    here, ahead, behind = (cones.project_dual(v + step * a)[1].apply(c) for step in (0.0, h, -h))
    tolerance = 1e-3 * (1 / size + np.abs(got).max(initial=0.0))
    if np.abs(ahead - 2 * here + behind).max(initial=0.0) / h < tolerance:
        np.testing.assert_allclose(got, (ahead - behind) / (2 * h), atol=tolerance)


@pytest.mark.parametrize("name", PRODUCTS)
def test_second_derivative_at_generic_points(name: str) -> None:
    """The same at points of every cone where nothing is near a kink; most of them must qualify."""
    cones, rng = PRODUCTS[name], np.random.default_rng(5)
    v, a, c = rng.standard_normal((3, 200, cones.dimension))
    got = cones.second_derivative(v, a, c)
    h = 1e-5
    forward, backward = (cones.project_dual(v + sign * h * a)[1].apply(c) for sign in (1, -1))
    error = np.abs(got - (forward - backward) / (2 * h)).max(axis=-1, initial=0.0)
    assert (error < 1e-5 * (1 + np.abs(got).max(axis=-1, initial=0.0))).mean() > 0.9
    if name in ("soc", "psd", "hermitian", "exp", "exp dual", "power", "power dual"):
        assert np.abs(got).max() > 0.1


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_hermitian_matrices_are_real_ones_of_twice_the_order(n: int) -> None:
    """H ↦ [Re H, −Im H; Im H, Re H]: projections, elements and second derivatives are those of the real form."""
    rng = np.random.default_rng(n)
    hermitian, E = Cones(hermitian=(n,)), embedding(n)
    real, whole = real_form(Cones(zero=2, hermitian=(n,), exp=1))
    assert real == Cones(zero=2, psd=(2 * n,), exp=1)
    np.testing.assert_allclose((whole.T @ whole).toarray(), np.eye(5 + n * n), atol=1e-14)
    larger = Cones(psd=(2 * n,))
    v, a, c = rng.standard_normal((3, 4, n * n))
    G = svec_to_hermitian(v, n)
    np.testing.assert_allclose(G, np.conj(np.swapaxes(G, -1, -2)))
    np.testing.assert_allclose(hermitian_to_svec(G), v, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(G, axis=(-1, -2)), np.linalg.norm(v, axis=-1))
    y, element = hermitian.project_dual(v)
    expected, real_element = larger.project_dual((E @ v.T).T)
    np.testing.assert_allclose(y, (E.T @ expected.T).T, atol=1e-13)
    np.testing.assert_allclose(element.apply(a), (E.T @ real_element.apply((E @ a.T).T).T).T, atol=1e-13)
    second = larger.second_derivative(*((E @ h.T).T for h in (v, a, c)))
    np.testing.assert_allclose(hermitian.second_derivative(v, a, c), (E.T @ second.T).T, atol=1e-11)
