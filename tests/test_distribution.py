"""What parts of the rows contribute, and how it adds up; without any engine."""

import warnings
from functools import reduce

import numpy as np
import pandas as pd
import pytest
from helpers import KERNELS, SMALL, learnt, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor
from nwsketch.bandwidth import Moments, feature_moments
from nwsketch.distribution import (
    finished,
    for_workers,
    learnt_of,
    merged,
    moments_of,
    needs_moments,
    packed,
    predicted,
    prepared,
    unpacked,
    with_scale,
)


def make(**parameters):
    return NadarayaWatsonSketchRegressor(**(SMALL | parameters))


def make_integers(n_rows=150, n_outputs=None, seed=0):
    """Return rows whose targets and weights are integers: their sums are exact in any order."""
    rng = np.random.default_rng(seed)
    X, _ = make_rows(n_rows, seed=seed)
    shape = n_rows if n_outputs is None else (n_rows, n_outputs)
    return X, rng.integers(-5, 6, shape).astype(float), rng.integers(0, 4, n_rows).astype(float)


def cut(rows, edges):
    """Return the parts of X, y and the weights between edges, some of them empty."""
    return [
        tuple(None if each is None else each[start:end] for each in rows)
        for start, end in zip([0, *edges], [*edges, rows[0].shape[0]], strict=True)
    ]


def fit_by_parts(estimator, parts, n_outputs=1):
    """Do what an engine does, with parts that are lists of batches."""
    model = prepared(estimator, parts[0][0][0].shape[1], n_outputs)
    if needs_moments(model):
        model = with_scale(model, merged(moments_of(model, part) for part in parts))
    found = [learnt_of(model, part) for part in parts]
    while len(found) > 1:  # a tree
        found = [merged(found[i : i + 2]) for i in range(0, len(found), 2)]
    return finished(estimator, found[0])


edges = st.lists(st.integers(0, 150), max_size=8).map(sorted)


@given(edges, st.sampled_from(KERNELS), st.booleans(), st.sampled_from([None, 1, 2]), st.integers(1, 3))
@settings(max_examples=40)
def test_any_parts_are_learnt_as_all_rows_at_once(where, kernel, weighted, n_outputs, n_batches):
    X, y, weights = make_integers(n_outputs=n_outputs)
    rows = X, y, weights if weighted else None
    batches = cut(rows, where)
    parts = [batches[i : i + n_batches] for i in range(0, len(batches), n_batches)]
    found = fit_by_parts(make(kernel=kernel), parts, n_outputs or 1)
    assert learnt(found) == learnt(make(kernel=kernel).fit(*rows))


def test_sums_of_real_numbers_agree_but_for_rounding():
    X, y = make_rows(5000)
    weights = np.random.default_rng(1).random(5000)
    found = fit_by_parts(
        make(uncertainty=True), [[part] for part in cut((X, y, weights), range(9, 5000, 800))]
    )
    expected = make(uncertainty=True).fit(X, y, weights)
    assert_array_equal(found.bandwidth_, expected.bandwidth_)
    assert_allclose(found.sketch_.tables, expected.sketch_.tables, rtol=1e-12, atol=1e-12 * 5000)
    assert found.n_samples_seen_ == 5000
    answers = found.predict(X[:50], return_std=True), expected.predict(X[:50], return_std=True)
    assert_allclose(*answers, rtol=1e-9)


@pytest.mark.parametrize("make_part", [csr_array, lambda X: pd.DataFrame(X, columns=list("abcd"))])
def test_sparse_rows_and_frames(make_part):
    X, y, _ = make_integers()
    parts = [[(make_part(X[:70]), y[:70], None)], [(make_part(X[70:]), y[70:], None)]]
    assert learnt(fit_by_parts(make(), parts)) == learnt(make().fit(make_part(X), y))


def test_float32_stays_float32():
    X, y, _ = make_integers()
    X = (X * 1.1).astype(np.float32)
    assert learnt(fit_by_parts(make(), [[part] for part in cut((X, y, None), [40, 90])])) == learnt(
        make().fit(X, y)
    )


def test_parts_and_batches_that_weigh_nothing_count_their_rows():
    X, y, weights = make_integers()
    weights[:100] = 0
    batches = cut((X, y, weights), [30, 60, 90])
    expected = learnt(make().fit(X, y, weights))
    assert learnt(fit_by_parts(make(), [[batch] for batch in batches])) == expected
    assert learnt(fit_by_parts(make(), [batches])) == expected


# -- moments --------------------------------------------------------------------------------------


@given(edges, st.integers(0, 5), st.sampled_from([1.0, 1e300, 1e-250]))
def test_moments_of_parts_tell_the_same_bandwidths_bit_by_bit(where, seed, unit):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(150, 4)) * [1.0, 1e-3, 1e5, 0.0] + [3.0, -2.0, 0.0, 0.1]
    X *= unit
    weights = rng.random(150)
    parts = [part for part in cut((X, None, weights), where) if len(part[0])]
    whole = feature_moments(X, weights)
    total = reduce(Moments.merge, [feature_moments(X, weights) for X, _, weights in parts])
    assert_array_equal(total.deviations(), whole.deviations())
    assert_array_equal(total.largest, whole.largest)
    assert_allclose(total.means, whole.means, rtol=1e-13, atol=1e-15)
    assert total.deviations()[3] == 0
    assert_allclose(total.weight, weights.sum())


def test_moments_are_those_that_numpy_computes():
    X = np.random.default_rng(0).normal(size=(300, 3)) * [1, 10, 100] + 5
    total = feature_moments(X[:100]).merge(feature_moments(X[100:]))
    assert_allclose(total.means * total.largest, X.mean(axis=0))
    assert_allclose(total.deviations(), X.std(axis=0), rtol=1e-8)


def test_a_part_that_weighs_nothing_changes_no_moment():
    X = np.random.default_rng(0).normal(size=(30, 2))
    some, nothing = feature_moments(X), feature_moments(100 * X, np.zeros(30))
    for total in (some.merge(nothing), nothing.merge(some)):
        assert total.weight == 30
        assert_array_equal(total.largest, some.largest)
        assert_array_equal(total.deviations(), some.deviations())
    assert nothing.merge(nothing).weight == 0


# -- the estimator before and after ---------------------------------------------------------------


def test_parameters_and_contributions_stay_as_they_are():
    X, y, weights = make_integers()
    estimator = make(n_jobs=2, verbose=1)
    before = estimator.get_params()
    model = prepared(estimator, 4, 1)
    model = with_scale(model, moments_of(model, [(X, y, weights)]))
    one, other = (
        learnt_of(model, [(X[half], y[half], weights[half])]) for half in (slice(70), slice(70, 150))
    )
    kept = learnt(one), learnt(other)
    finished(estimator, merged([one, None, other]))
    assert (learnt(one), learnt(other)) == kept
    assert estimator.get_params() == before
    assert estimator.sketch_.n_jobs == 2


def test_threads_left_open_are_one_on_workers_and_open_again_at_home():
    X, y, _ = make_integers()
    model = prepared(make(bandwidth=1.0), 4, 1)
    assert (model.n_jobs, prepared(make(n_jobs=3), 4, 1).n_jobs) == (1, 3)
    home = finished(make(bandwidth=1.0), learnt_of(model, [(X, y, None)]))
    assert home.sketch_.n_jobs is None
    away = for_workers(home)
    assert (away.sketch_.n_jobs, home.sketch_.n_jobs) == (1, None)
    assert_array_equal(away.predict(X), home.predict(X))


def test_a_seed_left_open_is_drawn_once():
    X, y, _ = make_integers()
    parts = [[part] for part in cut((X, y, None), [50, 100])]
    one, other = (fit_by_parts(make(random_state=None), parts) for _ in range(2))
    assert one.random_state is None
    assert one.sketch_.random_state != other.sketch_.random_state
    generator = make(random_state=np.random.RandomState(3))
    expected = make(random_state=np.random.RandomState(3))
    for _ in range(2):  # it moves on as by fit
        assert learnt(fit_by_parts(generator, parts)) == learnt(expected.fit(X, y))


def test_what_was_learnt_before_is_replaced():
    X, y, _ = make_integers()
    names = pd.DataFrame(X, columns=list("abcd"))
    estimator = make(bandwidth="loo").fit(names, np.c_[y, y]).set_params(bandwidth="scale")
    assert learnt(fit_by_parts(estimator, [[(X, y, None)]])) == learnt(make().fit(X, y))
    assert not hasattr(estimator, "loo_score_")
    assert not hasattr(estimator, "feature_names_in_")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"half_life": 9.0}, "set half_life=None, and give sample_weight by age"),
        ({"random_state": -1}, "random_state"),
        ({"bandwidth": "loo"}, "fit on a sample on one machine first, and set bandwidth=sample.bandwidth_"),
        ({"bandwidth": "loo_per_feature"}, "bandwidth='loo_per_feature' is chosen by rows left out"),
        ({"trend": "linear"}, "trend='linear' is fitted to all rows at once: set trend=None"),
        ({"bias_correction": 3}, "bias_correction=3 adjusts all rows together"),
        ({"bias_correction": "auto"}, "set bias_correction=None"),
        ({"n_repetitions": 0}, "'n_repetitions' parameter"),
        ({"bandwidth": [1.0, 2.0]}, r"bandwidth has shape \(2,\), but there are 4 features"),
        ({"kernel": "angular", "bandwidth": 2.0}, "kernel='angular' has no bandwidth"),
        ({"n_repetitions": 10**7, "n_buckets": 2**20}, "over the limit"),
    ],
)
def test_what_cannot_be_distributed_says_so_before_rows_are_read(parameters, message):
    with pytest.raises(ValueError, match=message):
        prepared(make(**parameters), 4, 1)


@pytest.mark.parametrize(
    "estimator",
    [NadarayaWatsonRegressor(), make_pipeline(StandardScaler(), make())],
    ids=["exact", "pipeline"],
)
def test_estimators_that_do_not_add_up_are_refused(estimator):
    with pytest.raises(TypeError, match="does not learn from parts of the rows"):
        prepared(estimator, 4, 1)


@pytest.mark.parametrize("bandwidth", ["scale", 1.0])
@pytest.mark.parametrize(
    ("n_rows", "message"), [(0, "There are no rows"), (150, "sample_weight sums to zero")]
)
def test_no_rows_and_no_weight_leave_what_was_learnt(bandwidth, n_rows, message):
    X, y, _ = make_integers()
    estimator = make(bandwidth=bandwidth).fit(X, y)
    before = learnt(estimator)
    batch = X[:n_rows], y[:n_rows], np.zeros(n_rows)
    with pytest.raises(ValueError, match=message):
        fit_by_parts(estimator, [[batch], [batch]])
    assert learnt(estimator) == before


@pytest.mark.parametrize("bandwidth", ["scale", 1.0])
def test_rows_that_fit_refuses_are_refused_in_a_part_too(bandwidth):
    X, y, weights = make_integers()
    for name, spoil in {"X": (0, np.nan), "y": (1, np.inf), "weights": (2, -1.0)}.items():
        rows = [X.copy(), y.copy(), weights.copy()]
        rows[spoil[0]][100] = spoil[1]
        message = "negative" if name == "weights" else "NaN|infinity"
        with pytest.raises(ValueError, match=message):
            fit_by_parts(make(bandwidth=bandwidth), [[part] for part in cut(rows, [50])])


def test_a_part_without_rows_but_with_targets_is_no_empty_part():
    X, y, _ = make_integers()
    with pytest.raises(ValueError, match="Found array with 0 sample"):
        learnt_of(prepared(make(bandwidth=1.0), 4, 1), [(X[:0], y, None)])


@pytest.mark.parametrize("n_outputs", [None, 1, 2])
def test_parts_are_predicted_as_all_rows_at_once_empty_ones_too(n_outputs):
    X, y, _ = make_integers(n_outputs=n_outputs)
    model = make().fit(X, y)
    answers = [predicted(model, part) for part in (X[:0], X[:60], X[60:])]
    assert_array_equal(np.concatenate(answers), model.predict(X))


def test_contributions_travel_as_bytes():
    X, y, _ = make_integers()
    model = make().fit(X, y)
    assert learnt(unpacked(packed(model))) == learnt(model)
    assert unpacked(packed(None)) is None


def test_a_named_estimator_predicts_without_a_warning():
    X, y, _ = make_integers()
    frame = pd.DataFrame(X, columns=list("abcd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_by_parts(clone(make()), [[(frame, y, None)]]).predict(frame)


def test_a_bandwidth_from_the_rows_is_known_to_be_so():
    X, y = np.random.default_rng(0).random((40, 2)), np.zeros(40)
    found = fit_by_parts(make(), [[(X[:20], y[:20], None)], [(X[20:], y[20:], None)]])
    with pytest.raises(ValueError, match="bandwidth"):
        found.privatize(1.0, 1.0)
