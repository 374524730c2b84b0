"""Codes of grids: blocks of rows in float32 beside the reference, which is in float64."""

import numpy as np
import pytest
from helpers import hash_range, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from nwsketch.backends.numba_hashing import Hasher
from nwsketch.backends.numba_kernels.fixed_points import DIGITS
from nwsketch.backends.numba_kernels.grid_blocks import BLOCK, ERROR


def codes_of(plan, X, rows=None, repetitions=None):
    return hash_range(Hasher(plan), X, rows or (0, len(X)), repetitions or (0, plan.n_repetitions))


def positions(plan, X):
    """Return the positions of all rows on all grids: (n_rows, n_hashes, n_features)."""
    return X[:, np.newaxis] * plan.arrays["scales"].T + plan.arrays["offsets"].T


def last_digits(hasher, X):
    """Return what the last digit of the fixed points of a block of rows is worth, by repetition."""
    units, *_, reaches, _ = hasher._short_grids
    sizes = np.abs(X * units).max() * reaches + 2
    return 2.0 ** (np.floor(np.log2(sizes)) + 1 - DIGITS)


def codes_changed_without_float64(distance, n_features, n_hashes):
    """Return which codes of a block change if float64 makes nonsense of what is left to it.

    Every row has one position so many units of its last digit away from the edge of a cell.
    """
    plan = make_plan("laplacian", n_features, n_hashes=n_hashes, n_repetitions=BLOCK, n_buckets=2**10)
    rng = np.random.default_rng(3)
    X = rng.uniform(-1, 1, (BLOCK, n_features))
    X[0] = 30.0  # so that all blocks have the same digits, whatever is moved
    hasher = Hasher(plan)
    hasher.prepare(X)
    rows, j, k = np.arange(BLOCK), rng.integers(n_features, size=BLOCK), rng.integers(n_hashes, size=BLOCK)
    hashes = rows * n_hashes + k
    scales, offsets = plan.arrays["scales"][j, hashes], plan.arrays["offsets"][j, hashes]
    edges = np.round(X[rows, j] * scales + offsets)
    X[rows, j] = (edges + distance * last_digits(hasher, X) - offsets) / scales
    X[0] = 30.0
    scales, offsets, multipliers = hasher._grids
    hasher._grids = scales, offsets + 1000.0, multipliers
    codes = hash_range(hasher, X, (0, BLOCK), (0, BLOCK))
    return codes[rows[1:], rows[1:]] != plan.codes(X)[rows[1:], rows[1:]]


@pytest.mark.parametrize("n_hashes", [1, 3])
@pytest.mark.parametrize("n_features", [1, 2, 9])
def test_cells_within_their_error_of_an_edge_are_those_of_float64(n_features, n_hashes):
    for distance in (-0.95 * ERROR, 0.0, 0.95 * ERROR):
        changed = codes_changed_without_float64(distance, n_features, n_hashes)
        assert changed.mean() > 0.95  # some by chance do not


@pytest.mark.parametrize("n_features", [1, 2, 9])
def test_cells_far_from_an_edge_are_those_of_float32(n_features):
    for distance in (-20.0, 20.0):
        assert codes_changed_without_float64(distance, n_features, 1).mean() < 0.05


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_hashes", [1, 2])
@pytest.mark.parametrize("n_features", [1, 3, 40])
def test_codes_are_right_beside_edges(n_features, n_hashes, dtype):
    plan = make_plan("laplacian", n_features, n_hashes=n_hashes, n_repetitions=64, n_buckets=2**14)
    rng = np.random.default_rng(4)
    X = rng.normal(size=(16 * BLOCK, n_features))
    hashes = rng.integers(64 * n_hashes, size=len(X))
    scales, offsets = plan.arrays["scales"].T[hashes], plan.arrays["offsets"].T[hashes]
    sides = rng.choice([-1, 0, 1], X.shape) * 10.0 ** rng.uniform(-9, -4, X.shape)
    X = ((np.round(X * scales) + sides - offsets) / scales).astype(dtype)
    np.testing.assert_array_equal(codes_of(plan, X), plan.codes(X))
    # These rows are where float64 matters.
    in_float32 = positions(plan, X.astype(np.float64)).astype(np.float32)
    assert np.count_nonzero(np.floor(in_float32) != np.floor(positions(plan, X.astype(np.float64)))) > 50


@pytest.mark.parametrize("scale", [0.3, 1.0, 300.0])
def test_carries_of_low_halves_are_seen_where_buckets_are_narrow(scale):
    plan = make_plan("laplacian", 9, n_hashes=4, n_repetitions=1000, n_buckets=2**26)
    X = scale * np.random.default_rng(13).normal(size=(BLOCK, 9))
    np.testing.assert_array_equal(codes_of(plan, X), plan.codes(X))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bandwidth", [1e-6, 1.0, 1e6, 1e308])
@pytest.mark.parametrize("n_buckets", [7, 2**14, 2**17])
def test_rows_of_every_magnitude(n_buckets, bandwidth, dtype):
    plan = make_plan("laplacian", 5, n_repetitions=9, n_buckets=n_buckets, bandwidth=bandwidth)
    rng = np.random.default_rng(5)
    X = rng.normal(size=(6 * BLOCK + 1, 5))
    X[:BLOCK] *= 1e-320
    X[BLOCK : 2 * BLOCK] *= 1e-30
    X[BLOCK] = 1.0
    X[2 * BLOCK : 4 * BLOCK] *= 10.0 ** rng.uniform(-20, 12, (2 * BLOCK, 1)) * min(bandwidth, 1e20)
    X[4 * BLOCK + 7] = -1e6 * min(bandwidth, 1e20)  # a block that is left to float64 by one row
    X = X.astype(dtype)
    np.testing.assert_array_equal(codes_of(plan, X), plan.codes(X))


@pytest.mark.parametrize("n_rows", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 9 * BLOCK + 5])
@pytest.mark.parametrize("n_features", [1, 8, 300])
def test_nothing_but_the_rows_and_repetitions_asked_for_is_written(n_features, n_rows):
    plan = make_plan("laplacian", n_features, n_repetitions=7, n_hashes=2)
    X = np.random.default_rng(6).normal(size=(n_rows + 20, n_features))
    for rows in ((0, n_rows), (11, n_rows + 11)):
        for first, last in ((0, 7), (3, 5)):
            codes = codes_of(plan, X, rows, (first, last))
            np.testing.assert_array_equal(codes, plan.codes(X)[first:last, slice(*rows)])


@settings(max_examples=50)
@given(data=st.data())
def test_codes_are_those_of_the_reference(data):
    n_features, seed = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    plan = make_plan(
        "laplacian",
        n_features,
        n_repetitions=data.draw(st.integers(1, 20)),
        n_hashes=data.draw(st.integers(1, 4)),
        n_buckets=data.draw(st.sampled_from([5, 2**11, 2**16, 2**20, 2**31, 2**32])),
        bandwidth=10.0 ** rng.uniform(-3, 3, n_features),
        seed=seed,
    )
    X = 10.0 ** rng.uniform(-3, 3, n_features) * rng.normal(size=(data.draw(st.integers(1, 700)), n_features))
    X = np.round(X, data.draw(st.integers(0, 8))).astype(data.draw(st.sampled_from([np.float32, np.float64])))
    np.testing.assert_array_equal(codes_of(plan, X), plan.codes(X))
