"""Tensors in and out, on the device where they are: equal to numba, movable, and in every mode of PyTorch."""

import copy
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers import DEVICES, KERNELS, SMALL, WITH_BANDWIDTH, make_rows
from numpy.testing import assert_allclose

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.backends.base import State
from nwsketch.tensors import to_host

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra nwsketch[torch])")

from nwsketch.backends.torch_rules import scale_of  # noqa: E402

ANSWERS = ("query", "kernel_sum", "channel_sums", "standard_error")
on_devices = pytest.mark.parametrize("device", DEVICES)


def make_sketch(kernel="laplacian", **parameters):
    return NadarayaWatsonSketch(4, kernel=kernel, **(SMALL | parameters))


def make_regressor(kernel="laplacian", **parameters):
    return NadarayaWatsonSketchRegressor(kernel=kernel, **(SMALL | parameters))


def tensors(device, *arrays):
    return [torch.as_tensor(array, device=device) for array in arrays]


def assert_close(mine, theirs):
    """Compare answers of two backends, which add up in different orders."""
    mine, theirs = to_host(mine), to_host(theirs)
    assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12 * np.nanmax(np.abs(theirs), initial=0.0))


def assert_same_sums(mine, theirs):
    for ours, numbas in zip(mine._state, theirs._state, strict=True):
        assert_close(ours, numbas)


# -- tensors in, tensors out ----------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sketch_answers_tensors_by_tensors_and_arrays_by_arrays(kernel, device):
    X, y = make_rows()
    sketch = make_sketch(kernel).update(*tensors(device, X, y))
    numba = make_sketch(kernel, backend="numba").update(X, y)
    assert sketch._backend.place == f"torch on {torch.as_tensor(X, device=device).device}"
    assert_same_sums(sketch, numba)
    (rows, targets) = tensors(device, X, y)
    for name in ANSWERS:
        for given in (rows, sketch.hash(rows)):
            answer = getattr(sketch, name)(given)
            assert isinstance(answer, torch.Tensor)
            assert (answer.device, answer.dtype) == (rows.device, torch.float64)
            assert_close(answer, getattr(numba, name)(X))
        for given in (X, sketch.hash(X)):
            assert isinstance(getattr(sketch, name)(given), np.ndarray)
    left_out = sketch.loo_query(rows, targets)
    assert left_out.device == rows.device
    assert_close(left_out, numba.loo_query(X, y))
    assert isinstance(sketch.loo_query(X, y), np.ndarray)


@on_devices
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_regressor_answers_tensors_by_tensors_and_arrays_by_arrays(kernel, device):
    X, y = make_rows()
    weights = np.linspace(0.5, 2, len(y))
    model = make_regressor(kernel).fit(*tensors(device, X, y, weights))
    numba = make_regressor(kernel).fit(X, y, weights)
    assert model.sketch_.backend == "torch"
    assert numba.sketch_._backend.place == "numba"
    (rows,) = tensors(device, X)
    for name in ("predict", "kernel_sum"):
        answer = getattr(model, name)(rows)
        assert answer.device == rows.device
        assert_close(answer, getattr(numba, name)(X))
        assert isinstance(getattr(model, name)(X), np.ndarray)
    assert_close(model.loo_predict(*tensors(device, X, y, weights)), numba.loo_predict(X, y, weights))
    assert model.score(*tensors(device, X, y)) == pytest.approx(numba.score(X, y), rel=1e-12)
    # What learnt from arrays answers tensors by tensors, too.
    assert numba.predict(rows).device == rows.device


@on_devices
@pytest.mark.parametrize(
    "parameters",
    [
        {"trend": "linear"},
        {"uncertainty": True},
        {"uncertainty": True, "bias_correction": 2},
        {"bias_correction": "auto"},
        {"bandwidth": "loo"},
        {"bandwidth": "loo_per_feature"},
        {"aggregation": "median_of_means", "n_groups": 4},
        {"empty": "nan", "bandwidth": 0.01},
        {"empty": 3.0, "trend": "linear"},
    ],
)
def test_every_way_to_learn_takes_tensors(parameters, device):
    X, y = make_rows()
    weights = np.linspace(0.5, 2, len(y))
    rows, targets, heavy = tensors(device, X, y, weights)
    model = make_regressor(**parameters).fit(rows, targets, sample_weight=heavy)
    numba = make_regressor(**parameters).fit(X, y, sample_weight=weights)
    predictions = model.predict(rows)
    assert predictions.device == rows.device
    assert_allclose(to_host(predictions), numba.predict(X), rtol=1e-9, atol=1e-9)
    if "uncertainty" in parameters:
        for mine, theirs in zip(model.predict_uncertainty(rows), numba.predict_uncertainty(X), strict=True):
            assert mine.device == rows.device
            assert_allclose(to_host(mine), theirs, rtol=1e-6, atol=1e-6)
        assert model.predict(rows, return_std=True)[1].device == rows.device


@on_devices
def test_several_outputs_and_forgetting(device):
    X, y = make_rows()
    Y = np.column_stack([y, y**2, -y])
    rows, targets = tensors(device, X, Y)
    model = make_regressor(bandwidth=1.0).fit(rows, targets)
    assert model.predict(rows).shape == (150, 3)
    model.partial_fit(rows, 2 * targets).forget(rows[:100], targets[:100])
    numba = make_regressor(bandwidth=1.0).fit(X[100:], Y[100:]).partial_fit(X, 2 * Y)
    assert model.n_samples_seen_ == 200
    assert_close(model.predict(rows), numba.predict(X))


@on_devices
@pytest.mark.parametrize("weight", [1e-200, 1e-100, 1e-30, 1.0, 1e30, 1e100, 1e290])
def test_weights_of_any_magnitude(weight, device):
    totals = torch.tensor([0.0, weight, 1.0], dtype=torch.float64, device=device)
    assert scale_of(totals).item() == State(None, totals).unit
    X, y = make_rows()
    weights = np.full(len(y), weight)
    sketch = make_sketch(n_buckets=16).update(*tensors(device, X, y, weights))
    numba = make_sketch(n_buckets=16, backend="numba").update(X, y, weights)
    assert_close(sketch.query(*tensors(device, X)), numba.query(X))


@on_devices
def test_lists_and_arrays_beside_a_tensor_keep_their_precision(device):
    X, y = make_rows()
    (rows,) = tensors(device, X)
    expected = make_sketch(backend="numba").update(X, y, y**2)
    locked = y.copy()
    locked.flags.writeable = False
    for targets, weights in ((y.tolist(), (y**2).tolist()), (locked, y**2), (y.astype(object), y**2)):
        assert_same_sums(make_sketch().update(rows, targets, weights), expected)


# -- layouts and precisions -----------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision_counts_as_float32_of_the_same_values(kernel, dtype, device):
    X, y = tensors(device, *make_rows())
    half, targets = X.to(dtype), y.to(dtype)
    sketch = make_sketch(kernel).update(half, targets)
    assert_same_sums(sketch, make_sketch(kernel).update(half.float(), targets.float()))
    assert_close(sketch.query(half), sketch.query(half.float()))
    model = make_regressor(kernel, trend="linear").fit(half, targets)
    assert_close(model.predict(half), model.predict(half.float()))


@on_devices
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_integers_count_as_float64(dtype, device):
    X, y = tensors(device, *make_rows())
    counts, targets = (3 * X).to(dtype), (3 * y).to(dtype)
    sketch = make_sketch().update(counts, targets)
    assert_same_sums(sketch, make_sketch().update(counts.double(), targets.double()))


@on_devices
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_layout_of_a_tensor_does_not_matter(kernel, device):
    X, y = tensors(device, *make_rows())
    wide = torch.zeros((300, 8), dtype=X.dtype, device=device)
    wide[::2, 1::2] = X
    spread = torch.zeros(300, dtype=y.dtype, device=device)
    spread[::2] = y
    expected = make_sketch(kernel).update(X, y)
    for same in (X.T.contiguous().T, wide[::2, 1::2], torch.complex(X, -X).conj().imag):
        sketch = make_sketch(kernel).update(same, spread[::2])
        assert_same_sums(sketch, expected)
        assert_close(sketch.query(same), expected.query(X))
        assert_close(make_sketch(kernel, backend="numba").update(same, spread[::2]).tables, expected.tables)
    one = make_sketch(kernel).update(X[:1].expand(5, -1), y[:1].expand(5))
    assert_same_sums(one, make_sketch(kernel).update(X[[0] * 5], y[[0] * 5]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_read_only_arrays_and_any_order_of_memory(kernel):
    X, y = make_rows()
    expected = make_sketch(kernel, backend="numba").update(X, y)
    for same in (X.copy(), np.asfortranarray(X), X[::-1].copy()[::-1], X.astype(">f8")):
        same.flags.writeable = False
        sketch = make_sketch(kernel, backend="torch", device="cpu").update(same, y)
        assert_same_sums(sketch, expected)
        assert_close(sketch.query(same), expected.query(X))


@on_devices
def test_no_rows_change_nothing_and_get_no_answers(device):
    X, y = tensors(device, *make_rows())
    model = make_regressor().fit(X, y)
    before = [part.clone() for part in model.sketch_._state]
    model.partial_fit(X[:0], y[:0])
    for part, now in zip(before, model.sketch_._state, strict=True):
        assert torch.equal(part, now)
    assert model.predict(X[:0]).shape == (0,)
    for name in ANSWERS:
        assert len(getattr(model.sketch_, name)(X[:0])) == 0
    assert make_sketch().update(X[:0], y[:0]).n_samples_seen == 0


# -- from one backend to the other ----------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_one_backend_learnt_the_other_answers_by(kernel, device):
    X, y = make_rows()
    rows, targets = tensors(device, X, y)
    by_torch, by_numba = make_regressor(kernel).fit(rows, targets), make_regressor(kernel).fit(X, y)
    expected = by_numba.predict(X)
    by_torch.to("cpu")
    assert by_torch.sketch_._backend.place == "numba"
    assert_close(by_torch.predict(X), expected)
    by_numba.to(device, "torch")
    assert by_numba.sketch_._backend.place == f"torch on {device}"
    assert_close(by_numba.predict(rows), expected)
    # And both go on learning.
    assert_close(by_numba.partial_fit(rows, targets).predict(X), by_torch.partial_fit(X, y).predict(X))
    corrected = make_sketch(kernel).correct(rows, targets, n_rounds=2)
    answers = to_host(corrected.query(rows))
    assert_close(corrected.to("cpu").query(X), answers)


@on_devices
def test_sketches_of_different_backends_are_merged(device):
    X, y = make_rows()
    rows, targets = tensors(device, X, y)
    whole = make_sketch(backend="numba").update(X, y)
    first, second = make_sketch().update(rows[:70], targets[:70]), make_sketch().update(X[70:], y[70:])
    for mine, theirs in ((first, second), (second, first)):
        merged = copy.deepcopy(mine).merge(theirs)
        assert merged._backend.place == mine._backend.place
        assert_same_sums(merged, whole)
    assert second.n_samples_seen == 80


@on_devices
def test_a_pickle_keeps_its_device(device):
    X, y = tensors(device, *make_rows())
    model = make_regressor(trend="linear", uncertainty=True).fit(X, y)
    for same in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert same.sketch_._backend.place == model.sketch_._backend.place
        assert_close(same.predict(X), model.predict(X))
        same.partial_fit(X, y)
    assert model.n_samples_seen_ == 150


@on_devices
def test_a_pickle_is_loaded_where_there_is_no_torch(device, tmp_path):
    X, y = make_rows()
    model = make_regressor().fit(*tensors(device, X, y))
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    np.savez(tmp_path / "rows.npz", X=X, expected=model.predict(X))
    code = """
        import pickle, sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "torch":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Absent())
        import numpy as np
        rows = np.load("rows.npz")
        with open("model.pickle", "rb") as file:
            model = pickle.load(file)
        assert model.sketch_._backend.place == "numba"
        np.testing.assert_allclose(model.predict(rows["X"]), rows["expected"], rtol=1e-12)
        model.partial_fit(rows["X"], rows["expected"])
        try:
            model.to("cpu", "torch")
        except ImportError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert 'backend="torch" needs PyTorch: pip install "nwsketch[torch]"' in answer.stdout


def test_a_pickle_of_a_gpu_is_loaded_on_the_cpu_where_there_is_none(monkeypatch):
    X, y = make_rows()
    sketch = make_sketch().update(*tensors("cpu", X, y))
    sketch.device = "cuda:0"  # as if it had learnt there
    pickled = pickle.dumps(sketch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    again = pickle.loads(pickled)
    assert (again._backend.place, again.device) == ("numba", "cpu")
    assert_close(again.query(X), sketch.query(X))


# -- modes of PyTorch -----------------------------------------------------------------------------


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@on_devices
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_deterministic_mode_leaves_the_same_bits(kernel, device):
    X, y = tensors(device, *make_rows(2000))
    first, second = (make_sketch(kernel).update(X, y) for _ in range(2))
    for mine, theirs in zip(first._state, second._state, strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(first.query(X), second.query(X))
    torch.use_deterministic_algorithms(False)
    assert_same_sums(first, make_sketch(kernel).update(X, y))
    assert_same_sums(first, make_sketch(kernel, backend="numba").update(to_host(X), to_host(y)))


def test_the_sums_over_all_rows_need_no_running_sum_on_a_gpu(monkeypatch):
    # For which CUDA has no deterministic way; on the CPU it makes the totals those of any split of the rows.
    X, y = tensors("cpu", *make_rows())
    expected = make_sketch().update(X, y)

    def refuse(*arguments, **options):
        raise RuntimeError("no deterministic way")

    monkeypatch.setattr(torch.Tensor, "cumsum", refuse)
    with pytest.raises(RuntimeError, match="no deterministic way"):
        make_sketch().update(X, y)
    monkeypatch.setattr("nwsketch.backends.torch_backend.is_on_gpu", lambda _: True)
    assert_same_sums(make_sketch().update(X, y), expected)


@on_devices
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("kernel", KERNELS)
def test_learning_within_a_mode_and_going_on_outside(kernel, mode, device):
    X, y = tensors(device, *make_rows())
    expected = (
        make_sketch(kernel).update(X, y).decay(0.5).merge(make_sketch(kernel).update(X, y)).update(X, y)
    )
    with mode():
        sketch = make_sketch(kernel).update(X * 1, y * 1).decay(0.5)
        sketch.merge(make_sketch(kernel).update(X, y))
        assert not any(part.is_inference() for part in make_sketch(kernel).update(X, y)._state)
        within = sketch.query(X * 1)
        assert_close(within, copy.deepcopy(sketch).query(X))
    sketch.update(X, y)
    assert_same_sums(sketch, expected)
    assert_close(copy.deepcopy(sketch).forget(X, y).update(X, y).tables, expected.tables)
    with mode():
        assert_close(sketch.query(X), expected.query(X))


@on_devices
def test_tensors_that_require_grad_are_detached(device):
    X, y = (tensor.requires_grad_() for tensor in tensors(device, *make_rows()))
    weights = torch.ones_like(y).requires_grad_()
    sketch = make_sketch().update(2 * X, 2 * y, 2 * weights)
    answers = [getattr(sketch, name)(2 * X) for name in ANSWERS]
    answers += [sketch.loo_query(2 * X, 2 * y, 2 * weights), *sketch._state]
    answers.append(make_regressor(trend="linear").fit(2 * X, y).predict(2 * X))
    assert not any(answer.requires_grad for answer in answers)
    assert_same_sums(sketch, make_sketch().update(2 * X.detach(), 2 * y.detach(), 2 * weights.detach()))
    loss = ((X[:, 0] - sketch.query(X)[:, 0]) ** 2).sum()  # the graph around goes on
    loss.backward()
    assert X.grad.shape == X.shape


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@on_devices
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["query", "kernel_sum", "predict"])
def test_questions_within_a_compiled_function(name, device):
    X, y = tensors(device, *make_rows())
    model = make_regressor().fit(X, y)
    ask = getattr(model if name == "predict" else model.sketch_, name)

    def around(rows):
        return ask(rows * 2.0).sin() + rows.sum()

    compiled = torch.compile(around, backend="eager")
    assert_close(compiled(X), around(X))
    assert_close(compiled(X[:20]), around(X[:20]))


@on_devices
@pytest.mark.usefixtures("fresh_compiler")
def test_learning_within_a_compiled_function(device):
    X, y = tensors(device, *make_rows())
    sketch, model = make_sketch(), make_regressor(bandwidth=1.0).fit(X, y)

    def step(rows, targets):
        sketch.update(rows * 2.0, targets + 1.0)
        model.partial_fit(rows * 2.0, targets + 1.0)
        return sketch.query(rows) + model.predict(rows)[:, None]

    compiled = torch.compile(step, backend="eager")
    answers = [compiled(X, y) for _ in range(3)]
    expected = make_sketch()
    for _ in range(3):
        expected.update(X * 2.0, y + 1.0)
    assert_same_sums(sketch, expected)
    assert model.n_samples_seen_ == 600
    assert_close(answers[-1], sketch.query(X) + model.predict(X)[:, None])


@pytest.mark.parametrize("kernel", WITH_BANDWIDTH)
def test_the_rule_of_scale_is_the_same(kernel):
    X, y = make_rows()
    X[:, 1] *= 1e-200
    X[:, 2] = 7.0
    by_torch, by_numba = make_regressor(kernel).fit(*tensors("cpu", X, y)), make_regressor(kernel).fit(X, y)
    assert_allclose(by_torch.bandwidth_, by_numba.bandwidth_, rtol=1e-12)
