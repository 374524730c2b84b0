"""The thread pool: how many threads, every item once, errors, forks, BLAS, and the same bits throughout."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from helpers import KERNELS, SMALL, held, make_rows
from joblib import Parallel, delayed
from scipy.sparse import csr_array
from threadpoolctl import threadpool_info, threadpool_limits

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.backends import numba_backend, threads
from nwsketch.backends.threads import count_threads, run_ranges, single_threaded_blas

TIMEOUT = 60  # seconds after which a child or a thread counts as hung


@pytest.fixture
def four_cores(monkeypatch):
    """Let numba say that it may use four threads; the pool is made anew with as many."""
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 4)
    monkeypatch.setattr(threads, "_pool", None)


def covered_by(n_items, n_threads):
    """Return how often each item was handed out, and the ranges in order."""
    visits, ranges = np.zeros(n_items, dtype=int), []

    def visit(first, last):
        ranges.append((first, last))
        visits[first:last] += 1

    run_ranges(visit, n_items, n_threads)
    return visits, sorted(ranges)


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


# -- how many -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("n_jobs", "expected"),
    [(None, 4), (-1, 4), (-2, 3), (-4, 1), (-100, 1), (1, 1), (3, 3), (9, 9), (np.int64(2), 2)],
)
def test_count_threads(n_jobs, expected):
    assert count_threads(n_jobs) == expected


def test_the_default_is_what_numba_may_use():
    assert count_threads(None) == numba.config.NUMBA_NUM_THREADS


def test_zero_threads_have_no_meaning():
    with pytest.raises(
        ValueError, match=r"n_jobs=0 has no meaning: give a positive number of threads, -1 for all"
    ):
        count_threads(0)


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_a_joblib_worker_uses_one_thread_unless_told_otherwise(backend):
    available = numba.config.NUMBA_NUM_THREADS
    counts = Parallel(n_jobs=2, backend=backend)(delayed(count_threads)(n_jobs) for n_jobs in [None, None, 3])
    assert counts == [1, 1, 3]
    assert count_threads(None) == available


# -- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("n_items", [0, 1, 2, 7, 8, 100])
def test_every_item_is_handed_out_once(n_items, n_threads):
    visits, ranges = covered_by(n_items, n_threads)
    assert (visits == 1).all()
    assert len(ranges) == max(min(n_items, n_threads), 1)
    sizes = [last - first for first, last in ranges]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
@pytest.mark.parametrize("n_items", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_every_piece_is_taken_once(n_items, n_threads, in_pieces):
    backend = NadarayaWatsonSketch(2, random_state=0)._backend
    visits, ranges, much = np.zeros(n_items, dtype=int), [], 2**30

    def visit(first, last):
        ranges.append((first, last))
        visits[first:last] += 1

    backend._run(visit, n_items, much, n_threads, in_pieces)
    assert (visits == 1).all()
    sizes = [last - first for first, last in sorted(ranges)]
    if in_pieces and min(n_threads, n_items) > 1:
        assert sizes == sorted(sizes, reverse=True)
        assert min(n_items, 2 * n_threads) <= len(ranges) <= numba_backend.PIECES * n_threads
    else:
        assert len(sizes) == max(min(n_items, n_threads), 1)


def test_a_piece_that_fails_is_reported():
    backend = NadarayaWatsonSketch(2, random_state=0)._backend

    def fail(first, last):
        if first <= 50 < last:
            raise IndexError("row 50")

    with pytest.raises(IndexError, match="row 50"):
        backend._run(fail, 100, 2**30, 2, in_pieces=True)


def test_the_caller_takes_the_first_range_and_the_pool_the_others():
    names = {}
    run_ranges(lambda first, last: names.update({first: threading.current_thread().name}), 10, 2)
    assert names[0] == threading.current_thread().name
    assert names[5].startswith("nwsketch")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("failing", [0, 1, 2], ids=["the caller's range", "another", "the last"])
def test_an_error_is_raised_after_all_ranges_have_ended(failing, error):
    others, released = [], threading.Event()
    timer = threading.Timer(0.1, released.set)
    timer.start()

    def task(first, last):
        if first == failing:
            raise error(f"range {first}")
        # The others are at work still when the error occurs.
        assert released.wait(TIMEOUT)
        others.append(first)

    with pytest.raises(error, match=f"range {failing}"):
        run_ranges(task, 3, 3)
    assert sorted(others) == sorted({0, 1, 2} - {failing})
    timer.join()
    assert (covered_by(10, 3)[0] == 1).all()  # the pool is still good


def test_concurrent_callers_share_the_pool():
    start = threading.Barrier(8)

    def call(seed):
        start.wait(TIMEOUT)
        return all((covered_by(seed + 5, 4)[0] == 1).all() for _ in range(50))

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(call, range(8), timeout=TIMEOUT))
    assert (
        sum(thread.name.startswith("nwsketch") for thread in threading.enumerate())
        <= numba.config.NUMBA_NUM_THREADS
    )


# -- children -------------------------------------------------------------------------------------


def learn(n_jobs):
    """Return the predictions of an estimator whose work is large enough for threads."""
    X, y = make_rows(2000)
    return NadarayaWatsonSketchRegressor(kernel="l2", n_jobs=n_jobs, **SMALL).fit(X, y).predict(X)


def answer(connection):
    """Tell how often each of ten items was handed out, and what an estimator predicts."""
    connection.send((covered_by(10, 2)[0].tolist(), learn(2).tobytes()))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
# Forking while the pool's threads sleep is what is tested.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_works_in_a_child_after_the_parent_used_the_pool(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot start a child like that")
    expected = learn(2).tobytes()
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=answer, args=(sender,))
    child.start()
    try:
        assert receiver.poll(TIMEOUT), "the child hangs"
        assert receiver.recv() == ([1] * 10, expected)
    finally:
        child.kill()
        child.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_while_another_thread_holds_the_lock():
    # In a process of its own, since a fork of pytest would run pytest's own exit.
    script = """
        import os, threading, time, warnings
        import numpy as np
        from nwsketch.backends import threads

        warnings.simplefilter("ignore")
        threads.run_ranges(lambda first, last: None, 4, 2)
        held = threading.Event()

        def hold():
            with threads._lock:
                held.set()
                time.sleep(0.3)

        threading.Thread(target=hold).start()
        held.wait()
        child = os.fork()
        if child == 0:
            visits = np.zeros(4, dtype=int)

            def visit(first, last):
                visits[first:last] += 1

            threads.run_ranges(visit, 4, 2)
            with threads.single_threaded_blas():
                pass
            os._exit(0 if (visits == 1).all() else 1)
        _, status = os.waitpid(child, 0)
        raise SystemExit(os.waitstatus_to_exitcode(status))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=TIMEOUT)


# -- BLAS -----------------------------------------------------------------------------------------


@pytest.fixture
def unlimited():
    """Return how many threads BLAS uses before the test, and see to it that they are several."""
    before = blas_threads()
    if not before or min(before) == 1:
        pytest.skip("this BLAS has one thread on this machine, which no limit would change")
    return before


def limited(unlimited):
    return [1] * len(unlimited)


def test_blas_is_limited_within_and_restored_after(unlimited):
    with single_threaded_blas():
        assert blas_threads() == limited(unlimited)
        with single_threaded_blas():
            assert blas_threads() == limited(unlimited)
        assert blas_threads() == limited(unlimited)
    assert blas_threads() == unlimited


def test_blas_is_restored_after_an_error(unlimited):
    with pytest.raises(KeyboardInterrupt, match="now"), single_threaded_blas():
        raise KeyboardInterrupt("now")
    assert blas_threads() == unlimited


@pytest.mark.parametrize("last", ["first in", "second in"])
def test_overlapping_calls_leave_no_limit_behind(last, unlimited):
    # The second to enter finds one thread, which it must not take for what was there before; and the
    # first must not lift the limit while the second is at work.
    entered, left = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
    order = [1, 0] if last == "first in" else [0, 1]
    seen = []

    def call(me):
        if me == 1:
            assert entered[0].wait(TIMEOUT)
        with single_threaded_blas():
            entered[me].set()
            assert entered[1].wait(TIMEOUT)
            if order[1] == me:
                assert left[order[0]].wait(TIMEOUT)
            seen.append(blas_threads())
        left[me].set()
        assert left[1 - me].wait(TIMEOUT)  # as the threads of a server: alive when the others end

    with ThreadPoolExecutor(2) as callers:
        for future in [callers.submit(call, 0), callers.submit(call, 1)]:
            future.result(TIMEOUT)
        assert blas_threads() == unlimited
    assert seen == [limited(unlimited)] * 2


def test_a_call_leaves_others_free_to_set_limits(unlimited):
    # threadpoolctl lets one thread at a time rule over OpenBLAS: who is done must hand that back.
    def set_limit():
        with threadpool_limits(1, user_api="blas"):
            return blas_threads()

    with single_threaded_blas():
        pass
    with ThreadPoolExecutor(1) as caller:
        assert caller.submit(set_limit).result(TIMEOUT) == limited(unlimited)
    assert blas_threads() == unlimited


def test_estimators_at_work_side_by_side_leave_no_limit_behind(unlimited):
    expected = learn(1)
    with ThreadPoolExecutor(4) as callers:
        for predictions in callers.map(learn, [1, 2] * 4, timeout=TIMEOUT):
            np.testing.assert_array_equal(predictions, expected)
        assert blas_threads() == unlimited


# -- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [np.asarray, csr_array], ids=["dense", "CSR"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_any_number_of_threads_gives_the_same_bits(kernel, layout, monkeypatch):
    monkeypatch.setattr(numba_backend, "SERIAL_SIZE", 0)
    monkeypatch.setattr(numba_backend, "BLOCK_SIZE", 64)
    X, y = make_rows(300)
    rows = layout(X)
    used = []
    monkeypatch.setattr(
        numba_backend, "run_ranges", lambda task, n_items, n: (used.append(n), run_ranges(task, n_items, n))
    )
    answers = {}
    for n_jobs in (1, 2, 5, -1):
        model = NadarayaWatsonSketchRegressor(kernel=kernel, hashes_per_repetition=2, n_jobs=n_jobs, **SMALL)
        model.fit(rows, y)
        answers[n_jobs] = (
            held(model.sketch_),
            model.predict(rows).tobytes(),
            model.loo_predict(rows, y).tobytes(),
        )
        model.forget(rows[:100], y[:100])
        answers[n_jobs] += (held(model.sketch_),)
    assert set(used) == {1, 2, 5, numba.config.NUMBA_NUM_THREADS}
    assert all(answer == answers[1] for answer in answers.values())
