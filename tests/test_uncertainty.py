"""Standard deviations of predictions: of the sketch and of the target, against truth and repetition."""

import copy

import numpy as np
import pytest
from helpers import KERNELS, SMALL, WITH_BANDWIDTH, assert_same_answers, learnt, make_rows
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_friedman1

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor


def make(**parameters):
    return NadarayaWatsonSketchRegressor(**(SMALL | {"uncertainty": True} | parameters))


def make_noisy(n_rows, spread, seed=0):
    """Return one feature, a target, and the standard deviation of its noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n_rows, 1))
    deviations = np.broadcast_to(spread(X[:, 0]), n_rows)
    return X, np.sin(X[:, 0]) + deviations * rng.normal(size=n_rows), deviations


NOISE = {"equal": lambda x: 0.3, "unequal": lambda x: 0.1 + 0.5 * np.abs(x)}


# -- the interface --------------------------------------------------------------------------------


def test_deviations_that_were_not_learnt_are_refused():
    X, y = make_rows()
    model = make(uncertainty=False).fit(X, y)
    before = learnt(model)
    for call in (lambda: model.predict(X, return_std=True), lambda: model.predict_uncertainty(X)):
        with pytest.raises(ValueError, match="fit with uncertainty=True"):
            call()
    assert learnt(model) == before
    # The parameter counts from the next fit on.
    with pytest.raises(ValueError, match="fit with uncertainty=True"):
        model.set_params(uncertainty=True).predict(X, return_std=True)
    model.fit(X, y).predict(X, return_std=True)


@pytest.mark.parametrize("corrected", [None, 2])
@pytest.mark.parametrize("n_outputs", [None, 1, 3])
def test_shapes_are_those_of_the_predictions(n_outputs, corrected):
    X, y = make_rows()
    Y = y if n_outputs is None else np.column_stack([y] * n_outputs)
    model = make(bias_correction=corrected).fit(X, Y)
    predictions, deviations = model.predict(X, return_std=True)
    parts = model.predict_uncertainty(X)
    assert predictions.shape == deviations.shape == parts.sketch.shape == parts.target.shape == Y.shape
    assert deviations.dtype == np.float64
    np.testing.assert_allclose(deviations, np.hypot(np.nan_to_num(parts.sketch), parts.target))
    np.testing.assert_array_equal(predictions, model.predict(X))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"bias_correction": 3},
        {"bias_correction": "auto"},
        {"trend": "linear"},
        {"trend": "linear", "bias_correction": "auto", "bandwidth": "loo"},
        {"aggregation": "median_of_means"},
        {"empty": -7.0, "bandwidth": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", ["laplacian", "l2"])
def test_predictions_do_not_depend_on_it(kernel, parameters, backend_of_auto):
    X, y = make_rows()
    queries = np.vstack([X, np.full((1, 4), 1e3)])
    Y = np.column_stack([y, y**2])
    model, plain = (make(kernel=kernel, uncertainty=each, **parameters).fit(X, Y) for each in (True, False))
    assert_same_answers(model.predict(queries), plain.predict(queries), backend_of_auto)
    assert_same_answers(model.kernel_sum(queries), plain.kernel_sum(queries), backend_of_auto)
    if "bias_correction" not in parameters:
        assert_same_answers(model.loo_predict(X, Y), plain.loo_predict(X, Y), backend_of_auto)


def test_a_clone_has_the_parameter():
    model = make()
    assert model.get_params()["uncertainty"] is True
    assert clone(model).get_params()["uncertainty"] is True
    assert NadarayaWatsonSketchRegressor().get_params()["uncertainty"] is False
    X, y = make_rows()
    assert learnt(clone(model).fit(X, y)) == learnt(model.fit(X, y))
    with pytest.raises(ValueError, match=r"'uncertainty' parameter .* must be"):
        make(uncertainty="yes").fit(X, y)


# -- the spread of the target ---------------------------------------------------------------------


@pytest.mark.parametrize("corrected", [None, 3, "auto"])
@pytest.mark.parametrize("noise", NOISE)
def test_deviations_are_those_of_the_noise(noise, corrected):
    X, y, _ = make_noisy(4000, NOISE[noise])
    queries, targets, truth = make_noisy(500, NOISE[noise], seed=1)
    model = make(bandwidth=0.03, n_repetitions=128, n_buckets=256, bias_correction=corrected).fit(X, y)
    predictions, deviations = model.predict(queries, return_std=True)
    target = model.predict_uncertainty(queries).target
    assert target.mean() == pytest.approx(truth.mean(), rel=0.1)
    if noise == "unequal":
        assert np.corrcoef(target, truth)[0, 1] > 0.8
        near = np.abs(queries[:, 0]) < 0.2
        assert target[near].mean() < 0.6 * target[~near].mean()
    covered = np.abs(targets - predictions) < 1.645 * deviations
    assert 0.86 < covered.mean() < 0.95


def test_deviations_after_a_correction_are_about_the_error_on_new_rows():
    X, y = make_rows(400)
    queries, targets = make_rows(1000, seed=1)
    for trend in (None, "linear"):
        model = make(bias_correction="auto", trend=trend, bandwidth=2.0, n_repetitions=64).fit(X, y)
        predictions, deviations = model.predict(queries, return_std=True)
        error = np.sqrt(np.mean((predictions - targets) ** 2))
        assert np.sqrt(np.mean(deviations**2)) == pytest.approx(error, rel=0.25)
        assert np.isnan(model.predict_uncertainty(queries).sketch).all()


def test_weights_count_in_the_deviations():
    X, y, _ = make_noisy(400, NOISE["equal"])
    times = np.random.default_rng(0).integers(0, 3, 400)
    repeated = np.repeat(X, times, axis=0), np.repeat(y, times)
    for corrected, tolerance in ((None, 1e-7), (3, 0.15)):  # other rows are held out of repeated ones
        model = make(bandwidth=0.5, bias_correction=corrected)
        once = model.fit(X, y, times.astype(float)).predict_uncertainty(X).target
        np.testing.assert_allclose(model.fit(*repeated).predict_uncertainty(X).target, once, rtol=tolerance)


@pytest.mark.parametrize("corrected", [None, 3])
def test_many_outputs_equal_single_outputs_side_by_side(corrected):
    X, y = make_rows()
    Y = np.column_stack([y, 1e6 * y**2, -y])
    together = make(bias_correction=corrected).fit(X, Y).predict(X, return_std=True)[1]
    for column in range(3):
        alone = make(bias_correction=corrected).fit(X, Y[:, column]).predict(X, return_std=True)[1]
        np.testing.assert_allclose(together[:, column], alone, rtol=1e-6)


@pytest.mark.parametrize("corrected", [None, 3])
def test_sparse_rows_equal_dense_rows(corrected):
    X, y = make_rows()
    dense, model = (
        make(bandwidth=1.0, bias_correction=corrected).fit(rows, y) for rows in (X, sparse.csr_array(X))
    )
    np.testing.assert_array_equal(
        model.predict(sparse.csr_array(X), return_std=True), dense.predict(X, return_std=True)
    )


@pytest.mark.parametrize("corrected", [None, 3, "auto"])
@pytest.mark.parametrize("target", [0.0, 3.7, -1e6])
def test_constant_targets_have_no_deviation(target, corrected):
    X, _ = make_rows()
    queries = np.vstack([X, np.full((1, 4), 1e3)])
    model = make(bias_correction=corrected).fit(X, np.full(150, target))
    predictions, deviations = model.predict(queries, return_std=True)
    np.testing.assert_allclose(predictions, target, rtol=1e-9)
    assert (deviations >= 0).all()
    assert deviations.max() <= 1e-5 * abs(target)


def test_an_offset_of_the_targets_is_no_spread():
    X, y, _ = make_noisy(400, NOISE["equal"])
    expected = make().fit(X, y).predict(X, return_std=True)[1]
    np.testing.assert_allclose(make().fit(X, y + 1e4).predict(X, return_std=True)[1], expected, rtol=1e-4)
    # Squares of huge numbers leave no digits for the spread; a trend takes the offset off first.
    expected = make(trend="linear").fit(X, y).predict(X, return_std=True)[1]
    model = make(trend="linear").fit(X, y + 1e9)
    np.testing.assert_allclose(model.predict(X, return_std=True)[1], expected, rtol=1e-3)


@pytest.mark.parametrize("corrected", [None, 3])
@pytest.mark.parametrize("factor", [1e-120, 1e120])
def test_deviations_are_in_the_unit_of_the_targets(factor, corrected):
    X, y = make_rows()
    deviations = make(bias_correction=corrected).fit(X, factor * y).predict(X, return_std=True)[1]
    expected = make(bias_correction=corrected).fit(X, y).predict(X, return_std=True)[1]
    np.testing.assert_allclose(deviations / factor, expected, rtol=1e-6)


@pytest.mark.parametrize("corrected", [None, 3])
def test_targets_whose_squares_overflow_are_refused(corrected):
    X, y = make_rows()
    model = make(bias_correction=corrected).fit(X, y)
    before = learnt(model)
    with pytest.raises(ValueError, match=r"could reach .* and overflow: divide sample_weight, or y"):
        model.fit(X, 1e160 * y)
    assert learnt(model) == before


# -- the error of the sketch ----------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_error_of_the_sketch_falls_as_the_square_root_of_the_repetitions(kernel):
    X, y = make_rows()
    bandwidth = 3.0 if kernel in WITH_BANDWIDTH else "scale"

    def told(n_repetitions, seed):
        model = make(kernel=kernel, bandwidth=bandwidth, n_repetitions=n_repetitions, random_state=seed)
        return model.fit(X, y).predict_uncertainty(X[:60]).sketch.mean()

    numbers = [16, 64, 256, 1024]
    means = [np.mean([told(number, seed) for seed in range(4)]) for number in numbers]
    slope = np.polyfit(np.log(numbers), np.log(means), 1)[0]
    assert -0.6 < slope < -0.4


@pytest.mark.parametrize("kernel", ["laplacian", "l1", "angular"])
def test_the_error_of_the_sketch_is_the_spread_over_seeds(kernel):
    X, y = make_rows(300)
    queries = X[:40]
    model = make(kernel=kernel, n_repetitions=128, n_buckets=512)
    models = [clone(model).set_params(random_state=seed).fit(X, y) for seed in range(60)]
    spread = np.std([model.predict(queries) for model in models], axis=0, ddof=1)
    told = np.sqrt(np.mean([model.predict_uncertainty(queries).sketch ** 2 for model in models], axis=0))
    assert np.sqrt(np.mean(told**2) / np.mean(spread**2)) == pytest.approx(1.0, abs=0.25)
    assert np.median(told / spread) == pytest.approx(1.0, abs=0.25)


def test_where_the_answer_is_what_empty_says_the_sketch_makes_no_error():
    rng = np.random.default_rng(0)
    X, y = make_rows(300)
    far = rng.uniform(1e3, 1e4, (500, 4))
    sketch = NadarayaWatsonSketch(4, bandwidth=0.3, empty="nan", **SMALL).update(X, y)
    unanswered = np.isnan(sketch.query(far)[:, 0])
    assert unanswered.mean() > 0.5
    assert (sketch.standard_error(far)[unanswered] == 0).all()
    model = make(bandwidth=0.3).fit(X, y)
    unanswered = model.predict(far) == model.predict(np.full((1, 4), 1e5))
    deviations = model.predict(far, return_std=True)[1]
    np.testing.assert_allclose(deviations[unanswered], y.std(), rtol=1e-6)
    assert deviations.max() < 30 * y.std()


@pytest.mark.parametrize("corrected", [None, 3])
@pytest.mark.parametrize("empty", [-7.0, 0.0, 2.0])
def test_a_number_for_empty_queries_is_not_taken_for_a_square(empty, corrected):
    X, y = make_rows()
    model = make(bandwidth=0.3, empty=empty, bias_correction=corrected).fit(X, y)
    far = np.full((1, 4), 1e5)
    assert model.predict(far)[0] == empty or corrected
    assert model.predict(far, return_std=True)[1][0] > 0.1 * y.std()


# -- streams and merges ---------------------------------------------------------------------------


@pytest.mark.parametrize("trend", [None, "linear"])
def test_streams_forgetting_and_merging_keep_the_deviations_right(trend):
    X, y = make_rows()
    first = make(bandwidth=1.0, trend=trend).fit(X[:70], y[:70])
    empty = copy.deepcopy(first).forget(X[:70], y[:70])
    whole = copy.deepcopy(first).partial_fit(X[70:], y[70:])
    if trend is None:
        np.testing.assert_array_equal(
            whole.predict(X, return_std=True), make(bandwidth=1.0).fit(X, y).predict(X, return_std=True)
        )
    expected = np.array(whole.predict(X, return_std=True))
    in_batches = copy.deepcopy(first)
    for start in range(70, 150, 7):
        in_batches.partial_fit(X[start : start + 7], y[start : start + 7])
    merged = copy.deepcopy(first).merge(empty.partial_fit(X[70:], y[70:]))
    back = copy.deepcopy(whole).partial_fit(X[:20] + 1, 9 * y[:20]).forget(X[:20] + 1, 9 * y[:20])
    for model in (in_batches, merged, back):
        np.testing.assert_allclose(model.predict(X, return_std=True), expected, rtol=1e-6, atol=1e-7)


def test_merging_needs_the_same_sums():
    X, y = make_rows()
    fits = {
        "with squares": make(bandwidth=1.0).fit(X, y),
        "without": make(bandwidth=1.0, uncertainty=False).fit(X, y),
        # As many sums per bucket as with squares, but others.
        "two outputs": make(bandwidth=1.0, uncertainty=False).fit(X, np.column_stack([y, y])),
    }
    before = {name: learnt(model) for name, model in fits.items()}
    for mine in fits:
        for theirs in fits:
            if mine != theirs:
                with pytest.raises(ValueError, match=r"Cannot merge.*(uncertainty|outputs)"):
                    fits[mine].merge(fits[theirs])
    assert {name: learnt(model) for name, model in fits.items()} == before
    # ... nor does an unfitted estimator become what it could not have learnt.
    for mine, theirs in ((True, "without"), (False, "with squares")):
        model = make(bandwidth=1.0, uncertainty=mine)
        with pytest.raises(ValueError, match="uncertainty="):
            model.merge(fits[theirs])
        assert learnt(model) == {}


# -- little data, and odd -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"n_repetitions": 1},
        {"aggregation": "median_of_means"},
        {"bias_correction": 1},
        {"bias_correction": "auto"},
        {"bias_correction": "auto", "n_repetitions": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 10, 150])
def test_deviations_are_never_nan(n_rows, parameters):
    X, y = make_rows(n_rows)
    queries = np.vstack([make_rows(50, seed=1)[0], np.full((1, 4), 1e3)])
    for trend in (None, "linear"):
        model = make(trend=trend, **parameters).fit(X, y)
        predictions, deviations = model.predict(queries, return_std=True)
        assert np.isfinite(predictions).all()
        assert np.isfinite(deviations).all()
        assert (deviations >= 0).all()


def test_a_single_repetition_tells_nothing_of_its_error():
    X, y = make_rows()
    assert np.isnan(make(n_repetitions=1).fit(X, y).predict_uncertainty(X).sketch).all()


def test_no_answer_has_no_deviation():
    X, y = make_rows()
    model = make(bandwidth=0.3, empty="nan").fit(X, y)
    assert np.isnan(model.predict(np.full((1, 4), 1e5), return_std=True)).all()


def test_standard_deviations_of_a_corrected_fit_follow_the_noise():
    X, y = make_friedman1(n_samples=4_000, n_features=6, random_state=0)
    noise = 0.3 + 3.0 * X[:, 4]
    y += noise * np.random.default_rng(0).standard_normal(len(y))
    model = NadarayaWatsonSketchRegressor(
        bandwidth="loo_per_feature",
        bias_correction="auto",
        uncertainty=True,
        n_repetitions=256,
        random_state=0,
        n_jobs=1,
    ).fit(X[:3_000], y[:3_000])
    _, std = model.predict(X[3_000:], return_std=True)
    noise = noise[3_000:]
    quiet, loud = np.median(std[noise < 1.0]), np.median(std[noise > 2.5])
    assert std.min() > 0.0
    assert loud > 2.0 * quiet  # the truth is about 4


@pytest.mark.parametrize("n_repetitions", [2, 37, 74])
def test_any_number_of_repetitions_has_a_spread(n_repetitions):
    X, y = make_rows()
    sketch = NadarayaWatsonSketch(4, n_repetitions=n_repetitions, n_buckets=64, random_state=0).update(X, y)
    assert np.isfinite(sketch.standard_error(X)).all()
