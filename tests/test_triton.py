"""The fused kernels: what the plain path of PyTorch computes, by one kernel that keeps no codes.

On a GPU they are compiled; on the CPU Triton interprets them, so these tests are small.
"""

import importlib
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers import DEVICES, SMALL, held, learnt, make_plan, make_rows
from numpy.testing import assert_allclose, assert_array_equal
from test_torch_codes import rows_on_edges

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra nwsketch[torch])")
pytest.importorskip("triton", reason="Triton is not installed (it comes with PyTorch's CUDA builds)")

from nwsketch.backends import torch_backend, torch_fused  # noqa: E402
from nwsketch.backends.torch_backend import TorchBackend  # noqa: E402
from nwsketch.backends.torch_fused import FusedHasher  # noqa: E402

#: Kernels whose hashes are fused.
FUSED = ("laplacian", "angular", "l2", "l1")
on_devices = pytest.mark.parametrize("device", DEVICES, indirect=True)


@pytest.fixture
def device(request):
    """Return a device that kernels run on: the CPU only where they are interpreted (see conftest.py)."""
    if request.param == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are compiled here: the same tests run on the GPU")
    return request.param


def assert_close(mine, theirs):
    mine, theirs = mine.cpu().numpy(), theirs.cpu().numpy()
    assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max(initial=0.0))


def answers(backend, rows, targets, weights, groups, fused, monkeypatch):
    """Return the tables after rows were added, and what the rows read, in groups and without their own."""
    called = []
    with monkeypatch.context() as patch:
        patch.setattr(torch_backend, "FUSED", fused)
        launch = FusedHasher._launch
        patch.setattr(
            FusedHasher, "_launch", lambda *given, **more: called.append(1) or launch(*given, **more)
        )
        state = backend.add(backend.empty_state(targets.shape[1]), rows, targets, weights, 1)
        found = backend.sums(state, rows, 1, None, 1)
        others = backend.sums(state, rows, groups, backend.values(targets, weights), 1)
        less = backend.subtract(state, rows[:9], targets[:9], None if weights is None else weights[:9], 1)
    assert bool(called) == fused
    return [*state, *found, *others, *less]


@on_devices
@pytest.mark.parametrize(
    ("n_rows", "n_features", "n_repetitions", "n_hashes", "n_buckets", "n_outputs", "groups", "dtype"),
    [
        (1, 1, 1, 1, 2, 1, 1, np.float64),
        (33, 5, 20, 2, 64, 1, 5, np.float32),
        (7, 9, 12, 3, 1000, 2, 3, np.float32),
        (3, 8, 70, 1, 2**16 + 1, 1, 2, np.float64),
        (5, 10, 3, 20, 16, 5, 3, np.float16),
    ],
)
@pytest.mark.parametrize("kernel", FUSED)
def test_tables_and_sums_equal_the_plain_path(
    kernel,
    n_rows,
    n_features,
    n_repetitions,
    n_hashes,
    n_buckets,
    n_outputs,
    groups,
    dtype,
    device,
    monkeypatch,
):
    shape = {"n_repetitions": n_repetitions, "n_hashes": n_hashes, "n_buckets": n_buckets}
    plan = make_plan(kernel, n_features, **shape, bandwidth=2.0 * n_features)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, n_features)).astype(dtype)
    X[n_rows // 2] = 0.0
    rows = torch.as_tensor(X.astype(np.float32) if dtype == np.float16 else X, device=device)
    targets = torch.as_tensor(rng.normal(size=(n_rows, n_outputs)), device=device)
    weights = torch.as_tensor(rng.integers(0, 3, n_rows).astype(np.float64), device=device)
    backend = TorchBackend(plan, device)
    given = (backend, rows, targets, weights if n_rows > 1 else None, groups)
    plain, fused = (answers(*given, choice, monkeypatch) for choice in (False, True))
    for theirs, mine in zip(plain, fused, strict=True):
        assert mine.shape == theirs.shape
        assert_close(mine, theirs)
    assert torch.equal(fused[0][..., -1], plain[0][..., -1])  # counts, of integer weights


def codes_of(plan, X, device):
    """Return the buckets that a kernel reads: those of tables that hold the numbers of their buckets."""
    backend = TorchBackend(plan, device)
    numbers = torch.arange(plan.n_buckets, dtype=torch.float64, device=device)
    tables = numbers.expand(plan.n_repetitions, -1)[..., None].contiguous()
    unit = torch.ones((), dtype=torch.float64, device=device)
    rows = torch.as_tensor(X, device=device)
    sums, _ = backend._fused_hasher.read(tables, rows, plan.n_repetitions, None, unit)
    return sums[..., 0].T.cpu().numpy()


@on_devices
@pytest.mark.parametrize("magnitude", [5e-324, 1e-300, 1.0, 1.7e308])
@pytest.mark.parametrize("n_features", [5, 16])
def test_signs_of_rows_of_any_magnitude(n_features, magnitude, device):
    plan = make_plan("angular", n_features, n_repetitions=8, n_hashes=2)
    X = np.random.default_rng(2).uniform(-1, 1, size=(16, n_features)) * magnitude
    X[::7, 1:] *= 1e-9
    X[::11] = -0.0
    assert_array_equal(codes_of(plan, X, device), plan.codes(X))


@on_devices
@pytest.mark.parametrize("n_features", [5, 60])
@pytest.mark.parametrize("kernel", ["angular", "l2", "l1"])
def test_codes_are_right_where_another_order_of_additions_would_cross_an_edge(kernel, n_features, device):
    plan = make_plan(kernel, n_features, n_repetitions=8)
    X = rows_on_edges(plan, np.random.default_rng(4), 32)
    assert_array_equal(codes_of(plan, X, device), plan.codes(X))


@on_devices
@pytest.mark.parametrize("kernel", ["angular", "l1"])
def test_without_bounds_on_the_error_codes_are_wrong_there(kernel, device, monkeypatch):
    monkeypatch.setattr(torch_fused, "UNIT", 0.0)
    plan = make_plan(kernel, 60, n_repetitions=8)
    X = rows_on_edges(plan, np.random.default_rng(4), 32)
    assert (codes_of(plan, X, device) != plan.codes(X)).any()


@on_devices
@pytest.mark.parametrize("scale", [1e-290, 1e290])
@pytest.mark.parametrize("kernel", ["l2", "l1", "laplacian"])
def test_cells_of_rows_and_bandwidths_at_any_scale(kernel, scale, device):
    plan = make_plan(kernel, 9, n_repetitions=8, n_hashes=3, bandwidth=scale)
    X = scale * np.vstack([np.random.default_rng(3).normal(size=(31, 9)), np.zeros((1, 9))])
    assert_array_equal(codes_of(plan, X, device), plan.codes(X))


@on_devices
@pytest.mark.parametrize("kernel", ["laplacian", "angular"])
def test_codes_that_are_all_kept_and_rows_of_any_layout(kernel, device):
    plan = make_plan(kernel, 9, n_repetitions=8, n_hashes=3, n_buckets=None if kernel == "angular" else 64)
    assert plan.rehashed == (kernel != "angular")
    X = np.random.default_rng(1).normal(size=(40, 18))
    for rows in (X[:, ::2], X[::2, 9:], np.asfortranarray(X[:, :9])):
        assert_array_equal(codes_of(plan, rows, device), plan.codes(rows))
    assert codes_of(plan, X[:0, :9], device).shape == (8, 0)


# -- within a sketch ------------------------------------------------------------------------------


@pytest.fixture
def fused(monkeypatch):
    """Ask for fused kernels, and return a list that grows with every one that is started."""
    monkeypatch.setattr(torch_backend, "FUSED", True)
    started, launch = [], FusedHasher._launch
    monkeypatch.setattr(
        FusedHasher, "_launch", lambda *given, **more: started.append(1) or launch(*given, **more)
    )
    return started


@pytest.fixture
def small_chunks(monkeypatch):
    """Cut batches into chunks of 40 rows, however much memory there is."""

    def cut(self, X, *arguments):
        return (slice(start, min(start + 40, len(X))) for start in range(0, len(X), 40))

    monkeypatch.setattr(TorchBackend, "_chunks", cut)


def make_tensors(device):
    return [torch.as_tensor(array, device=device) for array in make_rows(60)]


@on_devices
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kernel", FUSED)
def test_a_sketch_answers_as_numba_does(kernel, device, fused):
    X, y = make_tensors(device)
    sketch = NadarayaWatsonSketch(4, kernel=kernel, **SMALL).update(X, y)
    arrays = make_rows(60)
    numba = NadarayaWatsonSketch(4, kernel=kernel, **SMALL).update(*arrays)
    for name in ("query", "kernel_sum"):
        assert_close(getattr(sketch, name)(X), torch.as_tensor(getattr(numba, name)(arrays[0])))
    assert_close(sketch.loo_query(X, y), torch.as_tensor(numba.loo_query(*arrays)))
    assert len(fused) == 4 * 2
    before = held(sketch)
    assert held(sketch.update(X[:0], y[:0])) == before
    assert len(sketch.query(X[:0])) == 0


@on_devices
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyboardInterrupt("full")], ids=repr)
@pytest.mark.parametrize("method", ["partial_fit", "forget", "fit"])
def test_an_error_amid_a_call_leaves_the_old_state(method, error, call, device, fused, monkeypatch):
    X, y = make_tensors(device)
    model = NadarayaWatsonSketchRegressor(bandwidth=1.0, **SMALL).fit(X, y)
    before, launch = learnt(model), FusedHasher._launch
    fused.clear()

    def failing(*given, **more):
        launch(*given, **more)
        if len(fused) == call:
            raise error

    with monkeypatch.context() as patch, pytest.raises(type(error), match="full"):
        patch.setattr(FusedHasher, "_launch", failing)
        getattr(model, method)(X, y)
    assert learnt(model) == before


@on_devices
def test_the_plain_path_is_taken_where_there_is_no_kernel(device, fused, monkeypatch):
    X, y = make_tensors(device)
    given = SMALL | {"backend": "torch", "device": device}
    for sketch in (
        NadarayaWatsonSketch(4, kernel="jaccard", **given).update(X, y),
        NadarayaWatsonSketch(4, 20, **given).update(X, y[:, None].expand(-1, 20)),
    ):
        sketch.query(X)
    sketch = NadarayaWatsonSketch(4, **given)
    sketch.update(sketch.hash(X), y)
    torch.use_deterministic_algorithms(True)
    try:
        sketch.update(X, y).query(X)
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as if Triton were not installed
    NadarayaWatsonSketch(4, **given).update(X, y)
    monkeypatch.undo()
    NadarayaWatsonSketch(4, **given).update(X, y)  # not asked for
    assert fused == []


def test_the_cpu_does_not_compile_kernels(fused, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    X, y = make_tensors("cpu")
    NadarayaWatsonSketch(4, **SMALL).update(X, y).query(X)
    assert fused == []


def test_chunks_of_a_fused_kernel_are_larger():
    backend = TorchBackend(make_plan("angular", 16, n_hashes=12), "cpu")
    X = np.empty((10**6, 16))
    plain, fused = (next(backend._chunks(X, 2, choice)).stop for choice in (False, True))
    assert 4 * plain < fused < len(X)


# -- compiled -------------------------------------------------------------------------------------

COMPILE = """
    import sys
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from nwsketch.backends.triton_kernels.grid import grid_kernel
    from nwsketch.backends.triton_kernels.projection import projection_kernel

    TYPES = {"x": "*fp32", "multipliers": "*i64", "shifts": "*i64"} | dict.fromkeys(
        ("own", "tables", "sums", "squares_out", "unit_in", "scales", "offsets", "directions", "errors",
         "gaussians", "lengths"), "*fp64")
    shape = {"feature_stride": 1, "REHASHED": True, "PADDED": 2, "ROWS": 32}
    adding = {"READ": False, "sums": None, "squares_out": None, "unit_in": None}
    reading = {"READ": True, "own": None}
    factors = {"HASHES": 12, "OUTER": 1, "HASHES_AT_ONCE": 16, "INNER": 8, "DEPTH": 16}
    plain = {"HASHES": 1, "OUTER": 64, "HASHES_AT_ONCE": 1, "INNER": 1, "DEPTH": 16}
    absent = dict.fromkeys(("scales", "gaussians", "lengths"))
    for kernel, constants in (
        (grid_kernel, {"HASHES": 1, "REPETITIONS": 64} | adding),
        (projection_kernel, factors | reading | {"FLOORS": False, "offsets": None, "lengths": None}),
        (projection_kernel, plain | adding | absent | {"FLOORS": True}),
    ):
        constants = shape | constants
        names = kernel.arg_names
        types = {n: "constexpr" if n in constants else TYPES.get(n, "i32") for n in names}
        source = ASTSource(kernel, types, {(names.index(n),): value for n, value in constants.items()})
        code = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": FUSION})
        print(code.asm["ptx"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("fusion", [False, True])
def test_kernels_compile_for_a_gpu_and_round_products_and_sums_one_by_one(fusion, tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    file = tmp_path / "compile.py"
    file.write_text(textwrap.dedent(COMPILE).replace("FUSION", str(fusion)))
    answer = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert len(re.findall(r"\.entry", answer.stdout)) == 3
    assert re.search(r"mma\.sync\.\S*\.f64", answer.stdout)
    assert ("fma.rn.f64" in answer.stdout) == fusion
