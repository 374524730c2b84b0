"""A linear trend under the smoother: what it adds, and that it stays as the first rows made it."""

import copy
import pickle

import numpy as np
import pytest
from helpers import KERNELS, SMALL, WITH_BANDWIDTH, learnt, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone

import nwsketch.trend
from nwsketch import NadarayaWatsonSketchRegressor

SLOPES = np.array([2.0, -1.0, 0.5, 0.0])


def make(**parameters):
    return NadarayaWatsonSketchRegressor(**(SMALL | {"trend": "linear", "bandwidth": 1.0} | parameters))


def make_linear(n_rows, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 4)) * [1.0, 10.0, 0.1, 1.0] + [0.0, 100.0, 0.0, -3.0]
    return X, X @ SLOPES + 5.0 + noise * rng.normal(size=n_rows)


def states(model):
    """Return all that a model has learnt, the trend too, for comparison with ==."""
    return learnt(model) | {"trend_": tuple(part.tobytes() for part in model.trend_)}


# -- what it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_linear_function_is_met_also_far_outside(kernel):
    X, y = make_linear(3000)
    far = make_linear(200, seed=1)[0] * 30
    bandwidth = "scale" if kernel not in WITH_BANDWIDTH else [0.5, 5.0, 0.05, 0.5]
    model = make(kernel=kernel, bandwidth=bandwidth).fit(X, y)
    truth = far @ SLOPES + 5.0
    np.testing.assert_allclose(model.predict(far), truth, atol=2e-3 * np.abs(truth).max())
    plain = make(kernel=kernel, bandwidth=bandwidth, trend=None).fit(X, y)
    assert np.abs(plain.predict(far) - truth).max() > 0.5 * np.abs(truth).max()
    assert plain.trend_ is None


def with_one_ridge(X, y, weights=None):
    """Fit without a choice of the ridge: which one is chosen depends on the rows as they are given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nwsketch.trend, "ALPHAS", np.array([1.0]))
        return make().fit(X, y, weights)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_coefficients_are_those_of_a_ridge_regression(seed):
    X, y = make_linear(30, noise=1.0, seed=seed)
    Y = np.column_stack([y, y**2])
    weights = np.random.default_rng(seed).integers(0, 3, 30) + np.eye(30)[0]
    model = with_one_ridge(X, Y, weights)
    means = np.average(X, axis=0, weights=weights)
    deviations = np.sqrt(np.average((X - means) ** 2, axis=0, weights=weights))
    Z = (X - means) / deviations
    slopes = np.linalg.solve(Z.T @ (weights[:, None] * Z) + np.eye(4), Z.T @ (weights[:, None] * Y))
    np.testing.assert_allclose(model.trend_.coef, slopes / deviations[:, None], rtol=1e-6, atol=1e-6)
    expected = np.average(Y, axis=0, weights=weights) + Z @ slopes
    np.testing.assert_allclose(model.trend_.predict(X), expected, rtol=1e-7, atol=1e-6)


def test_the_sketch_learns_what_the_trend_leaves_over():
    X, y = make_rows()
    model = make().fit(X, y)
    rest = y - model.trend_.predict(X)[:, 0]
    plain = make(trend=None).fit(X, rest)
    np.testing.assert_allclose(model.sketch_.tables, plain.sketch_.tables, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.predict(X), plain.predict(X) + model.trend_.predict(X)[:, 0])
    np.testing.assert_allclose(
        model.loo_predict(X, y), plain.loo_predict(X, rest) + model.trend_.predict(X)[:, 0], rtol=1e-9
    )


def test_it_helps_where_there_is_a_slope_and_does_no_harm_where_there_is_none():
    X, y = make_linear(500, noise=0.1)
    queries, truth = make_linear(300, seed=1)
    errors = {
        trend: np.mean((make(trend=trend, bandwidth="scale").fit(X, y).predict(queries) - truth) ** 2)
        for trend in (None, "linear")
    }
    assert errors["linear"] < errors[None] / 20
    bowl = np.abs(X[:, 3] + 3)
    scores = [make(trend=trend, bandwidth="scale").fit(X, bowl).score(X, bowl) for trend in (None, "linear")]
    assert abs(scores[1] - scores[0]) < 0.02


# -- rows, weights, outputs -----------------------------------------------------------------------


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_a_weight_counts_repetitions_of_a_row(seed):
    X, y = make_linear(20, noise=1.0, seed=seed)
    times = np.random.default_rng(seed).integers(0, 4, 20)
    times[0] = 1
    once = with_one_ridge(X, y, times.astype(float))
    often = with_one_ridge(np.repeat(X, times, axis=0), np.repeat(y, times))
    for mine, theirs in zip(once.trend_, often.trend_, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(once.predict(X), often.predict(X), rtol=1e-7, atol=1e-9)


def test_sparse_rows_have_the_trend_of_dense_rows():
    X, y = make_rows()
    weights = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    dense, model = (make().fit(rows, y, weights) for rows in (X, sparse.csr_array(X)))
    np.testing.assert_allclose(model.trend_.coef, dense.trend_.coef, atol=1e-3)
    np.testing.assert_allclose(model.predict(sparse.csr_array(X)), dense.predict(X), atol=2e-3)
    np.testing.assert_allclose(model.predict(X), model.predict(sparse.csc_array(X)), rtol=1e-12)
    np.testing.assert_allclose(
        model.loo_predict(sparse.csr_array(X), y, weights), model.loo_predict(X, y, weights), rtol=1e-9
    )


def test_float32_has_the_trend_of_its_copy_in_float64():
    X, y = make_linear(100, noise=1.0)
    single = X.astype(np.float32)
    model, double = make().fit(single, y), make().fit(single.astype(np.float64), y)
    assert states(model) == states(double)
    np.testing.assert_array_equal(model.predict(single), double.predict(single.astype(np.float64)))
    assert model.predict(single).dtype == np.float64


def test_many_outputs_equal_single_outputs_side_by_side():
    X, y = make_linear(100, noise=1.0)
    Y = np.column_stack([y, np.sin(X[:, 0]), 1e6 * X[:, 1]])
    together = make().fit(X, Y)
    assert together.predict(X).shape == together.loo_predict(X, Y).shape == (100, 3)
    for column in range(3):
        alone = make().fit(X, Y[:, column])
        scale = np.abs(Y[:, column]).max()
        np.testing.assert_allclose(together.predict(X)[:, column], alone.predict(X), atol=1e-9 * scale)
    single = make().fit(X, y[:, None])
    np.testing.assert_array_equal(single.predict(X), make().fit(X, y).predict(X)[:, None])


def test_copies_of_a_column_share_its_slope():
    X, y = make_linear(500)
    twice = np.hstack([X, X[:, :1]])
    model = make().fit(twice, y)
    assert model.trend_.coef[[0, 4], 0] == pytest.approx([1.0, 1.0], abs=0.01)
    np.testing.assert_allclose(model.trend_.predict(twice), make().fit(X, y).trend_.predict(X), atol=0.1)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9])
def test_a_constant_column_has_no_slope(constant):
    X, y = make_linear(100, noise=1.0)
    more = np.hstack([X, np.full((100, 1), constant)])
    model = make().fit(more, y)
    assert model.trend_.coef[4, 0] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(model.trend_.predict(more), make().fit(X, y).trend_.predict(X), rtol=1e-6)


def test_one_row():
    X, y = make_linear(1)
    model = make().fit(X, y)
    assert model.predict(X) == pytest.approx(y)
    assert model.predict(100 * X) == pytest.approx(y)  # no slope
    assert model.partial_fit(*make_linear(50, seed=1)).n_samples_seen_ == 51


@pytest.mark.parametrize("target", [0.0, 3.7, 1e300])
def test_constant_targets(target):
    X, _ = make_linear(50)
    np.testing.assert_allclose(make().fit(X, np.full(50, target)).predict(3 * X), target, rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-200, 1e-30, 1e30, 1e200])
def test_the_unit_of_the_features_does_not_matter(factor):
    X, y = make_linear(100, noise=1.0)
    model = make(bandwidth="scale").fit(factor * X, y)
    expected = make(bandwidth="scale").fit(X, y)
    np.testing.assert_allclose(model.trend_.predict(factor * X), expected.trend_.predict(X), rtol=1e-9)


@pytest.mark.parametrize("factor", [1e-300, 1e300])
def test_the_unit_of_the_targets_does_not_matter(factor):
    X, y = make_linear(100, noise=1.0)
    y = y - y.mean()
    predictions = make().fit(X, factor * y).predict(X) / factor
    np.testing.assert_allclose(predictions, make().fit(X, y).predict(X), rtol=1e-7, atol=1e-9)


# -- streams and merges ---------------------------------------------------------------------------


def test_the_first_batch_decides_and_later_ones_do_not_move_the_trend():
    X, y = make_linear(200, noise=1.0)
    model = make().partial_fit(X[:50], y[:50])
    first = [part.copy() for part in model.trend_]
    model.partial_fit(X[50:], -7 * y[50:])
    for now, then in zip(model.trend_, first, strict=True):
        np.testing.assert_array_equal(now, then)
    for now, then in zip(make().fit(X[:50], y[:50]).trend_, first, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not np.array_equal(make().fit(X, y).trend_.coef, first[0])


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 150), max_size=4))
def test_any_split_of_what_follows_gives_the_same(cuts):
    X, y = make_linear(200, noise=1.0)
    whole = make().fit(X[:50], y[:50])
    model = copy.deepcopy(whole)
    whole.partial_fit(X[50:], y[50:])
    for rows in np.split(np.arange(50, 200), sorted(cuts)):
        if rows.size:
            model.partial_fit(X[rows], y[rows])
    # A product of matrices may round differently for other numbers of rows.
    np.testing.assert_allclose(model.sketch_.tables, whole.sketch_.tables, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(model.sketch_.tables[..., -1], whole.sketch_.tables[..., -1])
    np.testing.assert_allclose(model.predict(X), whole.predict(X), rtol=1e-9)


def test_forgetting_undoes_learning():
    X, y = make_linear(100, noise=1.0)
    model = make().fit(X[:60], y[:60])
    expected = model.predict(X)
    model.partial_fit(X[60:], y[60:]).forget(X[60:], y[60:])
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-9)
    model.forget(X[:30], y[:30]).forget(X[30:60], y[30:60])
    assert model.n_samples_seen_ == 0
    assert not model.sketch_.tables.any()


def test_merging_different_trends_is_refused():
    X, y = make_linear(100, noise=1.0)
    model, other, none = make().fit(X[:50], y[:50]), make().fit(X[50:], y[50:]), make(trend=None).fit(X, y)
    before = states(model), states(other), learnt(none)
    for mine, theirs in ((model, other), (model, none), (none, model)):
        with pytest.raises(ValueError, match=r"trend of its own.*copy\.deepcopy.*forget.*or use trend=None"):
            mine.merge(theirs)
    assert (states(model), states(other), learnt(none)) == before


def test_the_remedy_of_the_message_works():
    X, y = make_linear(150, noise=1.0)
    first = make().fit(X[:50], y[:50])
    second = copy.deepcopy(first).forget(X[:50], y[:50]).partial_fit(X[50:100], y[50:100])
    third = pickle.loads(pickle.dumps(first)).forget(X[:50], y[:50]).partial_fit(X[100:], y[100:])
    whole = copy.deepcopy(first).partial_fit(X[50:], y[50:])
    merged = first.merge(second).merge(third)
    assert merged.n_samples_seen_ == 150
    np.testing.assert_allclose(merged.sketch_.tables, whole.sketch_.tables, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged.predict(X), whole.predict(X), rtol=1e-9)


def test_an_unfitted_estimator_becomes_as_the_other_trend_and_all():
    X, y = make_linear(100, noise=1.0)
    other = make().fit(X, y)
    assert states(make().merge(other)) == states(other)
    for mine, theirs in (("linear", None), (None, "linear")):
        model, other = make(trend=mine), make(trend=theirs).fit(X, y)
        with pytest.raises(ValueError, match="trend="):
            model.merge(other)
        assert learnt(model) == {}


# -- state ----------------------------------------------------------------------------------------


def test_a_refit_and_a_clone_find_their_own():
    X, y = make_linear(100, noise=1.0)
    model = make().fit(X, y)
    assert states(clone(model).fit(X, y)) == states(model)
    model.set_params(trend=None)
    before = model.predict(X)
    model.partial_fit(X[:1], y[:1])  # parameters count from the next fit on: the trend is still there
    np.testing.assert_allclose(model.predict(X), before, atol=5)
    assert learnt(model.fit(X, y)) == learnt(make(trend=None).fit(X, y))
    assert model.trend_ is None


def test_a_failed_fit_keeps_the_old_trend():
    X, y = make_linear(100, noise=1.0)
    model = make().fit(X, y)
    before = states(model)
    with pytest.raises(ValueError, match="bandwidth has shape"):
        model.set_params(bandwidth=[1.0]).fit(2 * X, -y)
    assert states(model.set_params(bandwidth=1.0)) == before
    with pytest.raises(ValueError, match=r"'trend' parameter .* must be"):
        make(trend="quadratic").fit(X, y)


def test_it_goes_with_correction_and_with_a_search():
    X, y = make_linear(400, noise=0.1)
    y = y + np.sin(3 * X[:, 0])
    queries, truth = make_linear(300, seed=1)
    truth = truth + np.sin(3 * queries[:, 0])
    for parameters in ({"bias_correction": "auto"}, {"bandwidth": "loo"}, {"bandwidth": "loo_per_feature"}):
        model = make(**({"bandwidth": "scale", "n_repetitions": 64} | parameters)).fit(X, y)
        assert 1 - np.mean((model.predict(queries) - truth) ** 2) / truth.var() > 0.99


def test_a_number_for_empty_queries_has_no_trend_added():
    X = np.linspace(0, 1, 50)[:, np.newaxis]
    model = NadarayaWatsonSketchRegressor(
        trend="linear", empty=-7.0, bandwidth=0.01, n_repetitions=16, uncertainty=True, random_state=0
    )
    predictions, deviations = model.fit(X, 3 * X[:, 0]).predict([[100.0], [0.5]], return_std=True)
    np.testing.assert_allclose(predictions, [-7.0, 1.5], atol=0.1)
    assert np.isfinite(deviations).all()


def test_parameters_set_on_a_fitted_model_count_from_the_next_fit():
    X = np.linspace(0, 1, 50)[:, np.newaxis]
    model = NadarayaWatsonSketchRegressor(
        trend="linear", empty=5.0, bandwidth=0.01, n_repetitions=16, uncertainty=True, random_state=0
    ).fit(X, 3 * X[:, 0])
    far = np.array([[100.0]])
    before = model.predict(far, return_std=True)
    np.testing.assert_array_equal(model.set_params(empty="mean").predict(far, return_std=True), before)
    assert before[0] == 5.0


@pytest.mark.parametrize("empty", ["mean", "nan", 0.0])
def test_rows_without_neighbours_have_a_score(empty):
    X, y = make_rows()
    X = np.vstack([X, [[1e3, 0, 0, 0], [0, 1e3, 0, 0]]])
    y = np.append(y, [0.0, 0.0])
    model = NadarayaWatsonSketchRegressor(
        bandwidth="loo", trend="linear", empty=empty, n_repetitions=32, n_buckets=64, random_state=0
    )
    assert np.isfinite(model.fit(X, y).loo_score_)
