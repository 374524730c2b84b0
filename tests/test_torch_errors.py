"""What the PyTorch backend refuses, how little it asks of a device, and that nothing is done by halves."""

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import DEVICES, KERNELS, SMALL, held, learnt, make_rows
from numpy.testing import assert_array_equal
from sklearn import config_context

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra nwsketch[torch])")

from nwsketch.backends import torch_backend, torch_hashing  # noqa: E402
from nwsketch.backends.torch_backend import TorchBackend  # noqa: E402

on_devices = pytest.mark.parametrize("device", DEVICES)


def make_sketch(kernel="laplacian", **parameters):
    return NadarayaWatsonSketch(4, kernel=kernel, **(SMALL | parameters))


def make_regressor(**parameters):
    return NadarayaWatsonSketchRegressor(**(SMALL | parameters))


def make_tensors(device="cpu"):
    return [torch.as_tensor(array, device=device) for array in make_rows()]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("mps", r"device='mps' is not supported, as sums are kept in float64: choose 'cpu' or 'cuda'"),
        ("meta", "device='meta' is not supported"),
        ("tpu", r"device='tpu' is unknown: choose 'cpu', 'cuda' or 'cuda:<number>'"),
        ("cuda:-1", "device='cuda:-1' is unknown"),
    ],
)
def test_devices_that_cannot_be_used(device, message):
    X, y = make_tensors()
    with pytest.raises(ValueError, match=message):
        make_sketch(backend="torch", device=device)
    model = make_regressor().fit(X, y)
    before = learnt(model)
    with pytest.raises(ValueError, match=message):
        model.to(device, "torch")
    with pytest.raises(ValueError, match=message):
        make_regressor(backend="torch", device=device).fit(X, y)
    assert learnt(model) == before


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_that_is_not_there(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    message = (
        f"device='{device}' was asked for, but PyTorch finds no CUDA device here: choose device='cpu', or"
    )
    for backend in ("auto", "torch"):
        with pytest.raises(ValueError, match=message):
            make_sketch(backend=backend, device=device)
    with pytest.raises(ValueError, match="backend='numba' does not run on device='cuda"):
        make_sketch(backend="numba", device=device)


def test_a_cuda_device_beyond_the_last(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"device='cuda:2' was asked for, but the last .* here is cuda:1\."):
        make_sketch(device="cuda:2")


def test_no_device_is_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_backend.usable_device(None) == torch.device("cpu")
    for name, value in (("is_available", True), ("device_count", 2), ("current_device", 1)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert torch_backend.usable_device(None) == torch.device("cuda:1")
    assert torch_backend.usable_device("cuda") == torch.device("cuda:1")


def test_torch_that_is_not_installed_is_named_with_its_extra():
    code = """
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "torch":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Absent())
        from nwsketch import NadarayaWatsonSketch
        for place in ({"backend": "torch"}, {"device": "cuda"}):
            try:
                NadarayaWatsonSketch(4, **place)
            except ImportError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    line = 'backend="torch" needs PyTorch: pip install "nwsketch[torch]", or choose backend="numba".'
    assert answer.stdout.splitlines() == [line, line]


WRONG = [
    (lambda X, y: (X[0], y), r"X has shape \(4,\)|Expected 2D array, got 1D tensor"),
    (lambda X, y: (X[:, :0], y), r"0 feature\(s\)|X has shape \(150, 0\)|0 features"),
    (lambda X, y: (X, y[:20]), r"y has shape \(20,\), but X has 150 rows"),
    (lambda X, y: (X, y.view(-1, 1, 1)), "y has (shape|3 dimensions)"),
    (lambda X, y: (X, y, y[:5].abs()), r"sample_weight has shape \(5,\): give one weight per row, \(150,\)"),
    (lambda X, y: (X, y, -y.abs()), "sample_weight holds -.*: weights cannot be negative"),
    (lambda X, y: (X, y, y * torch.nan), "sample_weight holds NaN or infinity"),
    (lambda X, y: (X * torch.nan, y), "X holds NaN or infinity: remove or impute"),
    (lambda X, y: (X, y / 0.0), "y holds NaN or infinity"),
    (lambda X, y: (X, y * 1e303), r"could reach .* and overflow: divide"),
    (lambda X, y: (X * 1e18, y), r"cell index could reach .* Scale X"),
    (lambda X, y: (X.to_sparse(), y), r"layout torch.sparse_coo.*: give a dense one, .*to_dense\(\)"),
    (lambda X, y: (X.to(torch.complex64), y), "X has dtype torch.complex64: give real numbers"),
    (lambda X, y: (X, y.to(torch.complex64)), "y has dtype torch.complex64: give real numbers"),
    (lambda X, y: (X, np.array(["a"] * 150)), "y has dtype <U1: give real numbers"),
    (lambda X, y: (X, y.to("meta")), r"but y on meta: give y\.to\("),
    (lambda X, y: (X, y, y.to("meta")), r"but sample_weight on meta: give sample_weight\.to\("),
    (lambda X, y: (X.to("meta"), y), "'meta': give a tensor on 'cpu' or 'cuda'"),
]


@on_devices
@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_wrong_tensors_are_refused_and_nothing_changes(spoil, message, device):
    X, y = make_tensors(device)
    model = make_regressor(bandwidth=1.0).fit(X, y)
    before = learnt(model)
    for method in (model.fit, model.partial_fit, model.sketch_.update, model.sketch_.loo_query):
        with pytest.raises(ValueError, match=message):
            method(*spoil(X, y))
    assert learnt(model) == before


@on_devices
@pytest.mark.parametrize("name", ["query", "kernel_sum", "standard_error", "hash"])
def test_wrong_questions_are_refused(name, device):
    X, y = make_tensors(device)
    ask = getattr(make_sketch().update(X, y), name)
    for wrong, message in (
        (X * torch.inf, "X holds NaN"),
        (X[:, :2], "X has shape"),
        (X.to_sparse(), "layout"),
        (X.to("meta"), "'meta'"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(wrong)


def test_numba_names_what_a_tensor_is_not_taken_for():
    X, y = make_tensors()
    sketch = make_sketch(backend="numba").update(X, y)
    with pytest.raises(ValueError, match=r"layout torch.sparse_coo is not taken: give a dense one"):
        sketch.query(X.to_sparse())
    with pytest.raises(ValueError, match="device meta holds no values"):
        sketch.query(X.to("meta"))


@pytest.mark.gpu
def test_rows_of_another_device_are_brought_to_the_sketch():
    X, y = make_tensors("cuda")
    sketch = make_sketch(backend="torch", device="cpu").update(X, y)
    answer = sketch.query(X)
    assert answer.device == X.device
    with pytest.raises(ValueError, match=r"X is on cuda:0, but y on cpu: give y.to\('cuda:0'\)"):
        sketch.update(X, y.cpu())


# -- nothing by halves ----------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch):
    """Cut batches into chunks of 20 rows."""
    monkeypatch.setattr(torch_backend, "MOST_HASHES", 20 * SMALL["n_repetitions"])


def fail_at(monkeypatch, owner, name, call, error):
    """Let a method raise an error when it is called so many times."""
    method, calls = getattr(owner, name), []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise error
        return method(*arguments)

    monkeypatch.setattr(owner, name, failing)


@on_devices
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("call", [1, 3, 8])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyboardInterrupt("full")], ids=repr)
@pytest.mark.parametrize("place", [(TorchBackend, "_scatter"), (torch_hashing.TorchHasher, "codes")])
@pytest.mark.parametrize("method", ["partial_fit", "forget", "fit"])
def test_an_error_amid_a_call_leaves_the_old_state(method, place, error, call, device, monkeypatch):
    X, y = make_tensors(device)
    model = make_regressor(bandwidth=1.0).fit(X, y)
    before = learnt(model)
    with monkeypatch.context() as patch, pytest.raises(type(error), match="full"):
        fail_at(patch, *place, call, error)
        getattr(model, method)(X, y)
    assert learnt(model) == before
    model.partial_fit(X, y)
    assert model.n_samples_seen_ == 300


@pytest.mark.usefixtures("small_chunks")
def test_progress_is_told_by_chunks():
    X, y = make_tensors()
    told = []
    make_sketch().update(X, y, progress=told.append)
    assert told == [20] * 7 + [10]


# -- what is asked of a device --------------------------------------------------------------------

QUESTIONS = ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "nonzero")


@pytest.fixture
def questions(monkeypatch):
    """Return a list that every question to a tensor is written down in."""
    asked = []
    for name in QUESTIONS:
        method = getattr(torch.Tensor, name)

        def asking(tensor, *arguments, name=name, method=method, **options):
            asked.append(name)
            return method(tensor, *arguments, **options)

        monkeypatch.setattr(torch.Tensor, name, asking)
    monkeypatch.setattr(torch_hashing, "is_on_gpu", lambda _: True)
    return asked


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_call_asks_once_however_many_chunks(kernel, questions):
    X, y = make_tensors()
    sketch = make_sketch(kernel).update(X, y)
    for call in (
        lambda: sketch.update(X, y, y.abs()),
        lambda: sketch.query(X),
        lambda: sketch.kernel_sum(X),
        lambda: sketch.standard_error(X),
        lambda: sketch.loo_query(X, y),
        lambda: sketch.hash(X),
    ):
        questions.clear()
        call()
        assert questions == ["tolist"]
    questions.clear()
    assert X.sum().item() is not None  # the list does fill
    assert questions == ["item"]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kernel", KERNELS)
def test_values_assumed_to_be_finite_are_not_looked_at(kernel, questions):
    X, y = make_tensors()
    model = NadarayaWatsonSketchRegressor(kernel=kernel, **SMALL).fit(X, y)
    questions.clear()
    with config_context(assume_finite=True):
        model.partial_fit(X, y)
        model.predict(X)
        model.kernel_sum(X)
    assert questions == []


def test_nobody_checks_values_assumed_to_be_finite(monkeypatch):
    X, y = make_tensors()
    expected = make_regressor().fit(X, y, y.abs())

    def fail(*arguments):
        raise AssertionError("values were checked")

    monkeypatch.setattr("nwsketch.torch_inputs.check_values", fail)
    with config_context(assume_finite=True):
        assert_array_equal(make_regressor().fit(X, y, y.abs()).predict(X), expected.predict(make_rows()[0]))
    with pytest.raises(AssertionError, match="values were checked"):
        make_regressor().fit(X, y)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", KERNELS)
def test_cuda_is_waited_for_once_a_call(kernel):
    X, y = make_tensors("cuda")
    model = NadarayaWatsonSketchRegressor(kernel=kernel, **SMALL).fit(X, y)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with config_context(assume_finite=True):
            model.partial_fit(X, y)
            model.predict(X)
        with pytest.raises(RuntimeError, match="synchronizing"):
            model.predict(X)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- memory, and rows too far out -----------------------------------------------------------------


def test_rows_too_far_out_for_a_gpu_are_hashed_on_the_host(monkeypatch):
    X, y = make_tensors()
    sketch = make_sketch("l2").update(X, y)
    expected = sketch.query(X)
    seen = []
    on_host = TorchBackend.codes_on_host
    monkeypatch.setattr(
        TorchBackend, "codes_on_host", lambda self, X: seen.append(len(X)) or on_host(self, X)
    )
    sketch.query(X)
    assert seen == []
    sketch._backend.farthest = float(X.abs().max())
    assert torch.equal(sketch.query(X), expected)
    assert torch.equal(sketch.hash(X).array, sketch._backend.codes(X, 1))
    twice = held(make_sketch("l2").update(X, y).update(X, y))
    assert held(sketch.update(X, y)) == twice
    assert seen == [150] * 3


def test_how_far_out_a_gpu_hashes_is_finite_for_floors_alone():
    on_gpu = SimpleNamespace(type="cuda")
    for kernel in ("l2", "l1", "angular"):
        backend = make_sketch(kernel, backend="torch", device="cpu")._backend
        assert backend.farthest == np.inf
        plan, hasher = backend._plan, torch_hashing.TorchHasher
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch_hashing, "as_tensor", lambda values, device: values)
            farthest = hasher(plan, on_gpu).farthest
        assert farthest == np.inf if kernel == "angular" else 1.0 < farthest < np.inf


def test_chunks_follow_the_free_memory_of_a_gpu(monkeypatch):
    backend = make_sketch(backend="torch", device="cpu")._backend
    X, free = np.empty((10**6, 4)), []
    backend.device = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch_backend, "free_bytes", lambda device: free[-1])
    sizes = []
    for n_bytes, n_channels in ((2**33, 2), (2**31, 2), (2**31, 20), (0, 2)):
        free.append(n_bytes)
        sizes.append(next(backend._chunks(X, n_channels)).stop)
    assert sizes[0] == pytest.approx(4 * sizes[1], rel=1e-3)
    assert sizes[2] < sizes[1] / 4
    assert sizes[3] > 1000  # what little is left, chunks do not shrink to single rows
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert torch_backend.free_bytes("cuda") == 400
