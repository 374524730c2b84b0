"""The estimators in the hands of the rest of scikit-learn: pipelines, searches, ensembles, inspection."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from helpers import SMALL
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import make_friedman1
from sklearn.ensemble import BaggingRegressor, StackingRegressor, VotingRegressor
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import estimator_html_repr, get_tags

from nwsketch import (
    KernelBandwidthScaler,
    LSHKernelSampler,
    NadarayaWatsonRegressor,
    NadarayaWatsonSketchRegressor,
    SlidingWindowRegressor,
)

N_TRAIN = 600
ALL = (
    NadarayaWatsonSketchRegressor(**SMALL),
    NadarayaWatsonRegressor(),
    SlidingWindowRegressor(NadarayaWatsonSketchRegressor(**SMALL), window=500),
    KernelBandwidthScaler(random_state=0),
    LSHKernelSampler(random_state=0),
)
REGRESSORS = ALL[:3]


@pytest.fixture(scope="module")
def data():
    # The first five features matter, the others do not.
    X, y = make_friedman1(n_samples=800, n_features=7, random_state=0)
    return X[:N_TRAIN], y[:N_TRAIN], X[N_TRAIN:], y[N_TRAIN:]


def make(**parameters):
    """Return an estimator that does well on these rows."""
    parameters = {"n_repetitions": 64, "n_buckets": 512, "random_state": 0, "n_jobs": 1, **parameters}
    return NadarayaWatsonSketchRegressor(bias_correction=6, **({"bandwidth": 4.0} | parameters))


def weighing(n):
    return np.random.default_rng(1).integers(0, 3, n).astype(float)


# -- composition ----------------------------------------------------------------------------------


def test_pipeline_is_its_steps(data):
    X, y, X_test, _ = data
    pipeline = make_pipeline(StandardScaler(), make(bandwidth="scale")).fit(X, y)
    scaler = StandardScaler().fit(X)
    alone = make(bandwidth="scale").fit(scaler.transform(X), y)
    np.testing.assert_array_equal(pipeline.predict(X_test), alone.predict(scaler.transform(X_test)))
    predictions, deviations = (
        make_pipeline(StandardScaler(), make(bandwidth="scale", uncertainty=True))
        .fit(X, y)
        .predict(X_test, return_std=True)
    )
    assert predictions.shape == deviations.shape == (200,)


def test_column_transformer_feeds_sparse_rows(data):
    X, y, X_test, y_test = data
    frames = [pd.DataFrame(rows, columns=list("abcdefg")) for rows in (X, X_test)]
    for frame in frames:
        frame["third"] = pd.cut(frame.pop("c"), [-1, 0.2, 0.4, 0.6, 0.8, 2], labels=list("VWXYZ"))
    columns = ColumnTransformer(
        [("names", OneHotEncoder(), ["third"]), ("numbers", StandardScaler(), list("abdefg"))],
        sparse_threshold=1.0,
    )
    model = make_pipeline(columns, make(bandwidth=8.0)).fit(frames[0], y)
    assert model[:-1].transform(frames[1]).format == "csr"
    assert model.score(frames[1], y_test) > 0.75
    without = sklearn.clone(model).set_params(columntransformer__names="drop").fit(frames[0], y)
    assert without.score(frames[1], y_test) < model.score(frames[1], y_test) - 0.05


def test_transformed_targets_are_transformed_back(data):
    X, y, X_test, _ = data
    model = TransformedTargetRegressor(make(), func=np.log1p, inverse_func=np.expm1).fit(X, y)
    expected = np.expm1(make().fit(X, np.log1p(y)).predict(X_test))
    np.testing.assert_allclose(model.predict(X_test), expected, rtol=1e-9)


def test_multi_output_regressor_is_one_estimator_per_output(data):
    X, y, X_test, _ = data
    targets = np.column_stack([y, -2 * y, X[:, 0]])
    apart = MultiOutputRegressor(make()).fit(X, targets).predict(X_test)
    np.testing.assert_allclose(apart, make().fit(X, targets).predict(X_test), rtol=1e-9)
    np.testing.assert_allclose(apart[:, 1], -2 * apart[:, 0], rtol=1e-9)


def test_bagging_draws_rows_by_weights(data):
    X, y, X_test, y_test = data
    model = BaggingRegressor(make(), n_estimators=5, random_state=0).fit(X, y)
    members = [
        member.predict(X_test[:, columns])
        for member, columns in zip(model.estimators_, model.estimators_features_, strict=True)
    ]
    np.testing.assert_allclose(model.predict(X_test), np.mean(members, axis=0))
    assert np.std(members, axis=0).min() > 0  # each has rows and hashes of its own
    assert r2_score(y_test, model.predict(X_test)) > max(r2_score(y_test, each) for each in members)


def test_voting_and_stacking(data):
    X, y, X_test, y_test = data
    parts = [("sketch", make()), ("ridge", Ridge())]
    voting = VotingRegressor(parts).fit(X, y)
    expected = (make().fit(X, y).predict(X_test) + Ridge().fit(X, y).predict(X_test)) / 2
    np.testing.assert_allclose(voting.predict(X_test), expected)
    stacking = StackingRegressor(parts, Ridge(), cv=3).fit(X, y)
    assert stacking.score(X_test, y_test) > Ridge().fit(X, y).score(X_test, y_test) + 0.05


# -- selection ------------------------------------------------------------------------------------


def test_cross_val_predict_predicts_rows_that_were_left_out(data):
    X, y, _, _ = data
    predictions = cross_val_predict(make(), X, y, cv=3)
    fold = slice(0, N_TRAIN // 3)
    expected = make().fit(X[N_TRAIN // 3 :], y[N_TRAIN // 3 :]).predict(X[fold])
    np.testing.assert_array_equal(predictions[fold], expected)
    assert 0.75 < r2_score(y, predictions) < r2_score(y, make().fit(X, y).predict(X))


def test_grid_search_finds_what_helps(data):
    X, y, X_test, y_test = data
    search = GridSearchCV(
        Pipeline([("scale", StandardScaler()), ("sketch", make())]),
        {"sketch__bandwidth": [0.05, 8.0], "sketch__kernel": ["laplacian", "l2"], "scale": ["passthrough"]},
        cv=3,
    ).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert search.best_params_["sketch__bandwidth"] == 8.0
    assert scores.max() - scores.min() > 0.5
    assert search.score(X_test, y_test) > 0.7


def test_permutation_importance_tells_features_that_matter(data):
    X, y, X_test, y_test = data
    importance = permutation_importance(make().fit(X, y), X_test, y_test, n_repeats=5, random_state=0)
    means = importance.importances_mean
    assert means[:5].min() > 3 * np.abs(means[5:]).max()
    assert means.argmax() == 3  # 10 x_3: the steepest


def test_partial_dependence_follows_the_function(data):
    X, y, _, _ = data
    shown = partial_dependence(make().fit(X, y), X, [3], grid_resolution=20)
    slope = np.polyfit(shown["grid_values"][0], shown["average"][0], 1)[0]
    assert slope == pytest.approx(10, rel=0.2)
    flat = partial_dependence(make().fit(X, y), X, [6], grid_resolution=20)["average"][0]
    assert np.ptp(flat) < 0.1 * np.ptp(shown["average"][0])


# -- manners --------------------------------------------------------------------------------------


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.parametrize("estimator", REGRESSORS, ids=lambda estimator: type(estimator).__name__)
def test_weights_are_routed_where_they_were_asked_for(estimator, data, routing):
    X, y, X_test, _ = data
    weights = weighing(N_TRAIN)
    wants = sklearn.clone(estimator).set_fit_request(sample_weight=True)
    weighted = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), wants)
    scaled = StandardScaler().fit(X)
    expected = sklearn.clone(estimator).fit(scaled.transform(X), y, weights).predict(scaled.transform(X_test))
    np.testing.assert_array_equal(weighted.fit(X, y, sample_weight=weights).predict(X_test), expected)
    refuses = sklearn.clone(weighted[-1]).set_fit_request(sample_weight=None)
    with pytest.raises(ValueError, match=r"sample_weight.* not explicitly set as requested or not requested"):
        make_pipeline(StandardScaler().set_fit_request(sample_weight=False), refuses).fit(
            X, y, sample_weight=weights
        )


def test_cross_validation_routes_weights_to_fit_and_score(data, routing):
    X, y, _, _ = data
    weights = weighing(N_TRAIN)
    model = make().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    scores = cross_validate(model, X, y, cv=3, params={"sample_weight": weights})["test_score"]
    first = slice(0, 200)
    alone = make().fit(X[200:], y[200:], weights[200:]).score(X[first], y[first], weights[first])
    assert scores[0] == pytest.approx(alone, rel=1e-9)
    model.set_score_request(sample_weight=False)
    unweighted = cross_validate(model, X, y, cv=3, params={"sample_weight": weights})["test_score"]
    assert unweighted[0] != pytest.approx(scores[0], rel=1e-6)


def test_partial_fit_and_return_std_can_be_asked_for(data, routing):
    X, y, X_test, _ = data
    model = NadarayaWatsonSketchRegressor(**SMALL, uncertainty=True)
    model.set_partial_fit_request(sample_weight=True).set_predict_request(return_std=True)
    requests = model.get_metadata_routing()
    assert requests.partial_fit.requests["sample_weight"] is True
    pipeline = make_pipeline(model).fit(X, y)
    predictions, deviations = pipeline.predict(X_test, return_std=True)
    assert predictions.shape == deviations.shape


def test_set_output_makes_frames(data):
    X, y, _, _ = data
    frame = pd.DataFrame(X, columns=list("abcdefg"))
    scaler = KernelBandwidthScaler(random_state=0).set_output(transform="pandas").fit(frame, y)
    scaled = scaler.transform(frame)
    assert list(scaled.columns) == list("abcdefg")
    np.testing.assert_array_equal(scaled.to_numpy(), X * (1 / scaler.bandwidth_))
    sampler = LSHKernelSampler(n_repetitions=4, n_buckets=8, random_state=0).fit(frame)
    assert sampler.get_feature_names_out().shape == (32,)
    with pytest.raises(ValueError, match="outputs a scipy sparse matrix"):
        sampler.set_output(transform="pandas").transform(frame)
    assert sampler.set_output(transform="default").transform(frame).shape == (N_TRAIN, 32)


@pytest.mark.parametrize("estimator", ALL, ids=lambda estimator: type(estimator).__name__)
def test_html_shows_the_estimator(estimator, data):
    X, y, _, _ = data
    name = type(estimator).__name__
    html = estimator_html_repr(sklearn.clone(estimator))
    assert name in html
    assert "Not fitted" in html
    fitted = make_pipeline(StandardScaler(), sklearn.clone(estimator)).fit(X, y)
    html = fitted._repr_mimebundle_()["text/html"]
    assert name in html
    assert "Not fitted" not in html
    assert name in repr(estimator)


@pytest.mark.parametrize("estimator", ALL, ids=lambda estimator: type(estimator).__name__)
def test_tags_say_what_is_taken(estimator):
    tags = get_tags(estimator)
    assert tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
    is_regressor = estimator in REGRESSORS
    assert tags.estimator_type == ("regressor" if is_regressor else None)
    assert tags.target_tags.multi_output == (not isinstance(estimator, LSHKernelSampler))
    assert tags.target_tags.required == (not isinstance(estimator, LSHKernelSampler))
    if not is_regressor:
        assert tags.transformer_tags.preserves_dtype == ["float64", "float32"]
