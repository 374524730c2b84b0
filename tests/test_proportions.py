"""Learnt bandwidths: the error and its gradient against plain loops, and what must hold of the search."""

import naive
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwsketch import NadarayaWatsonRegressor, proportions
from nwsketch.bandwidth import scale_bandwidth
from nwsketch.proportions import Problem, Rows, error_and_gradient, learn_proportions, squared_errors
from nwsketch.scaler import KernelBandwidthScaler

KERNEL = {False: "laplacian", True: "rbf"}


def make_rows(n_rows=23, n_features=5, n_outputs=2, seed=0):
    """Return float64 rows with repeats; an odd number of features goes through every loop of the kernels."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n_rows, n_features))
    values[1] = values[0]
    targets = rng.standard_normal((n_rows, n_outputs)) + values[:, :1]
    return Rows(values, targets, rng.integers(1, 4, n_rows) / 2)


def leave_out_each(rows, squared, n_queries=None, n_threads=1):
    """Predict the first rows, each from all the others."""
    n_queries = len(rows.values) if n_queries is None else n_queries
    queries = Rows(*(part[:n_queries] for part in rows))
    return Problem(queries, rows, np.arange(n_queries), squared, n_threads)


def make_relevant(n_rows, n_features=8, n_relevant=2, noise=0.1, seed=0):
    """Return X, and a y that the first features alone decide."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, n_features))
    y = np.sin(2 * X[:, :n_relevant]).sum(axis=1) + noise * rng.standard_normal(n_rows)
    return X, y


def learn(X, y, sample_weight=None, distance="cityblock", random_state=0, n_threads=1, **options):
    start = scale_bandwidth(X, sample_weight, distance)
    return learn_proportions(
        X,
        y,
        sample_weight,
        start,
        distance=distance,
        random_state=random_state,
        n_threads=n_threads,
        **options,
    )


def score(X, y, bandwidth, X_test, y_test, kernel="laplacian"):
    return NadarayaWatsonRegressor(kernel=kernel, bandwidth=bandwidth).fit(X, y).score(X_test, y_test)


# -- the error and its gradient --------------------------------------------------------------------


@pytest.mark.parametrize("squared", [False, True])
def test_error_equals_the_plain_loops(squared):
    rows = make_rows()
    bandwidth = np.array([0.3, 0.5, 1.0, 2.0, 4.0])
    expected = np.column_stack(
        [naive.loo_predict(KERNEL[squared], rows.values, y, bandwidth, rows.weights) for y in rows.targets.T]
    )
    errors = ((expected - rows.targets) ** 2).sum(axis=1)
    problem = leave_out_each(rows, squared)
    error, _ = error_and_gradient(-np.log(bandwidth), problem)
    assert_allclose(error, rows.weights @ errors / rows.weights.sum(), rtol=1e-12)
    by_factor = squared_errors(-np.log(2 * bandwidth), np.array([1.0, 2.0]), problem)
    assert_allclose(by_factor[1], errors, rtol=1e-12)
    assert not np.allclose(by_factor[0], errors, rtol=1e-2)


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("n_features", [1, 4, 7])
@pytest.mark.parametrize("squared", [False, True])
def test_gradient_equals_finite_differences(squared, n_features, n_outputs, monkeypatch):
    monkeypatch.setattr(proportions, "VALUES_PER_TILE", 100)
    problem = leave_out_each(make_rows(30, n_features, n_outputs), squared, n_queries=17)
    log_inverse = np.linspace(-0.7, 0.8, n_features)
    _, gradient = error_and_gradient(log_inverse, problem)
    step = 1e-6
    for j, unit in enumerate(np.eye(n_features)):
        above, below = (error_and_gradient(log_inverse + sign * step * unit, problem)[0] for sign in (1, -1))
        assert_allclose((above - below) / (2 * step), gradient[j], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("squared", [False, True])
def test_single_precision_is_near_double(squared):
    problem = leave_out_each(make_rows(200), squared)
    single = [Rows(*(part.astype(np.float32) for part in rows)) for rows in problem[:2]]
    error, gradient = error_and_gradient(np.zeros(5), problem)
    error_32, gradient_32 = error_and_gradient(
        np.zeros(5), problem._replace(queries=single[0], rows=single[1])
    )
    assert_allclose(error_32, error, rtol=1e-5)
    assert_allclose(gradient_32, gradient, rtol=0, atol=1e-5 * abs(gradient).max())


@pytest.mark.parametrize("squared", [False, True])
def test_weight_two_counts_as_a_row_given_twice(squared):
    rows = make_rows()
    queries = make_rows(10, seed=1)
    twice = rows._replace(weights=np.where(np.arange(23) < 5, 2.0, 1.0))
    repeated = Rows(*(np.concatenate([part[:5], part]) for part in rows._replace(weights=np.ones(23))))
    problems = [
        # as rows that are predicted from, and as queries
        [Problem(queries, some, np.full(10, -1), squared, 1) for some in (twice, repeated)],
        [Problem(some, queries, np.full(len(some.values), -1), squared, 1) for some in (twice, repeated)],
    ]
    for pair in problems:
        (error, gradient), (other_error, other_gradient) = (error_and_gradient(np.zeros(5), p) for p in pair)
        assert_allclose(error, other_error, rtol=1e-12)
        assert_allclose(gradient, other_gradient, rtol=1e-9)


@pytest.mark.parametrize("squared", [False, True])
def test_a_row_far_from_all_others_tends_to_its_nearest(squared):
    values = np.array([[0.0], [50.0], [1e6], [3e6]])
    rows = Rows(values, np.array([[1.0], [2.0], [4.0], [8.0]]), np.ones(4))
    problem = leave_out_each(rows, squared)
    assert_allclose(squared_errors(np.zeros(1), np.ones(1), problem)[0, 2:], [4.0, 16.0], rtol=1e-12)
    error, gradient = error_and_gradient(np.zeros(1), problem)
    assert np.isfinite([error, *gradient]).all()


def test_the_only_row_is_predicted_by_the_mean_without_a_gradient():
    rows = Rows(np.ones((1, 3)), np.full((1, 1), 2.0), np.ones(1))
    error, gradient = error_and_gradient(np.zeros(3), leave_out_each(rows, squared=False))
    assert error == 4.0
    assert_array_equal(gradient, np.zeros(3))


# -- what is learnt --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [400, 2500])
@pytest.mark.parametrize("distance", ["cityblock", "euclidean"])
def test_features_that_tell_nothing_get_wide_bandwidths(distance, n_rows):
    X, y = make_relevant(n_rows + 500)
    X_test, y_test, X, y = X[n_rows:], y[n_rows:], X[:n_rows], y[:n_rows]
    found = learn(X, y, distance=distance)
    assert found.is_learnt
    assert found.bandwidth[2:].min() > 5 * found.bandwidth[:2].max()
    kernel = KERNEL[distance == "euclidean"]
    learnt, one = (score(X, y, h, X_test, y_test, kernel) for h in (found.bandwidth, found.path[0]))
    assert learnt > one + 0.2
    # Nothing of the test rows was seen: the held-out scores promise what they keep.
    assert_allclose(found.scores[found.checks == found.step], learnt, atol=0.05)


def test_path_and_scores_describe_the_search():
    X, y = make_relevant(1500)
    found = learn(X, y, n_steps=20)
    assert found.path.shape == (21, 8)
    assert_array_equal(found.checks, [0, 2, 4, 8, 14, 20])
    assert found.scores.shape == (6,)
    assert found.step == found.checks[found.scores.argmax()]
    ratio = found.path[0] / scale_bandwidth(X)
    assert_allclose(ratio, ratio[0])
    proportion = found.bandwidth / found.path[found.step]
    assert_allclose(proportion, proportion[0])


@pytest.mark.parametrize("n_rows", [60, 300, 1500])
@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_is_not_learnt_by_heart(n_rows, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n_rows, 20)), rng.standard_normal(n_rows)
    X_test = rng.standard_normal((500, 20))
    found = learn(X, y, random_state=seed)
    errors = [
        np.mean(NadarayaWatsonRegressor(bandwidth=h).fit(X, y).predict(X_test) ** 2)
        for h in (found.bandwidth, found.path[0])
    ]
    assert errors[0] < errors[1] + 0.05


def test_constant_targets_leave_one_number():
    X, _ = make_relevant(300)
    found = learn(X, np.full(300, 7.0))
    assert not found.is_learnt
    assert_allclose(found.bandwidth, scale_bandwidth(X))
    assert np.isnan(found.scores).all()


def test_a_constant_feature_keeps_its_place():
    X, y = make_relevant(400)
    X[:, 5] = 3.0
    found = learn(X, y)
    assert found.is_learnt
    assert np.isfinite(found.bandwidth).all()
    assert_allclose(found.path[:, 5], found.path[0, 5])


@pytest.mark.parametrize("distance", ["cityblock", "euclidean"])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 5, 49, 50])
def test_few_rows(n_rows, distance):
    X, y = make_relevant(n_rows)
    found = learn(X, y, distance=distance)
    ratio = found.bandwidth / scale_bandwidth(X, None, distance)
    assert np.isfinite(ratio).all()
    assert (ratio > 0).all()
    if n_rows < 50:
        assert_allclose(ratio, ratio[0])
        assert found.path.shape == (1, 8)
    if n_rows < 3:
        assert_allclose(ratio, 1.0)


def test_several_outputs_share_the_bandwidths():
    X, y = make_relevant(400, n_relevant=1)
    other = np.sin(2 * X[:, 3])
    found = learn(X, np.column_stack([y, 1e6 * other]))
    assert found.bandwidth[[0, 3]].max() < 0.3 * np.delete(found.bandwidth, [0, 3]).min()
    scaled = learn(X, np.column_stack([y * 2.0**40, other * 2.0**-40]))
    assert_allclose(scaled.bandwidth, found.bandwidth, rtol=0.02)


# -- invariants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [300, 1500])
def test_the_same_integer_gives_the_same_bits_with_any_number_of_threads(n_rows):
    X, y = make_relevant(n_rows)
    first = learn(X, y, random_state=3, n_steps=10)
    for n_threads in (1, 2, 5):
        again = learn(X, y, random_state=3, n_steps=10, n_threads=n_threads)
        assert_array_equal(again.bandwidth, first.bandwidth)
        assert_array_equal(again.path, first.path)
        assert_array_equal(again.scores, first.scores)
    assert not np.array_equal(learn(X, y, random_state=4, n_steps=10).path, first.path)


def test_permuted_features_permute_the_bandwidths():
    X, y = make_relevant(600)
    order = np.random.default_rng(0).permutation(8)
    found, permuted = (learn(rows, y, n_steps=30) for rows in (X, X[:, order]))
    # Sums in another order: single precision, along the whole descent.
    assert_allclose(permuted.path, found.path[:, order], rtol=0.01)


def test_the_unit_of_a_feature_does_not_matter():
    X, y = make_relevant(600)
    units = 2.0 ** np.array([0, 10, -10, 3, 40, 0, -1, 100])
    found, scaled = (learn(rows, y, n_steps=30) for rows in (X, X * units))
    assert_allclose(scaled.bandwidth, found.bandwidth * units, rtol=1e-12)


def test_rows_of_weight_zero_are_as_no_rows():
    X, y = make_relevant(300)
    weights = np.ones(350)
    weights[300:] = 0
    more_X, more_y = np.vstack([X, X[:50] * 100]), np.append(y, np.full(50, 1e9))
    found = learn(X, y, np.ones(300), n_steps=10)
    padded = learn_proportions(more_X, more_y, weights, scale_bandwidth(X), random_state=0, n_steps=10)
    assert_array_equal(padded.bandwidth, found.bandwidth)
    assert_array_equal(learn(X, y, np.full(300, 4.0), n_steps=10).bandwidth, found.bandwidth)
    assert_array_equal(learn(X, y, n_steps=10).bandwidth, found.bandwidth)


def test_weights_decide_what_is_learnt():
    X, y = make_relevant(800, n_relevant=1)
    y[400:] = np.sin(2 * X[400:, 5])
    halves = np.repeat([1.0, 1e-6], 400)
    first, second = (learn(X, y, weights) for weights in (halves, halves[::-1].copy()))
    assert first.bandwidth.argmin() == 0
    assert second.bandwidth.argmin() == 5


def test_sparse_rows_equal_dense_rows():
    X, y = make_relevant(400)
    X[X < 0] = 0
    start = scale_bandwidth(X)
    dense, csr = (
        learn_proportions(rows, y, None, start, random_state=0, n_steps=10)
        for rows in (X, sparse.csr_array(X))
    )
    assert_array_equal(dense.bandwidth, csr.bandwidth)


def test_wide_sparse_rows_are_refused():
    X = sparse.csr_array((60, 2001))
    with pytest.raises(ValueError, match=r"has 2001 features, more than 2000: .*bandwidth='loo'"):
        learn_proportions(X, np.zeros(60), None, np.ones(2001))


def test_many_rows_and_features_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr(proportions, "MOST_ROWS", 2000)
    monkeypatch.setattr(proportions, "WORK_PER_STEP", 1e6)
    monkeypatch.setattr(proportions, "WORK_PER_CHECK", 1e7)
    monkeypatch.setattr(proportions, "WORK_AT_LAST", 1e7)
    X, y = make_relevant(5000)
    found = learn(X, y)
    assert found.bandwidth[2:].min() > 5 * found.bandwidth[:2].max()


def test_huge_values_and_targets_stay_finite():
    X, y = make_relevant(200)
    X[0], y[1] = 1e200, 1e300
    start = scale_bandwidth(X[1:])
    found = learn_proportions(X, y, None, start, random_state=0, n_steps=10)
    assert np.isfinite(found.bandwidth).all()
    assert np.isfinite(found.scores).all()


# -- the transformer -------------------------------------------------------------------------------


@parametrize_with_checks([KernelBandwidthScaler(random_state=0)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_scaler_divides_by_what_was_learnt():
    X, y = make_relevant(300)
    weights = np.where(np.arange(300) < 250, 1.0, 0.5)
    scaler = KernelBandwidthScaler(distance="euclidean", random_state=0).fit(X, y, weights)
    assert_array_equal(scaler.bandwidth_, learn(X, y, weights, "euclidean").bandwidth)
    assert_allclose(scaler.transform(X), X / scaler.bandwidth_, rtol=1e-15)
    assert_allclose(scaler.inverse_transform(scaler.transform(X)), X, rtol=1e-15)
    csr = scaler.transform(sparse.csr_array(X))
    assert sparse.issparse(csr)
    assert_allclose(csr.toarray(), X / scaler.bandwidth_, rtol=1e-15)
    assert scaler.transform(X.astype(np.float32)).dtype == np.float32
    again = clone(scaler).set_params(n_jobs=2).fit(X, y, weights)
    assert_array_equal(again.bandwidth_, scaler.bandwidth_)


def test_scaler_of_few_rows_asks_the_features_alone():
    X, y = make_relevant(60)
    weights = np.where(np.arange(60) < 49, 2.0, 0.0)
    few = KernelBandwidthScaler(random_state=0).fit(X, y, weights)
    assert_array_equal(few.bandwidth_, scale_bandwidth(X, weights))


def test_scaler_helps_nearest_neighbours():
    X, y = make_relevant(900)
    neighbours = KNeighborsRegressor(p=1)
    with_scaler = make_pipeline(KernelBandwidthScaler(random_state=0), neighbours).fit(X[:600], y[:600])
    without = clone(neighbours).fit(X[:600], y[:600])
    assert with_scaler.score(X[600:], y[600:]) > without.score(X[600:], y[600:]) + 0.2


def test_scaler_of_known_bandwidths():
    model = NadarayaWatsonRegressor(bandwidth=[2.0, 4.0]).fit([[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0])
    scaler = KernelBandwidthScaler.from_bandwidth(model.bandwidth_)
    assert_array_equal(scaler.transform([[2.0, 2.0]]), [[1.0, 0.5]])
    assert_array_equal(scaler.inverse_transform([[1.0, 0.5]]), [[2.0, 2.0]])
    assert_array_equal(scaler.get_feature_names_out(), ["x0", "x1"])


@pytest.mark.parametrize(
    ("bandwidth", "message"), [(None, "not one number"), (2.0, "not one number"), ([1.0, -1.0], "holds -1")]
)
def test_scaler_refuses_what_is_no_bandwidth(bandwidth, message):
    with pytest.raises(ValueError, match=message):
        KernelBandwidthScaler.from_bandwidth(bandwidth)


def test_scaler_refuses_weights_of_zero():
    with pytest.raises(ValueError, match="sums to zero"):
        KernelBandwidthScaler().fit([[0.0], [1.0]], [0.0, 1.0], [0.0, 0.0])


def test_known_bandwidths_outlive_a_refit_in_a_pipeline():
    rng = np.random.default_rng(0)
    X, y = rng.random((60, 3)), rng.random(60)
    scaler = KernelBandwidthScaler.from_bandwidth([1.0, 2.0, 3.0])
    assert clone(make_pipeline(scaler)).fit(X, y)[0].bandwidth_.tolist() == [1.0, 2.0, 3.0]


def test_a_scaler_keeps_what_it_learnt_if_a_fit_fails():
    rng = np.random.default_rng(0)
    scaler = KernelBandwidthScaler().fit(rng.random((60, 3)), rng.random(60))
    with pytest.raises(ValueError, match="sample_weight"):
        scaler.fit(rng.random((60, 6)), rng.random(60), sample_weight=np.zeros(60))
    assert scaler.transform(rng.random((5, 3))).shape == (5, 3)
