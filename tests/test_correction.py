"""Bias correction against a dense ridge regression and plain loops, and what a corrected sketch refuses."""

import copy
import pickle

import joblib
import naive_correction as naive
import numpy as np
import pytest
from helpers import SMALL, WITH_BANDWIDTH, held, learnt, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score

import nwsketch.correction
from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.backends import numba_backend
from nwsketch.backends.numba_hashing import Hasher

REMEDY = "fit anew on all rows, or with bias_correction=None"


def make_sketch(**parameters):
    parameters = {"bandwidth": 2.0, "n_repetitions": 8, "n_buckets": 16, "random_state": 0, **parameters}
    return NadarayaWatsonSketch(4, **parameters)


def make(**parameters):
    return NadarayaWatsonSketchRegressor(**(SMALL | {"bias_correction": 3} | parameters))


def make_data(n_rows=40, seed=0):
    X, y = make_rows(n_rows, seed=seed)
    return X, y, np.random.default_rng(seed).integers(0, 4, n_rows).astype(float)


def state(sketch):
    """Return all that a sketch holds, the correction too, for comparison with ==."""
    correction = sketch.correction
    return held(sketch) if correction is None else (held(sketch), correction.offset.tobytes(), correction[1:])


@pytest.fixture
def one_ridge(monkeypatch):
    """Let every round have the same ridge."""
    monkeypatch.setattr(nwsketch.correction, "ridges", lambda n_rounds, *_: [0.5] * n_rounds)
    return 0.5


# -- what it computes -----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_many_rounds_arrive_at_ridge_regression_and_kernel_ridge(kernel, one_ridge):
    X, y, weights = make_data()
    queries = make_data(15, seed=1)[0]
    sketch = make_sketch(kernel=kernel).correct(X, y, weights, n_rounds=600)
    answers = sketch.query(queries)[:, 0]
    dense = naive.ridge_regression(sketch, X, y, weights, one_ridge, queries)
    np.testing.assert_allclose(answers, dense, rtol=0, atol=1e-8)
    offset = np.average(y, weights=weights)
    ridge = KernelRidge(alpha=one_ridge, kernel="precomputed")
    ridge.fit(naive.kernel(sketch, X, X), y - offset, sample_weight=weights)
    predictions = offset + ridge.predict(naive.kernel(sketch, queries, X))
    np.testing.assert_allclose(answers, predictions, rtol=0, atol=1e-8)
    # One round is somewhere else: it is the rounds that lead there.
    one_round = make_sketch(kernel=kernel).correct(X, y, weights, n_rounds=1).query(queries)[:, 0]
    assert np.abs(one_round - dense).max() > 0.01


@pytest.mark.parametrize("n_buckets", [16, 2**16, 2**16 + 5000])  # codes of 16 bits, and of 32
@pytest.mark.parametrize("n_rounds", [1, 3])
def test_rounds_equal_the_plain_loops(n_rounds, n_buckets):
    X, y, weights = make_data(30)
    sketch = make_sketch(n_buckets=n_buckets, n_repetitions=5, bandwidth=0.5)
    codes = sketch.plan.codes(X)
    # Only buckets that hold rows matter: the loops are given these alone, numbered anew.
    held_buckets, numbers = np.unique(codes, return_inverse=True)
    ridges = [16.0, 8.0, 4.0][:n_rounds]
    offset, tables = naive.backfit(numbers.reshape(codes.shape), y, weights, len(held_buckets), ridges)
    sketch.correct(X, y, weights, n_rounds=n_rounds)
    np.testing.assert_allclose(sketch.correction.offset, [offset], rtol=1e-14)
    assert sketch.correction.n_rounds == n_rounds
    np.testing.assert_allclose(sketch.tables[:, held_buckets, 0], tables, rtol=1e-11, atol=1e-13)
    others = np.setdiff1d(np.arange(n_buckets), held_buckets)
    assert not sketch.tables[:, others].any()
    assert n_buckets <= 2**16 or (codes >= 2**16).any()


@pytest.mark.parametrize("constant", [True, False])
def test_a_round_never_raises_the_objective_of_its_ridge(constant, monkeypatch):
    ridges = [0.5] * 8 if constant else [16 * 0.5**k for k in range(8)]
    monkeypatch.setattr(nwsketch.correction, "ridges", lambda n_rounds, *_: ridges[:n_rounds])
    X, y, weights = make_data(60)
    sketches = [make_sketch().correct(X, y, weights, n_rounds=n_rounds) for n_rounds in range(1, 9)]
    for before, after, ridge in zip(sketches[:-1], sketches[1:], ridges[1:], strict=True):
        then, now = (naive.objective(sketch, X, y, weights, ridge) for sketch in (before, after))
        assert now <= then * (1 + 1e-12)
        assert now < then * (1 - 1e-9)  # as nothing has converged by then


def test_the_ridge_halves_from_round_to_round():
    assert list(nwsketch.correction.ridges(4)) == [16.0, 8.0, 4.0, 2.0]


def test_answers_are_the_offset_and_the_mean_of_the_tables():
    X, y, weights = make_data()
    queries = np.vstack([make_data(20, seed=1)[0], np.full((1, 4), 1e4)])
    sketch = make_sketch().correct(X, y, weights, n_rounds=3)
    codes = sketch.plan.codes(queries)
    entries = np.take_along_axis(sketch.tables[..., 0], codes.astype(np.int64), axis=1)
    np.testing.assert_allclose(sketch.query(queries)[:, 0], sketch.correction.offset + entries.mean(axis=0))
    assert sketch.correction.offset == pytest.approx(np.average(y, weights=weights))


@pytest.mark.parametrize("shape", ["line", "peak"])
def test_slopes_and_peaks_are_no_longer_flattened(shape):
    rng = np.random.default_rng(0)
    X, queries = rng.uniform(-1, 1, (2000, 1)), np.linspace(-1, 1, 301)[:, None]
    truth = {"line": lambda x: 3 * x[:, 0], "peak": lambda x: np.exp(-((x[:, 0] / 0.15) ** 2))}[shape]
    y = truth(X) + 0.02 * rng.normal(size=2000)
    errors = {}
    for rounds in (None, "auto"):
        model = NadarayaWatsonSketchRegressor(bandwidth=0.5, n_repetitions=128, random_state=0)
        model.set_params(bias_correction=rounds).fit(X, y)
        errors[rounds] = np.sqrt(np.mean((model.predict(queries) - truth(queries)) ** 2))
    assert errors["auto"] < errors[None] / 5


# -- bits and invariants --------------------------------------------------------------------------


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), n_rounds=st.integers(1, 4))
def test_a_weight_counts_repetitions_of_a_row(seed, n_rounds):
    X, y, weights = make_data(25, seed)
    weights[0] = 1.0
    once = make_sketch().correct(X, y, weights, n_rounds=n_rounds)
    times = weights.astype(int)
    often = make_sketch().correct(np.repeat(X, times, axis=0), np.repeat(y, times), n_rounds=n_rounds)
    np.testing.assert_allclose(once.tables, often.tables, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(once.query(X), often.query(X), rtol=1e-9, atol=1e-9)
    assert once.total_weight == often.total_weight == len(once.query(np.repeat(X, times, axis=0)))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_order_of_rows_does_not_matter(seed):
    X, y, weights = make_data(30, seed)
    order = np.random.default_rng(seed).permutation(30)
    sketch = make_sketch().correct(X, y, weights + 1, n_rounds=3)
    shuffled = make_sketch().correct(X[order], y[order], weights[order] + 1, n_rounds=3)
    np.testing.assert_allclose(sketch.tables, shuffled.tables, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_rounds", [3, "auto"])
def test_rows_of_weight_zero_count_for_nothing(n_rounds):
    X, y, weights = make_data(60)
    there = weights > 0
    expected = make(bias_correction=n_rounds, bandwidth=1.0, uncertainty=True)
    expected.fit(X[there], y[there], weights[there])
    # Whatever their targets are: these are far off.
    strange = np.where(there, y, 1e9 * np.arange(60.0))
    model = make(bias_correction=n_rounds, bandwidth=1.0, uncertainty=True).fit(X, strange, weights)
    assert model.n_rounds_ == expected.n_rounds_
    np.testing.assert_allclose(
        model.predict(X, return_std=True), expected.predict(X, return_std=True), rtol=1e-7, atol=1e-7
    )


@pytest.fixture
def blocks(monkeypatch):
    """Let blocks hold few repetitions, and threads be used whatever the work."""
    monkeypatch.setattr(numba_backend, "BLOCK_SIZE", 100)
    monkeypatch.setattr(numba_backend, "SERIAL_SIZE", 0)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("n_buckets", "rounds"), [(16, "auto"), (2**16 + 1, 2)])
def test_threads_and_memory_change_no_bit(n_buckets, rounds, monkeypatch):
    X, y, weights = make_data(60)
    Y = np.column_stack([y, y**2, -y])

    def fit(n_jobs):
        model = make(n_jobs=n_jobs, n_buckets=n_buckets, bandwidth=1.0, uncertainty=True)
        model.set_params(bias_correction=rounds, n_repetitions=6).fit(X, Y, weights)
        return learnt(model) | {"predictions": model.predict(X).tobytes()}

    expected = fit(1)
    assert fit(2) == expected
    assert fit(5) == expected
    monkeypatch.setattr(numba_backend, "KEPT_BYTES", 0)  # hash again in every round
    assert fit(1) == expected
    assert fit(2) == expected


def test_codes_are_hashed_again_if_they_take_too_much_memory(monkeypatch):
    X, y, _ = make_data()
    calls = []
    hash_rows = Hasher.hash
    monkeypatch.setattr(Hasher, "hash", lambda *arguments: calls.append(1) or hash_rows(*arguments))
    make_sketch(n_jobs=1, backend="numba").correct(X, y, n_rounds=4)
    kept, calls[:] = len(calls), []
    monkeypatch.setattr(numba_backend, "KEPT_BYTES", 0)
    make_sketch(n_jobs=1, backend="numba").correct(X, y, n_rounds=4)
    assert (kept, len(calls)) == (1, 5)  # once for the weights and once a round


def test_many_outputs_equal_single_outputs_side_by_side():
    X, y, weights = make_data()
    Y = np.column_stack([y, 1e6 * y**2, -y + 5])
    together = make_sketch(n_outputs=3).correct(X, Y, weights, n_rounds=3)
    for output, target in enumerate(Y.T):
        alone = make_sketch().correct(X, target, weights, n_rounds=3)
        np.testing.assert_allclose(
            together.query(X)[:, output], alone.query(X)[:, 0], rtol=1e-12, atol=1e-12 * np.abs(target).max()
        )


@pytest.mark.parametrize("kernel", ["laplacian", "jaccard"])
def test_sparse_rows_equal_dense_rows(kernel):
    X, y, weights = make_data(60)
    bandwidth = {} if kernel == "jaccard" else {"bandwidth": 1.0}
    dense, model = (
        make(kernel=kernel, bias_correction="auto", **bandwidth).fit(rows, y, weights)
        for rows in (X, sparse.csr_array(X))
    )
    assert learnt(model) == learnt(dense)
    np.testing.assert_array_equal(model.predict(sparse.csc_array(X)), dense.predict(X))


def test_float32_equals_its_copy_in_float64():
    X, y, weights = make_data()
    single = X.astype(np.float32)
    double = single.astype(np.float64)
    sketches = [make_sketch().correct(rows, y, weights, n_rounds=3) for rows in (single, double)]
    assert state(sketches[0]) == state(sketches[1])


def test_size_and_counts_are_those_of_a_plain_sketch():
    X, y, weights = make_data()
    plain, sketch = make_sketch().update(X, y, weights), make_sketch().correct(X, y, weights, n_rounds=3)
    assert sketch.tables.shape == plain.tables.shape
    assert sketch.tables.dtype == plain.tables.dtype
    assert sketch.nbytes == plain.nbytes
    np.testing.assert_array_equal(sketch.tables[..., -1], plain.tables[..., -1])
    assert (sketch.n_samples_seen, sketch.total_weight) == (plain.n_samples_seen, plain.total_weight)
    np.testing.assert_array_equal(sketch.kernel_sum(X), plain.kernel_sum(X))
    np.testing.assert_allclose(sketch._state.totals, plain._state.totals, rtol=1e-12)
    assert (sketch.tables[..., 0] != plain.tables[..., 0]).any()


# -- hard data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rounds", [1, 17, "auto"])
@pytest.mark.parametrize("n_buckets", [8, 64, 512])
def test_clusters_with_outliers_do_not_blow_up(n_buckets, n_rounds):
    rng = np.random.default_rng(0)
    centres = rng.uniform(-20, 20, (10, 4))
    clusters = centres[rng.integers(10, size=400)] + 0.1 * rng.normal(size=(400, 4))
    X = np.vstack([clusters, rng.uniform(-60, 60, (40, 4))])
    y = X[:, 0] + rng.normal(size=440)
    far = rng.uniform(-60, 60, (1000, 4))
    model = make(bias_correction=n_rounds, bandwidth=2.0, n_buckets=n_buckets, n_repetitions=32).fit(X, y)
    for queries in (X, far):
        assert np.abs(model.predict(queries) - y.mean()).max() < 3 * np.abs(y - y.mean()).max()


@pytest.mark.parametrize("n_rounds", [3, "auto"])
@pytest.mark.parametrize("factor", [1e-300, 1e-170, 1e160, 1e300])
def test_the_unit_of_the_targets_does_not_matter(factor, n_rounds):
    X, y, _ = make_data(100)
    ordinary = make(bias_correction=n_rounds).fit(X, y)
    model = make(bias_correction=n_rounds).fit(X, factor * y)
    assert model.n_rounds_ == ordinary.n_rounds_
    np.testing.assert_allclose(model.predict(X) / factor, ordinary.predict(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", [0.0, 0.1, -1e300])
def test_constant_targets_are_predicted_everywhere(target):
    X = np.vstack([make_data(50)[0], np.full((1, 4), 1e4)])
    model = make(bias_correction="auto").fit(X[:50], np.full(50, target))
    np.testing.assert_allclose(model.predict(X), target, rtol=1e-12)


@pytest.mark.parametrize("bandwidth", ["scale", "loo"])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 10])
def test_few_rows(n_rows, bandwidth):
    X, y, _ = make_data()
    model = make(bias_correction="auto", bandwidth=bandwidth, uncertainty=True).fit(X[:n_rows], y[:n_rows])
    predictions, deviations = model.predict(X, return_std=True)
    assert np.isfinite(predictions).all()
    assert np.isfinite(deviations).all()
    assert model.n_rounds_ >= 1
    assert np.abs(predictions - y[:n_rows].mean()).max() <= 2 * np.ptp(y[:n_rows]) + 1e-12


def test_all_weight_on_one_row():
    X, y, _ = make_data(30)
    model = make(bias_correction="auto", uncertainty=True).fit(X, y, np.eye(30)[7])
    np.testing.assert_allclose(model.predict(X), y[7])


def test_rows_that_weigh_nothing_are_refused():
    X, y, _ = make_data()
    sketch = make_sketch().update(X, y)
    before = state(sketch)
    with pytest.raises(ValueError, match="weigh nothing"):
        sketch.correct(X, y, np.zeros(40), n_rounds=1)
    with pytest.raises(ValueError, match=r"could reach .* and overflow"):
        sketch.correct(X, np.full(40, 1e305), n_rounds=1)
    with pytest.raises(ValueError, match="n_rounds=0 is out of range"):
        sketch.correct(X, y, n_rounds=0)
    assert state(sketch) == before


@pytest.mark.parametrize("inflation", [[1.0, 1.0], [-1.0], [np.nan], []])
def test_a_bad_inflation_is_refused(inflation):
    X, y, _ = make_data()
    sketch = make_sketch(n_outputs=2).update(X, np.column_stack([y, y]))
    before = state(sketch)
    with pytest.raises(ValueError, match="inflation"):
        sketch.correct(X, y, n_rounds=1, inflation=inflation)
    with pytest.raises(ValueError, match="inflation"):
        make_sketch(n_outputs=3).correct(X, y, n_rounds=1, inflation=[1.0])
    assert state(sketch) == before


# -- number of rounds -----------------------------------------------------------------------------


def test_scores_are_those_of_explicit_fits_without_the_held_out_rows(monkeypatch):
    monkeypatch.setattr(nwsketch.correction, "FEW_ROWS", 0)  # one split
    X, y, weights = make_data(80)
    order = np.random.default_rng(0).permutation(np.flatnonzero(weights))
    held_out, rest = np.split(order, [int(len(order) * nwsketch.correction.HELD_OUT)])
    rounds = make_sketch(n_repetitions=32).choose_rounds(X, y, weights)
    variance = np.average((y - np.average(y, weights=weights)) ** 2, weights=weights)
    for n_rounds, score in enumerate(rounds.scores, start=1):
        sketch = make_sketch(n_repetitions=32).correct(X[rest], y[rest], weights[rest], n_rounds=n_rounds)
        errors = (y[held_out] - sketch.query(X[held_out])[:, 0]) ** 2
        assert score == pytest.approx(1 - np.average(errors, weights=weights[held_out]) / variance, abs=1e-9)
    assert rounds.score == rounds.scores.max() == rounds.scores[rounds.n_rounds - 1]
    assert rounds.n_rounds > 1
    only = make_sketch(n_repetitions=32).choose_rounds(X, y, weights, n_rounds=2)
    assert only.n_rounds == 2
    assert only.score == pytest.approx(rounds.scores[1], abs=1e-12)


def test_with_few_rows_every_one_is_held_out_once():
    X, y, _ = make_data(50)
    order = np.random.default_rng(0).permutation(50)
    rounds = make_sketch(n_repetitions=32).choose_rounds(X, y, n_rounds=2)
    errors, learnt_errors = np.empty(50), []
    for fold in order.reshape(5, 10):
        rest = np.setdiff1d(order, fold)
        sketch = make_sketch(n_repetitions=32).correct(X[rest], y[rest], n_rounds=2)
        errors[fold] = (y[fold] - sketch.query(X[fold])[:, 0]) ** 2
        learnt_errors.append((y[rest] - sketch.query(X[rest])[:, 0]) ** 2)
    assert rounds.score == pytest.approx(1 - errors.mean() / y.var(), abs=1e-9)
    assert rounds.inflation == pytest.approx(max(errors.mean() / np.mean(learnt_errors), 1.0), rel=1e-9)


@pytest.mark.parametrize("n_rows", [14, 19, 21])  # of which a fifth does not go into whole folds
def test_every_held_out_row_counts_alike(n_rows):
    X, y, _ = make_data(n_rows)
    y = np.where(np.arange(n_rows) == np.random.default_rng(0).permutation(n_rows)[-1], 50.0, 0.1 * y)
    rounds = make_sketch(n_repetitions=32).choose_rounds(X, y, n_rounds=1)
    # A row far off all others is the whole variance, and predicted by next to 0: R2 is about 0.
    assert rounds.score == pytest.approx(0.0, abs=0.5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("n_rounds", [1, 4, 5])
def test_a_number_of_rounds_that_is_given_is_kept(n_rounds, stride):
    X, y, _ = make_data(50)
    assert make_sketch().choose_rounds(X, y, n_rounds=n_rounds, stride=stride).n_rounds == n_rounds


def test_choosing_rounds_leaves_the_sketch_as_it_is_and_is_repeatable():
    X, y, weights = make_data(100)
    sketch = make_sketch().update(X, y, weights)
    before = state(sketch)
    first, second = (sketch.choose_rounds(X, y, weights) for _ in range(2))
    assert state(sketch) == before
    assert first.n_rounds == second.n_rounds
    np.testing.assert_array_equal(first.scores, second.scores)
    assert learnt(make(bias_correction="auto").fit(X, y)) == learnt(make(bias_correction="auto").fit(X, y))


def test_noise_gets_few_rounds_and_a_clear_signal_many():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 1))
    fit = {"bandwidth": 0.5, "n_repetitions": 64, "bias_correction": "auto"}
    assert make(**fit).fit(X, rng.normal(size=300)).n_rounds_ <= 4
    assert make(**fit).fit(X, np.sin(8 * X[:, 0])).n_rounds_ >= 8


def test_subtraction_would_not_leave_a_row_out():
    X, y, _ = make_data(60)
    sketch = make_sketch(n_repetitions=32).correct(X, y, n_rounds=10)
    plain = copy.deepcopy(sketch)
    plain.correction = None  # as if the tables were sums
    naively = sketch.correction.offset + plain.loo_query(X, y - sketch.correction.offset)[:, 0]
    truth = np.empty(60)
    for i in range(60):
        others = np.arange(60) != i
        refitted = make_sketch(n_repetitions=32).correct(X[others], y[others], n_rounds=10)
        truth[i] = refitted.query(X[i : i + 1])[0, 0]
    assert r2_score(y, truth) > 0.5
    assert np.abs(naively - truth).max() > y.std()


# -- what a corrected sketch refuses --------------------------------------------------------------

OPERATIONS = {
    "update": lambda sketch, X, y: sketch.update(X, y),
    "update of nothing": lambda sketch, X, y: sketch.update(X[:0], y[:0]),
    "forget": lambda sketch, X, y: sketch.forget(X, y),
    "merge": lambda sketch, X, y: sketch.merge(make_sketch().update(X, y)),
    "merge of two corrected": lambda sketch, X, y: sketch.merge(sketch),
    "merge into another": lambda sketch, X, y: make_sketch().update(X, y).merge(sketch),
    "decay": lambda sketch, X, y: sketch.decay(0.5),
    "loo_query": lambda sketch, X, y: sketch.loo_query(X, y),
    "median of means": lambda sketch, X, y: sketch.answer_by("median_of_means", 4),
    "channel_sums": lambda sketch, X, y: sketch.channel_sums(X),
    "standard_error": lambda sketch, X, y: sketch.standard_error(X),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_corrected_sketch_is_no_sum(operation):
    X, y, _ = make_data()
    sketch = make_sketch().correct(X, y, n_rounds=2)
    before, answers = state(sketch), sketch.query(X)
    with pytest.raises(ValueError, match=REMEDY):
        OPERATIONS[operation](sketch, X, y)
    assert state(sketch) == before
    np.testing.assert_array_equal(sketch.query(X), answers)


def test_a_merge_with_a_corrected_sketch_leaves_the_plain_one_as_it_was():
    X, y, _ = make_data()
    plain = make_sketch().update(X, y)
    before = state(plain)
    with pytest.raises(ValueError, match=REMEDY):
        plain.merge(make_sketch().correct(X, y, n_rounds=2))
    assert state(plain) == before


CALLS = {
    "partial_fit without the parameter": lambda model, X, y: model.set_params(
        bias_correction=None
    ).partial_fit(X, y),
    "forget": lambda model, X, y: model.forget(X, y),
    "merge": lambda model, X, y: model.merge(make(bias_correction=None, bandwidth=1.0).fit(X, y)),
    "merge into another": lambda model, X, y: (
        make(bias_correction=None, bandwidth=1.0).fit(X, y).merge(model)
    ),
    "loo_predict": lambda model, X, y: model.loo_predict(X, y),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_corrected_regressor_is_no_sum(call):
    X, y, _ = make_data()
    model = make(bandwidth=1.0).fit(X, y)
    before, predictions = (learnt(model), state(model.sketch_)), model.predict(X)
    with pytest.raises(ValueError, match=REMEDY):
        CALLS[call](model, X, y)
    assert (learnt(model), state(model.sketch_)) == before
    np.testing.assert_array_equal(model.predict(X), predictions)


def test_there_is_no_partial_fit_with_a_correction():
    X, y, _ = make_data()
    model = make(bandwidth=1.0)
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError) as refusal:
        model.partial_fit(X, y)
    assert "call fit, or set bias_correction=None" in str(refusal.value.__cause__)
    assert hasattr(model.set_params(bias_correction=None), "partial_fit")


def test_median_of_means_and_correction_exclude_each_other():
    X, y, _ = make_data()
    sketch = make_sketch(aggregation="median_of_means").update(X, y)
    before = state(sketch)
    with pytest.raises(ValueError, match=r"aggregation='mean'.*answer_by\('mean'\)"):
        sketch.correct(X, y, n_rounds=1)
    assert state(sketch) == before
    model = make(bias_correction=None).fit(X, y)
    before = learnt(model)
    with pytest.raises(ValueError, match="bias_correction=2 needs aggregation='mean'"):
        model.set_params(bias_correction=2, aggregation="median_of_means").fit(X, y)
    assert learnt(model) == before
    # ... nor does an unfitted estimator that answers so become a corrected one.
    with pytest.raises(ValueError, match="bias_correction=None and bias_correction=3"):
        make(bias_correction=None, aggregation="median_of_means").merge(make().fit(X, y))


@pytest.mark.parametrize("n_rounds", [0, -1, 2.5, "many"])
def test_a_bad_number_of_rounds_is_refused(n_rounds):
    with pytest.raises(ValueError, match="bias_correction"):
        make(bias_correction=n_rounds).fit(*make_rows())


# -- copies and failures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [
        pytest.param(lambda model, folder: pickle.loads(pickle.dumps(model)), id="pickle"),
        pytest.param(lambda model, folder: copy.deepcopy(model), id="deepcopy"),
        pytest.param(lambda model, folder: joblib.load(joblib.dump(model, folder / "model")[0]), id="joblib"),
        pytest.param(
            lambda model, folder: joblib.load(joblib.dump(model, folder / "model")[0], mmap_mode="r"),
            id="mmap",
        ),
        pytest.param(lambda model, folder: clone(model).fit(*make_rows(60)), id="clone"),
    ],
)
def test_a_copy_predicts_the_same(duplicate, tmp_path):
    X, y = make_rows(60)
    model = make(bias_correction="auto", uncertainty=True).fit(X, y)
    twin = duplicate(model, tmp_path)
    assert state(twin.sketch_) == state(model.sketch_)
    assert twin.n_rounds_ == model.n_rounds_
    np.testing.assert_array_equal(twin.predict(X, return_std=True), model.predict(X, return_std=True))
    with pytest.raises(ValueError, match=REMEDY):
        twin.forget(X, y)


def test_a_refit_without_correction_adds_up_again():
    X, y = make_rows()
    model = make(bandwidth=1.0).fit(X[:50], y[:50]).set_params(bias_correction=None).fit(X[:70], y[:70])
    assert model.n_rounds_ is None
    assert model.sketch_.correction is None
    expected = make(bandwidth=1.0, bias_correction=None).fit(X, y)
    assert learnt(model.partial_fit(X[70:], y[70:])) == learnt(expected)


def test_correcting_replaces_what_was_learnt_before():
    X, y, weights = make_data()
    again = make_sketch().update(10 * X, y).correct(X, -y, n_rounds=5).correct(X, y, weights, n_rounds=2)
    assert state(again) == state(make_sketch().correct(X, y, weights, n_rounds=2))


@pytest.mark.parametrize("bandwidth", [1.0, "loo"])
@pytest.mark.parametrize("calls", [1, 3])
def test_an_interrupted_fit_leaves_the_old_model(calls, bandwidth, monkeypatch):
    X, y = make_rows()
    model = make(bias_correction="auto", bandwidth=bandwidth, n_jobs=1).fit(X, y)
    before = learnt(model), state(model.sketch_)
    backend = type(model.sketch_._backend)
    backfit, seen = backend.backfit, []

    def interrupted(*arguments):
        seen.append(1)
        if len(seen) == calls:
            raise KeyboardInterrupt("boom")
        backfit(*arguments)

    monkeypatch.setattr(backend, "backfit", interrupted)
    with pytest.raises(KeyboardInterrupt, match="boom"):
        model.fit(2 * X, y**2)
    assert (learnt(model), state(model.sketch_)) == before
    plain = make_sketch().update(X, y)
    before, seen[:] = state(plain), []
    with pytest.raises(KeyboardInterrupt, match="boom"):
        plain.correct(X, y, n_rounds=3)
    assert state(plain) == before


def test_rounds_without_end_divide_by_nothing():
    X, y = make_rows()
    model = NadarayaWatsonSketchRegressor(bias_correction=1100, n_repetitions=4, n_buckets=64, random_state=0)
    assert np.isfinite(model.fit(X, y).predict(100 * X)).all()


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_is_no_number_of_rounds(flag):
    X, y = make_rows()
    with pytest.raises(ValueError, match="bias_correction"):
        NadarayaWatsonSketchRegressor(bias_correction=flag).fit(X, y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_rounds": 0}, "n_rounds"),
        ({"stride": 0}, "stride"),
        ({"deviations": [1.0, 2.0]}, "deviations"),
        ({"sample_weight": np.zeros(40)}, "weigh nothing"),
    ],
)
def test_the_choice_of_rounds_checks_what_it_is_given(arguments, message):
    rng = np.random.default_rng(0)
    sketch = NadarayaWatsonSketch(2, n_repetitions=4, n_buckets=16, random_state=0)
    with pytest.raises(ValueError, match=message):
        sketch.choose_rounds(rng.random((40, 2)), rng.random(40), **arguments)


def test_the_choice_of_rounds_numbers_them_alike_with_any_stride():
    rng = np.random.default_rng(0)
    X = rng.random((300, 2))
    sketch = NadarayaWatsonSketch(2, bandwidth=0.3, n_repetitions=64, n_buckets=64, random_state=0)
    y = np.sin(9 * X[:, 0])
    for stride in (2, 3, 5):
        rounds = sketch.choose_rounds(X, y, stride=stride)
        assert rounds.n_rounds % stride == nwsketch.correction.MOST_ROUNDS % stride
        fixed = sketch.choose_rounds(X, y, stride=stride, n_rounds=rounds.n_rounds)
        assert fixed.score == pytest.approx(rounds.score, abs=1e-12)


@pytest.mark.parametrize(("mine", "theirs"), [(None, 3), ("auto", None)])
def test_an_unfitted_estimator_refuses_what_contradicts_its_correction(mine, theirs):
    X, y = make_rows()
    parameters = {"bandwidth": 0.5, "n_repetitions": 16, "n_buckets": 64, "random_state": 0}
    fitted = NadarayaWatsonSketchRegressor(bias_correction=theirs, **parameters).fit(X, y)
    with pytest.raises(ValueError, match="bias_correction"):
        NadarayaWatsonSketchRegressor(bias_correction=mine, **parameters).merge(fitted)
