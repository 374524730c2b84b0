"""Forks, other processes, workers, many threads, the end of the interpreter: no hang, the same bits."""

import multiprocessing
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import partial

import numba
import numpy as np
import pytest
from helpers import SMALL, held, make_rows
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict
from threadpoolctl import threadpool_info

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.backends import threads
from nwsketch.backends.threads import run_ranges, single_threaded_blas

# Forking a process with threads is what is tested: Python 3.12 and later warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

TIMEOUT = 60  # seconds after which a child or a thread counts as hung
METHODS = multiprocessing.get_all_start_methods()
#: How to start a child for what might hang, so that it can be killed.
CHEAPEST = "fork" if "fork" in METHODS else "spawn"
MODELS = {
    "l2": NadarayaWatsonSketchRegressor(kernel="l2", **SMALL),
    "angular": NadarayaWatsonSketchRegressor(kernel="angular", **SMALL),
    "corrected": NadarayaWatsonSketchRegressor(kernel="l2", bias_correction=2, **SMALL),
    "searched": NadarayaWatsonSketchRegressor(bandwidth="loo_per_feature", **SMALL),
    "exact": NadarayaWatsonRegressor(kernel="rbf"),
}
QUICK = ("l2", "angular", "corrected", "exact")


def fitted(name, n_jobs):
    """Return an estimator whose work is large enough for threads, and queries."""
    X, y = make_rows(800)
    return clone(MODELS[name]).set_params(n_jobs=n_jobs).fit(X, y), X


def learn(n_jobs, names=tuple(MODELS)):
    """Return what each estimator predicts after a fit, bit by bit."""
    answers = {}
    for name in names:
        model, X = fitted(name, n_jobs)
        answers[name] = model.predict(X).tobytes()
    return answers


def pool_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("nwsketch")}


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def tell(connection, function, args):
    try:
        connection.send((function(*args), None))
    except BaseException:
        connection.send((None, traceback.format_exc()))


def in_child(method, function, *args):
    """Return what a function returns in a child, or fail if that takes too long."""
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=tell, args=(sender, function, args))
    child.start()
    sender.close()
    try:
        assert receiver.poll(TIMEOUT), "the child hangs"
        result, error = receiver.recv()
        assert error is None, error
        child.join(TIMEOUT)
        assert child.exitcode == 0, "the child does not end, or not well"
        return result
    finally:
        child.kill()
        child.join()


@contextmanager
def at_work(*tasks):
    """Repeat tasks on threads of their own, of which an error is raised at the end."""
    ending = threading.Event()

    def repeat_task(task):
        while not ending.is_set():
            task()

    with ThreadPoolExecutor(max(len(tasks), 1)) as workers:
        futures = [workers.submit(repeat_task, task) for task in tasks]
        try:
            yield
        finally:
            ending.set()
    for future in futures:
        future.result()


@pytest.fixture(scope="module")
def expected():
    """Return the answers of this process, whose pool and BLAS are in use from here on."""
    square = np.ones((500, 500))
    square @ square
    serial = learn(1)
    assert learn(2) == serial
    assert pool_threads()
    return serial


# -- children -------------------------------------------------------------------------------------


def answer(pickled, n_jobs):
    """Return answers of estimators fitted here and in the parent, and whether the pool is in use."""
    square = np.ones((500, 500))
    square @ square
    loaded = {name: model.predict(X).tobytes() for name, (model, X) in pickle.loads(pickled).items()}
    return learn(n_jobs), loaded, bool(pool_threads())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_fit_and_predict_the_same_bits(method, expected):
    if method not in METHODS:
        pytest.skip("this system cannot start a child like that")
    pickled = pickle.dumps({name: fitted(name, 2) for name in QUICK})
    learnt, loaded, used_pool = in_child(method, answer, pickled, 2)
    assert learnt == expected
    assert loaded == {name: expected[name] for name in QUICK}
    assert used_pool


def answer_of_grandchild():
    learn(2, QUICK)
    return in_child("fork", learn, 2, QUICK)


needs_fork = pytest.mark.skipif("fork" not in METHODS, reason="this system cannot fork")


@needs_fork
def test_a_child_of_a_child_that_used_its_pool(expected):
    assert in_child("fork", answer_of_grandchild) == {name: expected[name] for name in QUICK}


@needs_fork
def test_forks_while_other_threads_fit_and_predict(expected):
    quick = {name: expected[name] for name in QUICK}
    models = [fitted(name, 2) for name in QUICK]

    def predict():
        for model, X in models:
            model.predict(X)

    with at_work(partial(learn, 2, QUICK), predict, predict):
        for pause in range(5):
            time.sleep(0.003 * pause)
            assert in_child("fork", learn, 2, QUICK) == quick


def answer_and_limits():
    return learn(2, QUICK), blas_threads()


@needs_fork
@pytest.mark.parametrize("moment", ["limited", "setting the limit", "lifting the limit"])
def test_a_fork_amid_ranges_leaves_the_child_a_pool_and_no_limit(moment, expected, monkeypatch):
    before = blas_threads()
    entered, leaving = threading.Event(), threading.Event()

    limit, lift = threads._limit_blas, threads._lift_limit

    def pause(result):
        entered.set()
        leaving.wait(0.3)  # the fork waits for this lock, and ends no pause
        return result

    if moment == "setting the limit":
        monkeypatch.setattr(threads, "_limit_blas", lambda: pause(limit()))
    if moment == "lifting the limit":
        monkeypatch.setattr(threads, "_lift_limit", lambda: (pause(None), lift()))

    def occupy(first, last):
        if moment == "limited":
            entered.set()
            assert leaving.wait(TIMEOUT)

    def work():
        with single_threaded_blas():
            run_ranges(occupy, 20, 20)

    with ThreadPoolExecutor(1) as workers:
        future = workers.submit(work)
        assert entered.wait(TIMEOUT)
        try:
            answers, limits = in_child("fork", answer_and_limits)
        finally:
            leaving.set()
        future.result(TIMEOUT)
    assert answers == {name: expected[name] for name in QUICK}
    assert limits == before
    assert blas_threads() == before


def learn_more(sketch):
    """Return what a sketch holds after a row more, and what a copy of it does, both by this process."""
    return [held(each.update(np.ones((1, 2)), [1.0])) for each in (copy(sketch), sketch)]


@needs_fork
@pytest.mark.parametrize("restore", [lambda sketch: sketch, copy], ids=["made here", "restored"])
def test_a_child_learns_by_a_sketch_that_another_thread_was_teaching(restore):
    sketch = restore(NadarayaWatsonSketch(2, **SMALL))
    entered, leaving = threading.Event(), threading.Event()

    def pause(n_rows):  # called while rows are added
        entered.set()
        assert leaving.wait(TIMEOUT)

    with ThreadPoolExecutor(1) as workers:
        future = workers.submit(sketch.update, np.zeros((1000, 2)), np.zeros(1000), progress=pause)
        assert entered.wait(TIMEOUT)
        try:
            learnt_by_child = in_child("fork", learn_more, sketch)
        finally:
            leaving.set()
        future.result(TIMEOUT)
    # The child has none of the batch, which had only come to a copy of the tables.
    assert learnt_by_child == learn_more(NadarayaWatsonSketch(2, **SMALL))
    assert sketch.n_samples_seen == 1000


# -- joblib and scikit-learn ----------------------------------------------------------------------


def count_new_threads(n_jobs):
    """Return how many threads a fit and a prediction start where numba may use four."""
    available, pool = numba.config.NUMBA_NUM_THREADS, threads._pool
    numba.config.NUMBA_NUM_THREADS, threads._pool = 4, None
    before = pool_threads()
    try:
        learn(n_jobs, ["l2", "exact"])
        return len(pool_threads() - before)
    finally:
        numba.config.NUMBA_NUM_THREADS, threads._pool = available, pool


def predict(model, X):
    return model.predict(X).tobytes()


@pytest.mark.parametrize(
    "backend", [pytest.param("loky", marks=pytest.mark.slow), "threading", "multiprocessing"]
)
def test_workers_fit_and_predict_the_same_bits(backend, expected):
    mapped_from = "1M" if backend == "loky" else "1K"  # loky's processes are those of other tests
    workers = Parallel(n_jobs=2, backend=backend, max_nbytes=mapped_from, timeout=TIMEOUT)
    assert workers(delayed(learn)(n_jobs) for n_jobs in [None, 2]) == [expected, expected]
    models = [fitted(name, n_jobs) for name in QUICK for n_jobs in [None, 2]]
    assert workers(delayed(predict)(*each) for each in models) == [
        expected[name] for name in QUICK for _ in range(2)
    ]


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_a_process_of_joblib_starts_no_thread_unless_told_to(backend):
    workers = Parallel(n_jobs=2, backend=backend, timeout=TIMEOUT)
    assert workers(delayed(count_new_threads)(n_jobs) for n_jobs in [None, None]) == [0, 0]
    assert min(workers(delayed(count_new_threads)(n_jobs) for n_jobs in [2, -1])) >= 1


def test_threads_of_joblib_start_no_thread(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 4)
    monkeypatch.setattr(threads, "_pool", None)
    Parallel(n_jobs=2, backend="threading", timeout=TIMEOUT)(
        delayed(learn)(n_jobs) for n_jobs in [None, None]
    )
    assert threads._pool is None
    learn(None, ["l2"])
    assert threads._pool is not None


@pytest.mark.parametrize("n_jobs", [None, 2], ids=["by itself", "nested"])
def test_searches_and_folds_in_workers_give_the_same_as_here(n_jobs):
    X, y = make_rows(1200)
    model = NadarayaWatsonSketchRegressor(kernel="l2", n_jobs=n_jobs, **SMALL)
    grid = {"bandwidth": [0.5, 2.0], "bias_correction": [None, 2]}

    def search(n_workers):
        found = GridSearchCV(model, grid, cv=2, n_jobs=n_workers).fit(X, y)
        scores = found.cv_results_["mean_test_score"]
        return found.best_params_, scores.tobytes(), found.predict(X).tobytes()

    def predict_folds(n_workers):
        return cross_val_predict(model, X, y, cv=2, n_jobs=n_workers).tobytes()

    assert search(2) == search(1)
    assert predict_folds(2) == predict_folds(1)


# -- threads --------------------------------------------------------------------------------------


def predict_in_threads(n_callers, n_fitting):
    """Predict with the same estimators on many threads, while others fit, and count the pool's threads."""
    numba.config.NUMBA_NUM_THREADS = 2
    answers = learn(1, QUICK)
    models = [(answers[name], *fitted(name, 4)) for name in QUICK]
    start = threading.Barrier(n_callers)

    def predict_each(number):
        start.wait(TIMEOUT)
        most = 0
        for answer, model, X in models[number % 4 :] + models[: number % 4]:
            assert predict(model, X) == answer
            most = max(most, len(pool_threads()))
        return most

    def fit():
        assert learn(4, QUICK) == answers

    with at_work(*[fit] * n_fitting), ThreadPoolExecutor(n_callers) as callers:
        return max(callers.map(predict_each, range(n_callers)))


@pytest.mark.parametrize("n_fitting", [0, 3], ids=["alone", "while others fit"])
def test_sixteen_threads_predict_at_once_by_one_pool(n_fitting):
    assert 1 <= in_child(CHEAPEST, predict_in_threads, 16, n_fitting) <= 2


def work_in_tasks():
    """Fit and predict in tasks that hold both threads of the pool."""
    numba.config.NUMBA_NUM_THREADS = 2
    models = {name: fitted(name, 4) for name in QUICK}
    start, answers = threading.Barrier(3), []

    def task(first, last):
        start.wait(TIMEOUT)
        answers.append({name: predict(*model) for name, model in models.items()} | learn(4, ["searched"]))

    run_ranges(task, 3, 3)
    return answers


def test_fits_and_predictions_in_tasks_of_the_pool(expected):
    assert in_child(CHEAPEST, work_in_tasks) == [expected] * 3


def work_with_few_threads(n_left):
    """Hand out items twice where the system starts few threads, and return how often each was handed out."""
    start, started = threading.Thread.start, []
    visits = np.zeros(20, dtype=int)

    def start_some(thread):
        if len(started) == n_left:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    def visit(first, last):
        time.sleep(0.001)
        visits[first:last] += 1

    numba.config.NUMBA_NUM_THREADS = 4
    threading.Thread.start = start_some
    for _ in range(2):
        with single_threaded_blas():
            run_ranges(visit, 20, 10)
    return visits.tolist(), blas_threads()


@pytest.mark.parametrize("n_left", [0, 1, 2])
def test_without_threads_left_the_caller_does_the_work(n_left):
    assert in_child(CHEAPEST, work_with_few_threads, n_left) == ([2] * 20, blas_threads())


# -- the end --------------------------------------------------------------------------------------


def test_the_interpreter_ends_while_threads_predict():
    script = """
        import atexit
        import threading
        import time

        import numpy as np

        from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor

        X = np.random.default_rng(0).normal(size=(1000, 3))
        y = X.sum(axis=1)
        sketch = NadarayaWatsonSketchRegressor(kernel="l2", n_repetitions=16, n_jobs=2, random_state=0)
        models = [sketch.fit(X, y), NadarayaWatsonRegressor(n_jobs=2).fit(X, y)]
        answers = [model.predict(X).tobytes() for model in models]

        def predict():
            return [model.predict(X).tobytes() for model in models] == answers

        outcomes, finishing = [], threading.Event()

        def predict_ever():
            while predict():
                finishing.wait()
            print("wrong")

        def outlive_main():
            right = [predict() for _ in range(5)]
            threading.main_thread().join()
            right += [predict() for _ in range(5)]
            outcomes.append(all(right))

        for _ in range(2):
            threading.Thread(target=predict_ever, daemon=True).start()
            threading.Thread(target=outlive_main).start()
        time.sleep(0.2)

        @atexit.register
        def finish():
            print("after the main thread", *outcomes, "at exit", predict())
            finishing.set()
            time.sleep(0.1)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "after the main thread True True at exit True\n"
