"""The training monitor: predictions, jumps, kinks, repeated calls, adapters, pictures."""

from __future__ import annotations

import sys
import threading

import cvxpy as cp
import jax
import numpy as np
import pytest
import torch
from double_precision import double_precision

import conelayers.jax
import conelayers.torch
from conelayers import LPGD, Layer, Monitor, Verdict


def box(epsilon: float, **options) -> tuple[cp.Problem, list, list, dict]:
    s, t = cp.Variable(2, name="s"), cp.Parameter(name="t")
    objective = cp.sum(s) * t - (epsilon / 2 * cp.sum_squares(s) if epsilon else 0)
    return cp.Problem(cp.Maximize(objective), [s >= 0, s <= np.array([3.0, 5.0])]), [t], [s], options


def layer_of(epsilon: float, **options) -> Layer:
    problem, parameters, variables, options = box(epsilon, **options)
    return Layer(problem, parameters, variables, **options)


def run(layer: Layer, path, **options) -> Monitor:
    with Monitor(layer, **options) as monitor:
        for t in path:
            layer.solve(np.array(t))
    return monitor


def test_a_jump_between_two_regular_points_is_seen() -> None:
    layer = layer_of(0.0)
    path = [1.0, 0.4, -0.2, -0.8]
    assert {c.verdict for t in path for c in layer.certify(np.array(t))} == {Verdict.CLASSICAL}
    monitor = run(layer, path)
    assert [s.jumps for s in monitor.steps] == [0, 1, 0]
    assert monitor.jumps == 1
    assert monitor.steps[1].seen == pytest.approx(np.hypot(3, 5))
    assert monitor.steps[1].predicted == pytest.approx(0, abs=1e-9)
    assert monitor.steps[1].error == pytest.approx(1)
    assert monitor.smallest_margin == pytest.approx(0.2)
    assert monitor.steps[0].size == pytest.approx(0.6)
    assert "1 jumps" in str(monitor)


def test_smooth_steps_are_predicted() -> None:
    monitor = run(layer_of(2.0), np.linspace(0.5, 5.0, 40))
    assert len(monitor.steps) == 39
    assert monitor.jumps == 0
    assert monitor.worst_error < 1e-8


def test_a_kink_is_not_a_jump() -> None:
    """From the flat piece over the kink at t = 0: the derivative before it predicts nothing, the one after it does."""
    monitor = run(layer_of(2.0), [-0.5, -0.1, 0.1, 0.3])
    assert monitor.jumps == 0
    assert monitor.steps[1].error == pytest.approx(1)


def test_batches_count_their_instances() -> None:
    monitor = run(layer_of(0.0), [[1.0, -1.0, 0.5], [0.5, -0.5, 0.2], [-0.2, 0.3, 0.1], [-0.4, 0.1, -0.1]])
    assert [s.jumps for s in monitor.steps] == [0, 2, 1]


def test_repeated_calls_and_other_batch_sizes_are_no_steps() -> None:
    monitor = run(layer_of(2.0), [1.0, 1.0, 1.1, 1.1])
    assert len(monitor.steps) == 1
    assert len(run(layer_of(2.0), [1.0, [1.0, 2.0], [1.1, 2.1]]).steps) == 1


def test_validation_between_the_steps_is_another_run() -> None:
    layer = layer_of(2.0)
    with Monitor(layer) as monitor:
        for t in np.linspace(0.5, 1.5, 6):
            layer.solve(np.array(t))
            layer.solve(np.array([2.0, 3.0, t]))
    assert len(monitor.steps) == 10
    assert monitor.jumps == 0
    with Monitor(layer, every=2) as monitor:
        for t in np.linspace(0.5, 1.5, 7):
            layer.solve(np.array(t))
            layer.solve(np.array(t))  # a repetition does not count
    assert [s.index for s in monitor.steps] == [2, 4, 6]


def test_threads_are_runs_of_their_own() -> None:
    layer = layer_of(0.0)
    barrier = threading.Barrier(2)

    def work(sign: float) -> None:
        for t in np.linspace(0.5, 1.5, 8):
            barrier.wait()
            layer.solve(np.array(sign * t))

    with Monitor(layer) as monitor:
        threads = [threading.Thread(target=work, args=(sign,)) for sign in (1.0, -1.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(monitor.steps) == 14
    assert monitor.jumps == 0


def test_every_so_many_calls() -> None:
    monitor = run(layer_of(2.0), np.linspace(0.5, 1.5, 21), every=5)
    assert [s.index for s in monitor.steps] == [5, 10, 15, 20]
    assert all(s.size == pytest.approx(0.05) for s in monitor.steps)


def test_it_stops_watching_outside() -> None:
    layer = layer_of(2.0)
    monitor = run(layer, [1.0, 1.1])
    layer.solve(np.array(1.2))
    assert len(monitor.steps) == 1
    with monitor:
        layer.solve(np.array(2.0))
        layer.solve(np.array(2.1))
    assert len(monitor.steps) == 2


def test_certificates_are_not_steps() -> None:
    layer = layer_of(2.0)
    with Monitor(layer) as monitor:
        layer.solve(np.array(1.0))
        layer.certify(np.array(3.0))
        layer.solve(np.array(1.1))
    assert [s.size for s in monitor.steps] == [pytest.approx(0.1)]


def test_the_prediction_is_the_exact_derivatives_whatever_the_policy() -> None:
    """Without a word where it does not exist."""
    for options in ({"singular": "raise"}, {"smoothing": LPGD(tau=1.0)}):
        monitor = run(layer_of(0.0, **options), [1.0, 0.0, 0.5, -0.5])
        assert len(monitor.steps) == 3


def test_training_in_torch_and_jax_is_watched() -> None:
    problem, parameters, variables, _ = box(2.0)
    layer = conelayers.torch.ConeLayer(problem, parameters, variables)
    t = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([t], lr=0.05)
    with Monitor(layer) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            (layer(t)[0] ** 2).sum().backward()
            optimizer.step()
    assert len(monitor.steps) == 4
    assert monitor.worst_error < 1e-8
    twin = conelayers.jax.ConeLayer(problem, parameters, variables)
    with double_precision(), Monitor(twin) as watched:
        value, gradient = jax.numpy.asarray(1.0), jax.grad(lambda h: (twin(h)[0] ** 2).sum())
        for _ in range(4):
            value = value - 0.05 * gradient(value)
    assert len(watched.steps) == 3
    assert watched.jumps == 0


def test_pictures(tmp_path, monkeypatch) -> None:
    monitor = run(layer_of(0.0), [1.0, 0.4, -0.2, -0.8])
    figure = monitor.plot(str(tmp_path / "monitor.png"))
    assert (tmp_path / "monitor.png").stat().st_size > 5000
    assert len(figure.axes) == 2
    with pytest.raises(ValueError, match="no step was seen yet"):
        Monitor(layer_of(0.0)).plot()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        monitor.plot()


@pytest.mark.parametrize(
    ("make", "error", "phrase"),
    [
        (lambda: Monitor(torch.nn.Linear(1, 1)), TypeError, "layer: got Linear"),
        (lambda: Monitor(layer_of(0.0), every=0), ValueError, "every: got 0"),
        (lambda: Monitor(layer_of(0.0), jump=1.0), ValueError, "jump: got 1.0"),
        (lambda: Monitor(layer_of(0.0), jump="a"), ValueError, "jump: got 'a'"),
    ],
)
def test_bad_arguments_are_named(make, error, phrase: str) -> None:
    with pytest.raises(error, match=phrase):
        make()
