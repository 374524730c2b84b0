"""NadarayaWatsonSketchRegressor as scikit-learn knows it: checks, copies, frames, sparse rows, merging."""

import copy
import pickle
import subprocess
import sys
import tracemalloc

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import KERNELS, SMALL, WITH_BANDWIDTH, WITHOUT_BANDWIDTH, assert_same_answers, learnt, make_rows
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwsketch import NadarayaWatsonSketchRegressor, progress
from nwsketch.hashing import get_family

NAMES = ["width", "height", "depth", "age"]


def make(kernel="laplacian", **parameters):
    return NadarayaWatsonSketchRegressor(kernel=kernel, **(SMALL | parameters))


@parametrize_with_checks(
    [
        NadarayaWatsonSketchRegressor(),
        NadarayaWatsonSketchRegressor(kernel="angular", hashes_per_repetition=8, n_jobs=1),
        NadarayaWatsonSketchRegressor(kernel="l1", hashes_per_repetition=2, n_buckets=100),
        NadarayaWatsonSketchRegressor(aggregation="median_of_means", empty=0.0),
        NadarayaWatsonSketchRegressor(bias_correction=4, uncertainty=True, n_repetitions=64),
    ]
)
def test_scikit_learn_compatible(estimator, check):
    check(estimator)


# -- parameters and copies ------------------------------------------------------------------------


def test_constructor_stores_its_arguments_unchanged():
    arguments = {
        "kernel": get_family("l2"),
        "bandwidth": [1.0, 2.0],
        "bias_correction": -1,
        "trend": "parabola",
        "uncertainty": 2,
        "half_life": "long",
        "hashes_per_repetition": np.int64(2),
        "n_repetitions": -5,
        "n_buckets": None,
        "aggregation": "no such thing",
        "n_groups": 3.5,
        "empty": np.float32(1),
        "backend": object(),
        "device": "moon",
        "n_jobs": 0,
        "verbose": True,
        "random_state": np.random.RandomState(0),
    }
    model = NadarayaWatsonSketchRegressor(**arguments)
    stored = model.get_params(deep=False)
    assert stored.keys() == arguments.keys() == vars(model).keys()
    assert all(stored[name] is value for name, value in arguments.items())


def test_constructor_takes_keywords_only():
    with pytest.raises(TypeError, match="positional argument"):
        NadarayaWatsonSketchRegressor("laplacian")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "duplicate",
    [
        pytest.param(lambda model, folder: pickle.loads(pickle.dumps(model)), id="pickle"),
        pytest.param(lambda model, folder: copy.deepcopy(model), id="deepcopy"),
        pytest.param(lambda model, folder: joblib.load(joblib.dump(model, folder / "model")[0]), id="joblib"),
    ],
)
def test_a_copy_predicts_the_same_and_learns_on_alone(kernel, duplicate, tmp_path):
    X, y = make_rows()
    model = make(kernel).fit(X, y)
    before = learnt(model)
    twin = duplicate(model, tmp_path)
    assert learnt(twin) == before
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    twin.partial_fit(X[:10], y[:10]).forget(X[20:40], y[20:40])
    assert learnt(model) == before
    # ... and learns what the original would have learnt.
    assert learnt(model.partial_fit(X[:10], y[:10]).forget(X[20:40], y[20:40])) == learnt(twin)


def test_a_model_whose_arrays_are_read_only_learns_on(tmp_path, backend_of_auto):
    # joblib hands large arrays to its workers like this: mapped from a file that nobody may write to.
    X, y = make_rows()
    model = make().fit(X, y)
    twin = joblib.load(joblib.dump(model, tmp_path / "model")[0], mmap_mode="r")
    # Of what is read-only PyTorch makes a copy at once.
    assert twin.sketch_.tables.flags.writeable == (backend_of_auto != "numba")
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    assert learnt(twin.partial_fit(X[:10], y[:10])) == learnt(model.partial_fit(X[:10], y[:10]))


def test_clone_is_unfitted_and_fits_to_the_same():
    X, y = make_rows()
    model = make("l2", bandwidth=[1.0, 2.0, 3.0, 4.0], hashes_per_repetition=2, empty="nan").fit(X, y)
    twin = clone(model)
    assert vars(twin) == twin.get_params()
    assert learnt(twin.fit(X, y)) == learnt(model)


def test_set_params_counts_from_the_next_fit_on():
    X, y = make_rows()
    model = make().fit(X, y)
    before = model.predict(X)
    model.set_params(hashes_per_repetition=3, kernel="l2")
    np.testing.assert_array_equal(model.predict(X), before)
    np.testing.assert_array_equal(
        model.fit(X, y).predict(X), make("l2", hashes_per_repetition=3).fit(X, y).predict(X)
    )


@pytest.mark.parametrize("kernel", WITHOUT_BANDWIDTH)
def test_kernels_without_a_bandwidth_ignore_scale(kernel):
    X, y = make_rows()
    assert make(kernel).fit(X, y).bandwidth_ is None


@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_bandwidth_is_one_number_per_feature(kernel):
    X, y = make_rows()
    one = make(kernel, bandwidth=2).fit(X, y)
    np.testing.assert_array_equal(one.bandwidth_, [2.0] * 4)
    assert learnt(make(kernel, bandwidth=[2.0] * 4).fit(X, y)) == learnt(one)
    each = make(kernel, bandwidth=np.array([1, 2, 4, 8])).fit(X * [1, 2, 4, 8], y)
    assert learnt(make(kernel, bandwidth=1).fit(X, y))["sketch_"][0] == learnt(each)["sketch_"][0]


def test_scaled_bandwidth_follows_the_units_of_the_features():
    X, y = make_rows()
    units = np.array([1e-6, 1.0, 1024.0, 1e9])
    np.testing.assert_allclose(
        make().fit(X * units, y).bandwidth_, make().fit(X, y).bandwidth_ * units, rtol=1e-12
    )


def test_an_integer_random_state_repeats_the_hashes():
    X, y = make_rows()
    assert learnt(make(random_state=3).fit(X, y)) == learnt(make(random_state=3).fit(X, y))
    assert learnt(make(random_state=3).fit(X, y)) != learnt(make(random_state=4).fit(X, y))


def test_a_random_state_instance_moves_on():
    X, y = make_rows()
    model = make(random_state=np.random.RandomState(3))
    first, second = learnt(model.fit(X, y)), learnt(model.fit(X, y))
    assert first != second
    assert first == learnt(make(random_state=np.random.RandomState(3)).fit(X, y))


def test_no_random_state_draws_anew():
    X, y = make_rows()
    np.random.seed(0)  # noqa: NPY002 - which must not matter
    model = make(random_state=None)
    first = learnt(model.fit(X, y))
    np.random.seed(0)  # noqa: NPY002
    assert first != learnt(model.fit(X, y))


def test_fitting_leaves_the_global_generator_alone():
    X, y = make_rows()
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    make().fit(X, y).predict(X)
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


# -- frames ---------------------------------------------------------------------------------------

FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame}


@pytest.fixture(params=FRAMES)
def frame(request):
    return lambda X, names=NAMES: FRAMES[request.param](dict(zip(names, X.T, strict=True)))


def test_frames_give_names_to_the_features(frame):
    X, y = make_rows()
    model = make().fit(frame(X), y)
    assert list(model.feature_names_in_) == NAMES
    expected = make().fit(X, y)
    np.testing.assert_array_equal(model.predict(frame(X)), expected.predict(X))
    np.testing.assert_array_equal(model.kernel_sum(frame(X)), expected.kernel_sum(X))
    np.testing.assert_array_equal(model.loo_predict(frame(X), y), expected.loo_predict(X, y))
    model.partial_fit(frame(X[:50]), y[:50]).forget(frame(X[50:]), y[50:])
    expected.partial_fit(X[:50], y[:50]).forget(X[50:], y[50:])
    assert learnt(model)["sketch_"] == learnt(expected)["sketch_"]


@pytest.mark.parametrize("method", ["predict", "kernel_sum", "partial_fit", "forget", "loo_predict"])
def test_columns_in_another_order_are_refused(frame, method):
    X, y = make_rows()
    model = make().fit(frame(X), y)
    before = learnt(model)
    swapped = frame(X[:, ::-1], NAMES[::-1])
    targets = () if method in ("predict", "kernel_sum") else (y,)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        getattr(model, method)(swapped, *targets)
    assert learnt(model) == before


def test_targets_and_weights_may_be_series(frame):
    X, y = make_rows()
    targets = frame(np.column_stack([y, np.abs(y)]), ["y", "w"])
    model = make().fit(frame(X), targets["y"], targets["w"])
    np.testing.assert_array_equal(model.predict(frame(X)), make().fit(X, y, np.abs(y)).predict(X))


def test_fit_on_an_array_forgets_the_names(frame):
    X, y = make_rows()
    assert not hasattr(make().fit(frame(X), y).fit(X, y), "feature_names_in_")


# -- sparse rows ----------------------------------------------------------------------------------


def with_duplicates(X):
    """Store every value in two halves, which add up to it without rounding."""
    X = sparse.csr_array(X)
    data, indices = np.repeat(X.data / 2, 2), np.repeat(X.indices, 2)
    return sparse.csr_array((data, indices, 2 * X.indptr), shape=X.shape)


def unsorted(X):
    X = sparse.csr_array(X)
    order = np.concatenate(
        [np.arange(start, stop)[::-1] for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True)]
    )
    X = sparse.csr_array((X.data[order], X.indices[order], X.indptr), shape=X.shape)
    assert not X.has_sorted_indices
    return X


def with_stored_zeros(X):
    columns = np.indices(X.shape)[1]
    return sparse.csr_array((X.ravel(), columns.ravel(), np.arange(0, X.size + 1, X.shape[1])), shape=X.shape)


def with_long_indices(X):
    X = sparse.csr_array(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


SPARSE = {
    "csr_array": sparse.csr_array,
    "csr_matrix": sparse.csr_matrix,
    "csc_array": sparse.csc_array,
    "coo_matrix": sparse.coo_matrix,
    "unsorted": unsorted,
    "duplicates": with_duplicates,
    "stored zeros": with_stored_zeros,
    "int64 indices": with_long_indices,
}


@pytest.mark.parametrize("layout", SPARSE)
@pytest.mark.parametrize("kernel", KERNELS)
def test_sparse_rows_equal_dense_rows(kernel, layout):
    X, y = make_rows()
    rows = SPARSE[layout](X)
    before = [array.copy() for array in (rows.data, getattr(rows, "indices", rows.data))]
    # A number, since sums over the zeros of a column may round differently from sums without them.
    parameters = {"bandwidth": 0.8} if kernel in WITH_BANDWIDTH else {}
    dense, model = (make(kernel, hashes_per_repetition=2, **parameters).fit(each, y) for each in (X, rows))
    assert learnt(model) == learnt(dense)
    np.testing.assert_array_equal(model.predict(rows), dense.predict(X))
    np.testing.assert_array_equal(model.predict(X), dense.predict(rows))
    np.testing.assert_array_equal(model.loo_predict(rows, y), dense.loo_predict(X, y))
    model.partial_fit(rows, y).forget(rows, y)
    assert learnt(model) == learnt(dense.partial_fit(X, y).forget(X, y))
    # The caller's matrix is as it was.
    after = rows.data, getattr(rows, "indices", rows.data)
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_scaled_bandwidth_of_sparse_rows(kernel):
    X, y = make_rows()
    rows, weights = with_stored_zeros(X), np.abs(y)
    model = make(kernel).fit(rows, y, weights)
    np.testing.assert_allclose(model.bandwidth_, make(kernel).fit(X, y, weights).bandwidth_, rtol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
def test_sparse_rows_are_never_densified(kernel):
    # Dense, the rows would take 400 MB, of which the limit is a quarter; the hashes alone take up to 50 MB.
    n_rows, n_features, n_repetitions = 50, 10**6, 2
    rng = np.random.default_rng(0)
    columns = rng.integers(0, n_features, n_rows * 20)
    X = sparse.csr_array(
        (rng.normal(size=columns.size), columns, np.arange(0, columns.size + 1, 20)),
        shape=(n_rows, n_features),
    )
    y = rng.normal(size=n_rows)
    model = make(kernel, n_repetitions=n_repetitions).fit(X[:2], y[:2])
    tracemalloc.start()
    try:
        model.fit(X, y).partial_fit(X, y).forget(X, y)
        predictions = model.predict(X)
        model.loo_predict(X, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < X.shape[0] * X.shape[1] * 8 / 4 + 2 * model.sketch_.nbytes
    assert predictions.shape == (n_rows,)
    assert np.isfinite(predictions).all()


# -- numbers of outputs and bits ------------------------------------------------------------------


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "CSR"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_equals_its_copy_in_float64(kernel, layout):
    X, y = make_rows()
    single = layout(X.astype(np.float32))
    double = single.astype(np.float64)
    models = [make(kernel).fit(each, y.astype(np.float32)) for each in (single, double)]
    assert learnt(models[0]) == learnt(models[1])
    np.testing.assert_array_equal(models[0].predict(single), models[1].predict(double))
    assert models[0].predict(single).dtype == np.float64


@pytest.mark.parametrize("aggregation", ["mean", "median_of_means"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_many_outputs_equal_single_outputs_side_by_side(kernel, aggregation, backend_of_auto):
    X, y = make_rows()
    Y = np.column_stack([y, y**2, -y])
    model = make(kernel, aggregation=aggregation)
    together = model.fit(X, Y, np.abs(y))
    predictions, left_out = together.predict(X), together.loo_predict(X, Y, np.abs(y))
    for column in range(3):
        alone = clone(model).fit(X, Y[:, column], np.abs(y))
        assert_same_answers(predictions[:, column], alone.predict(X), backend_of_auto)
        alone_left_out = alone.loo_predict(X, Y[:, column], np.abs(y))
        assert_same_answers(left_out[:, column], alone_left_out, backend_of_auto)


def test_predictions_have_the_shape_of_the_targets():
    X, y = make_rows()
    flat = make().fit(X, y).predict(X)
    assert flat.shape == y.shape
    column = make().fit(X, y[:, np.newaxis])
    np.testing.assert_array_equal(column.predict(X), flat[:, np.newaxis])
    assert column.partial_fit(X, y[:, np.newaxis]).predict(X).shape == (len(y), 1)
    assert column.loo_predict(X, y[:, np.newaxis]).shape == (len(y), 1)
    assert column.fit(X, y).predict(X).shape == y.shape


# -- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_fit_starts_anew(kernel):
    X, y = make_rows()
    model = make(kernel).fit(10 * X[:, :2], np.column_stack([y, y]))
    model.partial_fit(X[:, :2], np.column_stack([y, y]))
    assert learnt(model.fit(X, y)) == learnt(make(kernel).fit(X, y))
    assert model.n_features_in_ == 4


def test_partial_fit_goes_on_after_fit():
    X, y = make_rows()
    model = make(bandwidth=0.8).fit(X[:70], y[:70])
    assert model.partial_fit(X[70:], y[70:]) is model
    assert learnt(model) == learnt(make(bandwidth=0.8).fit(X, y))
    assert learnt(model) == learnt(make(bandwidth=0.8).partial_fit(X[:5], y[:5]).partial_fit(X[5:], y[5:]))


def test_the_first_batch_fixes_the_scaled_bandwidth():
    X, y = make_rows()
    model = make().partial_fit(X[:70], y[:70])
    bandwidth = model.bandwidth_.copy()
    model.partial_fit(100 * X[70:], y[70:])
    np.testing.assert_array_equal(model.bandwidth_, bandwidth)
    np.testing.assert_array_equal(bandwidth, make().fit(X[:70], y[:70]).bandwidth_)


def test_n_samples_seen_counts_rows_that_come_and_go():
    X, y = make_rows()
    model = make()
    assert not hasattr(model, "n_samples_seen_")
    assert model.fit(X, y, np.full(150, 0.5)).n_samples_seen_ == 150
    assert model.partial_fit(X[:20], y[:20]).n_samples_seen_ == 170
    assert model.forget(X[:5], y[:5]).n_samples_seen_ == 165
    assert model.merge(clone(model).set_params(bandwidth=model.bandwidth_).fit(X, y)).n_samples_seen_ == 315
    assert model.fit(X[:1], y[:1]).n_samples_seen_ == 1
    assert isinstance(model.n_samples_seen_, int)


def test_a_scalar_weight_counts_for_every_row():
    X, y = make_rows()
    assert learnt(make().fit(X, y, 2.0)) == learnt(make().fit(X, y, np.full(150, 2.0)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_score_is_r2(kernel):
    X, y = make_rows()
    model, weights = make(kernel).fit(X, y), np.abs(y)
    assert model.score(X, y) == r2_score(y, model.predict(X))
    assert model.score(X, y, weights) == r2_score(y, model.predict(X), sample_weight=weights)


# -- merging --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_merge_learns_what_the_other_learnt(kernel):
    X, y = make_rows()
    Y = np.round(8 * y)  # sums of integers are exact in any order
    bandwidth = {"bandwidth": 0.8} if kernel in WITH_BANDWIDTH else {}
    model, other = (
        make(kernel, **bandwidth).fit(X[:70], Y[:70]),
        make(kernel, **bandwidth).fit(X[70:], Y[70:]),
    )
    theirs = learnt(other)
    assert model.merge(other) is model
    assert learnt(model) == learnt(make(kernel, **bandwidth).fit(X, Y))
    assert learnt(other) == theirs
    model.partial_fit(X, Y)
    assert learnt(other) == theirs


def test_an_unfitted_estimator_is_the_identity_of_merge():
    X, y = make_rows()
    frame = pd.DataFrame(X, columns=NAMES)
    other = make().fit(frame, y)
    theirs = learnt(other)
    model = make()
    assert model.merge(other) is model
    assert learnt(model) == theirs
    assert list(model.feature_names_in_) == NAMES
    np.testing.assert_array_equal(model.predict(frame), other.predict(frame))
    # No memory is shared: not even a small batch, which is added in place, shows in the other.
    model.partial_fit(frame[:3], y[:3])
    assert learnt(other) == theirs


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"kernel": "l2"}, {"kernel": "l1"}),
        ({"kernel": get_family("l2")}, {"kernel": "l1"}),
        ({"bandwidth": 1.0}, {"bandwidth": 2.0}),
        ({"bandwidth": [1.0, 2.0, 3.0, 4.0]}, {"bandwidth": 1.0}),
        ({"hashes_per_repetition": 1}, {"hashes_per_repetition": 2}),
        ({"n_repetitions": 16}, {"n_repetitions": 32}),
        ({"n_buckets": 64}, {"n_buckets": 128}),
        ({"random_state": 0}, {"random_state": 1}),
    ],
    ids=lambda parameters: "-".join(f"{name}={value}" for name, value in parameters.items()),
)
def test_an_unfitted_estimator_does_not_become_what_it_could_not_have_made(mine, theirs):
    X, y = make_rows()
    model, other = make(**mine), make(**theirs).fit(X, y)
    before = learnt(other)
    with pytest.raises(ValueError, match=f"different hashes: {next(iter(mine))}="):
        model.merge(other)
    assert learnt(model) == {}
    assert learnt(other) == before


def test_an_unfitted_estimator_predicts_by_its_own_rules_after_a_merge():
    # How answers are formed is no property of the hashes: it stays as this estimator was told.
    X, y = make_rows()
    other, rules = make().fit(X, y), {"aggregation": "median_of_means", "n_groups": 4, "empty": -7.0}
    queries = np.vstack([X, np.full((1, 4), 50.0)])
    expected = make(**rules).fit(X, y).predict(queries)
    assert expected[-1] == -7.0
    np.testing.assert_array_equal(make(**rules).merge(other).predict(queries), expected)


def test_merging_an_unfitted_estimator_is_refused():
    X, y = make_rows()
    model = make().fit(X, y)
    before = learnt(model)
    with pytest.raises(ValueError, match="This NadarayaWatsonSketchRegressor instance is not fitted yet"):
        model.merge(make())
    assert learnt(model) == before


def test_merge_of_unequal_scaled_bandwidths_tells_the_remedy():
    X, y = make_rows()
    model, other = make().fit(X, y), make().fit(2 * X, y)
    with pytest.raises(ValueError, match=r"bandwidth=\[.*\] and bandwidth=\[.*bandwidth=other\.bandwidth_"):
        model.merge(other)
    model = make(bandwidth=other.bandwidth_).fit(X, y)
    assert model.merge(other).n_samples_seen_ == 300


# -- progress -------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_verbose_shows_a_bar(method, capsys):
    X, y = make_rows()
    model = make(verbose=1)
    getattr(model, method)(X, y)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "100%" in shown.err
    assert "150/150" in shown.err


@pytest.mark.usefixtures("impatient")
def test_a_small_batch_fills_the_bar_too(capsys):
    X, y = make_rows()
    make(verbose=1).partial_fit(X[:5], y[:5])
    assert "5.00/5.00" in capsys.readouterr().err


def test_short_fits_show_no_bar(capsys):
    make(verbose=1).fit(*make_rows())
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("impatient")
def test_nothing_is_printed_by_default(capfd):
    X, y = make_rows()
    make().fit(X, y).partial_fit(X, y).forget(X, y).predict(X)
    assert capfd.readouterr() == ("", "")


def test_a_missing_tqdm_is_asked_for_by_its_extra(monkeypatch):
    X, y = make_rows()
    model = make(verbose=1).fit(X, y)
    before = learnt(model)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    for method in (model.fit, model.partial_fit):
        with pytest.raises(ImportError, match=r"pip install .*nwsketch\[progress\]"):
            method(X, y)
        assert learnt(model) == before
    assert learnt(model.set_params(verbose=0).partial_fit(X, y)) != before


# -- in company -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["laplacian", "angular"])
def test_grid_search_over_a_pipeline_gives_the_same_in_parallel(kernel):
    X, y = make_rows(600)
    weights = np.where(np.arange(len(y)) % 3, 1.0, 0.25)
    pipeline = Pipeline([("scale", StandardScaler()), ("regress", make(kernel))])
    results = {}
    for n_jobs in (1, 2):
        search = GridSearchCV(pipeline, {"regress__hashes_per_repetition": [1, 2, 4]}, cv=3, n_jobs=n_jobs)
        search.fit(X, y, regress__sample_weight=weights)
        results[n_jobs] = search.cv_results_["split0_test_score"].tobytes(), search.predict(X).tobytes()
    assert results[1] == results[2]
    best = search.best_estimator_
    # The weights did arrive: without them the predictions differ.
    assert (clone(best).fit(X, y, regress__sample_weight=weights).predict(X) == best.predict(X)).all()
    assert (clone(best).fit(X, y).predict(X) != best.predict(X)).any()


def grow(model, X, y):
    """Run in a joblib worker, where large arrays arrive mapped from a file, read-only."""
    return learnt(model.partial_fit(X, y))


def test_a_fitted_estimator_learns_on_in_a_joblib_worker():
    X, y = make_rows()
    model = make().fit(X, y)
    grown = joblib.Parallel(n_jobs=2, max_nbytes=1)(
        joblib.delayed(grow)(model, X[:rows], y[:rows]) for rows in (5, 100)
    )
    assert grown[0] == grow(copy.deepcopy(model), X[:5], y[:5])
    assert grown[1] == grow(copy.deepcopy(model), X[:100], y[:100])


def test_importing_nwsketch_imports_nothing_optional():
    script = "import sys, nwsketch; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    modules = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "nwsketch" in modules
    # (scikit-learn itself imports pandas where that is installed.)
    assert not {"torch", "tqdm", "matplotlib", "polars"} & set(modules)


def test_what_an_unfitted_estimator_is_compared_with_is_the_sketch():
    # Parameters may have been set anew since the other was fitted.
    X, y = make_rows()
    other = make().fit(X, y)
    wanted = other.n_repetitions // 2
    other.set_params(n_repetitions=wanted)
    with pytest.raises(ValueError, match="different hashes: n_repetitions="):
        make(n_repetitions=wanted).merge(other)


def test_an_unfitted_estimator_with_bad_parameters_becomes_nothing():
    X, y = make_rows()
    other = make().fit(X, y)
    for bad, message in (
        ({"n_jobs": 0}, "n_jobs=0 has no meaning"),
        ({"bandwidth": [1.0]}, "bandwidth has shape"),
    ):
        model = make(**bad)
        with pytest.raises(ValueError, match=message):
            model.merge(other)
        assert not hasattr(model, "sketch_")
