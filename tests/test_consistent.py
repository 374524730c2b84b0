"""One complete state: for answers while other threads learn, and for what an interrupt leaves."""

import copy
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import NO_TORCH
from helpers import SMALL, held, leaves, make_rows

import nwsketch
from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.consistent import ask, changing

PACKAGE = str(Path(nwsketch.__file__).parent)
TIMEOUT = 60


def make_sketch(**parameters):
    settings = {"n_repetitions": 256, "n_buckets": 1024, "random_state": 0, "n_jobs": 1}
    return NadarayaWatsonSketch(4, **(settings | parameters))


# -- answers --------------------------------------------------------------------------------------

QUESTIONS = {
    "query": lambda sketch, X, y: sketch.query(X),
    "kernel_sum": lambda sketch, X, y: sketch.kernel_sum(X),
    "channel_sums": lambda sketch, X, y: sketch.channel_sums(X),
    "standard_error": lambda sketch, X, y: sketch.standard_error(X),
    "loo_query": lambda sketch, X, y: sketch.loo_query(X, y),
    "paused": lambda sketch, X, y: ask_twice(sketch, X),
}


def ask_twice(sketch, X):
    with sketch.paused():
        return np.column_stack([sketch.kernel_sum(X), sketch.query(X)[:, 0], sketch.kernel_sum(X)])


@contextmanager
def other_threads(*tasks):
    """Run tasks until a with block ends; raise what they raise."""
    ending = threading.Event()

    def repeat(task):
        while not ending.is_set():
            task()

    with ThreadPoolExecutor(len(tasks)) as workers:
        futures = [workers.submit(repeat, task) for task in tasks]
        try:
            yield
        finally:
            ending.set()
        for future in futures:
            future.result(TIMEOUT)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_answer_is_that_of_a_complete_state(question):
    # Batches of a size that is written into the tables: 200 rows, 256 repetitions, two channels.
    X, y = make_rows(400)
    steps = [
        lambda sketch: sketch.update(X[:200], y[:200]),
        lambda sketch: sketch.update(X[200:], y[200:], np.full(200, 3.0)),
        lambda sketch: sketch.update(X[:100], y[:100]),
    ] * 12
    alone, states = make_sketch().update(X, y), []
    for step in [lambda sketch: sketch, *steps]:
        states.append(QUESTIONS[question](step(alone), X[:50], y[:50]).tobytes())
    shared, seen = make_sketch().update(X, y), [[], []]

    def watch(mine):
        mine.append(QUESTIONS[question](shared, X[:50], y[:50]).tobytes())

    with other_threads(lambda: watch(seen[0]), lambda: watch(seen[1])):
        for step in steps:
            step(shared)
            time.sleep(0.001)
    for answers in seen:
        order = [states.index(answer) for answer in answers]  # each is one of them ...
        assert order == sorted(order)  # ... and none is older than one before
    assert len(set(seen[0] + seen[1])) > 3


@pytest.mark.parametrize("trend", [None, "linear"])
def test_every_prediction_of_an_estimator_is_that_of_a_complete_state(trend):
    X, y = make_rows(300)
    model = NadarayaWatsonSketchRegressor(
        uncertainty=True, trend=trend, n_jobs=1, n_repetitions=64, random_state=0
    )
    alone, states = copy.deepcopy(model.fit(X, y)), []
    changes = [
        lambda each: each.partial_fit(X[:100], y[:100] + 5),
        lambda each: each.forget(X[:100], y[:100] + 5),
        lambda each: each.merge(twin),
    ] * 6
    twin = copy.deepcopy(model)
    for change in [lambda each: each, *changes]:
        change(alone)
        states.append(np.array(alone.predict(X[:20], return_std=True)).tobytes())
    answers = []
    with other_threads(lambda: answers.append(np.array(model.predict(X[:20], return_std=True)).tobytes())):
        for change in changes:
            change(model)
            time.sleep(0.002)
    assert set(answers) <= set(states)
    assert len(set(answers)) > 3


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "paused"])
def test_a_batch_that_comes_amid_an_answer_is_not_in_it_in_part(question, moment, monkeypatch):
    X, y = make_rows()
    sketch, whole = make_sketch().update(X, y), make_sketch().update(X, y).update(X[:60], y[:60])
    before, after = (QUESTIONS[question](each, X, y).tobytes() for each in (sketch, whole))
    read, come = sketch._backend.sums, []

    def disturbed(state, *arguments):
        come.append(moment)
        if len(come) > 1:
            return read(state, *arguments)
        sums = read(state, *arguments) if moment == "after" else None
        sketch.update(X[:60], y[:60])  # in place: the totals, read next, are new
        return read(state, *arguments) if sums is None else sums

    monkeypatch.setattr(sketch._backend, "sums", disturbed)
    answer = QUESTIONS[question](sketch, X, y).tobytes()
    assert answer == after != before
    assert len(come) > 1


def test_after_an_interrupt_amid_a_change_readers_wait_for_the_lock_and_a_change_mends_it():
    X, y = make_rows()
    sketch = make_sketch().update(X, y)
    expected = sketch.query(X)
    sketch._backend.n_changes |= 1  # what an interrupt may leave
    questions = []

    def question(state):
        questions.append(sketch._lock.acquire(blocking=False))  # again, by the thread that holds it
        return 1

    with ThreadPoolExecutor(1) as another:
        with sketch.paused():
            future = another.submit(sketch.query, X)
            time.sleep(0.05)
            assert not future.done()
        np.testing.assert_array_equal(future.result(TIMEOUT), expected)
    assert ask(sketch, question) == 1
    sketch._lock.release()
    assert questions == [True]
    sketch.update(X[:1], y[:1])
    assert sketch._backend.n_changes % 2 == 0


def test_a_reader_waits_for_nobody_while_a_large_batch_is_learnt():
    X, y = make_rows(3000)
    sketch, entered, leaving = make_sketch().update(X, y), threading.Event(), threading.Event()
    expected = sketch.query(X[:20])

    def pause(n_rows):
        entered.set()
        assert leaving.wait(TIMEOUT)

    with ThreadPoolExecutor(1) as another:
        future = another.submit(sketch.update, X, y, progress=pause)
        assert entered.wait(TIMEOUT)
        np.testing.assert_array_equal(sketch.query(X[:20]), expected)
        leaving.set()
        future.result(TIMEOUT)
    assert sketch.n_samples_seen == 6000


def test_a_move_or_a_correction_amid_an_answer_is_seen():
    pytest.importorskip("torch", reason=NO_TORCH)
    X, y = make_rows()
    sketch = make_sketch().update(X, y)
    expected = sketch.query(X)
    places, n_moves = [], [0]

    def move():
        n_moves[0] += 1
        sketch.to("cpu", ("torch", "numba")[n_moves[0] % 2])

    def watch():
        np.testing.assert_allclose(sketch.query(X), expected, rtol=1e-12)
        places.append(sketch._backend.place)

    with other_threads(move, watch):
        time.sleep(0.5)
    assert n_moves[0] > 1
    assert places

    def question(state):
        places.append(state.correction)
        if state.correction is None:
            with sketch._lock, changing(sketch._backend):
                sketch.correction = "new"
        return state.correction

    assert ask(sketch, question) == "new"
    assert places[-2:] == [None, "new"]


def test_two_sketches_may_be_merged_into_each_other_at_once():
    X, _ = make_rows(100)
    mine, theirs = make_sketch(n_repetitions=16), make_sketch(n_repetitions=16)
    mine.update(X, np.ones(100))
    with ThreadPoolExecutor(2) as workers:
        futures = [workers.submit(one.merge, other) for one, other in [(mine, theirs), (theirs, mine)] * 5]
        for future in futures:
            future.result(TIMEOUT)
    for sketch in (mine, theirs):
        assert (sketch.tables[..., 1].sum(axis=1) == sketch.n_samples_seen).all()


def test_what_was_copied_or_merged_does_not_change_with_later_rows():
    X, y = make_rows(100)
    sketch = make_sketch().update(X, y)
    before, state = held(sketch), sketch.__getstate__()["_state"]
    twin = copy.deepcopy(sketch)
    sketch.update(X[:10], y[:10])  # a small batch, which would be written into the tables
    assert held(twin) == before
    assert tuple(part.tobytes() for part in state) == before[:2]
    tables = sketch.tables
    sketch.update(X[:10], y[:10])
    assert sketch.tables is tables  # copied once, and written into from then on


# -- interrupts -----------------------------------------------------------------------------------


class Stop(BaseException):
    """As KeyboardInterrupt is: no Exception."""


def call_with_error_at(line, error, call):
    """Call, with an error at the ``line``-th line of the package; return whether so many are run."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            count += 1
            if count == line:
                raise error
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except BaseException:  # scikit-learn makes another of an error while it looks for a method
        if count < line:
            raise
        return True
    finally:
        sys.settrace(before)
    return False


def every_line_may_fail(make, call, everything, stride=1):
    """Fail at every line in turn: all must be as before the call, or as after it. Return which it was."""
    old, new = make(), make()
    expected = {"old": everything(old)}
    call(new)
    expected["new"] = everything(new)
    assert expected["old"] != expected["new"]
    line, found = 1, []
    while True:
        thing = make()
        error = (Stop, MemoryError, KeyboardInterrupt)[line % 3]("now")
        if not call_with_error_at(line, error, lambda thing=thing: call(thing)):
            break
        state = everything(thing)
        assert state in expected.values(), f"neither old nor new after an error at line {line}"
        found.append("old" if state == expected["old"] else "new")
        if found[-1] == "old":  # it works on
            call(thing)
            assert everything(thing) == expected["new"]
        line += stride
    assert everything(thing) == expected["new"]
    return found


X_LEARNT, Y_LEARNT = make_rows(80)
TWIN = NadarayaWatsonSketchRegressor(bandwidth=1.0, **SMALL).fit(X_LEARNT, Y_LEARNT)
CALLS = {
    "partial_fit": lambda model: model.partial_fit(X_LEARNT[:9], Y_LEARNT[:9]),
    "partial_fit, large": lambda model: model.partial_fit(X_LEARNT, Y_LEARNT),
    "forget": lambda model: model.forget(X_LEARNT[:1], Y_LEARNT[:1]),
}


@pytest.mark.parametrize("settings", [{}, {"trend": "linear", "uncertainty": True}], ids=["plain", "trend"])
@pytest.mark.parametrize("name", CALLS)
def test_an_error_at_any_line_leaves_an_estimator_old_or_new(name, settings):
    model = NadarayaWatsonSketchRegressor(**SMALL, n_jobs=1, **settings).fit(X_LEARNT, Y_LEARNT)
    found = every_line_may_fail(lambda: copy.deepcopy(model), CALLS[name], leaves)
    assert found[0] == "old"
    assert found[-1] == "new"


def test_an_error_at_any_line_of_a_merge_leaves_old_or_new():
    model = NadarayaWatsonSketchRegressor(bandwidth=1.0, **SMALL).fit(X_LEARNT[:20], Y_LEARNT[:20])
    before = leaves(TWIN)
    every_line_may_fail(lambda: copy.deepcopy(model), lambda each: each.merge(TWIN), leaves)

    def make():
        return NadarayaWatsonSketchRegressor(bandwidth=1.0, **SMALL)

    every_line_may_fail(make, lambda each: each.merge(TWIN), leaves, stride=7)
    assert leaves(TWIN) == before


@pytest.mark.parametrize("fitted", [False, True])
def test_an_error_at_any_line_of_a_fit_leaves_old_or_new(fitted):
    def make():
        model = NadarayaWatsonSketchRegressor(**SMALL, trend="linear", n_jobs=1)
        return copy.deepcopy(before) if fitted else model

    before = NadarayaWatsonSketchRegressor(**SMALL, n_jobs=1).fit(X_LEARNT[:30], Y_LEARNT[:30])
    before.set_params(trend="linear")
    every_line_may_fail(make, lambda each: each.fit(X_LEARNT, Y_LEARNT), leaves, stride=4)


SKETCH_CALLS = {
    "update": lambda sketch: sketch.update(X_LEARNT[:9], Y_LEARNT[:9]),
    "decay": lambda sketch: sketch.decay(0.5),
    "correct": lambda sketch: sketch.correct(X_LEARNT, Y_LEARNT, n_rounds=2),
}


@pytest.mark.parametrize("name", SKETCH_CALLS)
def test_an_error_at_any_line_leaves_a_sketch_old_or_new(name):
    sketch = NadarayaWatsonSketch(4, **SMALL, n_jobs=1).update(X_LEARNT, Y_LEARNT)
    every_line_may_fail(lambda: copy.deepcopy(sketch), SKETCH_CALLS[name], leaves)


def test_an_error_at_any_line_of_a_move_leaves_one_place_or_the_other():
    pytest.importorskip("torch", reason=NO_TORCH)
    sketch = NadarayaWatsonSketch(4, **SMALL, n_jobs=1).update(X_LEARNT, Y_LEARNT)

    def everything(each):
        assert held(each) == held(sketch)
        np.testing.assert_allclose(each.query(X_LEARNT), sketch.query(X_LEARNT), rtol=1e-12)
        return each._backend.place, each.backend, each.device

    found = every_line_may_fail(
        lambda: copy.deepcopy(sketch), lambda each: each.to("cpu", "torch"), everything
    )
    assert set(found) == {"old", "new"}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that signal")
def test_a_signal_at_any_moment_leaves_old_or_new():
    X, y = make_rows(400)
    model = NadarayaWatsonSketchRegressor(n_repetitions=64, bandwidth=1.0, random_state=0, n_jobs=1).fit(X, y)
    rng, outcomes = np.random.default_rng(0), {"old": 0, "new": 0}

    def interrupt(number, frame):
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for n_rows in (1, 200, 400) * 40:
            old = held(model.sketch_)
            new = held(copy.deepcopy(model).partial_fit(X[:n_rows], y[:n_rows]).sketch_)
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-3))
                model.partial_fit(X[:n_rows], y[:n_rows])
                signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            now = held(model.sketch_)
            assert now in (old, new)
            outcomes["old" if now == old else "new"] += 1
            assert len(model.predict(X)) == 400
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert min(outcomes.values()) > 5


def test_threads_that_learn_with_a_half_life_lose_no_row():
    model = NadarayaWatsonSketchRegressor(
        half_life=5, bandwidth=1.0, n_repetitions=4, n_buckets=16, random_state=0
    )
    model.fit([[0.0]], [0.0])

    def learn():
        for _ in range(300):
            model.partial_fit([[0.0]], [1.0])

    threads = [threading.Thread(target=learn) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert (
            1.0 <= model.kernel_sum([[0.0]])[0] <= 1 / (1 - 2 ** (-1 / 5)) + 1e-9
        )  # in weights of the newest row
    assert model.n_samples_seen_ == 901


@pytest.mark.parametrize("method", ["__enter__", "__exit__"])
def test_an_interrupt_amid_a_change_leaves_the_lock_free(method, monkeypatch):
    sketch, broken = NadarayaWatsonSketch(1, n_repetitions=2, n_buckets=4), getattr(changing, method)

    def interrupt(self, *error):
        broken(self, *error)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(changing, method, interrupt)
        sketch.to("cpu")
    free = []
    thread = threading.Thread(target=lambda: free.append(sketch._lock.acquire(timeout=5)))
    thread.start()
    thread.join()
    assert free == [True]
