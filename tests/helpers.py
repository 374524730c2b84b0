"""Rows that suit every kernel, hashes, and everything that an estimator has learnt, for several modules."""

import numpy as np
import pytest

from nwsketch.backends import get_backend
from nwsketch.hashing import HashPlan, get_family, registered_families
from nwsketch.tensors import to_host

KERNELS = registered_families()
WITH_BANDWIDTH = tuple(name for name in KERNELS if get_family(name).takes_bandwidth)
WITHOUT_BANDWIDTH = tuple(name for name in KERNELS if not get_family(name).takes_bandwidth)

#: Features of a plan that is not told how many.
N_FEATURES = 5

#: Parameters of an estimator that is small, and whose buckets rows still meet in.
SMALL = {"n_repetitions": 16, "n_buckets": 64, "random_state": 0}


def make_rows(n_rows=150, n_features=4, seed=0):
    """Return rows with zeros (for the Jaccard similarity) and a target that depends on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, n_features)) * (rng.random((n_rows, n_features)) < 0.6)
    return X, X[:, 0] + np.sin(X[:, -1]) + 0.1 * rng.normal(size=n_rows)


def learnt(estimator):
    """Return all that an estimator has learnt, bit by bit, for comparison with ==."""
    attributes = {
        name: value for name, value in vars(estimator).items() if name not in estimator.get_params()
    }
    sketch = attributes.pop("sketch_", None)
    state = {
        name: value.tobytes() if isinstance(value, np.ndarray) else value
        for name, value in attributes.items()
    }
    return state if sketch is None else state | {"sketch_": held(sketch), "rows": estimator.n_samples_seen_}


def held(sketch):
    """Return all that a sketch holds, bit by bit: tables, totals and hashes."""
    return (*(to_host(part).tobytes() for part in sketch._state), sketch.plan.fingerprint())


def leaves(value, path=""):
    """Return all that an object is made of, as a dictionary of paths to types, bytes and numbers."""
    if isinstance(value, np.ndarray):
        content = value.tolist() if value.dtype == object else value.tobytes()
        return {path: (value.dtype, value.shape, content)}
    if isinstance(value, np.random.RandomState):
        return leaves(value.get_state(legacy=False), path)
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif hasattr(value, "__getstate__") and not isinstance(value, str | int | float | type(None)):
        state = value.__getstate__()
        items = state.items() if isinstance(state, dict) else ()
    else:
        return {path: (type(value), repr(value))}
    found = {path: type(value)}
    for name, item in items:
        found |= leaves(item, f"{path}.{name}")
    return found


def assert_same_answers(mine, theirs, backend):
    """Compare answers that numba gives bit by bit; PyTorch adds up in an order that depends on the shape."""
    if backend == "numba":
        np.testing.assert_array_equal(mine, theirs)
    else:
        np.testing.assert_allclose(
            mine, theirs, rtol=1e-12, atol=1e-12 * np.nanmax(np.abs(theirs), initial=0.0)
        )


def make_plan(
    kernel, n_features=N_FEATURES, *, n_repetitions=20, n_hashes=1, n_buckets=64, bandwidth=1.0, seed=0
):
    """Return hashes of these parameters."""
    return HashPlan(
        get_family(kernel),
        n_features=n_features,
        n_repetitions=n_repetitions,
        hashes_per_repetition=n_hashes,
        n_buckets=n_buckets,
        bandwidth=np.broadcast_to(np.float64(bandwidth), n_features),
        seed=seed,
    )


def compiled_codes(plan, X, n_threads=1, backend="numba"):
    """Return the codes that a backend computes."""
    return get_backend(backend, None, plan).codes(X, n_threads)


def hash_range(hasher, X, rows, repetitions):
    """Return the codes of a range of rows and repetitions, amid others that must stay as they are."""
    (begin, end), (first, last) = rows, repetitions
    memory = np.full((last - first) * X.shape[0] + 200, 54321, dtype=hasher.code_type)
    codes = memory[100:-100].reshape(last - first, X.shape[0])
    hasher.hash(hasher.prepare(X), begin, end, first, last, codes)
    wanted = codes[:, begin:end].copy()
    codes[:, begin:end] = 54321
    assert (memory == 54321).all()
    return wanted


#: Where the tests of PyTorch run.
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
