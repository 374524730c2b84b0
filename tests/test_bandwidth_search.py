"""``bandwidth="loo"`` and ``"loo_per_feature"``: the score against explicit refits, and what must hold."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import SMALL, WITH_BANDWIDTH, WITHOUT_BANDWIDTH, learnt, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import r2_score

import nwsketch.bandwidth_search
from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.bandwidth import scale_bandwidth
from nwsketch.bandwidth_search import best_of
from nwsketch.hashing import get_family

SEARCHES = ["loo", "loo_per_feature"]


def make(bandwidth="loo", **parameters):
    return NadarayaWatsonSketchRegressor(bandwidth=bandwidth, **(SMALL | {"n_repetitions": 32} | parameters))


def make_relevant(n_rows, n_features=6, noise=0.1, seed=0):
    """Return rows of which two features tell about the target."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, n_features))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] + noise * rng.normal(size=n_rows)


def weighted(n_rows, seed=0):
    return np.random.default_rng(seed).integers(0, 3, n_rows).astype(float)


# -- leaving out by subtraction -------------------------------------------------------------------


@pytest.mark.parametrize("uncertainty", [False, True])
@pytest.mark.parametrize("trend", [None, "linear"])
@pytest.mark.parametrize("aggregation", ["mean", "median_of_means"])
def test_leaving_one_out_equals_learning_the_others(aggregation, trend, uncertainty):
    X, y = make_rows(40)
    X[:3] = 50 * np.eye(4)[:3]  # some rows without neighbours: their answer is the mean of the others
    weights = weighted(40) + 0.5
    model = make(0.7, aggregation=aggregation, trend=trend, uncertainty=uncertainty, n_buckets=16)
    model.fit(X, y, weights)
    left_out = model.loo_predict(X, y, weights)
    for i in range(40):
        others = np.arange(40) != i
        refitted = make(0.7, aggregation=aggregation, n_buckets=16)
        trends = np.zeros(40) if trend is None else model.trend_.predict(X)[:, 0]
        refitted.fit(X[others], (y - trends)[others], weights[others])
        assert left_out[i] == pytest.approx(refitted.predict(X[i : i + 1])[0] + trends[i], abs=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), search=st.sampled_from(SEARCHES))
def test_the_score_is_that_of_explicit_refits(seed, search):
    X, y = make_rows(40, seed=seed)
    Y, weights = np.column_stack([y, 1e3 * X[:, 1] + y]), weighted(40, seed) + 0.5
    model = make(search, random_state=seed).fit(X, Y, weights)
    predictions = np.empty_like(Y)
    for i in range(40):
        others = np.arange(40) != i
        refitted = make(model.bandwidth_, random_state=seed).fit(X[others], Y[others], weights[others])
        predictions[i] = refitted.predict(X[i : i + 1])[0]
    expected = r2_score(Y, predictions, sample_weight=weights)  # outputs of any scale count alike
    assert model.loo_score_ == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(model.loo_predict(X, Y, weights), predictions, atol=1e-7)


@pytest.mark.parametrize("parameters", [{}, {"trend": "linear"}, {"bias_correction": "auto"}], ids=str)
@pytest.mark.parametrize("search", SEARCHES)
def test_the_best_of_what_was_tried_is_taken(search, parameters):
    X, y = make_relevant(150)
    model = make(search, **parameters).fit(X, y)
    path = model.bandwidth_path_
    assert path.bandwidths.shape == (len(path.scores), 6)
    np.testing.assert_array_equal(model.bandwidth_, path.bandwidths[path.scores.argmax()])
    if parameters == {"bias_correction": "auto"}:  # the search skips every other round
        rounds = model.sketch_.choose_rounds(X, y)
        assert (model.n_rounds_, model.loo_score_) == (
            rounds.n_rounds,
            pytest.approx(rounds.score, abs=1e-12),
        )
        assert model.loo_score_ == pytest.approx(path.scores.max(), abs=0.02)
    else:
        assert model.loo_score_ == pytest.approx(path.scores.max(), abs=1e-12)
    assert len(np.unique(path.scores)) > 3
    assert (path.descent is None) == (search == "loo")
    if search == "loo":
        factors = path.bandwidths / scale_bandwidth(X)
        np.testing.assert_allclose(factors, factors[:, :1] * np.ones(6), rtol=1e-12)
        assert (np.diff(factors[:, 0]) > 0).all()


def test_a_part_of_the_rows_is_enough(monkeypatch):
    X, y = make_relevant(400)
    whole = make().fit(X, y)
    monkeypatch.setattr(nwsketch.bandwidth_search, "LEAST_ROWS", 100)
    monkeypatch.setattr(nwsketch.bandwidth_search, "MOST_LEFT_OUT", 150)
    model = make().fit(X, y)
    assert model.sketch_.n_samples_seen == 400
    np.testing.assert_allclose(model.bandwidth_, whole.bandwidth_, rtol=2)
    assert model.loo_score_ == pytest.approx(whole.loo_score_, abs=0.15)
    assert model.loo_score_ != whole.loo_score_


def test_of_equal_scores_the_widest_is_taken_and_of_none_too():
    assert best_of({0.0: 0.5, 1.0: 0.5, 2.0: 0.1}) == 1.0
    assert best_of({0.0: 0.5, 1.0: np.nan}) == 0.0


# -- what it is good for --------------------------------------------------------------------------


def test_irrelevant_features_get_wide_bandwidths_and_predictions_improve():
    X, y = make_relevant(1000)
    queries, truth = make_relevant(500, noise=0.0, seed=1)
    one, each = (make(search, n_repetitions=64, n_buckets=512).fit(X, y) for search in SEARCHES)
    assert each.bandwidth_[2:].min() > 4 * each.bandwidth_[:2].max()
    assert each.loo_score_ > one.loo_score_ + 0.1
    assert r2_score(truth, each.predict(queries)) > r2_score(truth, one.predict(queries)) + 0.1


def test_narrow_functions_get_narrow_bandwidths_and_wide_ones_wide():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (400, 1))
    wide, narrow = (make().fit(X, np.sin(factor * X[:, 0])) for factor in (0.5, 20))
    assert narrow.bandwidth_ < wide.bandwidth_ / 2
    assert narrow.loo_score_ > 0.5


def test_learning_proportions_is_never_much_worse_on_few_noisy_rows():
    losses = []
    for seed in range(6):
        X, y = make_relevant(70, n_features=8, noise=2.0, seed=seed)
        queries, truth = make_relevant(400, n_features=8, noise=0.0, seed=100 + seed)
        errors = [np.mean((make(search).fit(X, y).predict(queries) - truth) ** 2) for search in SEARCHES]
        losses.append((errors[1] - errors[0]) / truth.var())
    assert np.mean(losses) < 0.03
    assert max(losses) < 0.4


# -- units, kernels and shapes --------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kernel", ["laplacian", "l2"])
def test_bandwidths_follow_the_units_of_the_features(search, kernel):
    X, y = make_relevant(150)
    units = 2.0 ** np.array([-40, -3, 0, 1, 10, 60])  # powers of two, so that all rounds alike
    model, scaled = (make(search, kernel=kernel).fit(rows, y) for rows in (X, X * units))
    np.testing.assert_allclose(scaled.bandwidth_, model.bandwidth_ * units, rtol=1e-12)
    assert scaled.loo_score_ == pytest.approx(model.loo_score_, abs=1e-12)
    np.testing.assert_allclose(scaled.predict(X * units), model.predict(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", [-1e160, 1e-200, 1e300])
@pytest.mark.parametrize("search", SEARCHES)
def test_the_unit_of_the_targets_does_not_matter(search, factor):
    X, y = make_relevant(100)
    model, scaled = make(search).fit(X, y), make(search).fit(X, factor * y)
    np.testing.assert_allclose(scaled.bandwidth_, model.bandwidth_, rtol=1e-3)
    assert scaled.loo_score_ == pytest.approx(model.loo_score_, abs=1e-3)


class Renamed(type(get_family("laplacian"))):
    """A family of one's own."""

    name = "renamed"


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kernel", [*WITH_BANDWIDTH, Renamed()], ids=str)
def test_every_kernel_with_a_bandwidth_gains(kernel, search):
    X, y = make_relevant(300)
    scale, found = (make(each, kernel=kernel, n_buckets=512).fit(X, y) for each in ("scale", search))
    left_out = scale.loo_predict(X, y)
    assert found.loo_score_ > r2_score(y, left_out)
    assert found.loo_score_ == pytest.approx(r2_score(y, found.loo_predict(X, y)), abs=1e-12)
    if isinstance(kernel, Renamed):
        assert learnt(make(search, n_buckets=512).fit(X, y))["bandwidth_"] == learnt(found)["bandwidth_"]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kernel", WITHOUT_BANDWIDTH)
def test_kernels_without_a_bandwidth_ignore_it(kernel, search):
    X, y = make_rows()
    model = make(search, kernel=kernel).fit(X, y)
    assert learnt(model) == learnt(make("scale", kernel=kernel).fit(X, y))
    assert not hasattr(model, "loo_score_")
    assert not hasattr(model, "bandwidth_path_")


@pytest.mark.parametrize("search", SEARCHES)
def test_sparse_rows_equal_dense_rows(search):
    X, y = make_rows()
    dense, model = (make(search).fit(rows, y) for rows in (X, sparse.csr_array(X)))
    np.testing.assert_allclose(model.bandwidth_, dense.bandwidth_, rtol=1e-6)
    np.testing.assert_allclose(model.bandwidth_path_.scores, dense.bandwidth_path_.scores, atol=1e-2)


@pytest.mark.parametrize("search", SEARCHES)
def test_outputs_of_any_unit_count_alike(search):
    X, y = make_relevant(150)
    Y = np.column_stack([y, X[:, 2]])
    model, scaled = make(search).fit(X, Y), make(search).fit(X, Y * [2.0**30, 2.0**-30])
    np.testing.assert_allclose(scaled.bandwidth_, model.bandwidth_, rtol=1e-6)
    assert scaled.loo_score_ == pytest.approx(model.loo_score_, abs=1e-9)


@pytest.mark.parametrize("search", SEARCHES)
def test_rows_of_weight_zero_count_for_nothing(search):
    X, y = make_relevant(150)
    weights = weighted(150)
    there = weights > 0
    expected = make(search).fit(X[there], y[there], weights[there])
    X[~there], y[~there] = 1e3, -1e9
    model = make(search).fit(X, y, weights)
    np.testing.assert_allclose(model.bandwidth_, expected.bandwidth_, rtol=1e-9)
    assert model.loo_score_ == pytest.approx(expected.loo_score_, abs=1e-9)


@pytest.mark.parametrize("aggregation", ["mean", "median_of_means"])
@pytest.mark.parametrize("empty", ["nan", -50.0])
def test_what_empty_says_does_not_disturb_the_search(empty, aggregation):
    X, y = make_relevant(100)
    X[0] = 1e3  # without a neighbour at every bandwidth that is any good
    expected = make(aggregation=aggregation).fit(X, y)
    model = make(aggregation=aggregation, empty=empty).fit(X, y)
    np.testing.assert_array_equal(model.bandwidth_, expected.bandwidth_)
    np.testing.assert_array_equal(model.bandwidth_path_.scores, expected.bandwidth_path_.scores)
    # What the score says is about this estimator; where it does not answer, the mean does.
    answers = model.loo_predict(X, y)
    assert (np.isnan(answers) if empty == "nan" else answers == -50.0).any() == (aggregation == "mean")
    answers = np.where(np.isnan(answers), expected.loo_predict(X, y), answers)
    assert model.loo_score_ == pytest.approx(r2_score(y, answers), abs=1e-12)


@pytest.mark.parametrize("search", SEARCHES)
def test_uncertainty_and_groups_go_with_the_search(search):
    X, y = make_relevant(150)
    expected = make(search).fit(X, y)
    model = make(search, uncertainty=True).fit(X, y)
    np.testing.assert_array_equal(model.bandwidth_, expected.bandwidth_)
    assert model.loo_score_ == pytest.approx(expected.loo_score_, abs=1e-12)
    groups = make(search, aggregation="median_of_means").fit(X, y)
    assert groups.loo_score_ == pytest.approx(r2_score(y, groups.loo_predict(X, y)), abs=1e-12)
    assert groups.loo_score_ == pytest.approx(groups.bandwidth_path_.scores.max(), abs=1e-12)


def test_many_features():
    X, y = make_relevant(200, n_features=300)
    one, each = (make(search).fit(X, y) for search in SEARCHES)
    assert each.bandwidth_.shape == (300,)
    assert np.isfinite(each.bandwidth_).all()
    assert each.loo_score_ > one.loo_score_ - 0.02


# -- little data, and odd -------------------------------------------------------------------------


@pytest.mark.parametrize("corrected", [None, "auto"])
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 10])
def test_few_rows(n_rows, search, corrected):
    X, y = make_relevant(n_rows)
    model = make(search, bias_correction=corrected).fit(X, y)
    assert (model.bandwidth_ > 0).all()
    assert np.isfinite(model.bandwidth_).all()
    assert np.isfinite(model.predict(X)).all()
    # Nothing can be left out of one row, nor held out of three.
    assert np.isnan(model.loo_score_) == (n_rows < (2 if corrected is None else 4))


@pytest.mark.parametrize("search", SEARCHES)
def test_constant_features(search):
    X, y = make_relevant(150, n_features=4)
    constant = np.hstack([X, np.full((150, 1), 0.1), np.zeros((150, 1))])
    model, expected = make(search).fit(constant, y), make(search).fit(X, y)
    assert np.isfinite(model.bandwidth_).all()
    assert model.loo_score_ > expected.loo_score_ - 0.1
    assert np.isfinite(make(search).fit(np.ones((60, 2)), y[:60]).predict(np.ones((1, 2)))).all()


@pytest.mark.parametrize("target", [0.0, 0.1, 3.7, 1e9])
@pytest.mark.parametrize("n_rows", [7, 100])
@pytest.mark.parametrize("corrected", [None, "auto"])
def test_constant_targets_are_always_met(n_rows, target, corrected):
    # Also such as are not constant once their mean is rounded.
    X, _ = make_relevant(n_rows)
    model = make(bias_correction=corrected).fit(X, np.full(n_rows, target))
    assert model.loo_score_ == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(model.predict(X), target, rtol=1e-12)


# -- state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrected", [None, 2, "auto"])
@pytest.mark.parametrize("search", SEARCHES)
def test_the_same_integer_gives_the_same_bits_with_any_number_of_threads(search, corrected):
    X, y = make_relevant(150)

    def fit(n_jobs, random_state=0):
        model = make(search, n_jobs=n_jobs, random_state=random_state, bias_correction=corrected).fit(X, y)
        path = model.bandwidth_path_
        found = path.bandwidths.tobytes(), path.scores.tobytes(), model.bandwidth_.tobytes(), model.loo_score_
        return found, learnt(model)["sketch_"]

    expected = fit(1)
    assert fit(2) == expected
    assert fit(3) == expected
    assert fit(1, random_state=1) != expected


def test_more_jobs_than_threads_do_not_wait_for_each_other_for_ever():
    script = (
        "import numpy as np; from nwsketch import NadarayaWatsonSketchRegressor as Regressor;"
        "X = np.random.default_rng(0).normal(size=(500, 3));"
        "Regressor(bandwidth='loo', n_jobs=8, n_repetitions=32, n_buckets=64).fit(X, X[:, 0])"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=40, env=environment)


def test_what_a_search_found_is_forgotten_by_the_next_fit():
    X, y = make_relevant(100)
    model = make().fit(X, y)
    assert hasattr(model, "loo_score_")
    model.set_params(bandwidth=1.0).fit(X, y)
    assert not hasattr(model, "loo_score_")
    assert not hasattr(model, "bandwidth_path_")
    assert learnt(model) == learnt(make(1.0).fit(X, y))


def test_a_failed_fit_keeps_what_a_search_found(monkeypatch):
    X, y = make_relevant(100)
    model = make().fit(X, y)
    before, path = learnt(model), model.bandwidth_path_

    def boom(*arguments, **options):
        raise KeyboardInterrupt("boom")

    monkeypatch.setattr(nwsketch.bandwidth_search, "loo_score", boom)
    with pytest.raises(KeyboardInterrupt, match="boom"):
        model.fit(2 * X, y)
    assert learnt(model) == before
    assert model.bandwidth_path_ is path


def test_the_first_batch_of_a_stream_decides():
    X, y = make_relevant(150)
    model = make().partial_fit(X[:100], y[:100])
    first = make().fit(X[:100], y[:100])
    assert learnt(model)["sketch_"] == learnt(first)["sketch_"]
    model.partial_fit(X[100:], y[100:])
    np.testing.assert_array_equal(model.bandwidth_, first.bandwidth_)
    assert model.loo_score_ == first.loo_score_
    assert learnt(model)["sketch_"] == learnt(make(first.bandwidth_).fit(X, y))["sketch_"]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_sketch_that_was_searched_merges_forgets_and_copies(search):
    X, y = make_relevant(100)
    model = make(search).fit(X, y)
    twin = copy.deepcopy(model)
    other = make(model.bandwidth_).fit(X[:30], y[:30])
    assert model.merge(other).n_samples_seen_ == 130
    np.testing.assert_allclose(model.forget(X[:30], y[:30]).predict(X), twin.predict(X), rtol=1e-9)


@pytest.mark.parametrize("bandwidth", ["LOO", "loo-per-feature", "silverman"])
def test_an_unknown_rule_is_refused(bandwidth):
    with pytest.raises(ValueError, match=r"'bandwidth' parameter .* must be"):
        make(bandwidth).fit(*make_relevant(20))
