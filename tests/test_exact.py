"""The exact estimator against plain loops, scikit-learn's kernels and refits."""

import pickle
import tracemalloc

import naive
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process.kernels import RBF
from sklearn.metrics.pairwise import chi2_kernel, cosine_similarity, laplacian_kernel, rbf_kernel
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwsketch import exact_tiles
from nwsketch.bandwidth import scale_bandwidth
from nwsketch.exact import NadarayaWatsonRegressor
from nwsketch.hashing import GaussianProjection, RandomBinning

WITH_BANDWIDTH = ("laplacian", "rbf", "l2", "l1")
CLOSED_FORM = (*WITH_BANDWIDTH, "angular", "jaccard")


def closeness(x, q):
    """Return a kernel of two rows that are dense, or CSR with one row each."""
    difference = x - q
    return 1 / (1 + abs(difference).sum())


OTHER_KERNELS = ("cosine", "polynomial", "additive_chi2", "chi2", closeness)


def make_data(n_rows, seed=0, n_features=4):
    """Return rows that are not negative, a third of them zeros, with repeats and an empty one; y; weights."""
    rng = np.random.default_rng(seed)
    X = rng.gamma(2.0, size=(n_rows, n_features)) * (rng.random((n_rows, n_features)) < 0.67)
    X[1], X[2] = X[0], 0.0
    y = rng.standard_normal(n_rows) + X[:, 0] + 3
    weights = rng.integers(1, 4, n_rows) / 2
    weights[3] = 0.0
    return X, y, weights


def make_model(kernel, **parameters):
    """Return a model with one width per feature where the kernel takes any."""
    if kernel in WITH_BANDWIDTH:
        parameters.setdefault("bandwidth", [0.5, 1.0, 2.0, 4.0])
    return NadarayaWatsonRegressor(kernel=kernel, **parameters)


@parametrize_with_checks([NadarayaWatsonRegressor()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


# -- against the plain loops, and scikit-learn's own kernels ---------------------------------------


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("kernel", CLOSED_FORM)
def test_kernels_equal_the_plain_loops(kernel, power):
    X, y, weights = make_data(40)
    queries = np.vstack([make_data(15, seed=1)[0], X[:5], -X[:2]])
    model = make_model(kernel, hashes_per_repetition=power).fit(X, y, weights)
    bandwidth = [1.0] * 4 if model.bandwidth_ is None else model.bandwidth_
    predicted = naive.predict(kernel, X, y, queries, bandwidth, weights, power)
    assert_allclose(model.predict(queries), predicted, rtol=1e-9)
    sums = naive.kernel_sum(kernel, X, queries, bandwidth, weights, power)
    assert_allclose(model.kernel_sum(queries), sums, rtol=1e-9)


@pytest.mark.parametrize(
    ("kernel", "reference"),
    [
        ("laplacian", lambda X, Y: laplacian_kernel(X, Y, gamma=1 / 1.7)),
        ("rbf", lambda X, Y: rbf_kernel(X, Y, gamma=1 / (2 * 1.7**2))),
    ],
)
def test_kernels_equal_those_of_scikit_learn(kernel, reference):
    X, y, weights = make_data(40)
    queries = make_data(15, seed=1)[0]
    model = NadarayaWatsonRegressor(kernel=kernel, bandwidth=1.7).fit(X, y, weights)
    assert_allclose(model.kernel_sum(queries), reference(queries, X) @ weights, rtol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "kernel_params", "reference"),
    [
        ("cosine", None, cosine_similarity),
        ("chi2", {"gamma": 0.3}, lambda X, Y: chi2_kernel(X, Y, gamma=0.3)),
        (closeness, None, lambda X, Y: 1 / (1 + abs(X[:, None] - Y).sum(axis=2))),
        (
            lambda x, q, scale: np.exp(-scale * abs(x - q).sum()),
            {"scale": 2.0},
            lambda X, Y: laplacian_kernel(X, Y, 2.0),
        ),
        (RBF(0.7), None, lambda X, Y: rbf_kernel(X, Y, 1 / (2 * 0.7**2))),
    ],
)
@pytest.mark.parametrize("power", [1, 2])
def test_pairwise_kernels_of_scikit_learn(kernel, kernel_params, reference, power):
    X, y, weights = make_data(40)
    queries = make_data(15, seed=1)[0]
    K = reference(queries, X) ** power
    parameters = {"kernel": kernel, "kernel_params": kernel_params, "hashes_per_repetition": power}
    model = NadarayaWatsonRegressor(**parameters).fit(X, y, weights)
    assert model.bandwidth_ is None
    assert_allclose(model.kernel_sum(queries), K @ weights, rtol=1e-12)
    K[K @ weights == 0] = 1.0  # a query without neighbours is predicted by the mean
    assert_allclose(model.predict(queries), K @ (weights * y) / (K @ weights), rtol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "t", "h", "value"),
    [
        ("l2", 1, 1, 0.3687463804),
        ("l2", 0.5, 1, 0.6095484222),
        ("l2", 2, 1, 0.1954171080),
        ("l2", 1, 4, 0.8005324324),
        ("l2", 0, 1, 1.0),
        ("l1", 0, 1, 1.0),
        ("laplacian", 2, 4, np.exp(-0.5)),
        ("rbf", 2, 4, np.exp(-0.125)),
    ],
)
def test_reference_values_of_one_distance(kernel, t, h, value):
    model = NadarayaWatsonRegressor(kernel=kernel, bandwidth=h).fit([[0.0]], [1.0])
    assert_allclose(model.kernel_sum([[t]]), value, rtol=0, atol=5e-11)


@pytest.mark.parametrize(("kernel", "value"), [("l2", 0.24423), ("l1", 0.10422)])
def test_reference_values_of_one_pair(kernel, value):
    x, q = [1, 0.5, 1, 1, 0.5], [1, 0, 0, 0.5, -0.5]
    model = NadarayaWatsonRegressor(kernel=kernel, bandwidth=1.0).fit([x], [1.0])
    assert_allclose(model.kernel_sum([q]), value, rtol=0, atol=5e-6)


def test_one_dimensional_rbf_is_the_textbook_average():
    model = NadarayaWatsonRegressor(kernel="rbf", bandwidth=0.5).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0])
    a = np.exp(-2)
    assert_allclose(model.predict([[1.0]]), (1 + 4 * a) / (1 + 2 * a), rtol=1e-15)


def test_a_family_of_the_users_own():
    class Linear(RandomBinning):
        """Triangular kernel of the city-block distance."""

        name = "linear-decay"

        def collision_probability(self, distance):
            return np.maximum(0.0, 1.0 - distance)

    model = NadarayaWatsonRegressor(kernel=Linear(), bandwidth=2.0).fit([[0.0], [1.0]], [1.0, 5.0])
    assert_allclose(model.kernel_sum([[0.0], [2.5], [9.0]]), [1.5, 0.25, 0.0])
    assert_allclose(model.predict([[0.0], [2.5], [9.0]]), [(1 + 2.5) / 1.5, 5.0, 3.0])


def test_an_instance_of_a_family_equals_its_name():
    X, y, _ = make_data(30)
    by_name, by_instance = (make_model(k, bandwidth=1.0).fit(X, y) for k in ("l2", GaussianProjection()))
    assert_array_equal(by_name.predict(-X), by_instance.predict(-X))


# -- corners of the kernels ------------------------------------------------------------------------


def test_angles_are_exact_at_both_ends_and_defined_at_zero():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 7))
    for row in rows:
        model = NadarayaWatsonRegressor(kernel="angular").fit([row], [1.0])
        assert_array_equal(model.kernel_sum([row, 2 * row, -row, 0 * row]), [1.0, 1.0, 0.0, 0.5])
        # The arc cosine of a rounded cosine is wrong by up to 1e-8.
        parallel = [3 * row, 1e200 * row, -1e-200 * row]
        assert_allclose(model.kernel_sum(parallel), [1.0, 1.0, 0.0], rtol=0, atol=1e-15)
    model = NadarayaWatsonRegressor(kernel="angular").fit([np.zeros(7)], [1.0])
    assert_array_equal(model.kernel_sum(np.vstack([np.zeros(7), rows])), [1.0] + [0.5] * 20)
    tiny = NadarayaWatsonRegressor(kernel="angular").fit([[1.0, 0.0]], [1.0]).kernel_sum([[1.0, 1e-9]])
    assert_allclose((1 - tiny) * np.pi, 1e-9, rtol=1e-6)


def test_jaccard_of_empty_sets():
    model = NadarayaWatsonRegressor(kernel="jaccard").fit([[0, 0, 0], [1, -2, 0]], [1.0, 2.0], [1.0, 10.0])
    queries = [[0, 0, 0], [3, 1, 0], [0, 5, 1], [0, 0, 1]]
    assert_allclose(model.kernel_sum(queries), [1.0, 10.0, 10 / 3, 0.0], rtol=1e-15)


@pytest.mark.parametrize("kernel", CLOSED_FORM)
def test_equal_rows_have_kernel_one_exactly(kernel):
    X = np.random.default_rng(0).standard_normal((50, 4)) * 1e3
    for row in X[:10]:
        assert_array_equal(make_model(kernel).fit([row], [1.0]).kernel_sum([row]), [1.0])


# -- queries far from all rows ---------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2])
def test_far_predictions_tend_to_the_nearest_rows(power):
    X, y, queries = [[0.0], [1.0], [1.0]], [1.0, 5.0, 8.0], [[1e4], [-1e4]]
    model = NadarayaWatsonRegressor(bandwidth=1.0, hashes_per_repetition=power).fit(X, y)
    assert_array_equal(model.kernel_sum(queries), [0.0, 0.0])
    a = np.exp(-power)
    assert_allclose(model.predict(queries), [(a + 13) / (a + 2), (1 + 13 * a) / (1 + 2 * a)], rtol=1e-12)
    model = NadarayaWatsonRegressor(kernel="rbf", bandwidth=1.0).fit(X, y)
    assert_array_equal(model.kernel_sum(queries), [0.0, 0.0])
    assert_array_equal(model.predict(queries), [6.5, 1.0])


def test_far_predictions_meet_the_nearest_row_in_any_tile(monkeypatch):
    monkeypatch.setattr(exact_tiles, "ROWS_PER_TILE", 2)
    X = np.array([[50.0], [900.0], [5.0], [700.0], [-900.0], [30.0]])
    for order in (slice(None), slice(None, None, -1)):
        model = NadarayaWatsonRegressor(bandwidth=0.01).fit(X[order], np.arange(6.0)[order])
        assert_array_equal(model.predict([[-100.0], [810.0], [2e3]]), [2.0, 1.0, 1.0])


def test_rows_of_weight_zero_do_not_attract_far_queries():
    model = NadarayaWatsonRegressor(bandwidth=0.01).fit(
        [[-5.0], [0.0], [50.0]], [1.0, 2.0, 3.0], [1.0, 1.0, 0.0]
    )
    assert_array_equal(model.predict([[100.0]]), [2.0])


@pytest.mark.parametrize(("empty", "expected"), [("mean", 2.5), ("nan", np.nan), (7, 7.0)])
@pytest.mark.parametrize(
    ("kernel", "X", "query", "power"),
    [
        ("angular", [[1.0, 1.0], [2.0, 2.0]], [-3.0, -3.0], 1),
        ("jaccard", [[1.0, 0.0], [2.0, 0.0]], [0.0, 1.0], 1),
        ("l2", [[0.0, 0.0], [1.0, 0.0]], [1e3, 0.0], 200),
        ("l1", [[0.0, 0.0], [1.0, 0.0]], [1e3, 0.0], 200),
        ("linear", [[0.0, 1.0], [0.0, 3.0]], [1.0, 0.0], 1),
    ],
)
def test_empty_queries(kernel, X, query, power, empty, expected):
    model = NadarayaWatsonRegressor(kernel=kernel, hashes_per_repetition=power, empty=empty)
    if kernel in WITH_BANDWIDTH:
        model.set_params(bandwidth=1.0)
    model.fit(X, [[1.0, 2.0], [3.0, 6.0]], [1.0, 3.0])
    assert_array_equal(model.kernel_sum([query]), [0.0])
    both = [expected, 2 * expected] if empty == "mean" else [expected, expected]
    assert_array_equal(model.predict([query, X[0]])[0], both)


# -- leave one out ---------------------------------------------------------------------------------


def refit_without_each(model, X, y, weights):
    """Return for every row the prediction of a model that was fitted on all the others."""
    others = ~np.eye(len(y), dtype=bool)
    refits = (clone(model).fit(X[keep], y[keep], weights[keep]) for keep in others)
    return np.concatenate([refit.predict(X[[i]]) for i, refit in enumerate(refits)])


@pytest.mark.parametrize("multi_output", [False, True])
@pytest.mark.parametrize("make_rows", [np.array, sparse.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("kernel", [*CLOSED_FORM, *OTHER_KERNELS])
def test_leaving_one_out_equals_refitting_without_it(kernel, make_rows, multi_output, monkeypatch):
    monkeypatch.setattr(exact_tiles, "ROWS_PER_TILE", 7)
    X, y, weights = make_data(30)
    X[4:7] *= 1e4  # lonely rows: all of their other kernel values underflow
    X[7] = [0, 0, 0, 1]
    X[8] = X[7]
    if multi_output:
        y = np.column_stack([y, y**2])
    X = make_rows(X)
    model = make_model(kernel).fit(X, y, weights)
    left_out = model.loo_predict(X, y, weights)
    assert left_out.shape == y.shape
    assert_allclose(left_out, refit_without_each(model, X, y, weights), rtol=1e-12)
    some = np.array([20, 8, 5, 0])
    assert_allclose(model.loo_predict(X[some], y[some], weights[some]), left_out[some], rtol=1e-12)


@pytest.mark.parametrize("kernel", CLOSED_FORM)
def test_leaving_one_out_equals_the_plain_loops(kernel):
    X, y, weights = make_data(30)
    X[4:7] *= 1e3
    model = make_model(kernel).fit(X, y, weights)
    bandwidth = [1.0] * 4 if model.bandwidth_ is None else model.bandwidth_
    expected = naive.loo_predict(kernel, X, y, bandwidth, weights)
    assert_allclose(model.loo_predict(X, y, weights), expected, rtol=1e-9)


def test_leaving_out_one_of_two_clusters_is_not_swamped_by_its_own_weight():
    X = np.array([[0.0], [0.0], [3.0], [1e5]])
    y, weights = np.array([1e9, 2.0, 3.0, 7.0]), [1e20, 1.0, 1.0, 1.0]
    model = NadarayaWatsonRegressor(bandwidth=1.0).fit(X, y, weights)
    a = np.exp(-3.0)
    expected = [(2 + 3 * a) / (1 + a), 1e9, 1e9, 1e9]
    assert_allclose(model.loo_predict(X, y, weights), expected, rtol=1e-12)


@pytest.mark.parametrize("empty", ["mean", "nan", 7])
def test_leaving_out_a_row_without_neighbours(empty):
    X, y, weights = np.eye(3), np.array([1.0, 2.0, 4.0]), np.array([1e20, 1.0, 3.0])
    model = NadarayaWatsonRegressor(kernel="jaccard", empty=empty).fit(X, y, weights)
    means = [14 / 4, (1e20 + 12) / (1e20 + 3), (1e20 + 2) / (1e20 + 1)]
    expected = {"mean": means, "nan": [np.nan] * 3, 7: [7] * 3}[empty]
    assert_allclose(model.loo_predict(X, y, weights), expected, rtol=1e-12)


def test_leaving_out_the_only_row_leaves_nothing():
    model = NadarayaWatsonRegressor().fit([[1.0]], [2.0])
    assert_array_equal(model.loo_predict([[1.0]], [2.0]), [np.nan])
    assert_array_equal(model.set_params(empty=0.5).loo_predict([[1.0]], [2.0]), [0.5])


def test_rows_to_leave_out_may_be_written_in_any_way():
    X, y, weights = make_data(30)
    y[5] = 0.0
    dense = make_model("laplacian").fit(X, y, weights)
    csr = make_model("laplacian").fit(sparse.csr_array(X), y, weights)
    expected = dense.loo_predict(X, y, weights)
    with_zeros = sparse.csr_matrix(X + 1)
    with_zeros.data[:] = X.ravel()
    negative_zeros = np.where(X == 0, -0.0, X), np.where(y == 0, -0.0, y)
    assert_allclose(dense.loo_predict(sparse.csr_matrix(X), y, weights), expected, rtol=1e-12)
    assert_allclose(dense.loo_predict(with_zeros, y, weights), expected, rtol=1e-12)
    assert_allclose(csr.loo_predict(with_zeros, y, weights), expected, rtol=1e-12)
    assert_allclose(csr.loo_predict(*negative_zeros, weights), expected, rtol=1e-12)


def test_rows_of_the_same_values_in_other_columns_are_told_apart():
    X, y = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]]), np.array([1.0, 1.0, 5.0])
    model = NadarayaWatsonRegressor(bandwidth=1.0).fit(X, y)
    near, far = np.exp(-2.0) / np.exp(-0.5), np.exp(-2.0) / np.exp(-1.5)
    assert_allclose(model.loo_predict(X, y)[:2], [(near + 5) / (near + 1), (far + 5) / (far + 1)], rtol=1e-12)


# -- one answer, however it is computed ------------------------------------------------------------


@pytest.mark.parametrize("kernel", [*CLOSED_FORM, *OTHER_KERNELS])
def test_sparse_rows_equal_dense_rows(kernel):
    X, y, weights = make_data(60)
    queries = make_data(20, seed=1)[0]
    dense = make_model(kernel).fit(X, y, weights)
    csr = make_model(kernel).fit(sparse.csr_array(X), y, weights)
    for method in ("predict", "kernel_sum"):
        expected = getattr(dense, method)(queries)
        assert_allclose(getattr(csr, method)(sparse.csr_matrix(queries)), expected, rtol=1e-12)
        assert_allclose(getattr(csr, method)(queries), expected, rtol=1e-12)
        assert_allclose(getattr(dense, method)(sparse.csc_matrix(queries)), expected, rtol=1e-12)


def test_csr_rows_may_be_unsorted_repeated_and_hold_zeros():
    # The first row is [3, 0, 2, 0], the second is empty.
    X = sparse.csr_array((np.array([2.0, 1.0, 2.0, 0.0, 0.0]), [2, 0, 0, 3, 1], [0, 4, 5]), shape=(2, 4))
    before = X.copy()
    for kernel in CLOSED_FORM:
        model = make_model(kernel).fit(X, [1.0, 2.0], [1.0, 2.0])
        expected = make_model(kernel).fit(X.toarray(), [1.0, 2.0], [1.0, 2.0]).kernel_sum(X.toarray())
        assert_allclose(model.kernel_sum(X), expected, rtol=1e-15)
    assert_array_equal(X.data, before.data)
    assert_array_equal(X.indices, before.indices)


@pytest.mark.parametrize("make_rows", [np.array, sparse.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("kernel", CLOSED_FORM)
def test_tiles_do_not_matter(kernel, make_rows, monkeypatch):
    X, y, weights = make_data(60)
    X, queries = make_rows(X), make_rows(make_data(20, seed=1)[0])
    model = make_model(kernel).fit(X, y, weights)
    expected = model.predict(queries), model.kernel_sum(queries), model.loo_predict(X, y, weights)
    for per_query_block, per_row_block in ((3, 4), (7, 60), (20, 13)):
        monkeypatch.setattr(exact_tiles, "QUERIES_PER_TILE", per_query_block)
        monkeypatch.setattr(exact_tiles, "ROWS_PER_TILE", per_row_block)
        answers = model.predict(queries), model.kernel_sum(queries), model.loo_predict(X, y, weights)
        for answer, reference in zip(answers, expected, strict=True):
            assert_allclose(answer, reference, rtol=1e-12)


@pytest.mark.parametrize("kernel", [*CLOSED_FORM, "cosine"])
def test_threads_do_not_matter(kernel):
    X, y, weights = make_data(2100)
    alone = make_model(kernel, n_jobs=1).fit(X, y, weights)
    for n_jobs in (2, 3, None):
        together = clone(alone).set_params(n_jobs=n_jobs).fit(X, y, weights)
        for method in ("predict", "kernel_sum"):
            assert_array_equal(getattr(alone, method)(X[:400]), getattr(together, method)(X[:400]))


@pytest.mark.parametrize("n_features", [3, 5000])
def test_memory_is_bounded(n_features):
    rng = np.random.default_rng(0)
    X = rng.random((20_000 if n_features == 3 else 500, n_features))
    model = NadarayaWatsonRegressor(n_jobs=1).fit(X, X[:, 0])
    model.predict(X[:1])
    tracemalloc.start()
    model.predict(X[:2000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # all pairs, or a second copy of the wide rows, take more than 16 MiB


@pytest.mark.parametrize("kernel", [*CLOSED_FORM, "cosine"])
def test_integer_weights_equal_repeated_rows(kernel):
    X, y, _ = make_data(30)
    counts = np.arange(30) % 4
    # The default bandwidth, since it must follow the weights as well.
    weighted = NadarayaWatsonRegressor(kernel=kernel).fit(X, y, counts)
    repeated = NadarayaWatsonRegressor(kernel=kernel).fit(X.repeat(counts, axis=0), y.repeat(counts))
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-12)
    assert_allclose(weighted.kernel_sum(X), repeated.kernel_sum(X), rtol=1e-12)


def test_default_bandwidth_is_the_rule_called_scale():
    X, y, weights = make_data(30)
    model = NadarayaWatsonRegressor().fit(X, y, weights)
    assert_allclose(model.bandwidth_, scale_bandwidth(X, weights), rtol=1e-14)
    assert_array_equal(NadarayaWatsonRegressor(bandwidth=2).fit(X, y).bandwidth_, [2.0] * 4)


# -- input -----------------------------------------------------------------------------------------


def test_outputs_have_the_shape_of_y():
    X, y, weights = make_data(30)
    one = make_model("laplacian").fit(X, y, weights)
    column = make_model("laplacian").fit(X, y[:, None], weights)
    two = make_model("laplacian").fit(X, np.column_stack([y, -y]), weights)
    assert one.predict(X[:5]).shape == (5,)
    assert_array_equal(column.predict(X), one.predict(X)[:, None])
    assert_array_equal(column.loo_predict(X, y[:, None], weights), one.loo_predict(X, y, weights)[:, None])
    assert_allclose(two.predict(X), np.column_stack([one.predict(X), -one.predict(X)]), rtol=1e-12)


def test_float32_rows_are_kept_and_equal_their_float64_copies():
    X, y, _ = make_data(30)
    X = X.astype(np.float32)
    single, double = make_model("l2").fit(X, y), make_model("l2").fit(X.astype(np.float64), y)
    assert single.X_.dtype == np.float32
    assert single.predict(X).dtype == np.float64
    assert_array_equal(single.predict(-X), double.predict(-X.astype(np.float64)))


@pytest.mark.parametrize("kernel", CLOSED_FORM)
def test_fortran_order_does_not_matter(kernel):
    X, y, _ = make_data(30)
    rows, columns = make_model(kernel).fit(X, y), make_model(kernel).fit(np.asfortranarray(X), y)
    assert_array_equal(columns.predict(np.asfortranarray(-X)), rows.predict(-X))


def test_integer_strided_and_read_only_input():
    X, y, _ = make_data(60)
    y = y.round()
    expected = make_model("rbf").fit(X[::2].copy(), y[::2]).predict(X)
    X.setflags(write=False)
    y.setflags(write=False)
    model = make_model("rbf").fit(X[::2], y[::2].astype(int))
    assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize("make_frame", [pd.DataFrame, pl.DataFrame])
def test_data_frames(make_frame):
    X, y, _ = make_data(30)
    frame = make_frame(dict(zip("abcd", X.T, strict=True)))
    model = make_model("laplacian").fit(frame, y)
    assert list(model.feature_names_in_) == list("abcd")
    assert_array_equal(model.predict(frame), make_model("laplacian").fit(X, y).predict(X))


@pytest.mark.parametrize("kernel", CLOSED_FORM)
@pytest.mark.parametrize("magnitude", [1e300, 1e-250, 1e-320])
def test_huge_and_denormal_features(kernel, magnitude):
    X, y = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]), [0.0, 3.0, 4.0, 5.0]
    model = NadarayaWatsonRegressor(kernel=kernel).fit(magnitude * X, y)
    predicted = model.predict(magnitude * X)
    assert (predicted >= 0).all()
    assert (predicted <= 5).all()
    if kernel in WITH_BANDWIDTH and magnitude > 1e-310:
        assert_allclose(predicted, NadarayaWatsonRegressor(kernel=kernel).fit(X, y).predict(X))
    if kernel in WITH_BANDWIDTH and magnitude == 1e300:
        model.set_params(bandwidth=1.0).fit(magnitude * X, y)
        assert_allclose(model.predict(magnitude * X), [0.0, 3.5, 3.5, 5.0], atol=1e-99)


@pytest.mark.parametrize("kernel", CLOSED_FORM)
def test_one_row_one_column_and_constant_columns(kernel):
    one = NadarayaWatsonRegressor(kernel=kernel).fit([[2.0]], [3.0])
    assert_allclose(one.predict([[2.0], [1.0]]), [3.0, 3.0])
    constant = NadarayaWatsonRegressor(kernel=kernel).fit([[2.0, 1.0], [2.0, 1.0]], [3.0, 4.0])
    assert_allclose(constant.predict([[2.0, 1.0]]), [3.5])


def test_pickled_models_answer_alike():
    X, y, _ = make_data(30)
    for kernel in (*CLOSED_FORM, "cosine"):
        model = make_model(kernel).fit(X, y)
        assert_array_equal(pickle.loads(pickle.dumps(model)).predict(-X), model.predict(-X))


# -- errors ----------------------------------------------------------------------------------------


class WithoutClosedForm(RandomBinning):
    """A family that nobody has integrated."""

    name = "unknown"
    distance = None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kernel": "gauss"}, r"Unknown kernel 'gauss'; choose one of \['additive_chi2', .*'rbf'.*\]"),
        ({"kernel": "precomputed"}, "Unknown kernel 'precomputed'; choose one of"),
        ({"kernel": 3}, "'kernel' parameter .* must be"),
        (
            {"kernel": WithoutClosedForm()},
            "'unknown' has no kernel in closed form; set its attribute distance",
        ),
        ({"kernel_params": {"gamma": 1}}, "kernel='laplacian' takes no kernel_params.* give bandwidth"),
        ({"kernel": "rbf", "kernel_params": {"gamma": 1}}, "kernel='rbf' takes no kernel_params"),
        (
            {"kernel": "cosine", "bandwidth": 1.0},
            "kernel='cosine' has no bandwidth, but bandwidth=1.0 was given; leave",
        ),
        ({"kernel": "angular", "bandwidth": [1.0] * 4}, "kernel='angular' has no bandwidth"),
        (
            {"kernel": "jaccard", "bandwidth": 2},
            "kernel='jaccard' has no bandwidth, but bandwidth=2 was given",
        ),
        ({"kernel": closeness, "bandwidth": 2}, "closeness.* has no bandwidth"),
        ({"bandwidth": 0}, "'bandwidth' parameter .* must be"),
        ({"bandwidth": -1.0}, "'bandwidth' parameter .* must be"),
        ({"bandwidth": [1.0, 2.0]}, r"bandwidth has shape \(2,\), but .* 4 features"),
        ({"bandwidth": [1.0, 2.0, 0.0, 1.0]}, "bandwidth .*positive"),
        ({"bandwidth": [1.0, 2.0, np.inf, 1.0]}, "bandwidth .*finite"),
        ({"bandwidth": 1e-309}, "Feature . divided by its bandwidth 1e-309 overflows; rescale"),
        ({"hashes_per_repetition": 0}, "'hashes_per_repetition' parameter .* must be"),
        ({"empty": "zero"}, "'empty' parameter .* must be"),
        ({"n_jobs": 0}, "n_jobs=0 has no meaning"),
    ],
)
def test_wrong_parameters_raise(parameters, message):
    X, y, _ = make_data(30)
    with pytest.raises(ValueError, match=message):
        NadarayaWatsonRegressor(**parameters).fit(X, y)


def test_a_kernel_that_is_not_finite_raises():
    model = NadarayaWatsonRegressor(kernel=lambda x, q: np.inf).fit(X, y)
    with pytest.raises(ValueError, match="returned NaN or infinity for a pair of rows; make it finite"):
        model.predict(X)


X, y, weights = make_data(10)
spoilt = np.where(np.eye(10, 4, dtype=bool), np.nan, X)


@pytest.mark.parametrize(
    ("rows", "targets", "sample_weight", "message"),
    [
        (spoilt, y, None, "Input X contains NaN"),
        (np.where(spoilt > 0, np.inf, X), y, None, "Input X contains infinity"),
        (X, np.full(10, np.nan), None, "Input y contains NaN"),
        (X, y, np.full(10, np.nan), "sample_weight holds NaN or infinity"),
        (X, y, -weights, r"sample_weight holds -1.5: weights cannot be negative. Leave such rows out"),
        (X, y, np.zeros(10), "sample_weight sums to zero, so that no row is left; give a positive weight"),
        (X, y, weights[:5], r"sample_weight has shape \(5,\): give one weight per row, \(10,\)"),
        (X, y, np.full(10, 1e308), "overflow; divide sample_weight, or y, by a large number"),
        (X, np.full(10, 1e308), np.full(10, 10.0), "overflow; divide sample_weight, or y, by a large number"),
        (X[:0], y[:0], None, "Found array with 0 sample"),
        (X[:, :0], y, None, r"Found array with 0 feature\(s\)"),
        (X, y[:5], None, "inconsistent numbers of samples"),
        (X[0], y, None, "Expected 2D array, got 1D array"),
        (np.full((10, 4), "a"), y, None, "could not convert string to float"),
        (X + 1j, y, None, "Complex data not supported"),
    ],
)
def test_wrong_rows_raise_and_change_nothing(rows, targets, sample_weight, message):
    model = make_model("laplacian").fit(X, y)
    expected = model.predict(X)
    with pytest.raises(ValueError, match=message):
        model.fit(rows, targets, sample_weight)
    assert_array_equal(model.predict(X), expected)


def test_wrong_queries_raise():
    model = make_model("laplacian").fit(X, y)
    for method in (model.predict, model.kernel_sum):
        with pytest.raises(ValueError, match="X has 3 features, but NadarayaWatsonRegressor is expecting 4"):
            method(X[:, :3])
        with pytest.raises(ValueError, match="Input X contains NaN"):
            method(spoilt)
        with pytest.raises(ValueError, match=r"Feature 0 divided by its bandwidth 0\.5 overflows"):
            method(np.full((1, 4), 1.7e308))
    with pytest.raises(ValueError, match="is not among the rows that NadarayaWatsonRegressor was fitted on"):
        model.loo_predict(X + 1, y)
    with pytest.raises(ValueError, match="Row 0 of X, with its target and weight, is not among"):
        model.loo_predict(X, y + 1)
    with pytest.raises(ValueError, match="Row 0 of X, with its target and weight, is not among"):
        model.loo_predict(X, y, np.full(10, 2.0))
    with pytest.raises(ValueError, match=r"y has shape \(10, 2\), but .* targets of shape \(10,\)"):
        model.loo_predict(X, np.column_stack([y, y]))


def test_unfitted_models_raise():
    model = NadarayaWatsonRegressor()
    for call in (lambda: model.predict(X), lambda: model.kernel_sum(X), lambda: model.loo_predict(X, y)):
        with pytest.raises(NotFittedError, match="This NadarayaWatsonRegressor instance is not fitted yet"):
            call()
