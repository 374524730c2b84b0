"""Input at the border: what must simply work, what is refused before anything changes, and interrupts."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from helpers import KERNELS, SMALL, WITH_BANDWIDTH, assert_same_answers, held, learnt, make_rows
from scipy import sparse
from sklearn.utils.validation import validate_data

import nwsketch.sketch
from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.backends import numba_backend
from nwsketch.backends.numba_hashing import Hasher
from nwsketch.hashing import HashFamily, HashParameters
from nwsketch.validation import X_OPTIONS, Y_OPTIONS, validate_queries, validate_rows


def make(kernel="laplacian", **parameters):
    return NadarayaWatsonSketchRegressor(kernel=kernel, **(SMALL | parameters))


def make_sketch(n_features=4, n_outputs=1, **parameters):
    return NadarayaWatsonSketch(n_features, n_outputs, **(SMALL | parameters))


def numeric(kernel, bandwidth=0.8):
    return {"bandwidth": bandwidth} if kernel in WITH_BANDWIDTH else {}


# -- what must simply work ------------------------------------------------------------------------


@pytest.fixture
def no_validate_data(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("scikit-learn was asked")

    monkeypatch.setattr("nwsketch.validation.validate_data", refuse)


PLAIN = {
    "float64": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "Fortran order": np.asfortranarray,
    "a view": lambda X: np.repeat(X, 2, axis=0)[::2],
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
}


@pytest.mark.parametrize("form", PLAIN.values(), ids=PLAIN)
def test_plain_arrays_are_what_scikit_learn_would_return(form, no_validate_data):
    X, y = make_rows()
    model = make()
    model.n_features_in_ = X.shape[1]
    X = form(X)
    for targets in (y, y.astype(np.float32), np.column_stack([y, y])):
        taken, learnt_targets, _ = validate_rows(model, X, targets, None, reset=False)
        expected = validate_data(model, X, targets, reset=False, **Y_OPTIONS, **X_OPTIONS)
        assert taken is X
        assert expected[0] is X
        assert expected[1] is targets
        np.testing.assert_array_equal(learnt_targets, targets)
    assert validate_queries(model, X) is X


@pytest.mark.parametrize("kind", [float, int, bool])
def test_lists_of_numbers_are_what_scikit_learn_makes_of_them(kind, no_validate_data):
    X, y = (np.round(values).astype(kind) for values in make_rows())
    model = make()
    model.n_features_in_ = X.shape[1]
    taken, targets, _ = validate_rows(model, X.tolist(), y.tolist(), None, reset=False)
    expected, _ = validate_data(model, X.tolist(), y.tolist(), reset=False, **Y_OPTIONS, **X_OPTIONS)
    assert taken.dtype == expected.dtype == np.float64
    np.testing.assert_array_equal(taken, expected)
    np.testing.assert_array_equal(targets, y)
    np.testing.assert_array_equal(validate_queries(model, X.tolist()), expected)


NOT_PLAIN = {
    "NaN": lambda X: np.where(X > 1, np.nan, X),
    "infinity": lambda X: np.where(X > 1, np.inf, X),
    "integers": lambda X: X.astype(int),
    "big-endian": lambda X: X.astype(">f8"),
    "float16": lambda X: X.astype(np.float16),
    "object": lambda X: X.astype(object),
    "too wide": lambda X: np.hstack([X, X]),
    "one row": lambda X: X[0],
    "3-D": lambda X: X[np.newaxis],
    "no rows": lambda X: X[:0],
    "list of unequal rows": lambda X: [*X[1:].tolist(), X[0, :-1].tolist()],
    "list of words": lambda X: X.astype(str).tolist(),
    "list with a gap": lambda X: [*X[1:].tolist(), [None, *X[0, 1:]]],
    "frame": pd.DataFrame,
    "subclass": lambda X: X.view(np.recarray),
    "sparse": sparse.csr_array,
}


@pytest.mark.parametrize("form", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_all_else_is_left_to_scikit_learn(form, no_validate_data):
    X, y = make_rows()
    model = make()
    model.n_features_in_ = X.shape[1]
    with pytest.raises(AssertionError, match="was asked"):
        validate_queries(model, form(X))
    with pytest.raises(AssertionError, match="was asked"):
        validate_rows(model, form(X), y, None, reset=False)


@pytest.mark.parametrize("form", [*sorted({*NOT_PLAIN} - {"too wide", "one row"}), "too few"])
def test_other_targets_are_left_to_scikit_learn(form, no_validate_data):
    X, y = make_rows()
    model = make()
    model.n_features_in_ = X.shape[1]
    targets = y[1:] if form == "too few" else NOT_PLAIN[form](10 * y[:, np.newaxis])
    with pytest.raises(AssertionError, match="was asked"):
        validate_rows(model, X, targets, None, reset=False)


def test_scikit_learn_is_asked_of_arrays_without_the_names_that_were_learnt():
    X, y = make_rows()
    model = make().fit(pd.DataFrame(X, columns=list("abcd")), y)
    with pytest.warns(UserWarning, match="feature names"):
        model.predict(X)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_of_weight_zero_count_for_nothing(kernel):
    X, y = make_rows()
    weights = (np.arange(len(y)) % 3).astype(np.float64)
    kept = weights > 0
    nonsense = np.where(kept, y, 1e6)
    model, expected = make(kernel, **numeric(kernel)), make(kernel, **numeric(kernel))
    model.fit(X, nonsense, weights)
    expected.fit(X[kept], y[kept], weights[kept])
    np.testing.assert_array_equal(model.sketch_.tables, expected.sketch_.tables)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    model.partial_fit(X, nonsense, np.zeros(len(y)))  # nothing at all, on top of something
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))


def test_rows_of_weight_zero_do_not_widen_the_scaled_bandwidth():
    X, y = make_rows()
    weights = np.ones(len(y))
    weights[7] = 0.0
    outlier = X.copy()
    outlier[7] = 1e6
    expected = make().fit(np.delete(X, 7, axis=0), np.delete(y, 7)).bandwidth_
    np.testing.assert_allclose(make().fit(outlier, y, weights).bandwidth_, expected, rtol=1e-6)


def test_a_sketch_of_rows_of_weight_zero_alone_goes_on():
    X, y = make_rows()
    sketch = make_sketch().update(X, y, np.zeros(len(y)))
    assert np.isnan(sketch.query(X)).all()  # the mean of no target at all
    sketch.update(X, y)
    assert sketch.n_samples_seen == 2 * len(y)
    np.testing.assert_array_equal(sketch.query(X), make_sketch().update(X, y).query(X))


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_row(kernel):
    X, y = make_rows(1)
    X[:] = [[1.0, -0.5, 0.0, 2.0]]
    model = make(kernel).fit(X, y)
    np.testing.assert_allclose(model.predict(X), y, rtol=1e-12)
    # Elsewhere it is the weighted mean of all targets, which is the same.
    np.testing.assert_allclose(model.predict(np.vstack([X + 100, -X])), [y[0]] * 2, rtol=1e-12)
    assert np.isnan(model.loo_predict(X, y)).all()
    assert model.n_samples_seen_ == 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_column(kernel):
    X = np.random.default_rng(0).uniform(-2, 2, (300, 1))
    X[::3] *= kernel != "jaccard"
    # What the kernel sees of a single column: its value, its sign, or whether it is zero.
    y = {"angular": X[:, 0] >= 0, "jaccard": X[:, 0] != 0}.get(kernel, np.sin(X[:, 0])).astype(np.float64)
    model = make(kernel, n_repetitions=256, n_buckets=1024, **numeric(kernel, 0.2)).fit(X, y)
    assert model.n_features_in_ == 1
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("constant", [0.0, 1.0, -1e6, 1e-300])
@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_a_constant_column_changes_nothing(kernel, constant):
    X, y = make_rows(600, 2)
    model = make(kernel, n_repetitions=256, n_buckets=1024)
    alone = model.fit(X, y).score(X, y)
    wide = np.column_stack([X, np.full(len(y), constant)])
    assert model.fit(wide, y).score(wide, y) == pytest.approx(alone, abs=0.1)
    assert np.isfinite(model.bandwidth_).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_constant_columns_alone_predict_the_mean(kernel):
    _, y = make_rows()
    X = np.full((len(y), 3), 7.0)
    np.testing.assert_allclose(make(kernel).fit(X, y).predict(X), np.mean(y), rtol=1e-10)


# The exponents are powers of two, so that scaling rounds nothing.
SCALES = {
    "float64, about 1e300": (np.float64, 2.0**996),
    "float64, about 1e200": (np.float64, 2.0**664),
    "float64, about 1e-200": (np.float64, 2.0**-664),
    "float64, about 1e-270": (np.float64, 2.0**-897),
    "float32, about 1e38": (np.float32, 2.0**125),
    "float32, about 1e-30": (np.float32, 2.0**-100),
}


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "CSR"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_huge_and_tiny_values_predict_as_ordinary_ones(kernel, scale, layout, backend_of_auto):
    dtype, factor = SCALES[scale]
    X, y = make_rows()
    X = X.astype(dtype)
    scaled = (X * dtype(factor)).astype(dtype)
    assert np.isfinite(scaled).all()
    expected = make(kernel).fit(layout(X), y)
    model = make(kernel).fit(layout(scaled), y)
    predictions, left_out = expected.predict(layout(X)), expected.loo_predict(layout(X), y)
    assert_same_answers(model.predict(layout(scaled)), predictions, backend_of_auto)
    assert_same_answers(model.loo_predict(layout(scaled), y), left_out, backend_of_auto)
    assert model.forget(layout(scaled), y).n_samples_seen_ == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_as_huge_as_they_come(kernel):
    # Sums of such values overflow, in float32 and float64 alike, where the values do not.
    X, y = make_rows()
    for dtype in (np.float32, np.float64):
        huge = (X / np.abs(X).max()).astype(dtype) * np.finfo(dtype).max
        predictions = make(kernel).fit(huge, y).predict(huge)
        assert ((predictions >= y.min() - 1) & (predictions <= y.max() + 1)).mean() > 0.9


@pytest.mark.parametrize("smallest", [5e-324, 1e-310])
@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_denormal_values_lie_together(kernel, smallest):
    # Their deviation has no inverse: such a feature counts as constant.
    X, y = make_rows()
    tiny = smallest * np.round(X)
    model = make(kernel).fit(tiny, y)
    np.testing.assert_allclose(model.predict(tiny), np.mean(y), rtol=1e-10)
    np.testing.assert_array_equal(model.bandwidth_, make(kernel).fit(np.zeros_like(X), y).bandwidth_)


def test_denormal_values_have_directions():
    X, y = make_rows()
    X = np.round(X)
    expected = make("angular").fit(X, y).predict(X)
    predictions = make("angular").fit(1e-310 * X, y).predict(1e-310 * X)
    np.testing.assert_array_equal(predictions, expected)


@pytest.mark.parametrize("empty", ["mean", "nan", 0.0])
@pytest.mark.parametrize("factor", [2.0**990, 2.0**-1000])
def test_huge_and_tiny_targets(factor, empty):
    X, y = make_rows()
    X = np.vstack([X, np.full(4, 50.0)])  # alone, and not learnt: empty
    expected = make(empty=empty).fit(X[:-1], y).predict(X)
    np.testing.assert_array_equal(make(empty=empty).fit(X[:-1], factor * y).predict(X), factor * expected)


@pytest.mark.parametrize("aggregation", ["mean", "median_of_means"])
@pytest.mark.parametrize("factor", [2.0**900, 2.0**600, 2.0**-600, 2.0**-900])
def test_predictions_do_not_depend_on_the_unit_of_the_weights(factor, aggregation):
    X, y = make_rows()
    weights = 1.0 + np.arange(len(y)) % 3
    parameters = {"bandwidth": 0.8, "aggregation": aggregation}
    ordinary, model = make(**parameters).fit(X, y, weights), make(**parameters).fit(X, y, factor * weights)
    np.testing.assert_array_equal(model.predict(X), ordinary.predict(X))
    np.testing.assert_array_equal(model.kernel_sum(X), factor * ordinary.kernel_sum(X))
    np.testing.assert_array_equal(
        model.loo_predict(X, y, factor * weights), ordinary.loo_predict(X, y, weights)
    )


@pytest.mark.parametrize("dtype", [int, np.int8, np.uint16, bool, np.float32, object])
def test_targets_of_other_types_count_by_their_value(dtype):
    X, y = make_rows()
    targets = np.round(10 * np.abs(y)).astype(np.uint8).astype(dtype)
    expected = make().fit(X, targets.astype(np.float64))
    model = make().fit(X, targets)
    assert learnt(model) == learnt(expected)
    assert model.predict(X).dtype == np.float64
    assert len(np.unique(model.predict(X) % 1)) > 10  # averages, not cut to integers
    assert learnt(model.forget(X, targets)) == learnt(expected.forget(X, targets.astype(np.float64)))


@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.uint8, np.int64, np.float16, object, ">f4", ">f8", ">i4"]
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_of_other_types_count_by_their_value(kernel, dtype):
    X, y = make_rows()
    X = np.abs(np.round(3 * X)).astype(dtype)
    plain = X.astype(np.float64)
    expected = make(kernel).fit(plain, y)
    model = make(kernel).fit(X, y)
    assert learnt(model) == learnt(expected)
    np.testing.assert_array_equal(model.predict(X), expected.predict(plain))
    if dtype is not object:  # which scikit-learn converts, and the sketch itself refuses
        sketch, expected = (make_sketch(kernel=kernel).update(rows, y) for rows in (X, plain))
        assert held(sketch) == held(expected)
        np.testing.assert_array_equal(sketch.query(X), expected.query(plain))


def every_other(X):
    gaps = np.full((2 * X.shape[0], *X.shape[1:]), np.nan)
    gaps[::2] = X
    return gaps[::2]


def frozen(X):
    X = X.copy()
    X.flags.writeable = False
    return X


STRIDES = {
    "read-only": frozen,
    "Fortran order": np.asfortranarray,
    "read-only Fortran order": lambda X: frozen(X.T).T,
    "every other row": every_other,
    "every other column": lambda X: every_other(X.T).T,
    "reversed": lambda X: X[::-1].copy()[::-1],
    "reversed columns": lambda X: X[..., ::-1].copy()[..., ::-1],
    "memory map": None,
    "not aligned": lambda X: (
        np.frombuffer(b"0" + X.tobytes(), dtype=np.uint8)[1:].view(X.dtype).reshape(X.shape)
    ),
    "list": lambda X: X.tolist(),
}


@pytest.mark.parametrize("bandwidth", ["scale", 0.8])
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_layout_changes_no_bit(kernel, strides, bandwidth, tmp_path):
    def on_disk(array):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        array.tofile(path)
        return np.memmap(path, dtype=array.dtype, mode="r", shape=array.shape)

    X, y = make_rows()
    weights = np.abs(y)
    parameters = numeric(kernel) if bandwidth == 0.8 else {}
    expected = make(kernel, **parameters).fit(X, y, weights)
    rearrange = STRIDES[strides] or on_disk
    rows, targets, shares = rearrange(X), rearrange(y), rearrange(weights)
    model = make(kernel, **parameters).fit(rows, targets, shares)
    assert learnt(model) == learnt(expected)
    np.testing.assert_array_equal(model.predict(rows), expected.predict(X))
    np.testing.assert_array_equal(
        model.loo_predict(rows, targets, shares), expected.loo_predict(X, y, weights)
    )
    # A small batch takes another way than a large one.
    model.partial_fit(rows[:9], targets[:9], shares[:9]).forget(rows, targets, shares)
    assert learnt(model) == learnt(expected.partial_fit(X[:9], y[:9], weights[:9]).forget(X, y, weights))


@pytest.mark.parametrize("kernel", KERNELS)
def test_input_is_left_as_it_was(kernel):
    X, y = make_rows()
    weights = np.abs(y)
    arrays = [X, y, weights]
    copies = [array.copy() for array in arrays]
    model = make(kernel).fit(*arrays).partial_fit(*arrays).forget(*arrays)
    model.predict(X)
    model.loo_predict(*arrays)
    assert all(np.array_equal(array, before) for array, before in zip(arrays, copies, strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sketch_takes_no_rows_for_no_rows(kernel):
    X, y = make_rows()
    sketch = make_sketch(kernel=kernel).update(X, y)
    before = held(sketch)
    for rows in (X[:0], sparse.csr_array(X)[:0]):
        assert held(sketch.update(rows, y[:0]).forget(rows, y[:0])) == before
        assert sketch.query(rows).shape == (0, 1)
        assert sketch.loo_query(rows, y[:0]).shape == (0, 1)
        assert sketch.kernel_sum(rows).shape == (0,)


# -- what must be refused, before anything changes ------------------------------------------------


def refused(estimator, error, message, call):
    """Assert that a call on a fitted estimator raises and leaves all that was learnt as it was."""
    X, _ = make_rows()
    before, predictions = learnt(estimator), estimator.predict(X)
    with pytest.raises(error, match=message):
        call(estimator)
    assert learnt(estimator) == before
    np.testing.assert_array_equal(estimator.predict(X), predictions)


def with_value(array, value):
    array = array.copy()
    array[3] = value
    return array


LEARNING = ["fit", "partial_fit", "forget", "loo_predict"]
ASKING = ["predict", "kernel_sum"]
BAD_ROWS = {
    "NaN": (lambda X: with_value(X, np.nan), "contains NaN"),
    "infinity": (lambda X: with_value(X, np.inf), "contains infinity"),
    "minus infinity": (lambda X: with_value(X, -np.inf), "contains infinity"),
    "NaN, float32": (lambda X: with_value(X, np.nan).astype(np.float32), "contains NaN"),
    "NaN, CSR": (lambda X: sparse.csr_array(with_value(X, np.nan)), "contains NaN"),
    "NaN, frame": (lambda X: pd.DataFrame(with_value(X, np.nan)), "contains NaN"),
    "strings": (lambda X: np.full(X.shape, "many"), "could not convert string to float"),
    "complex": (lambda X: X + 1j, "Complex data not supported"),
    "complex, CSR": (lambda X: sparse.csr_array(X + 1j), "Complex (data|sparse matrix|type).*not supported"),
    "no rows": (lambda X: X[:0], "Found array with 0 sample"),
    "no rows, CSR": (lambda X: sparse.csr_array(X[:0]), "Found array with 0 sample"),
    "no columns": (lambda X: X[:, :0], "0 feature"),
    "one dimension": (lambda X: X[:, 0], "Expected 2D array"),
    "three dimensions": (lambda X: X[:, :, np.newaxis], "dim 3"),
    "a number": (lambda X: 3.0, "Expected 2D array"),
}
OTHER_WIDTH = {
    "too narrow": lambda X: X[:, :3],
    "too wide": lambda X: np.hstack([X, X]),
    "too narrow, CSR": lambda X: sparse.csr_array(X[:, :3]),
}


@pytest.mark.parametrize("method", LEARNING + ASKING)
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_refused(kind, method):
    spoil, message = BAD_ROWS[kind]
    X, y = make_rows()
    bad = spoil(X)
    n_rows = bad.shape[0] if hasattr(bad, "shape") else 1
    arguments = (bad, y[:n_rows]) if method in LEARNING else (bad,)
    refused(make().fit(X, y), ValueError, message, lambda model: getattr(model, method)(*arguments))


@pytest.mark.parametrize("method", ["partial_fit", "forget", "loo_predict", *ASKING])
@pytest.mark.parametrize("kind", OTHER_WIDTH)
def test_rows_of_another_width_are_refused(kind, method):
    X, y = make_rows()
    bad = OTHER_WIDTH[kind](X)
    arguments = (bad, y) if method in LEARNING else (bad,)
    message = f"X has {bad.shape[1]} features, but NadarayaWatsonSketchRegressor is expecting 4 features"
    refused(make().fit(X, y), ValueError, message, lambda model: getattr(model, method)(*arguments))


BAD_TARGETS = {
    "NaN": (lambda y: with_value(y, np.nan), "y contains NaN"),
    "infinity": (lambda y: with_value(y, np.inf), "y contains infinity"),
    "strings": (lambda y: np.full(y.shape, "many"), "could not convert string to float"),
    "complex": (lambda y: y + 1j, "Complex data not supported"),
    "too few": (lambda y: y[:-1], "inconsistent numbers of samples"),
    "three dimensions": (lambda y: y[:, np.newaxis, np.newaxis], "dim 3"),
    "none": (lambda y: None, "requires y to be passed"),
}
BAD_WEIGHTS = {
    "NaN": (lambda w: with_value(w, np.nan), "sample_weight holds NaN or infinity"),
    "infinity": (lambda w: with_value(w, np.inf), "sample_weight holds NaN or infinity"),
    "negative": (
        lambda w: with_value(w, -0.25),
        r"sample_weight holds -0\.25: weights cannot be negative.*forget\(",
    ),
    "strings": (lambda w: np.full(w.shape, "many"), "sample_weight has dtype <U4: give real numbers"),
    "complex": (lambda w: w + 1j, "(?i)complex"),
    "too few": (lambda w: w[:-1], r"sample_weight has shape \(149,\): give one weight per row, \(150,\)"),
    "two dimensions": (
        lambda w: w[:, np.newaxis],
        r"sample_weight has shape \(150, 1\): give one weight per row",
    ),
}


@pytest.mark.parametrize("method", LEARNING)
@pytest.mark.parametrize("kind", BAD_TARGETS)
def test_bad_targets_are_refused(kind, method):
    spoil, message = BAD_TARGETS[kind]
    X, y = make_rows()
    refused(make().fit(X, y), ValueError, message, lambda model: getattr(model, method)(X, spoil(y)))


@pytest.mark.parametrize("method", LEARNING)
@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_bad_weights_are_refused(kind, method):
    spoil, message = BAD_WEIGHTS[kind]
    X, y = make_rows()
    refused(
        make().fit(X, y), ValueError, message, lambda model: getattr(model, method)(X, y, spoil(np.abs(y)))
    )


@pytest.mark.parametrize(
    "weights", [0.0, np.zeros(150), -np.zeros(150)], ids=["zero", "zeros", "minus zeros"]
)
def test_weights_that_sum_to_zero_are_refused(weights):
    X, y = make_rows()
    message = "sample_weight sums to zero: there is nothing to learn"
    refused(make().fit(X, y), ValueError, message, lambda model: model.fit(X, y, weights))
    unfitted = make()
    with pytest.raises(ValueError, match=message):
        unfitted.partial_fit(X, y, weights)
    assert learnt(unfitted) == {}


@pytest.mark.parametrize("method", LEARNING)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_another_number_of_outputs_is_refused(n_outputs, method):
    X, y = make_rows()
    model = make().fit(X, np.column_stack([y, y]))
    targets = np.column_stack([y] * n_outputs)
    if method == "fit":  # starts anew
        assert model.fit(X, targets).predict(X).shape == targets.shape
        return
    message = f"y has {n_outputs} outputs, but NadarayaWatsonSketchRegressor was fitted with 2: give as many"
    refused(model, ValueError, message, lambda model: getattr(model, method)(X, targets))


@pytest.mark.parametrize("method", ["partial_fit", "forget", "loo_predict", *ASKING])
def test_features_of_other_names_are_refused(method):
    X, y = make_rows()
    model = make().fit(pd.DataFrame(X, columns=list("abcd")), y)
    others = pd.DataFrame(X, columns=list("abcx"))
    before = learnt(model)
    with pytest.raises(
        ValueError, match=r"Feature names unseen at fit time:\n- x\nFeature names seen at fit time"
    ):
        getattr(model, method)(others, *([y] if method in LEARNING else []))
    assert learnt(model) == before


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "CSR"])
@pytest.mark.parametrize("method", LEARNING + ASKING)
@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_a_cell_index_that_would_overflow_is_refused(kernel, method, layout):
    X, y = make_rows()
    model = make(kernel, bandwidth=0.5).fit(layout(X), y)
    bad = X.copy()
    bad[5, 2] = -1e18
    arguments = (layout(bad), y) if method in LEARNING else (layout(bad),)
    message = (
        r"value of magnitude 1e\+18 in feature 2, where its cell index could reach .* overflow .*Scale X"
    )
    refused(model, ValueError, message, lambda model: getattr(model, method)(*arguments))


@pytest.mark.parametrize("value", [1e16, 1e300, 1.7e308, -1.7e308])
@pytest.mark.parametrize("bandwidth", [1.0, 1e-290, 1e-308, 5e-324])
@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_overflow_is_found_however_far_it_goes(kernel, bandwidth, value):
    X, y = make_rows()
    X[3, 1] = value
    with pytest.raises(ValueError, match=r"in feature 1, where its cell index could reach .* overflow"):
        make(kernel, bandwidth=bandwidth).fit(X, y)


@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_cells_are_let_in_up_to_where_they_would_overflow(kernel):
    # The largest cells are about 2^52 here, and 2^53 is where float64 no longer tells them apart.
    X, _ = make_rows(n_features=1)
    X = np.vstack([X, [[1.0]]])
    X /= np.abs(X).max()
    sketch = NadarayaWatsonSketch(1, kernel=kernel, **SMALL)
    sketch.update(X * (2.0**52 / sketch.plan.cells_per_unit[0]), np.zeros(len(X)))
    with pytest.raises(ValueError, match="overflow"):
        sketch.update(X * (2.0**53 / sketch.plan.cells_per_unit[0]), np.zeros(len(X)))
    assert sketch.n_samples_seen == len(X)


BAD_PARAMETERS = {
    "bandwidth=0": ({"bandwidth": 0}, "The 'bandwidth' parameter"),
    "bandwidth=-1": ({"bandwidth": -1.0}, "The 'bandwidth' parameter"),
    "bandwidth=nan": ({"bandwidth": float("nan")}, "The 'bandwidth' parameter"),
    "bandwidth='auto'": ({"bandwidth": "auto"}, "The 'bandwidth' parameter"),
    "bandwidth=None": ({"bandwidth": None}, "The 'bandwidth' parameter"),
    "bandwidth=inf": (
        {"bandwidth": float("inf")},
        "bandwidth holds inf: give positive, finite|The 'bandwidth' param",
    ),
    "one bandwidth 0": ({"bandwidth": [1, 0, 1, 1]}, r"bandwidth holds 0\.0: give positive, finite numbers"),
    "one bandwidth -2": (
        {"bandwidth": [1, -2, 1, 1]},
        r"bandwidth holds -2\.0: give positive, finite numbers",
    ),
    "one bandwidth nan": (
        {"bandwidth": [1, np.nan, 1, 1]},
        "bandwidth holds nan: give positive, finite numbers",
    ),
    "one bandwidth inf": (
        {"bandwidth": [1, np.inf, 1, 1]},
        "bandwidth holds inf: give positive, finite numbers",
    ),
    "bandwidths too few": (
        {"bandwidth": [1, 2]},
        r"bandwidth has shape \(2,\).* 4 features: give one number",
    ),
    "bandwidths in 2-D": (
        {"bandwidth": np.ones((4, 1))},
        r"bandwidth has shape \(4, 1\).* 4 features: give one",
    ),
    "bandwidth for angular": ({"kernel": "angular", "bandwidth": 1.0}, "kernel='angular' has no bandwidth"),
    "bandwidths for jaccard": (
        {"kernel": "jaccard", "bandwidth": np.ones(4)},
        "kernel='jaccard' has no bandwidth",
    ),
    "n_repetitions=0": ({"n_repetitions": 0}, "The 'n_repetitions' parameter"),
    "n_repetitions=-3": ({"n_repetitions": -3}, "The 'n_repetitions' parameter"),
    "n_repetitions=1.5": ({"n_repetitions": 1.5}, "The 'n_repetitions' parameter"),
    "n_buckets=1": ({"n_buckets": 1}, "The 'n_buckets' parameter"),
    "n_buckets=0": ({"n_buckets": 0}, "The 'n_buckets' parameter"),
    "n_buckets=8.0": ({"n_buckets": 8.0}, "The 'n_buckets' parameter"),
    "unbounded codes": ({"n_buckets": None}, "codes of kernel='laplacian' are unbounded; give n_buckets"),
    "hashes_per_repetition=0": ({"hashes_per_repetition": 0}, "The 'hashes_per_repetition' parameter"),
    "n_groups=0": ({"n_groups": 0}, "The 'n_groups' parameter"),
    "n_groups does not divide": (
        {"aggregation": "median_of_means", "n_groups": 3},
        "n_groups=3 does not divide n_repetitions=16",
    ),
    "n_groups too many": (
        {"aggregation": "median_of_means", "n_groups": 32},
        "n_groups=32 does not divide n_repetitions=16",
    ),
    "aggregation": ({"aggregation": "median"}, "The 'aggregation' parameter"),
    "empty='zero'": ({"empty": "zero"}, "The 'empty' parameter"),
    "empty=None": ({"empty": None}, "The 'empty' parameter"),
    "kernel='rbf'": ({"kernel": "rbf"}, "Unknown kernel 'rbf': choose one of"),
    "kernel=3": ({"kernel": 3}, "The 'kernel' parameter"),
    "kernel is a class": ({"kernel": HashFamily}, "The 'kernel' parameter"),
    "backend": ({"backend": "cuda"}, "The 'backend' parameter"),
    "device": (
        {"backend": "numba", "device": "cuda"},
        "backend='numba' does not run on device='cuda': choose device='cpu', or backend='torch'",
    ),
    "n_jobs=0": ({"n_jobs": 0}, "n_jobs=0 has no meaning"),
    "n_jobs='all'": ({"n_jobs": "all"}, "The 'n_jobs' parameter"),
    "verbose=-1": ({"verbose": -1}, "The 'verbose' parameter"),
    "random_state=-1": ({"random_state": -1}, "The 'random_state' parameter"),
    "random_state='x'": ({"random_state": "x"}, "The 'random_state' parameter"),
}


@pytest.mark.parametrize("kind", BAD_PARAMETERS)
def test_bad_parameters_are_refused(kind):
    parameters, message = BAD_PARAMETERS[kind]
    X, y = make_rows()
    refused(make().fit(X, y), ValueError, message, lambda model: model.set_params(**parameters).fit(X, y))
    unfitted = make(**parameters)
    for method in (unfitted.fit, unfitted.partial_fit):
        with pytest.raises(ValueError, match=message):
            method(X, y)
        assert learnt(unfitted) == {}


@pytest.mark.parametrize("method", ["predict", "kernel_sum", "forget", "loo_predict", "score"])
def test_an_unfitted_estimator_has_no_answer(method):
    X, y = make_rows()
    model = make()
    with pytest.raises(ValueError, match="This NadarayaWatsonSketchRegressor instance is not fitted yet"):
        getattr(model, method)(X, *([] if method in ASKING else [y]))
    assert learnt(model) == {}


@pytest.mark.parametrize(
    ("rows", "weights"),
    [(slice(None), 1.5), (slice(0, 5), 2.0), (slice(None), None)],
    ids=["all, more than they weigh", "few, more than they weigh", "others"],
)
def test_rows_that_were_not_learnt_cannot_be_forgotten(rows, weights):
    X, y = make_rows()
    bad = X if weights else X + 10
    message = "Cannot forget rows that were not learnt: a bucket would hold the weight -"
    refused(make().fit(X, y), ValueError, message, lambda model: model.forget(bad[rows], y[rows], weights))


# -- tables that would not fit in memory ----------------------------------------------------------

TOO_LARGE = {
    "buckets": {"n_buckets": 2**31},
    "repetitions": {"n_repetitions": 10**9},
    "buckets beyond 64 bits": {"n_buckets": 10**30},
    "every code": {"kernel": "angular", "hashes_per_repetition": 30, "n_buckets": None},
    "more codes than integers": {"kernel": "jaccard", "hashes_per_repetition": 40, "n_buckets": None},
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_tables_over_the_limit_are_never_allocated(kind):
    X, y = make_rows()
    model = make().fit(X, y)
    message = (
        r"tables would take .* GiB .*over the limit of 4 GiB.*sketch\.MAX_TABLE_BYTES|has .* codes; give"
    )
    tracemalloc.start()
    try:
        refused(model, ValueError, message, lambda model: model.set_params(**TOO_LARGE[kind]).fit(X, y))
        with pytest.raises(ValueError, match=message):
            make_sketch(**TOO_LARGE[kind])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22


def test_the_limit_counts_every_output(monkeypatch):
    X, y = make_rows()
    monkeypatch.setattr(nwsketch.sketch, "MAX_TABLE_BYTES", 16 * 64 * 2 * 8)
    assert make().fit(X, y).sketch_.tables.nbytes == nwsketch.sketch.MAX_TABLE_BYTES
    message = r"n_repetitions=16 x n_buckets=64 x 3 channels x 8 bytes"
    refused(make().fit(X, y), ValueError, message, lambda model: model.fit(X, np.column_stack([y, y])))
    refused(
        make().fit(X, y),
        ValueError,
        "tables would take",
        lambda model: model.set_params(n_buckets=65).fit(X, y),
    )


# -- merging different hashes ---------------------------------------------------------------------


class Drifting(HashFamily):
    """A family that draws other arrays from the same seed, as another release of it might."""

    name = "drifting"

    def __init__(self, release):
        self.release = release

    def n_values(self, n_features):
        return 2

    def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
        n_hashes = n_repetitions * hashes_per_repetition
        return HashParameters(
            "sign_projection", {"directions": self.release + rng.random((n_features, n_hashes))}
        )

    def cells(self, X, parameters):
        return (X @ parameters.arrays["directions"] >= 0).astype(np.int64)[:, :, np.newaxis]


DIFFERENT_HASHES = {
    "kernel": ({"kernel": "l2"}, "kernel='laplacian' and kernel='l2'"),
    "bandwidth": (
        {"bandwidth": 0.9},
        r"bandwidth=\[0\.8 .*\] and bandwidth=\[0\.9 .*bandwidth=other\.bandwidth_",
    ),
    "one bandwidth": ({"bandwidth": [0.8, 0.8, 0.8, 0.7]}, r"bandwidth=\[.*0\.8\] and bandwidth=\[.* 0\.7\]"),
    "hashes_per_repetition": (
        {"hashes_per_repetition": 2},
        "hashes_per_repetition=1 and hashes_per_repetition=2",
    ),
    "n_repetitions": ({"n_repetitions": 32}, "n_repetitions=16 and n_repetitions=32"),
    "n_buckets": ({"n_buckets": 65}, "n_buckets=64 and n_buckets=65"),
    "random_state": (
        {"random_state": 1},
        "random_state=0 and random_state=1.*Fit both with the same integer",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT_HASHES)
def test_merging_different_hashes_is_refused(name):
    X, y = make_rows()
    parameters, message = DIFFERENT_HASHES[name]
    other = make(**({"bandwidth": 0.8} | parameters)).fit(X, y)
    theirs = learnt(other)
    message = f"Cannot merge sketches with different hashes: {message}"
    refused(make(bandwidth=0.8).fit(X, y), ValueError, message, lambda model: model.merge(other))
    assert learnt(other) == theirs
    ours = make_sketch(bandwidth=0.8)
    with pytest.raises(ValueError, match=message):
        ours.merge(make_sketch(**({"bandwidth": 0.8} | parameters)))


def test_merging_without_a_common_seed_is_refused():
    X, y = make_rows()
    model, other = (make(bandwidth=0.8, random_state=None).fit(X, y) for _ in range(2))
    message = "random_state=.* and random_state=.* Fit both with the same integer random_state"
    refused(model, ValueError, message, lambda model: model.merge(other))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda X, y: make(bandwidth=0.8).fit(X[:, :3], y), "n_features=4 and n_features=3"),
        (lambda X, y: make(bandwidth=0.8).fit(X, np.column_stack([y, y])), "n_outputs=1 and n_outputs=2"),
    ],
    ids=["features", "outputs"],
)
def test_merging_other_shapes_is_refused(other, message):
    X, y = make_rows()
    refused(make(bandwidth=0.8).fit(X, y), ValueError, message, lambda model: model.merge(other(X, y)))


def test_merging_features_of_other_names_is_refused():
    X, y = make_rows()
    model, other = (
        make(bandwidth=0.8).fit(pd.DataFrame(X, columns=list(names)), y) for names in ("abcd", "abdc")
    )
    before = learnt(model)
    with pytest.raises(ValueError, match=r"Cannot merge: feature names \['a', 'b', 'c', 'd'\] and .* differ"):
        model.merge(other)
    assert learnt(model) == before


def test_merging_hashes_that_were_drawn_differently_is_refused():
    X, y = make_rows()
    model, other = (make(Drifting(release)).fit(X, y) for release in (1, 2))
    message = (
        "the parameters agree, the drawn hashes do not.*same versions of nwsketch, NumPy and the hash family"
    )
    refused(model, ValueError, message, lambda model: model.merge(other))
    assert model.merge(make(Drifting(1)).fit(X, y)).n_samples_seen_ == 2 * len(y)


# -- the sketch's own border ----------------------------------------------------------------------

BAD_SKETCHES = {
    "n_features=0": ({"n_features": 0}, "n_features=0 is out of range: give an integer of at least 1"),
    "n_outputs=0": ({"n_outputs": 0}, "n_outputs=0 is out of range"),
    "n_outputs=1.0": ({"n_outputs": 1.0}, r"n_outputs=1\.0 is out of range"),
    "n_outputs=True": ({"n_outputs": True}, "n_outputs=True is out of range"),
    "n_repetitions=0": (
        {"n_repetitions": 0},
        "n_repetitions=0 is out of range: give an integer of at least 1",
    ),
    "hashes_per_repetition=0": ({"hashes_per_repetition": 0}, "hashes_per_repetition=0 is out of range"),
    "n_buckets=1": ({"n_buckets": 1}, "n_buckets=1 is out of range: give an integer of at least 2"),
    "n_buckets=None": ({"n_buckets": None}, "codes of kernel='laplacian' are unbounded"),
    "n_groups=0": ({"n_groups": 0}, "n_groups=0 is out of range"),
    "n_groups": (
        {"aggregation": "median_of_means", "n_groups": 5},
        "n_groups=5 does not divide n_repetitions=16",
    ),
    "aggregation": (
        {"aggregation": "median"},
        "Unknown aggregation 'median': choose 'mean' or 'median_of_means'",
    ),
    "empty='zero'": ({"empty": "zero"}, "Unknown empty='zero': choose 'mean', 'nan' or a number"),
    "empty=True": ({"empty": True}, "Unknown empty=True"),
    "kernel": ({"kernel": "rbf"}, "Unknown kernel 'rbf': choose one of"),
    "bandwidth=0": ({"bandwidth": 0}, "bandwidth.* 0.*: give positive, finite numbers"),
    "bandwidth=-1": ({"bandwidth": -1.0}, "bandwidth.* -1.*: give positive, finite numbers"),
    "bandwidth=nan": ({"bandwidth": np.nan}, "bandwidth.* nan.*: give positive, finite numbers"),
    "bandwidth=inf": ({"bandwidth": np.inf}, "bandwidth.* inf.*: give positive, finite numbers"),
    "bandwidths too few": (
        {"bandwidth": [1.0]},
        r"bandwidth has shape \(1,\).*give one number, or one per feature, \(4,\)",
    ),
    "backend": ({"backend": "cuda"}, "Unknown backend 'cuda': choose one of"),
    "device": ({"backend": "numba", "device": "cuda"}, "backend='numba' does not run on device='cuda'"),
    "n_jobs": ({"n_jobs": 0}, "n_jobs=0 has no meaning"),
    "random_state=-1": (
        {"random_state": -1},
        "random_state=-1 is out of range: give an integer of at least 0",
    ),
    "random_state=1.5": ({"random_state": 1.5}, r"random_state=1\.5 is out of range"),
}


@pytest.mark.parametrize("kind", BAD_SKETCHES)
def test_a_sketch_of_bad_parameters_is_not_made(kind):
    parameters, message = BAD_SKETCHES[kind]
    with pytest.raises(ValueError, match=message):
        NadarayaWatsonSketch(**({"n_features": 4} | SMALL | parameters))


BAD_SKETCH_ROWS = {
    "NaN": (lambda X: with_value(X, np.nan), "X holds NaN or infinity"),
    "infinity, float32": (lambda X: with_value(X, np.inf).astype(np.float32), "X holds NaN or infinity"),
    "NaN, CSR": (lambda X: sparse.csr_array(with_value(X, np.nan)), "X holds NaN or infinity"),
    "strings": (lambda X: np.full(X.shape, "many"), "X has dtype <U4: give real numbers"),
    "complex": (lambda X: X + 1j, "X has dtype complex128: give real numbers"),
    "complex, CSR": (lambda X: sparse.csr_array(X + 1j), "X has dtype complex128: give real numbers"),
    "objects": (lambda X: X.astype(object), "X has dtype object: give real numbers"),
    "too narrow": (lambda X: X[:, :3], r"X has shape \(150, 3\), but this sketch has n_features=4"),
    "too wide, CSR": (
        lambda X: sparse.csr_array(np.hstack([X, X])),
        r"X has shape \(150, 8\), but this sketch has",
    ),
    "one dimension": (
        lambda X: X[:, 0],
        r"X has shape \(150,\), but this sketch has n_features=4: give rows",
    ),
    "huge": (lambda X: with_value(X, 1e300), r"where its cell index could reach .* overflow"),
}
BAD_SKETCH_TARGETS = {
    "NaN": (lambda y: with_value(y, np.nan), "y holds NaN or infinity"),
    "infinity": (lambda y: with_value(y, -np.inf), "y holds NaN or infinity"),
    "too few": (lambda y: y[:-1], r"y has shape \(149,\), but X has 150 rows and the sketch 1 outputs"),
    "two outputs": (
        lambda y: np.column_stack([y, y]),
        r"y has shape \(150, 2\), but X has 150 rows and the sketch 1",
    ),
    "a number": (lambda y: 3.0, r"y has shape \(\), but X has 150 rows"),
    "strings": (lambda y: np.full(y.shape, "many"), "y has dtype <U4: give real numbers"),
    "complex": (lambda y: y + 1j, "(?i)complex"),
}


@pytest.mark.parametrize("method", ["update", "forget", "loo_query", "query", "kernel_sum", "channel_sums"])
@pytest.mark.parametrize("kind", BAD_SKETCH_ROWS)
def test_a_sketch_refuses_bad_rows(kind, method):
    spoil, message = BAD_SKETCH_ROWS[kind]
    X, y = make_rows()
    sketch = make_sketch().update(X, y)
    before = held(sketch)
    with pytest.raises(ValueError, match=message):
        getattr(sketch, method)(spoil(X), *([y] if method in ("update", "forget", "loo_query") else []))
    assert held(sketch) == before


@pytest.mark.parametrize("method", ["update", "forget", "loo_query"])
@pytest.mark.parametrize("kind", BAD_SKETCH_TARGETS)
def test_a_sketch_refuses_bad_targets(kind, method):
    spoil, message = BAD_SKETCH_TARGETS[kind]
    X, y = make_rows()
    sketch = make_sketch().update(X, y)
    before = held(sketch)
    with pytest.raises(ValueError, match=message):
        getattr(sketch, method)(X, spoil(y))
    assert held(sketch) == before


@pytest.mark.parametrize("method", ["update", "forget", "loo_query"])
@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_a_sketch_refuses_bad_weights(kind, method):
    spoil, message = BAD_WEIGHTS[kind]
    X, y = make_rows()
    sketch = make_sketch().update(X, y)
    before = held(sketch)
    with pytest.raises(ValueError, match=message):
        getattr(sketch, method)(X, y, spoil(np.abs(y)))
    assert held(sketch) == before


@pytest.mark.parametrize("factor", [0, -0.5, 1.01, np.nan, np.inf])
def test_a_sketch_refuses_to_decay_by_more_or_less_than_it_can(factor):
    sketch = make_sketch().update(*make_rows())
    before = held(sketch)
    with pytest.raises(ValueError, match=f"factor={factor}.* is out of range: give a number within"):
        sketch.decay(factor)
    assert held(sketch) == before


# -- a failed or interrupted call -----------------------------------------------------------------


class Fuse:
    """Raises at the k-th call of any function that it was put into, just before or just after it."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self._left = None
        self.burnt = False

    def put_into(self, owner, name):
        function = getattr(owner, name)

        def wired(*arguments):
            fires = self._count()
            if fires and self._before:
                raise self._error
            result = function(*arguments)
            if fires:
                raise self._error
            return result

        self._monkeypatch.setattr(owner, name, wired)

    def light(self, error, calls, *, before):
        self._error, self._left, self._before = error, calls, before

    def _count(self):
        if self._left is None:
            return False
        self._left -= 1
        self.burnt |= self._left == 0
        return self._left == 0


PLACES = {
    "hash": (Hasher, "hash"),
    "accumulate": (numba_backend, "accumulate"),
    "totals": (numba_backend, "accumulate_totals"),
    "commit": (numba_backend, "commit"),
}


@pytest.fixture
def fuse(monkeypatch, backend_of_auto):
    """Blocks of 64 rows, two threads whatever the work, and a fuse in every place where work is done."""
    if backend_of_auto != "numba":
        pytest.skip("the fuses are put into numba's functions; tests/test_torch_errors.py has those of torch")
    monkeypatch.setattr(numba_backend, "BLOCK_SIZE", 1)
    monkeypatch.setattr(numba_backend, "SERIAL_SIZE", 0)
    return Fuse(monkeypatch)


BATCHES = {"small": 20, "large": 150}  # below and above a block, and a table, of 64
WORK = {
    ("fit", "small"): ["hash", "commit"],
    ("fit", "large"): ["hash", "accumulate", "totals"],
    ("partial_fit", "small"): ["hash", "commit"],
    ("partial_fit", "large"): ["hash", "accumulate", "totals"],
    ("forget", "small"): ["hash", "accumulate", "totals"],
    ("forget", "large"): ["hash", "accumulate", "totals"],
}
MOMENTS = [
    pytest.param(
        method,
        batch,
        place,
        calls,
        before,
        id=f"{method}-{batch}-{'' if before else 'after '}{place} {calls}",
    )
    for (method, batch), places in WORK.items()
    for place in places
    for calls in ([1] if batch == "small" else [1, 2, 3])
    for before in (True, False)
]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize(("method", "batch", "place", "calls", "before"), MOMENTS)
def test_a_failed_call_leaves_the_old_state_or_the_new(method, batch, place, calls, before, error, fuse):
    X, y = make_rows()
    arguments = X[: BATCHES[batch]], y[: BATCHES[batch]], np.full(BATCHES[batch], 0.5)
    fuse.put_into(*PLACES[place])
    model = make(bandwidth=0.8, n_jobs=2).fit(X, y)
    old = learnt(model)
    new = learnt(getattr(make(bandwidth=0.8, n_jobs=2).fit(X, y), method)(*arguments))
    assert new != old

    fuse.light(error("boom"), calls, before=before)
    with pytest.raises(error, match="boom"):
        getattr(model, method)(*arguments)
    assert fuse.burnt
    # Only a small batch is added in place, by one call: once that is over, all is done.
    done = (method, place, before) == ("partial_fit", "commit", False)
    assert learnt(model) == (new if done else old)
    if not done:  # The state is whole: the same call, undisturbed, arrives where it should.
        assert learnt(getattr(model, method)(*arguments)) == new


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_failed_first_call_leaves_an_unfitted_estimator(method, batch, error, fuse):
    X, y = make_rows()
    fuse.put_into(*PLACES["hash"])
    model = make(bandwidth=0.8)
    fuse.light(error("boom"), 1, before=False)
    with pytest.raises(error, match="boom"):
        getattr(model, method)(X[: BATCHES[batch]], y[: BATCHES[batch]])
    assert learnt(model) == {}
    assert learnt(model.partial_fit(X, y)) == learnt(make(bandwidth=0.8).fit(X, y))


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_interrupt_while_the_bar_is_drawn(calls, fuse):
    X, y = make_rows()
    sketch = make_sketch().update(X, y)
    before, seen = held(sketch), []

    def draw(n_rows):
        seen.append(n_rows)
        if len(seen) == calls:
            raise KeyboardInterrupt("boom")

    with pytest.raises(KeyboardInterrupt, match="boom"):
        sketch.update(X, y, progress=draw)
    assert held(sketch) == before
    assert len(seen) == calls


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_failed_merge_leaves_the_old_state(error, monkeypatch):
    X, y = make_rows()
    model, other = make(bandwidth=0.8).fit(X, y), make(bandwidth=0.8).fit(X, y)
    before = learnt(model)

    def boom(*arrays):
        raise error("boom")

    monkeypatch.setattr(nwsketch.sketch, "State", boom)
    with pytest.raises(error, match="boom"):
        model.merge(other)
    assert learnt(model) == before == learnt(other)
