"""NadarayaWatsonSketch against a plain model of itself, and what only the sketch can do."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import held
from naive_sketch import NaiveSketch

from nwsketch import NadarayaWatsonSketch
from nwsketch.backends.aggregation import NOISE_ERRORS
from nwsketch.backends.numba_backend import MAPPED_SIZE
from nwsketch.hashing import get_family, registered_families
from nwsketch.tensors import to_host


def make_rows(n_samples, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, 4)) * (rng.random((n_samples, 4)) < 0.7)
    return X, X[:, 0] - 2 * X[:, 1], rng.uniform(0.5, 2.0, n_samples)


def make_sketch(kernel="laplacian", **parameters):
    parameters = {"bandwidth": 2.0, "n_repetitions": 24, "n_buckets": 64, "random_state": 3, **parameters}
    return NadarayaWatsonSketch(4, kernel=kernel, empty="nan", **parameters)


@pytest.mark.parametrize("n_groups", [1, 6, 24])
@pytest.mark.parametrize(("n_buckets", "hashes_per_repetition"), [(64, 1), (64, 3), (1000, 2)])
@pytest.mark.parametrize("kernel", registered_families())
def test_sketch_equals_the_naive_one(kernel, n_buckets, hashes_per_repetition, n_groups):
    X, y, weights = make_rows(150)
    queries = np.concatenate([make_rows(30, seed=1)[0], np.full((1, 4), 1e4)])
    sketch = make_sketch(
        kernel,
        n_buckets=n_buckets,
        hashes_per_repetition=hashes_per_repetition,
        aggregation="median_of_means",
        n_groups=n_groups,
    )
    naive = NaiveSketch(sketch.plan, n_groups)
    naive.update(X, y, weights)
    sketch.update(X, y, weights)
    expected = [naive.query(x, NOISE_ERRORS) for x in queries]
    np.testing.assert_allclose(sketch.query(queries)[:, 0], expected, rtol=1e-9, atol=1e-9)
    expected = [naive.kernel_sum(x) for x in queries]
    np.testing.assert_allclose(sketch.kernel_sum(queries), expected, rtol=1e-9, atol=1e-9)


def test_the_naive_comparison_covers_empty_and_answered_queries():
    X, y, weights = make_rows(150)
    queries = np.concatenate([X[:10], np.full((1, 4), 1e4)])
    answers = make_sketch().update(X, y, weights).query(queries)
    assert np.isnan(answers[-1])
    assert np.isfinite(answers[:10]).all()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_first_rows_of_large_tables_are_added_like_any_others(n_jobs):
    X, y, weights = make_rows(200)
    large = {"n_repetitions": 512, "n_buckets": 4096, "n_jobs": n_jobs}
    at_once = make_sketch(**large).update(X, y, weights)
    one_by_one = make_sketch(**large).update(X[:1], y[:1], weights[:1])
    one_by_one.update(X[1:], y[1:], weights[1:])
    assert np.size(to_host(at_once._state.tables)) >= MAPPED_SIZE
    assert held(at_once) == held(one_by_one)


def test_mean_is_one_group():
    X, y, weights = make_rows(100)
    mean = make_sketch().update(X, y, weights)
    one_group = make_sketch(aggregation="median_of_means", n_groups=1).update(X, y, weights)
    assert np.array_equal(mean.query(X), one_group.query(X))


@pytest.mark.parametrize("empty", ["mean", -7.5, 0])
def test_a_query_without_rows_gets_what_empty_says(empty):
    X, y, weights = make_rows(100)
    sketch = NadarayaWatsonSketch(4, bandwidth=0.1, empty=empty, random_state=0).update(X, y, weights)
    expected = np.average(y, weights=weights) if empty == "mean" else empty
    assert sketch.query(np.full((1, 4), 1e4))[0, 0] == pytest.approx(expected)


def test_decay_makes_old_rows_count_less():
    X, y, weights = make_rows(100)
    sketch = make_sketch().update(X, y, weights)
    assert sketch.decay(0.25) is sketch
    sketch.update(X, y + 1, weights)
    weighted = make_sketch().update(np.tile(X, (2, 1)), np.r_[y, y + 1], np.r_[weights / 4, weights])
    np.testing.assert_allclose(sketch.tables, weighted.tables, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sketch.query(X), weighted.query(X), rtol=1e-9)
    assert sketch.n_samples_seen == 200
    assert sketch.total_weight == pytest.approx(1.25 * weights.sum())


def test_rows_are_forgotten_with_the_weight_that_decay_left_them():
    X, y, weights = make_rows(60)
    sketch = make_sketch().update(X, y, weights).decay(0.5).update(X[:20], y[:20], weights[:20])
    sketch.forget(X[20:], y[20:], 0.5 * weights[20:])
    rest = make_sketch().update(X[:20], y[:20], 1.5 * weights[:20])
    np.testing.assert_allclose(sketch.tables, rest.tables, atol=1e-12)


def test_decay_may_go_on_until_nothing_is_left():
    X, y, weights = make_rows(20)
    sketch = make_sketch().update(X, y, weights)
    for _ in range(104):
        assert np.isfinite(sketch.decay(1e-3).channel_sums(X)).all()
        sketch.query(X)


@pytest.mark.parametrize("weight", [1e-300, 1e300])
def test_the_unit_of_the_weights_does_not_matter(weight):
    X, y, _ = make_rows(100)
    ones = make_sketch().update(X, y).query(X)
    np.testing.assert_allclose(make_sketch().update(X, y, np.full(100, weight)).query(X), ones, rtol=1e-9)


@pytest.mark.parametrize(("target", "weight"), [(1e308, 1.0), (1.0, 1e308), (1e200, 1e200)])
def test_sums_that_could_overflow_are_refused(target, weight):
    X, y, weights = make_rows(20)
    sketch = make_sketch().update(X, y, weights)
    before = sketch.tables.copy()
    with pytest.raises(ValueError, match=r"could reach .* and overflow: divide sample_weight, or y"):
        sketch.update(X, np.full(20, target), np.full(20, weight))
    assert np.array_equal(sketch.tables, before)


def test_what_was_forgotten_whole_leaves_no_scale_behind():
    X, y, _ = make_rows(20)
    heavy = np.full(20, 1e14)
    sketch = make_sketch().update(X, y, heavy).forget(X, y, heavy).update(X, y)
    assert np.array_equal(sketch.query(X), make_sketch().update(X, y).query(X))


@pytest.mark.parametrize("n_repetitions", [1, 2, 3])
def test_few_repetitions_do_not_explode(n_repetitions):
    # The spread of one repetition is nothing, and that of two equal ones: the threshold has a floor.
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 40, 200)  # some of the very size of what rehashing adds on average
    X = np.repeat(rng.uniform(-50, 50, (200, 4)), sizes, axis=0)
    y = np.repeat(rng.normal(size=200), sizes)
    far = rng.uniform(1e3, 1e4, (2000, 4))
    for seed in range(5):
        sketch = make_sketch(n_repetitions=n_repetitions, n_buckets=512, random_state=seed)
        answers = sketch.update(X, y).query(far)
        assert np.nanmax(np.abs(answers), initial=0.0) < 3 * np.abs(y).max()


def test_a_shallow_copy_learns_apart():
    X, y, weights = make_rows(20)
    sketch = make_sketch().update(X, y, weights)
    before = sketch.tables.copy()
    copy.copy(sketch).update(X, y, weights)
    assert np.array_equal(sketch.tables, before)


def test_threads_that_add_rows_at_once_lose_none():
    X, y, _ = make_rows(2000)
    sketch = make_sketch(n_jobs=1, n_buckets=2048, n_repetitions=96)
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(sketch.update, X, y) for _ in range(100)]:
            future.result()
    assert sketch.n_samples_seen == 100 * 2000
    assert (sketch.tables[..., -1].sum(axis=1) == 100 * 2000).all()


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.5, np.nan])
def test_decay_refuses_a_factor_out_of_range(factor):
    sketch = make_sketch().update(*make_rows(10))
    before = sketch.tables.copy()
    with pytest.raises(ValueError, match=r"factor=.* is out of range"):
        sketch.decay(factor)
    assert np.array_equal(sketch.tables, before)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"aggregation": "median_of_means"},
        {"n_buckets": 8},
        {"kernel": "angular", "hashes_per_repetition": 5, "n_buckets": None},
    ],
    ids=["mean", "median_of_means", "crowded", "every code its own bucket"],
)
def test_sums_of_several_outputs_are_those_of_each(shape):
    X, y, weights = make_rows(80)
    targets = np.column_stack([y, y**2, np.ones(80)])
    several = make_sketch(n_outputs=3, **shape).update(X, targets, weights)
    for output, target in enumerate(targets.T):
        one = make_sketch(**shape).update(X, target, weights)
        assert np.array_equal(several.channel_sums(X)[:, [output, -1]], one.channel_sums(X))
        np.testing.assert_array_equal(several.query(X)[:, [output]], one.query(X))  # NaN in the same places


def test_an_empty_batch_changes_nothing_and_asks_nothing():
    sketch = make_sketch().update(*make_rows(10))
    before = [np.array(to_host(part)) for part in sketch._state]
    sketch.update(np.empty((0, 4)), [])
    for part, now in zip(before, sketch._state, strict=True):
        assert np.array_equal(part, to_host(now))
    assert sketch.query(np.empty((0, 4))).shape == (0, 1)


def test_angular_keeps_every_code_without_a_width():
    sketch = make_sketch("angular", hashes_per_repetition=5, n_buckets=None)
    assert sketch.n_buckets == 2**5
    assert not sketch.plan.rehashed


def test_a_bandwidth_per_feature_scales_the_features():
    X, y, weights = make_rows(100)
    widths = np.array([0.5, 1.0, 2.0, 4.0])  # powers of two, so that both ways round alike
    for kernel in registered_families():
        if get_family(kernel).takes_bandwidth:
            wide = make_sketch(kernel, bandwidth=widths).update(X, y, weights)
            scaled = make_sketch(kernel, bandwidth=1.0).update(X / widths, y, weights)
            assert np.array_equal(wide.tables, scaled.tables)


def test_rows_that_were_not_learnt_cannot_be_forgotten():
    X, y, weights = make_rows(50)
    sketch = make_sketch().update(X[:25], y[:25], weights[:25])
    before = [np.array(to_host(part)) for part in sketch._state]
    for stranger in (slice(25, 50), slice(0, 50)):
        with pytest.raises(ValueError, match="Cannot forget rows that were not learnt"):
            sketch.forget(X[stranger], y[stranger], weights[stranger])
    with pytest.raises(ValueError, match="the sketch -5 rows"):
        sketch.forget(np.repeat(X[:1], 30, axis=0), np.zeros(30), np.zeros(30))
    for part, now in zip(before, sketch._state, strict=True):
        assert np.array_equal(part, to_host(now))
