"""What the compiled core says of an instance: solved, proven infeasible, or left open; how a call is ended early."""

from __future__ import annotations

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from core_models import BareProgram
from core_programs import contradictory, planted, polyhedral
from scipy.optimize import linprog

from conelayers.core import Flags, Outcome, available

pytestmark = pytest.mark.skipif(not available(), reason="conelayers.core is not built: python conelayers/core/build.py")

BATCH = 24


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rank", [0, 4, 8])
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_planted_solutions_are_found_in_any_units(seed, rank, scale):
    """Strictly complementary programs, vertices where P is 0, in units that differ by up to a million."""
    rng = np.random.default_rng(100 * seed + rank)
    n, zero, active = 8, 2, 6 if rank == 0 else int(rng.integers(0, 6))
    program, x, v = planted(rng, BATCH, n, zero, 11, rank, active, scale=scale)
    bare = BareProgram.of(program)
    found = bare.core.solve(bare.theta, BATCH)
    assert (found.outcome == Outcome.SOLVED).all()
    size = np.abs(x).max(axis=1, keepdims=True) if scale == 0 else np.abs(x)
    if rank in (0, n):  # else x need not be unique
        np.testing.assert_allclose(found.x / size, x / size, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.y - found.s, v, rtol=1e-6, atol=1e-6 * np.abs(v).max())


def test_other_units_change_nothing_but_the_units():
    rng = np.random.default_rng(4)
    program, _, _ = planted(rng, BATCH, 7, 2, 9, 7, 4)
    structure = program.structure
    A, P = structure.A.dense(program.A), structure.P.dense(program.P)
    d, e = np.exp2(rng.integers(-20, 20, (BATCH, 7))), np.exp2(rng.integers(-20, 20, (BATCH, 11)))
    gamma = np.exp2(rng.integers(-20, 20, (BATCH, 1)))
    other = polyhedral(
        gamma[:, :, None] * d[:, :, None] * P * d[:, None],
        gamma * d * program.q,
        e[:, :, None] * A * d[:, None],
        e * program.b,
        2,
    )
    one, two = BareProgram.of(program), BareProgram.of(other)
    first, second = one.core.solve(one.theta, BATCH), two.core.solve(two.theta, BATCH)
    np.testing.assert_allclose(second.x * d, first.x, rtol=0, atol=1e-11 * np.abs(first.x).max())
    np.testing.assert_allclose(second.y * e / gamma, first.y, rtol=0, atol=1e-10 * np.abs(first.y).max())
    np.testing.assert_array_equal(second.outcome, first.outcome)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("rank", "zero"), [(0, 2), (8, 0), (8, 3)])
def test_contradictions_are_proven_and_nothing_else_is(seed, rank, zero):
    rng = np.random.default_rng(seed)
    wrong, _, _ = planted(rng, BATCH, 8, zero, 12, rank, 4)
    wrong = contradictory(rng, wrong)
    right, _, _ = planted(rng, BATCH, 8, zero, 12, rank, 4)
    for program, infeasible in ((wrong, True), (right, False)):
        bare = BareProgram.of(program)
        found = bare.core.solve(bare.theta, BATCH)
        assert ((found.outcome == Outcome.PRIMAL_INFEASIBLE) == infeasible).all()


def test_a_thousand_random_linear_programs_have_no_wrong_verdict():
    """A third each is infeasible, unbounded and solvable; the data and HiGHS confirm each verdict."""
    rng = np.random.default_rng(1)
    count, m, n = 1000, 9, 5
    program = polyhedral(
        None, rng.standard_normal((count, n)), rng.standard_normal((count, m, n)), rng.standard_normal((count, m)), 0
    )
    bare = BareProgram.of(program)
    found = bare.core.solve(bare.theta, count)
    A = program.structure.A.dense(program.A)
    solved, infeasible = found.outcome == Outcome.SOLVED, found.outcome == Outcome.PRIMAL_INFEASIBLE
    assert solved.sum() > 50
    assert infeasible.sum() > 50
    x, y, s = (h[solved] for h in (found.x, found.y, found.s))
    np.testing.assert_allclose(
        np.einsum("bij,bj->bi", A[solved], x) + s, program.b[solved], atol=1e-8 * np.abs(x).max()
    )
    np.testing.assert_allclose(np.einsum("bij,bi->bj", A[solved], y), -program.q[solved], atol=1e-8 * np.abs(y).max())
    assert min(y.min(), s.min()) >= 0
    assert np.abs(y * s).max() == 0
    for i in np.flatnonzero(infeasible)[:50]:
        assert linprog(np.zeros(n), A[i], program.b[i], bounds=(None, None)).status == 2


def test_an_unbounded_program_is_left_open():
    rng = np.random.default_rng(3)
    A = rng.standard_normal((BATCH, 4, 6))
    bare = BareProgram.of(polyhedral(None, rng.standard_normal((BATCH, 6)), A, np.ones((BATCH, 4)), 0))
    assert (bare.core.solve(bare.theta, BATCH).outcome == Outcome.OPEN).all()


def test_what_is_no_number_is_left_open_and_spoils_no_other_instance():
    rng = np.random.default_rng(3)
    program, _, _ = planted(rng, BATCH, 5, 1, 7, 5, 2)
    bare = BareProgram.of(program)
    expected = bare.core.solve(bare.theta, BATCH)
    for place, value in ((0, np.nan), (1, np.inf), (3, -np.inf)):
        theta = [h.copy() for h in bare.theta]
        theta[place][5, 0] = value
        found = bare.core.solve(theta, BATCH)
        assert found.outcome[5] == Outcome.OPEN
        others = np.arange(BATCH) != 5
        for ours, theirs in zip(found[:7], expected[:7], strict=True):
            np.testing.assert_array_equal(ours[others], theirs[others])


def test_redundant_equalities_and_too_many_active_rows_are_flagged_as_singular():
    rng = np.random.default_rng(6)
    for zero, active, redundant, singular in (
        (3, 3, False, False),
        (3, 3, True, True),
        (3, 7, False, True),
        (0, 8, False, False),
    ):
        program, _, _ = planted(rng, BATCH, 8, zero, 12, 8, active, redundant=redundant)
        bare = BareProgram.of(program)
        found = bare.core.solve(bare.theta, BATCH)
        assert (found.outcome == Outcome.SOLVED).all()
        _, flags = bare.core.adjoint(bare.theta, found[:3], np.ones((BATCH, 8)))
        # Where a multiplier that is not unique is next to zero, its row is at a kink, and may leave the system regular.
        assert (((flags & (Flags.SINGULAR | Flags.AT_KINK)) != 0) == singular).all()


def test_a_point_that_is_no_solution_is_flagged():
    rng = np.random.default_rng(6)
    program, _, _ = planted(rng, BATCH, 6, 0, 30, 6, 3)
    bare = BareProgram.of(program)
    points = rng.standard_normal((BATCH, 6)), np.zeros((BATCH, 30)), np.abs(rng.standard_normal((BATCH, 30)))
    _, flags = bare.core.adjoint(bare.theta, points, np.ones((BATCH, 6)))
    assert (flags & Flags.NOT_A_SOLUTION != 0).any()


def test_the_previous_solution_is_a_start():
    rng = np.random.default_rng(8)
    program, _, _ = planted(rng, BATCH, 10, 2, 14, 10, 5)
    bare = BareProgram.of(program)
    cold = bare.core.solve(bare.theta, BATCH)
    moved = [h + 1e-3 * rng.standard_normal(h.shape) if k in (1, 3) else h for k, h in enumerate(bare.theta)]
    warm, again = bare.core.solve(moved, BATCH, start=cold[:3]), bare.core.solve(moved, BATCH)
    assert (warm.outcome == Outcome.SOLVED).all()
    np.testing.assert_allclose(warm.x, again.x, rtol=0, atol=1e-9 * np.abs(again.x).max())


def test_a_limit_of_time_and_a_flag_stop_the_call():
    rng = np.random.default_rng(9)
    program, _, _ = planted(rng, BATCH, 40, 0, 60, 40, 20)
    bare = BareProgram.of(program)
    stopped = bare.core.solve(bare.theta, BATCH, max_seconds=0.0)
    assert (stopped.outcome == Outcome.STOPPED).all()
    assert (bare.core.solve(bare.theta, BATCH, stop=np.ones(1, dtype=np.int32)).outcome == Outcome.STOPPED).all()
    assert (
        bare.core.solve(bare.theta, BATCH, max_seconds=1e3, stop=np.zeros(1, dtype=np.int32)).outcome == Outcome.SOLVED
    ).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    rng = np.random.default_rng(10)
    program, _, _ = planted(rng, BATCH, 10, 2, 14, 10, 5)
    bare = BareProgram.of(program)
    expected = bare.core.solve(bare.theta, BATCH, threads=4, lanes=1)
    child = os.fork()
    if child == 0:
        found = bare.core.solve(bare.theta, BATCH, threads=4, lanes=1)
        os._exit(0 if all(np.array_equal(a, b) for a, b in zip(found[:7], expected[:7], strict=True)) else 1)
    deadline, status = time.monotonic() + 30, None
    while status is None and time.monotonic() < deadline:
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else None
        time.sleep(0.01)
    if status is None:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert status == 0


def test_a_core_pickles_as_its_arrays():
    rng = np.random.default_rng(11)
    program, _, _ = planted(rng, BATCH, 6, 1, 8, 6, 3)
    bare = BareProgram.of(program)
    copy = pickle.loads(pickle.dumps(bare.core))
    for ours, theirs in zip(copy.solve(bare.theta, BATCH)[:7], bare.core.solve(bare.theta, BATCH)[:7], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_arrays_of_other_sizes_are_refused():
    rng = np.random.default_rng(12)
    program, _, _ = planted(rng, BATCH, 6, 1, 8, 6, 3)
    bare = BareProgram.of(program)
    for k in range(4):
        theta = list(bare.theta)
        for wrong in (theta[k][:-1], theta[k].astype(np.float32), theta[k].ravel()[:-1]):
            with pytest.raises(ValueError, match="theta"):
                bare.core.solve([*theta[:k], wrong, *theta[k + 1 :]], BATCH)
        with pytest.raises((ValueError, BufferError), match="contiguous"):
            bare.core.solve([*theta[:k], np.asfortranarray(theta[k]), *theta[k + 1 :]], BATCH)
    found = bare.core.solve(bare.theta, BATCH)
    with pytest.raises(ValueError, match="cotangents"):
        bare.core.adjoint(bare.theta, found[:3], np.ones((BATCH, 5)))


def test_parameters_may_be_addresses():
    rng = np.random.default_rng(13)
    program, _, _ = planted(rng, BATCH, 6, 1, 8, 6, 3)
    bare = BareProgram.of(program)
    pairs = [(h.__array_interface__["data"][0], h.shape[1]) for h in bare.theta]
    for ours, theirs in zip(bare.core.solve(pairs, BATCH)[:7], bare.core.solve(bare.theta, BATCH)[:7], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_calls_from_several_threads_at_once_do_not_disturb_one_another():
    rng = np.random.default_rng(14)
    program, _, _ = planted(rng, BATCH, 12, 2, 16, 12, 5)
    bare = BareProgram.of(program)
    expected = bare.core.solve(bare.theta, BATCH)
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda _: bare.core.solve(bare.theta, BATCH, threads=2), range(40)))
    for one in found:
        for ours, theirs in zip(one[:7], expected[:7], strict=True):
            np.testing.assert_array_equal(ours, theirs)
