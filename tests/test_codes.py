"""Rows that are hashed once and used several times, and labels that keep rows apart."""

import pickle

import numpy as np
import pytest
from helpers import KERNELS, SMALL, WITH_BANDWIDTH, held, make_plan, make_rows
from numpy.testing import assert_array_equal

from nwsketch.backends import Codes, NumbaBackend
from nwsketch.hashing import HashPlan, get_family
from nwsketch.sketch import NadarayaWatsonSketch


def make_sketch(kernel="laplacian", n_labels=0, **parameters):
    return NadarayaWatsonSketch(4, n_labels=n_labels, kernel=kernel, **(SMALL | parameters))


# -- codes in place of rows -----------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_codes_stand_for_rows_everywhere(kernel):
    X, y = make_rows()
    weights = np.linspace(0.5, 2, len(y))
    by_rows, by_codes = make_sketch(kernel), make_sketch(kernel)
    codes = by_codes.hash(X)
    assert_array_equal(codes.array, by_codes.plan.codes(X))
    for sketch, rows in ((by_rows, X), (by_codes, codes)):
        sketch.update(rows, y, weights).forget(rows[:30], y[:30], weights[:30])
    assert held(by_rows) == held(by_codes)
    for name in ("query", "kernel_sum", "channel_sums", "standard_error"):
        assert_array_equal(getattr(by_rows, name)(X), getattr(by_codes, name)(codes), err_msg=name)
    assert_array_equal(by_rows.loo_query(X[30:], y[30:]), by_codes.loo_query(codes[30:], y[30:]))
    by_rows.correct(X, y, weights, n_rounds=2)
    by_codes.correct(codes, y, weights, n_rounds=2)
    assert held(by_rows) == held(by_codes)


def test_codes_are_cut_chosen_and_replaced_by_row():
    X, _ = make_rows()
    sketch = make_sketch()
    codes, chosen = sketch.hash(X), np.array([5, 3, 3, 100])
    assert len(codes) == len(X)
    assert_array_equal(codes[chosen].array, sketch.hash(X[chosen]).array)
    assert_array_equal(codes[10:20].array, sketch.hash(X[10:20]).array)
    codes[chosen[:2]] = sketch.hash(X[[0, 1]])
    assert_array_equal(codes[[5, 3, 4]].array, sketch.hash(X[[0, 1, 4]]).array)
    assert len(sketch.hash(X[:0])) == 0


def test_many_blocks_of_codes(monkeypatch):
    monkeypatch.setattr("nwsketch.backends.numba_backend.BLOCK_SIZE", 16 * 64)
    X, y = make_rows(1000)
    by_rows, by_codes = make_sketch(n_jobs=2), make_sketch(n_jobs=2)
    codes = by_codes.hash(X)
    assert held(by_rows.update(X, y)) == held(by_codes.update(codes, y))
    assert_array_equal(by_rows.query(X), by_codes.query(codes))


def test_codes_of_another_sketch_are_refused():
    X, y = make_rows()
    sketch = make_sketch().update(X, y)
    before = held(sketch)
    for other in ({"n_repetitions": 8}, {"n_buckets": 4096}):
        with pytest.raises(ValueError, match=r"give what hash\(X\) of this sketch returned"):
            sketch.update(make_sketch(**other).hash(X), y)
    with pytest.raises(ValueError, match="y has shape"):
        sketch.update(sketch.hash(X[1:]), y)
    assert held(sketch) == before


# -- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_buckets", [64, 2**16, 2**16 + 1, 2**20])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_codes_with_labels_are_those_of_the_plan(n_buckets, n_threads):
    X, _ = make_rows(2000)
    labels = np.random.default_rng(1).integers(0, 3, len(X))
    plan = HashPlan(
        get_family("laplacian"),
        n_features=4,
        n_repetitions=20,
        hashes_per_repetition=1,
        n_buckets=n_buckets,
        bandwidth=np.ones(4),
        seed=0,
        n_labels=3,
    )
    expected = plan.codes(X, labels)
    assert expected.max() < n_buckets
    assert_array_equal(NumbaBackend(plan).codes(X, n_threads, labels), expected)
    moved = (expected.astype(np.int64) - plan.codes(X)) % n_buckets
    assert_array_equal(moved, plan.offsets[labels].T)


@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_labels_draw_no_other_hashes(kernel):
    X, _ = make_rows()
    plain, labelled = make_sketch(kernel), make_sketch(kernel, n_labels=2)
    assert_array_equal(plain.hash(X).array, labelled.hash(X).array)


def test_every_label_has_a_stretch_of_its_own_where_codes_are_few():
    # Four signs are 16 codes: with three labels, 48 buckets if all are kept.
    X, y = make_rows()
    labels = np.arange(len(y)) % 3
    kept = {"hashes_per_repetition": 4, "n_buckets": None, "empty": "nan"}
    labelled = make_sketch("angular", n_labels=3, **kept)
    assert labelled.n_buckets == 48
    assert not labelled.plan.rehashed
    labelled.update(labelled.hash(X, labels), y)
    for label in range(3):
        own = make_sketch("angular", **kept).update(X[labels == label], y[labels == label])
        asked = labelled.hash(X, np.full(len(X), label))
        assert_array_equal(labelled.query(asked), own.query(X))
        assert_array_equal(labelled.kernel_sum(asked), own.kernel_sum(X))
    assert make_sketch("angular", n_labels=3, hashes_per_repetition=4, n_buckets=47).plan.rehashed


def test_labels_keep_rows_apart_without_bias():
    X, y = make_rows(400, seed=3)
    labels = np.arange(len(y)) % 2
    parameters = {"n_repetitions": 4096, "n_buckets": 32}
    labelled = make_sketch(n_labels=2, **parameters)
    labelled.update(labelled.hash(X, labels), np.where(labels, y, -y))
    for label in (0, 1):
        own = make_sketch(n_repetitions=4096, n_buckets=2**14).update(X[labels == label], y[labels == label])
        sums = labelled.kernel_sum(labelled.hash(X[:50], np.full(50, label)))
        exact = own.kernel_sum(X[:50])
        # 400 rows in 32 buckets collide often; what is left is noise, of mean zero.
        assert abs((sums - exact).mean()) < 0.2
        assert np.abs(sums - exact).max() < 2.0


def test_hashed_rows_may_be_given_their_labels_later():
    X, _ = make_rows()
    labels = np.arange(len(X)) % 2
    sketch = make_sketch(n_labels=2)
    codes = sketch.hash(X)
    assert_array_equal(sketch.hash(codes, labels).array, sketch.hash(X, labels).array)
    assert_array_equal(codes.array, sketch.hash(X).array)


def test_labels_that_do_not_fit():
    X, y = make_rows()
    sketch = make_sketch(n_labels=2)
    for labels, message in (
        (np.zeros(3, int), r"one integer per row, \(150,\)"),
        (np.zeros(150), "dtype float64"),
        (np.full(150, 2), r"make the sketch with n_labels=3"),
        (np.full(150, -1), "number them from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sketch.hash(X, labels)
    with pytest.raises(ValueError, match=r"give hash\(X, labels\) in place of X"):
        sketch.update(X, y)
    with pytest.raises(ValueError, match="n_labels=0: number them from 0, or make"):
        make_sketch().hash(X, np.zeros(150, int))
    with pytest.raises(ValueError, match="n_labels=-1 is out of range"):
        make_sketch(n_labels=-1)
    with pytest.raises(ValueError, match="n_labels=2 and n_labels=3"):
        sketch.merge(make_sketch(n_labels=3))
    with pytest.raises(ValueError, match="codes for each of 2 labels"):
        make_sketch("angular", n_labels=2, hashes_per_repetition=40, n_buckets=None)


def test_labelled_sketches_are_pickled():
    X, y = make_rows()
    sketch = make_sketch(n_labels=2)
    codes = sketch.hash(X, np.arange(len(X)) % 2)
    sketch.update(codes, y)
    again = pickle.loads(pickle.dumps(sketch))
    assert_array_equal(again.query(codes), sketch.query(codes))
    assert isinstance(pickle.loads(pickle.dumps(codes)), Codes)
    assert make_plan("l2").offsets.shape == (0, 20)
