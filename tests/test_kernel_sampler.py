"""LSHKernelSampler: inner products against the kernels in closed form, and what linear models make of it."""

import pickle

import numpy as np
import pytest
from helpers import KERNELS, WITHOUT_BANDWIDTH, make_rows
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_friedman1
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import cosine_similarity, laplacian_kernel
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwsketch import LSHKernelSampler, NadarayaWatsonSketchRegressor
from nwsketch.hashing import get_family


def make(kernel="laplacian", **parameters):
    parameters = {"n_repetitions": 64, "n_buckets": 256, "random_state": 0, **parameters}
    if kernel not in WITHOUT_BANDWIDTH:
        parameters.setdefault("bandwidth", 2.0)
    return LSHKernelSampler(kernel=kernel, **parameters)


def exact_kernel(kernel, X, bandwidth=2.0):
    family = get_family(kernel)
    if family.distance == "angle":
        distance = np.arccos(cosine_similarity(X).clip(-1, 1))
    elif family.distance == "jaccard":
        distance = pairwise_distances(X != 0, metric="jaccard")
    else:
        distance = pairwise_distances(X / bandwidth, metric=family.distance)
    return family.collision_probability(distance)


@parametrize_with_checks(
    [
        LSHKernelSampler(n_repetitions=16, n_buckets=64),
        LSHKernelSampler(kernel="angular", hashes_per_repetition=5, n_repetitions=16),
    ]
)
def test_scikit_learn_compatible(estimator, check):
    check(estimator)


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_inner_products_approximate_the_kernel(kernel, power):
    X = make_rows(40, 5)[0]
    X = X[np.abs(X).sum(axis=1) > 0]  # the cosine of a zero row is for the hash family to define
    n_repetitions = 4096
    sampler = make(kernel, n_repetitions=n_repetitions, hashes_per_repetition=power)
    rows = sampler.fit(X).transform(X)
    expected = exact_kernel(kernel, X) ** power
    if sampler.plan_.rehashed:
        expected += (1 - expected) / sampler.n_buckets_
    found = (rows @ rows.T).toarray()
    assert np.diag(found) == pytest.approx(1)
    # Of repetitions drawn eight together, as few as 512 may be independent: 5 standard errors of those.
    assert np.abs(found - expected).max() < 5 * np.sqrt(0.25 / (n_repetitions / 8))
    assert np.abs((found - expected).mean()) < 0.01


def test_rehashing_adds_what_the_docstring_says():
    X = np.array([[0.0], [1e6]])  # the kernel of the two is 0
    shares = []
    for seed in range(20):
        rows = make(n_repetitions=1000, n_buckets=4, random_state=seed).fit_transform(X)
        shares.append((rows[:1] @ rows[1:].T).toarray().item())
    assert np.mean(shares) == pytest.approx(1 / 4, abs=5 * np.sqrt(3 / 16 / 20_000))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_form_of_the_result(dtype, layout):
    X = make_rows(30)[0].astype(dtype)
    sampler = make().fit(X)
    rows = sampler.transform(X if layout == "dense" else sparse.csr_array(X))
    assert rows.format == "csr"
    assert rows.dtype == dtype
    assert rows.indices.dtype == np.int32
    assert rows.shape == (30, 64 * 256) == (30, len(sampler.get_feature_names_out()))
    assert rows.has_canonical_format
    assert (np.diff(rows.indptr) == 64).all()
    assert np.array_equal(rows.indices.reshape(30, 64) // 256, np.tile(np.arange(64), (30, 1)))
    assert rows.data == pytest.approx(1 / 8)
    assert sampler.get_feature_names_out()[[0, -1]].tolist() == [
        "lshkernelsampler0",
        f"lshkernelsampler{64 * 256 - 1}",
    ]


def test_a_row_is_transformed_alike_in_any_company():
    X = make_rows(50)[0]
    sampler = make("l2", n_jobs=2).fit(X)
    whole = sampler.transform(X)
    for i in (0, 17, 49):
        assert (sampler.transform(X[[i]]) != whole[[i]]).nnz == 0
    twin = pickle.loads(pickle.dumps(sampler))
    assert (twin.transform(X) != whole).nnz == 0
    assert (clone(sampler).set_params(random_state=1).fit(X).transform(X) != whole).nnz


def test_it_hashes_as_the_sketch_does():
    # Kernel sums of a sketch, not debiased, are row sums of the inner products.
    X, y = make_rows(60)
    sampler = make("angular", hashes_per_repetition=4, n_buckets=None).fit(X)
    model = NadarayaWatsonSketchRegressor(
        kernel="angular", hashes_per_repetition=4, n_buckets=None, n_repetitions=64, random_state=0
    ).fit(X, y)
    rows = sampler.transform(X)
    share = (rows @ rows.T).toarray().sum(axis=1) / model.kernel_sum(X)
    assert share.mean() == pytest.approx(1, abs=0.05)  # other hashes of the same kernel


def test_ridge_on_it_is_kernel_ridge_with_our_kernel():
    X, y = make_friedman1(n_samples=700, n_features=5, noise=0.5, random_state=0)
    y = y - y[:500].mean()
    gram = laplacian_kernel(X, X[:500], gamma=1 / 4)
    exact = KernelRidge(alpha=0.5, kernel="precomputed").fit(gram[:500], y[:500]).predict(gram[500:])
    gaps = {}
    for n_repetitions in (64, 1024):
        errors = []
        for seed in range(3):
            sampler = LSHKernelSampler(
                bandwidth=4.0, n_repetitions=n_repetitions, n_buckets=1024, random_state=seed
            )
            model = make_pipeline(sampler, Ridge(alpha=0.5, fit_intercept=False, tol=1e-8))
            errors.append(model.fit(X[:500], y[:500]).predict(X[500:]) - exact)
        gaps[n_repetitions] = np.sqrt(np.mean(np.square(errors)))
    assert gaps[1024] < 0.06 * y.std()
    assert 2.8 < gaps[64] / gaps[1024] < 5.7  # 4, the root of 16 times the repetitions


def test_beside_random_fourier_features_and_nystroem():
    X, y = make_friedman1(n_samples=3000, n_features=5, noise=1.0, random_state=0)
    rivals = {
        "hashes": LSHKernelSampler(bandwidth=6.0, n_repetitions=512, random_state=0),
        "fourier": RBFSampler(gamma=0.5, n_components=512, random_state=0),
        "nystroem": Nystroem(gamma=0.5, n_components=512, random_state=0),
    }
    scores = {
        name: make_pipeline(sampler, Ridge(alpha=0.5)).fit(X[:2000], y[:2000]).score(X[2000:], y[2000:])
        for name, sampler in rivals.items()
    }
    assert scores["hashes"] > 0.9
    assert min(scores.values()) > 0.85


@pytest.mark.parametrize("kernel", WITHOUT_BANDWIDTH)
def test_a_bandwidth_that_is_not_read_is_refused(kernel):
    with pytest.raises(ValueError, match=r"has no bandwidth, but bandwidth=1\.5 was given"):
        LSHKernelSampler(kernel=kernel, bandwidth=1.5).fit(make_rows()[0])


def test_values_beyond_the_cells_are_refused():
    with pytest.raises(ValueError, match=r"its cell index could reach .* Scale X"):
        make().fit(make_rows()[0]).transform(np.full((1, 4), 1e300))


def test_every_code_of_an_unbounded_kernel_cannot_be_kept():
    X = make_rows()[0]
    sampler = make().fit(X)
    with pytest.raises(ValueError, match="n_buckets=None keeps every code"):
        sampler.set_params(n_buckets=None).fit(X[:, :2])
    assert sampler.transform(X).shape == (150, 64 * 256)  # what was fitted before is kept
