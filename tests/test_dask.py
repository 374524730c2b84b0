"""Dask: partitions of arrays and frames, and a cluster of processes of which one is killed."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, learnt, make_rows
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from nwsketch import NadarayaWatsonSketchRegressor

dask = pytest.importorskip("dask", reason="Dask is not installed (the extra nwsketch[dask])")
distributed = pytest.importorskip("distributed", reason="Dask's cluster is not installed (nwsketch[dask])")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

from nwsketch.dask import fit, predict  # noqa: E402

NAMES = list("abcd")
TIMEOUT = 60  # seconds after which a cluster counts as hung


def make(**parameters):
    return NadarayaWatsonSketchRegressor(**(SMALL | parameters))


def make_integers(n_rows=300):
    """Return rows, and integers as targets and weights: their sums are exact in any order."""
    X, _ = make_rows(n_rows)
    rng = np.random.default_rng(1)
    return X, rng.integers(-5, 6, n_rows), rng.integers(0, 4, n_rows)


def make_frame(n_rows=300):
    X, y, weights = make_integers(n_rows)
    return pd.DataFrame(X, columns=NAMES).assign(y=y, z=-2 * y, weight=weights)


@pytest.fixture
def local():
    """Compute in this very thread."""
    with dask.config.set(scheduler="synchronous"):
        yield


pytestmark = pytest.mark.usefixtures("local")


# -- fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["laplacian", "l2", "angular"])
@pytest.mark.parametrize("n_outputs", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_arrays_are_learnt_as_by_one_process(kernel, n_outputs, weighted):
    X, y, weights = make_integers()
    y = y if n_outputs is None else np.c_[y, -y]
    chunks = (70, 130, 0, 100)
    parts = [da.from_array(X, (chunks, 4)), da.from_array(y, (chunks, 1) if n_outputs else (chunks,))]
    parts += [da.from_array(weights, (chunks,))] if weighted else []
    model = fit(make(kernel=kernel), *parts)
    assert isinstance(model, NadarayaWatsonSketchRegressor)
    assert learnt(model) == learnt(make(kernel=kernel).fit(X, y, weights if weighted else None))


@pytest.mark.parametrize("target", ["y", ["y", "z"]])
@pytest.mark.parametrize("weight", [None, "weight"])
def test_frames_are_learnt_as_by_one_process(target, weight):
    frame = make_frame()
    expected = make().fit(frame[NAMES], frame[target], None if weight is None else frame[weight])
    df = dd.from_pandas(frame, npartitions=5)
    model = fit(make(), df[NAMES], df[target], None if weight is None else df[weight])
    assert list(model.feature_names_in_) == NAMES
    assert learnt(model) == learnt(expected)


def test_frames_with_empty_partitions():
    frame = make_frame()
    df = dd.from_pandas(frame, npartitions=5)
    df, some = df.map_partitions(lambda part: part[part.index > 130]), frame[frame.index > 130]
    assert min(df.map_partitions(len).compute()) == 0
    assert learnt(fit(make(), df[NAMES], df["y"])) == learnt(make().fit(some[NAMES], some["y"]))
    predictions = predict(make().fit(some[NAMES], some["y"]), df[NAMES]).compute()
    assert list(predictions.index) == list(some.index)


def test_chunks_of_unknown_length():
    X, y, weights = make_integers()
    parts = [da.from_array(each, 70) for each in (X, y, weights)]
    keep = parts[0][:, 0] > 0
    unknown = [each[keep] for each in parts]
    assert np.isnan(unknown[0].shape[0])
    model = fit(make(), *unknown)
    kept = X[:, 0] > 0
    assert learnt(model) == learnt(make().fit(X[kept], y[kept], weights[kept]))
    assert_array_equal(predict(model, unknown[0]).compute(), model.predict(X[kept]))


def test_frames_and_arrays_mixed():
    frame = make_frame()
    df = dd.from_pandas(frame, npartitions=3)
    y = da.from_array(frame["y"].to_numpy(), 100)
    named, plain = make().fit(frame[NAMES], frame["y"]), make().fit(frame[NAMES].to_numpy(), frame["y"])
    assert learnt(fit(make(), df[NAMES], y)) == learnt(named)
    assert learnt(fit(make(), df[NAMES].to_dask_array(lengths=True), df["y"])) == learnt(plain)


def test_sparse_chunks():
    X, y, _ = make_integers()
    parts = da.from_array(X, (100, 4)).map_blocks(csr_array)
    model = fit(make(kernel="jaccard"), parts, da.from_array(y, 100))
    assert learnt(model) == learnt(make(kernel="jaccard").fit(csr_array(X), y))
    assert_array_equal(predict(model, parts).compute(), model.predict(X))


def test_targets_in_other_chunks_are_rechunked():
    X, y, weights = make_integers()
    parts = da.from_array(X, (100, 4)), da.from_array(np.c_[y, -y], (130, 1)), da.from_array(weights, 30)
    assert learnt(fit(make(), *parts)) == learnt(make().fit(X, np.c_[y, -y], weights))


def test_real_numbers_agree_but_for_rounding():
    X, y = make_rows(4000)
    model = fit(make(uncertainty=True), da.from_array(X, (300, 4)), da.from_array(y, 300))
    expected = make(uncertainty=True).fit(X, y)
    assert_array_equal(model.bandwidth_, expected.bandwidth_)
    assert_array_equal(model.sketch_.tables[..., -1], expected.sketch_.tables[..., -1])
    assert_allclose(model.sketch_.tables, expected.sketch_.tables, rtol=1e-12, atol=4e-9)


def test_what_was_learnt_before_stays_if_rows_are_refused():
    X, y, _ = make_integers()
    model = make().fit(X, y)
    before = learnt(model)
    X[250, 2] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        fit(model, da.from_array(X, (100, 4)), da.from_array(y, 100))
    assert learnt(model) == before


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X, y: (X.compute(), y), TypeError, "X is a ndarray: give a dask array"),
        (lambda X, y: (X, y.compute()), TypeError, "y is a ndarray"),
        (lambda X, y: (X[:, 0], y), ValueError, r"X has 1 dimension\(s\)"),
        (lambda X, y: (X.rechunk((100, 2)), y), ValueError, r"in 2 chunks: .* by X.rechunk\({1: -1}\)"),
        (lambda X, y: (X, y[:200]), ValueError, "X has 300 rows, but y has 200"),
        (lambda X, y: (X[y > 0], y), None, None),
        (lambda X, y: (X[y > 0], y.rechunk(50)), ValueError, "X has 3 partitions, but y has 6"),
        (lambda X, y: (X, y, y[:200]), ValueError, "but sample_weight has 200"),
    ],
)
def test_collections_that_do_not_fit_together(change, error, message):
    X, y, _ = make_integers()
    parts = change(da.from_array(X, (100, 4)), da.from_array(y, 100))
    if error is None:  # lengths are unknown until the rows are read
        error, message = ValueError, "inconsistent numbers of samples"
    with pytest.raises(error, match=message):
        fit(make(), *parts)


def test_frames_that_do_not_fit_together():
    df = dd.from_pandas(make_frame(), npartitions=3)
    with pytest.raises(ValueError, match=r"give y.repartition\(divisions=X.divisions\)"):
        fit(make(), df[NAMES], dd.from_pandas(make_frame()["y"], npartitions=4))
    with pytest.raises(ValueError, match="X has 3 partitions, but y has 2"):
        fit(make(), df[NAMES], df["y"].clear_divisions().repartition(npartitions=2))


def test_what_needs_all_rows_is_refused():
    X, y, _ = make_integers()
    with pytest.raises(ValueError, match="fit on a sample on one machine first"):
        fit(make(bandwidth="loo"), da.from_array(X, (100, 4)), da.from_array(y, 100))


def test_no_more_than_a_few_contributions_meet_in_a_task(monkeypatch):
    X, y, _ = make_integers()
    most = []
    monkeypatch.setattr("nwsketch.dask.merged", lambda parts: most.append(len(parts)))
    with pytest.raises(ValueError, match="no rows"):  # as nothing is added up here
        fit(make(), da.from_array(X, (10, 4)), da.from_array(y, 10))
    assert sorted(most) == [2] * 2 + [4] * 9  # thirty become eight, two, one


# -- predict --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_outputs", [None, 1, 2])
def test_arrays_are_predicted_lazily(n_outputs):
    X, y, _ = make_integers()
    model = make().fit(X, y if n_outputs is None else np.c_[y, -y][:, :n_outputs])
    lazy = predict(model, da.from_array(X, (70, 4)))
    expected = model.predict(X)
    assert isinstance(lazy, da.Array)
    assert lazy.shape == expected.shape
    assert lazy.dtype == expected.dtype
    assert lazy.chunks[0] == (70, 70, 70, 70, 20)
    assert isinstance(lazy._meta, np.ndarray)
    assert lazy._meta.ndim == expected.ndim
    assert_array_equal(lazy.compute(), expected)
    assert_array_equal(lazy[60:80].compute(), expected[60:80])


@pytest.mark.parametrize("target", ["y", ["y", "z"]])
def test_frames_are_predicted_with_their_index(target):
    frame = make_frame().set_index(np.arange(300) * 2 + 7)
    model = make().fit(frame[NAMES], frame[target])
    df = dd.from_pandas(frame, npartitions=4)
    lazy = predict(model, df[NAMES])
    assert isinstance(lazy, dd.Series if target == "y" else dd.DataFrame)
    assert lazy.divisions == df.divisions
    found = lazy.compute()
    assert list(found.index) == list(frame.index)
    assert_array_equal(found.to_numpy(), model.predict(frame[NAMES]))
    like = lazy._meta
    assert (type(like), like.ndim) == (type(found), found.ndim)
    assert (like.dtypes == found.dtypes) if target == "y" else (like.dtypes == found.dtypes).all()


def test_queries_that_do_not_fit_are_refused_at_once():
    X, y, _ = make_integers()
    frame = make_frame()
    with pytest.raises(ValueError, match="X has 3 features"):
        predict(make().fit(X, y), da.from_array(X[:, :3], 100))
    with pytest.raises(ValueError, match="feature names should match"):
        predict(make().fit(frame[NAMES], y), dd.from_pandas(frame[NAMES[::-1]], npartitions=2))
    with pytest.raises(ValueError, match=r"X.rechunk\({1: -1}\)"):
        predict(make().fit(X, y), da.from_array(X, (100, 2)))
    with pytest.raises(TypeError, match="X is a ndarray"):
        predict(make().fit(X, y), X)


# -- a cluster of processes -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """Two processes of one thread, which do not take tasks from each other."""
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "1GiB", "dashboard_address": None}
    with (
        dask.config.set(
            {
                "distributed.scheduler.work-stealing": False,
                "distributed.nanny.environ.NUMBA_NUM_THREADS": 1,
            }
        ),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster, timeout=TIMEOUT) as client,
    ):
        yield client


@pytest.fixture
def on_cluster(client):
    with dask.config.set(scheduler="distributed"):
        yield client


def moved(client):
    """Return what has left a worker, as the names of tasks."""
    logs = client.run(
        lambda dask_worker: [key for sent in dask_worker.transfer_outgoing_log for key in sent["keys"]]
    )
    return {str(key) for keys in logs.values() for key in keys}


def make_partition(number, pause=0.0):
    """Return some rows, always the same, after a while."""
    time.sleep(pause)
    rng = np.random.default_rng(number)
    X = pd.DataFrame(rng.normal(size=(200, 4)), columns=NAMES)
    return X.assign(y=rng.integers(0, 10, 200))


def all_rows(n_partitions):
    frame = pd.concat([make_partition(number) for number in range(n_partitions)])
    return frame[NAMES], frame["y"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["lazy frame", "frame in memory", "lazy array", "array in memory"])
def test_rows_never_leave_their_worker(on_cluster, source):
    df = dd.from_map(make_partition, range(10), meta=make_partition(0)[:0])
    X, y = df[NAMES], df["y"]
    if "memory" in source:
        df = df.persist()
        distributed.wait(df)
        X, y = df[NAMES], df["y"]
    if "array" in source:
        X, y = X.to_dask_array(), y.to_dask_array()
    before = moved(on_cluster)
    model = fit(make(), X, y)
    expected_X, expected_y = all_rows(10)
    expected_X = expected_X.to_numpy() if "array" in source else expected_X
    assert learnt(model) == learnt(make().fit(expected_X, expected_y))
    sent = moved(on_cluster) - before
    assert sent
    ours = ("moments_of_part", "learnt_of_part", "merged")  # or a part and what makes it, by one task
    assert {key for key in sent if not any(name in key for name in ours)} == set()
    assert_array_equal(predict(model, X).compute(), model.predict(expected_X))


@pytest.mark.slow
def test_a_worker_killed_amid_a_fit(on_cluster):
    df = dd.from_map(make_partition, range(16), pause=0.2, meta=make_partition(0)[:0])
    workers = on_cluster.run(os.getpid)

    def sketches():
        return sum("learnt_of_part" in str(key) for keys in on_cluster.has_what().values() for key in keys)

    with ThreadPoolExecutor(1) as thread:
        fitting = thread.submit(fit, make(), df[NAMES], df["y"])
        end = time.monotonic() + TIMEOUT
        while not sketches():
            assert time.monotonic() < end, "no partition is learnt"
            time.sleep(0.02)
        os.kill(next(iter(workers.values())), signal.SIGKILL)
        assert not fitting.done()
        model = fitting.result(TIMEOUT)
    on_cluster.wait_for_workers(2, timeout=TIMEOUT)
    assert set(on_cluster.run(os.getpid).values()) != set(workers.values())
    assert learnt(model) == learnt(make().fit(*all_rows(16)))
