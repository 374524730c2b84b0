"""The hashes of the PyTorch backend: equal to the reference wherever rows lie, and on both of its paths."""

import numpy as np
import pytest
from helpers import DEVICES, KERNELS, make_plan
from numpy.testing import assert_array_equal

from nwsketch.hashing import HashPlan, get_family
from nwsketch.hashing.projections import sequential_projections

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra nwsketch[torch])")

from nwsketch.backends import torch_hashing  # noqa: E402
from nwsketch.backends.torch_backend import TorchBackend  # noqa: E402

pytestmark = pytest.mark.parametrize("device", DEVICES)
PROJECTIONS = ("angular", "l2", "l1")


@pytest.fixture(params=["asked", "fixed room"])
def mending(request, monkeypatch):
    """Mend what is marked, or as on a GPU, where nobody asks how many that are."""
    if request.param == "fixed room":
        monkeypatch.setattr(torch_hashing, "is_on_gpu", lambda _: True)


def codes_of(plan, X, device, labels=None):
    codes = TorchBackend(plan, device).codes(torch.as_tensor(X, device=device), 1, labels)
    assert codes.device.type == device
    return codes.cpu().numpy()


def assert_equal_to_the_reference(plan, X, device):
    assert_array_equal(codes_of(plan, X, device), plan.codes(X))


@pytest.mark.usefixtures("mending")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n_features", "n_repetitions", "n_hashes", "n_buckets"),
    [
        (1, 1, 1, 2),
        (5, 20, 1, 64),
        (7, 9, 3, 1000),
        (8, 8, 2, 2**16),
        (9, 20, 5, 2**16 + 1),
        (40, 11, 33, 2**20),
        (100, 3, 70, 2**11),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_codes_equal_the_reference(kernel, n_features, n_repetitions, n_hashes, n_buckets, dtype, device):
    plan = make_plan(
        kernel, n_features, n_repetitions=n_repetitions, n_hashes=n_hashes, n_buckets=n_buckets, bandwidth=2.0
    )
    X = np.random.default_rng(0).normal(size=(300, n_features)).astype(dtype)
    X[np.abs(X) < 0.5] = 0.0
    X[7] = 0.0
    assert_equal_to_the_reference(plan, X, device)


@pytest.mark.parametrize("n_hashes", [1, 5, 32])
def test_codes_that_are_all_kept_equal_the_reference(n_hashes, device):
    plan = make_plan("angular", 9, n_hashes=n_hashes, n_buckets=None)
    assert not plan.rehashed
    codes = TorchBackend(plan, device).codes(np.random.default_rng(1).normal(size=(100, 9)), 1)
    assert codes.dtype == (torch.int64 if n_hashes == 32 else torch.int32)
    X = np.random.default_rng(1).normal(size=(100, 9))
    assert_equal_to_the_reference(plan, X, device)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "n_features"), [(kernel, 5) for kernel in KERNELS] + [("angular", 18), ("l2", 18)]
)
def test_ten_million_codes_equal_the_reference(kernel, n_features, device):
    plan = make_plan(kernel, n_features, n_repetitions=1000, n_buckets=2**14, bandwidth=n_features / 2)
    X = np.random.default_rng(13).normal(size=(10_000, n_features))
    if kernel == "jaccard":
        X[np.abs(X) < 0.5] = 0.0
    codes = codes_of(plan, X, device)
    for start in range(0, len(X), 200):
        rows = slice(start, start + 200)
        assert_array_equal(codes[:, rows], plan.codes(X[rows]))


@pytest.mark.usefixtures("mending")
@pytest.mark.parametrize("magnitude", [5e-324, 1e-310, 1e-300, 1e-150, 1e-30, 1e30, 1e150, 1e290, 1.7e308])
@pytest.mark.parametrize("n_features", [5, 16])
def test_signs_of_rows_of_any_magnitude(n_features, magnitude, device):
    plan = make_plan("angular", n_features, n_hashes=3)
    X = np.random.default_rng(2).uniform(-1, 1, size=(200, n_features)) * magnitude
    X[::7, 1:] *= 1e-9
    X[::11] = -0.0
    assert_equal_to_the_reference(plan, X, device)


@pytest.mark.parametrize("scale", [1e-290, 1e-30, 1.0, 1e30, 1e290])
@pytest.mark.parametrize("kernel", ["l2", "l1", "laplacian"])
def test_cells_of_rows_and_bandwidths_at_any_scale(kernel, scale, device):
    plan = make_plan(kernel, 9, n_hashes=3, bandwidth=scale)
    X = scale * np.vstack([np.random.default_rng(3).normal(size=(100, 9)), np.zeros((1, 9))])
    assert len(np.unique(plan.codes(X))) > 2
    assert_equal_to_the_reference(plan, X, device)


def rows_on_edges(plan, rng, n_rows=400):
    """Return rows each of which one projection takes to an edge, as far as float64 can tell."""
    directions = plan.arrays["directions"]
    hashes = np.arange(n_rows) % directions.shape[1]
    chosen = directions.T[hashes]
    offsets = plan.arrays.get("offsets", np.zeros(directions.shape[1]))
    X = rng.normal(size=chosen.shape)
    for _ in range(4):
        positions = sequential_projections(X, directions) + offsets
        position = positions[np.arange(n_rows), hashes]
        edge = 0.0 if plan.form == "sign_projection" else np.round(position)
        X += ((edge - position) / (chosen**2).sum(axis=1))[:, np.newaxis] * chosen
    return X


@pytest.mark.usefixtures("mending")
@pytest.mark.parametrize("n_features", [5, 23, 100, 800])
@pytest.mark.parametrize("kernel", PROJECTIONS)
def test_codes_are_right_where_another_order_of_additions_would_cross_an_edge(kernel, n_features, device):
    plan = make_plan(kernel, n_features, n_hashes=4)
    X = rows_on_edges(plan, np.random.default_rng(4))
    assert_equal_to_the_reference(plan, X, device)
    if n_features >= 100:  # without bounds on the error, codes are wrong there
        backend = TorchBackend(plan, device)
        backend._hasher._errors.zero_()
        codes = backend.codes(torch.as_tensor(X, device=device), 1).cpu().numpy()
        assert np.count_nonzero(codes != plan.codes(X)) > 10


@pytest.mark.usefixtures("mending")
@pytest.mark.parametrize("kernel", ["angular", "l2"])
def test_ties_of_small_integers(kernel, device):
    plan = make_plan(kernel, 5, n_hashes=2)
    rng = np.random.default_rng(5)
    for name, array in plan.arrays.items():
        array[:] = 0.0 if name == "offsets" else rng.integers(-3, 4, array.shape)
    X = rng.integers(-4, 5, (200, 5)).astype(np.float64)
    assert_equal_to_the_reference(plan, X, device)


def test_what_the_room_leaves_over_changes_nothing(monkeypatch, device):
    plan = make_plan("l2", 100, n_hashes=4)
    X = rows_on_edges(plan, np.random.default_rng(6), 40)
    monkeypatch.setattr(torch_hashing, "is_on_gpu", lambda _: True)
    assert_equal_to_the_reference(plan, X, device)
    monkeypatch.setattr(torch_hashing, "ROOM", 1)  # too small a room is seen
    assert (codes_of(plan, X, device) != plan.codes(X)).any()


@pytest.mark.parametrize("n_buckets", [64, 2**16 + 1])
@pytest.mark.parametrize("kernel", KERNELS)
def test_labels_move_codes_as_the_plan_does(kernel, n_buckets, device):
    shape = {"n_features": 5, "n_repetitions": 20, "hashes_per_repetition": 2, "n_buckets": n_buckets}
    plan = HashPlan(get_family(kernel), **shape, bandwidth=np.ones(5), seed=0, n_labels=3)
    X = np.random.default_rng(7).normal(size=(100, 5))
    labels = np.arange(100) % 3
    assert_array_equal(codes_of(plan, X, device, labels), plan.codes(X, labels))


@pytest.mark.parametrize("kernel", KERNELS)
def test_chunks_of_rows_are_hashed_as_the_whole(kernel, monkeypatch, device):
    monkeypatch.setattr("nwsketch.backends.torch_backend.MOST_HASHES", 20 * 7)
    plan = make_plan(kernel, 9)
    backend = TorchBackend(plan, device)
    X = np.random.default_rng(8).normal(size=(100, 9))
    assert len(list(backend._chunks(X, 2))) == 15
    assert_equal_to_the_reference(plan, X, device)
    assert codes_of(plan, X[:0], device).shape == (20, 0)
