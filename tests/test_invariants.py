"""What must always hold of the estimator: unbiased, convergent, exact bookkeeping."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

import nwsketch.backends.aggregation
from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.backends import numba_backend
from nwsketch.backends.aggregation import median_over_groups, ratios
from nwsketch.hashing import get_family, registered_families

KERNELS = registered_families()


def make_rows(n_samples=120, n_features=3, seed=0):
    """Rows with zeros (so that jaccard has something to see), targets and integer weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features)) * (rng.random((n_samples, n_features)) < 0.8)
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2
    return X, y, rng.integers(1, 4, n_samples).astype(float)


def bandwidth_of(kernel, value=2.0):
    return value if get_family(kernel).takes_bandwidth else "scale"


def make_sketch(kernel="laplacian", n_features=3, **parameters):
    parameters = {"bandwidth": 2.0, "n_repetitions": 16, "n_buckets": 64, "random_state": 0, **parameters}
    return NadarayaWatsonSketch(n_features, kernel=kernel, **parameters)


# -- invariant 1: unbiased tables -----------------------------------------------------------------


@pytest.mark.parametrize("hashes_per_repetition", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_tables_are_unbiased(kernel, hashes_per_repetition):
    X, y, weights = make_rows()
    queries = make_rows(10, seed=1)[0]
    shape = {"kernel": kernel, "hashes_per_repetition": hashes_per_repetition}
    exact = NadarayaWatsonRegressor(bandwidth=bandwidth_of(kernel), **shape).fit(X, y, weights)
    expected = np.column_stack(
        [exact.predict(queries) * exact.kernel_sum(queries), exact.kernel_sum(queries)]
    )
    sums = np.array(
        [
            make_sketch(random_state=seed, **shape).update(X, y, weights).channel_sums(queries)
            for seed in range(200)
        ]
    )
    errors = sums.std(axis=0, ddof=1) / np.sqrt(len(sums))
    assert (np.abs(sums.mean(axis=0) - expected) < 5 * errors + 1e-12).all()


def test_rehashing_adds_no_bias():
    # At a kernel value of .01 and 10 buckets, undebiased tables read .01 + .99 / 10 = .109.
    X, query = np.zeros((1, 1)), np.array([[np.log(100.0)]])
    sketch = make_sketch(n_features=1, bandwidth=1.0, n_repetitions=200_000, n_buckets=10).update(X, [1.0])
    codes = sketch._backend.codes(query, 1)
    raw = sketch.tables[np.arange(200_000), codes[:, 0], -1].mean()
    error = np.sqrt(0.109 * 0.891 / 200_000)
    assert abs(raw - 0.109) < 5 * error
    assert abs(sketch.kernel_sum(query)[0] - 0.01) < 5 * error / 0.9


# -- invariant 2: convergence ---------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_error_falls_as_the_square_root_of_the_repetitions(kernel):
    X, y, weights = make_rows(200)
    queries = make_rows(50, seed=1)[0]
    exact = NadarayaWatsonRegressor(kernel=kernel, bandwidth=bandwidth_of(kernel, 3.0)).fit(X, y, weights)
    expected = exact.predict(queries)
    sizes = 4 ** np.arange(2, 7)  # 16 ... 4096

    def mean_error(n_repetitions, seed):
        sketch = make_sketch(
            kernel, bandwidth=3.0, n_repetitions=n_repetitions, n_buckets=1024, random_state=seed
        )
        return np.abs(sketch.update(X, y, weights).query(queries)[:, 0] - expected).mean()

    errors = np.array([[mean_error(int(size), seed) for size in sizes] for seed in range(8)])
    slopes = np.polyfit(np.log(sizes), np.log(errors).T, 1)[0]
    assert -0.6 <= slopes.mean() <= -0.4


def test_failures_of_median_of_means_fall_exponentially_in_the_number_of_groups():
    X, y, weights = make_rows(100)
    queries = make_rows(10, seed=1)[0]
    expected = NadarayaWatsonRegressor(bandwidth=4.0).fit(X, y, weights).predict(queries)
    # Groups are independent, so one long sketch holds the groups of many short ones.
    n_groups = 30_000
    sketch = make_sketch(
        bandwidth=4.0, n_repetitions=8 * n_groups, aggregation="median_of_means", n_groups=n_groups
    )
    sketch.update(X, y, weights)
    sums, squares = sketch._backend.sums(sketch._state, queries, n_groups, None, 2)
    totals = sketch._state.channel_totals
    shape = {"n_repetitions": 8, "n_buckets": sketch.n_buckets, "unit": sketch._state.unit}
    by_group = ratios(sums, squares, totals, tolerance=0.0, **shape)[..., 0]
    assert not np.isnan(by_group).any()
    numbers = np.array([1, 3, 5, 7])
    for answers, truth in zip(by_group, expected, strict=True):
        # The bound needs an error that a single group stays below more often than not.
        tolerance = np.quantile(np.abs(answers - truth), 0.7)
        rates = [
            (np.abs(median_over_groups(_cut(answers, number)) - truth) > tolerance).mean()
            for number in numbers
        ]
        assert np.corrcoef(numbers, np.log(rates))[0, 1] < -0.98
        assert rates[-1] < rates[0] / 2


def _cut(answers, number):
    """Groups of groups: (n_medians, number, 1)."""
    return answers[: len(answers) // number * number].reshape(-1, number, 1)


# -- invariant 3: one call or many ----------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut batches into many blocks and give even little work to all threads."""
    monkeypatch.setattr(numba_backend, "BLOCK_SIZE", 64 * 16)
    monkeypatch.setattr(numba_backend, "SERIAL_SIZE", 0)


def assert_equal_bits(first, second):
    for mine, theirs in zip(first._state, second._state, strict=True):
        assert mine.tobytes() == theirs.tobytes()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kernel", KERNELS)
def test_any_split_gives_the_same_bits(kernel):
    X, y, weights = make_rows(400)
    whole = make_sketch(kernel, n_jobs=1).update(X, y, weights)

    layouts = [np.ascontiguousarray, np.asfortranarray, lambda X: np.repeat(X, 2, axis=1)[:, ::2], csr_array]

    @given(
        cuts=st.lists(st.integers(0, 400), max_size=6),
        n_jobs=st.sampled_from([1, 2, 3]),
        layout=st.sampled_from(layouts),
    )
    def check(cuts, n_jobs, layout):
        parts = make_sketch(kernel, n_jobs=n_jobs)
        for rows in np.split(np.arange(400), sorted(cuts)):
            parts.update(layout(X[rows]), y[rows], weights[rows])
        assert_equal_bits(whole, parts)

    check()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kernel", KERNELS)
def test_layout_and_precision_of_the_input_leave_the_same_bits(kernel):
    X, y, weights = make_rows(300)
    X = X.astype(np.float32)
    wide = np.zeros((600, 6), dtype=np.float32)
    wide[::2, 1::2] = X
    whole = make_sketch(kernel).update(X, y, weights)
    for same in (X.astype(np.float64), np.asfortranarray(X), wide[::2, 1::2], X[::-1][::-1], csr_array(X)):
        assert_equal_bits(whole, make_sketch(kernel).update(same, y, weights))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_is_predicted_alike_whatever_rows_are_asked_with_it(kernel):
    X, y, weights = make_rows(300)
    sketch = make_sketch(kernel).update(X, y, weights)
    one_by_one = np.concatenate([sketch.query(row[np.newaxis]) for row in X])
    assert np.array_equal(sketch.query(X), one_by_one)


def test_regressor_learns_alike_in_one_call_and_in_many():
    X, y, weights = make_rows(300)
    make = NadarayaWatsonSketchRegressor(bandwidth=1.0, n_repetitions=16, n_buckets=64, random_state=0)
    whole = make.fit(X, y, weights).sketch_
    parts = NadarayaWatsonSketchRegressor(**make.get_params())
    for start in range(0, 300, 70):
        rows = slice(start, start + 70)
        parts.partial_fit(X[rows], y[rows], weights[rows])
    assert_equal_bits(whole, parts.sketch_)


# -- invariant 5: linear --------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.sampled_from(KERNELS),
    first=st.integers(1, 60),
    second=st.integers(1, 60),
)
def test_merging_equals_learning_both(seed, kernel, first, second):
    X, y, weights = make_rows(first + second, seed=seed)
    both = make_sketch(kernel).update(X, y, weights)
    left = make_sketch(kernel).update(X[:first], y[:first], weights[:first])
    right = make_sketch(kernel).update(X[first:], y[first:], weights[first:])
    untouched = [part.copy() for part in right._state]
    assert left.merge(right) is left
    assert np.array_equal(left.tables[..., -1], both.tables[..., -1])
    np.testing.assert_allclose(left.tables, both.tables, rtol=1e-12, atol=1e-12)
    assert left.n_samples_seen == first + second
    for before, after in zip(untouched, right._state, strict=True):
        assert np.array_equal(before, after)


@given(seed=st.integers(0, 2**32 - 1), kernel=st.sampled_from(KERNELS))
def test_order_of_rows_does_not_matter(seed, kernel):
    X, y, weights = make_rows(80, seed=seed)
    order = np.random.default_rng(seed).permutation(80)
    straight = make_sketch(kernel).update(X, y, weights)
    shuffled = make_sketch(kernel).update(X[order], y[order], weights[order])
    assert np.array_equal(straight.tables[..., -1], shuffled.tables[..., -1])
    np.testing.assert_allclose(straight.tables, shuffled.tables, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), kernel=st.sampled_from(KERNELS))
def test_a_weight_counts_repetitions_of_a_row(seed, kernel):
    X, y, _ = make_rows(60, seed=seed)
    weights = np.random.default_rng(seed).integers(0, 4, 60)
    weighted = make_sketch(kernel).update(X, y, weights)
    repeated = make_sketch(kernel).update(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    assert np.array_equal(weighted.tables[..., -1], repeated.tables[..., -1])
    np.testing.assert_allclose(weighted.tables, repeated.tables, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), kernel=st.sampled_from(KERNELS), n_gone=st.integers(1, 79))
def test_forgetting_undoes_learning(seed, kernel, n_gone):
    X, y, weights = make_rows(80, seed=seed)
    weights = weights / 10  # sums of tenths leave rounding errors behind
    sketch = make_sketch(kernel).update(X, y, weights)
    assert sketch.forget(X[:n_gone], y[:n_gone], weights[:n_gone]) is sketch
    rest = make_sketch(kernel).update(X[n_gone:], y[n_gone:], weights[n_gone:])
    np.testing.assert_allclose(sketch.tables, rest.tables, atol=1e-12)
    assert sketch.n_samples_seen == rest.n_samples_seen == 80 - n_gone
    queries = make_rows(20, seed=seed + 1)[0]
    np.testing.assert_allclose(sketch.query(queries), rest.query(queries), rtol=1e-6, atol=1e-9)


def test_what_rounding_leaves_of_forgotten_rows_is_empty():
    sketch = make_sketch(empty="nan", n_buckets=2**14)
    near, far = np.zeros((3, 3)), np.full((1, 3), 50.0)
    sketch.update(near, [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]).update(far, [7.0])
    sketch.forget(near, [1.0, 2.0, 3.0], [0.1, 0.2, 0.3])
    assert np.abs(sketch.tables[..., -1]).min() == 0
    assert (
        sketch.tables[..., -1][np.abs(sketch.tables[..., -1]) < 0.5] != 0
    ).any()  # else the test says nothing
    assert np.isnan(sketch.query(near[:1])).all()
    assert sketch.query(far)[0, 0] == pytest.approx(7.0)


def test_forgetting_everything_leaves_no_mean():
    X, y, weights = make_rows(30)
    sketch = make_sketch().update(X, y, weights / 10).forget(X, y, weights / 10)
    assert sketch.n_samples_seen == 0
    assert np.isnan(sketch.query(X)).all()


# -- invariants 6 and 7: counts and memory --------------------------------------------------------


def test_counts_do_not_saturate():
    # A float32 counter stops at 2**24, and would answer 1.
    sketch = make_sketch(n_features=1, n_repetitions=2, n_buckets=2)
    X = np.zeros((2**20, 1), dtype=np.float32)
    for target in (1.0, 0.0):
        y = np.full(2**20, target)
        for _ in range(16):
            sketch.update(X, y)
    assert sketch.query([[0.0]])[0, 0] == 0.5
    assert sketch.total_weight == 2**25


def test_memory_is_fixed_by_the_shape_of_the_tables():
    sketch = make_sketch()
    before = sketch.nbytes
    assert sketch.tables.nbytes == 16 * 64 * 2 * 8
    X, y, weights = make_rows(5000)
    assert sketch.update(X, y, weights).nbytes == before


# -- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_buckets", [64, 512])
def test_clusters_with_outliers_do_not_explode(n_buckets, monkeypatch):
    rng = np.random.default_rng(0)
    centers = rng.uniform(-20, 20, size=(10, 4))
    X = np.concatenate([centers[rng.integers(10, size=2000)] + 0.1 * rng.normal(size=(2000, 4))])
    outliers = rng.uniform(-60, 60, size=(2000, 4))
    y = X[:, 0]
    sketch = make_sketch(n_features=4, n_repetitions=128, n_buckets=n_buckets).update(X, y)
    expected = NadarayaWatsonRegressor(bandwidth=2.0).fit(X, y).predict(X)
    assert np.abs(sketch.query(X)[:, 0] - expected).max() < 2.0
    # Without a row near, numerator and denominator are noise: the ratio must stay of the order of y.
    spread = np.abs(y).max()
    assert np.abs(sketch.query(outliers)).max() < 5 * spread
    monkeypatch.setattr(nwsketch.backends.aggregation, "NOISE_ERRORS", 0.0)
    assert np.abs(sketch.query(outliers)).max() > 20 * spread  # what the threshold prevents


# -- leave-one-out --------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["mean", "median_of_means"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n_buckets", [16, 2**14])
def test_leaving_one_out_equals_learning_the_others(kernel, aggregation, n_buckets):
    X, y, weights = make_rows(40)
    targets = np.column_stack([y, y**2])
    parameters = {"kernel": kernel, "aggregation": aggregation, "n_buckets": n_buckets, "n_outputs": 2}
    left_out = make_sketch(**parameters).update(X, targets, weights).loo_query(X, targets, weights)
    for i in range(40):
        others = np.arange(40) != i
        sketch = make_sketch(**parameters).update(X[others], targets[others], weights[others])
        np.testing.assert_allclose(left_out[i], sketch.query(X[i : i + 1])[0], rtol=1e-9, atol=1e-9)
