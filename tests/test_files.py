"""Files: all that was learnt comes back bit by bit, or a clear error does; nothing between."""

import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import NO_TORCH
from fuzz_files import HEAD, Original, fuzz, sealed
from helpers import KERNELS, SMALL, held, learnt, leaves, make_rows
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor, SketchFileError
from nwsketch import sketch as sketch_module
from nwsketch.hashing import HashFamily, HashParameters
from nwsketch.hashing import base as hashing_base
from nwsketch.storage import atomic
from nwsketch.storage.container import PREFIX, VERSION

GOLDEN = Path(__file__).parent / "golden"


def by_file(thing, folder):
    thing.save(folder / "file")
    return type(thing).load(folder / "file")


def by_joblib(thing, folder):
    return joblib.load(joblib.dump(thing, folder / "pickle")[0])


# -- all that was learnt --------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [4, 10])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_file_keeps_what_a_pickle_does(kernel, n_features, tmp_path):
    X, y = make_rows(n_features=n_features)
    sketch = NadarayaWatsonSketch(n_features, kernel=kernel, hashes_per_repetition=2, **SMALL).update(X, y)
    again, pickled = by_file(sketch, tmp_path), by_joblib(sketch, tmp_path)
    assert leaves(again) == leaves(pickled) == leaves(sketch)
    assert_array_equal(again.query(X), sketch.query(X))
    for each in (sketch, again):
        each.update(X[:20], y[:20]).forget(X[30:40], y[30:40]).decay(0.5)
    assert held(again) == held(sketch)
    assert again.merge(sketch).n_samples_seen == 2 * 160


@pytest.mark.parametrize(
    "parameters",
    [
        {"aggregation": "median_of_means", "n_groups": 4, "empty": "nan"},
        {"empty": 2.5, "n_jobs": 2, "backend": "numba", "device": "cpu"},
        {"kernel": "angular", "n_buckets": None, "hashes_per_repetition": 3},
        {"kernel": "jaccard", "n_buckets": None},
        {"bandwidth": [1.0, 2.0, 3.0, 4.0], "n_buckets": 2**17, "n_repetitions": 1},
        {"n_outputs": 3, "random_state": None},
        {"random_state": 2**127 + 1},
    ],
    ids=str,
)
def test_a_file_keeps_every_parameter_of_a_sketch(parameters, tmp_path):
    X, y = make_rows()
    parameters = SMALL | parameters
    sketch = NadarayaWatsonSketch(4, **parameters)
    again = by_file(sketch, tmp_path)  # which has learnt nothing
    assert leaves(again) == leaves(sketch)
    targets = np.column_stack([y] * parameters.get("n_outputs", 1))
    assert held(again.update(X, targets)) == held(sketch.update(X, targets))
    assert_array_equal(again.query(X[:9]), sketch.query(X[:9]))


def test_a_file_keeps_labels_and_corrections(tmp_path):
    X, y = make_rows()
    for kernel, n_buckets in (("l2", 64), ("angular", None)):
        sketch = NadarayaWatsonSketch(4, n_labels=3, kernel=kernel, **(SMALL | {"n_buckets": n_buckets}))
        codes = sketch.hash(X, np.arange(150) % 3)
        again = by_file(sketch.update(codes, y), tmp_path)
        assert leaves(again) == leaves(sketch)
        assert_array_equal(again.query(again.hash(X, np.arange(150) % 3)), sketch.query(codes))
    corrected = NadarayaWatsonSketch(4, **SMALL).correct(X, y, n_rounds=3)
    again = by_file(corrected, tmp_path)
    assert leaves(again) == leaves(corrected)
    with pytest.raises(ValueError, match="update needs a sketch that is a sum"):
        again.update(X, y)


FITS = {
    "plain": {},
    "named": {"verbose": 0},
    "loo": {"bandwidth": "loo"},
    "loo_per_feature": {"bandwidth": "loo_per_feature"},
    "listed": {"bandwidth": [1.0, 2.0, 3.0, 4.0], "kernel": "l1"},
    "array": {"bandwidth": np.array([1, 2, 3, 4])},
    "trend": {"trend": "linear", "empty": 3},
    "moments": {"uncertainty": True, "empty": 1.5},
    "corrected": {"bias_correction": "auto", "uncertainty": True, "trend": "linear"},
    "generator": {"random_state": np.random.RandomState(5)},
    "scalars": {"n_buckets": np.int64(32), "n_groups": np.uint8(4), "uncertainty": np.True_},
    "without bandwidth": {"kernel": "angular", "hashes_per_repetition": 2},
}


@pytest.mark.parametrize("name", FITS)
def test_an_estimator_comes_back_and_goes_on_by_the_same_bits(name, tmp_path):
    X, y = make_rows()
    rows = pd.DataFrame(X, columns=["a", "b", "ü", "x y"]) if name == "named" else X
    model = NadarayaWatsonSketchRegressor(**(SMALL | FITS[name])).fit(rows, y)
    again, pickled = by_file(model, tmp_path), by_joblib(model, tmp_path)
    assert list(again.get_params()) == list(model.get_params())
    if name == "scalars":  # which come back as Python's own
        assert again.get_params() == model.get_params()
    else:
        assert leaves(again) == leaves(pickled)
    assert_array_equal(again.predict(rows), model.predict(rows))
    if model.uncertainty:
        assert_array_equal(again.predict(rows, return_std=True), model.predict(rows, return_std=True))
    if model.bias_correction is None:
        for each in (model, again):
            each.partial_fit(rows[:30], y[:30]).forget(rows[40:50], y[40:50])
        assert learnt(again)["sketch_"] == learnt(model)["sketch_"]
        assert_array_equal(again.loo_predict(rows[:9], y[:9]), model.loo_predict(rows[:9], y[:9]))
    assert_array_equal(clone(again).fit(rows, y).predict(rows), clone(model).fit(rows, y).predict(rows))


def test_several_outputs_and_sparse_rows(tmp_path):
    X, y = make_rows()
    model = NadarayaWatsonSketchRegressor(**SMALL).fit(csr_array(X), np.column_stack([y, -y]))
    assert_array_equal(by_file(model, tmp_path).predict(csr_array(X)), model.predict(csr_array(X)))


def test_what_is_saved_with_it_comes_back(tmp_path):
    sketch = NadarayaWatsonSketch(2, **SMALL)
    extra = {"row_group": 7, "names": ["a", None], "rate": 0.1, "more": {"ß": True}}
    sketch.save(tmp_path / "file", extra=extra)
    again, told = NadarayaWatsonSketch.load_with_extra(tmp_path / "file")
    assert told == extra
    assert held(again) == held(sketch)
    sketch.save(tmp_path / "file")
    assert NadarayaWatsonSketch.load_with_extra(tmp_path / "file")[1] == {}


@pytest.mark.parametrize(
    "extra", [{"x": np.ones(3)}, {"x": float("nan")}, {1: 2}, [1], "text", {"x": (1, 2)}, {"x": "\ud800"}]
)
def test_what_json_would_not_return_is_refused(extra, tmp_path):
    with pytest.raises(SketchFileError, match="A file cannot keep"):
        NadarayaWatsonSketch(2, **SMALL).save(tmp_path / "file", extra=extra)
    assert not list(tmp_path.iterdir())


def test_an_unfitted_estimator_has_nothing_to_save():
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        NadarayaWatsonSketchRegressor().to_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: setattr(model, "note_", "mine"), r"the attributes \['note_'\] of this estimator"),
        (lambda model: setattr(model.sketch_, "note", "mine"), r"the attributes \['note'\] of this sketch"),
        (lambda model: model.set_params(bandwidth={1.0}), r"bandwidth=\{1.0\} of type set"),
        (lambda model: model.set_params(bandwidth=np.array([object()])), "'value.bandwidth' of type object"),
        (
            lambda model: model.set_params(random_state=np.random.RandomState(np.random.PCG64(0))),
            "give an integer, or a RandomState made of one",
        ),
    ],
)
def test_what_a_file_would_not_keep_is_not_left_out_in_silence(spoil, message):
    model = NadarayaWatsonSketchRegressor(**SMALL).fit(*make_rows())
    spoil(model)
    with pytest.raises(SketchFileError, match=message):
        model.to_bytes()


# -- kernels of a user's own ----------------------------------------------------------------------


class Steps(HashFamily):
    """Cells of a width that the instance knows."""

    name = "steps"

    def __init__(self, width=1.0):
        self.width = width

    def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
        shifts = rng.random((n_repetitions * hashes_per_repetition, n_features))
        return HashParameters("cells", {"shifts": shifts}, cells_per_hash=n_features)

    def cells(self, X, parameters):
        return np.floor(X[:, None] / self.width + parameters.arrays["shifts"]).astype(np.int64)


class Plain(Steps):
    """Knows nothing."""

    name = "plain steps"
    width = 2.0

    def __init__(self):
        pass


def test_a_family_of_ones_own_is_found_by_its_name(monkeypatch):
    X, y = make_rows()
    model = NadarayaWatsonSketchRegressor(kernel=Plain(), **SMALL).fit(X, y)
    data = model.to_bytes()
    with pytest.raises(
        SketchFileError, match=r"kernel 'plain steps' is none of \[.*\]: import what registers"
    ):
        NadarayaWatsonSketchRegressor.from_bytes(data)
    again = NadarayaWatsonSketchRegressor.from_bytes(data, kernel=Plain())
    assert_array_equal(again.predict(X), model.predict(X))
    monkeypatch.setitem(hashing_base._REGISTRY, "plain steps", Plain)
    assert_array_equal(NadarayaWatsonSketchRegressor.from_bytes(data).predict(X), model.predict(X))


def test_a_family_with_attributes_must_be_given_with_the_same(monkeypatch):
    monkeypatch.setitem(hashing_base._REGISTRY, "steps", Steps)
    X, y = make_rows()
    sketch = NadarayaWatsonSketch(4, kernel=Steps(0.5), **SMALL).update(X, y)
    data = sketch.to_bytes()
    again = NadarayaWatsonSketch.from_bytes(data, kernel=Steps(0.5))
    assert_array_equal(again.query(X), sketch.query(X))
    for kernel in (None, Steps(2.0), Plain()):  # the registered one has the width 1
        with pytest.raises(SketchFileError, match=r"kernel is 'steps' with attributes \{'width': 0.5\}, not"):
            NadarayaWatsonSketch.from_bytes(data, kernel=kernel)
    other = Steps(0.5)
    other.rule = lambda x: x
    with pytest.raises(SketchFileError, match="A file cannot keep rule="):
        NadarayaWatsonSketch(4, kernel=other, **SMALL).to_bytes()


# -- elsewhere ------------------------------------------------------------------------------------

PART = """
import sys
import numpy as np
from helpers import SMALL, make_rows
from nwsketch import NadarayaWatsonSketchRegressor
first, last, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
X, y = make_rows()
model = NadarayaWatsonSketchRegressor(kernel="l2", bandwidth=2.0, **SMALL)
model.fit(X[first:last], np.round(8 * y[first:last]) / 8).save(path)
"""


def run(code, *arguments, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(__file__).parent, **options)


def test_parts_learnt_by_two_processes_are_merged_to_the_whole(tmp_path):
    bounds = [(0, 70), (70, 150)]
    processes = [run(PART, *some, tmp_path / f"{some[0]}") for some in bounds]
    assert [process.wait(120) for process in processes] == [0, 0]
    first, second = (NadarayaWatsonSketchRegressor.load(tmp_path / f"{some[0]}") for some in bounds)
    X, y = make_rows()
    whole = NadarayaWatsonSketchRegressor(kernel="l2", bandwidth=2.0, **SMALL).fit(X, np.round(8 * y) / 8)
    assert learnt(first.merge(second)) == learnt(whole)  # sums of eighths are exact in any order
    assert_array_equal(first.predict(X), whole.predict(X))


def test_a_sketch_of_torch_is_loaded_on_the_cpu_by_either_backend(tmp_path):
    pytest.importorskip("torch", reason=NO_TORCH)
    X, y = make_rows()
    model = NadarayaWatsonSketchRegressor(backend="torch", device="cpu", **SMALL).fit(X, y)
    model.save(tmp_path / "file")
    same = NadarayaWatsonSketchRegressor.load(tmp_path / "file")
    assert same.sketch_._backend.place == "torch on cpu"
    assert_array_equal(same.predict(X), model.predict(X))
    by_numba = NadarayaWatsonSketchRegressor.load(tmp_path / "file", device="cpu")
    assert by_numba.sketch_._backend.place == "numba"
    assert_allclose(by_numba.predict(X), model.predict(X), rtol=1e-12)
    assert_array_equal(by_numba.partial_fit(X, y).sketch_.tables, same.partial_fit(X, y).sketch_.tables)


def test_a_device_that_is_not_there_is_an_error_only_if_asked_for(tmp_path):
    sketch = NadarayaWatsonSketch(4, **SMALL).update(*make_rows())
    sketch.backend, sketch.device = "torch", "cuda:77"  # as if it had learnt there
    sketch.save(tmp_path / "file")
    assert NadarayaWatsonSketch.load(tmp_path / "file").device == "cpu"
    pytest.importorskip("torch", reason=NO_TORCH)
    with pytest.raises(ValueError, match="device='cuda:77' was asked for"):
        NadarayaWatsonSketch.load(tmp_path / "file", device="cuda:77")


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("v*/*_*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_golden_files_answer_as_they_did(path):
    cls = NadarayaWatsonSketch if path.name.startswith("sketch") else NadarayaWatsonSketchRegressor
    model, extra = cls.load_with_extra(path)
    assert extra == {"name": path.name}
    with np.load(path.parent / "answers.npz", allow_pickle=False) as stored:
        answers = (model.query if cls is NadarayaWatsonSketch else model.predict)(stored["queries"])
        if (
            path.name == "regressor_trend"
        ):  # whose hyperplane is a matrix product: its last bits are BLAS's own
            assert_allclose(answers, stored[path.name], rtol=1e-12)
        else:
            assert_array_equal(answers, stored[path.name])


def test_every_version_has_golden_files_of_every_kernel():
    for version in range(1, VERSION + 1):
        names = {path.name for path in (GOLDEN / f"v{version}").iterdir()}
        assert names >= {f"sketch_{kernel}" for kernel in KERNELS} | {"answers.npz", "regressor_plain"}


# -- damage and forgery ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    X, y = make_rows()
    return Original(NadarayaWatsonSketch(4, **SMALL).update(X, y), X)


@pytest.fixture(scope="module")
def estimator():
    X, y = make_rows()
    return Original(NadarayaWatsonSketchRegressor(trend="linear", **SMALL).fit(X, y), X)


def refusal(data, cls=NadarayaWatsonSketch):
    with pytest.raises(SketchFileError) as caught:
        cls.from_bytes(data)
    return str(caught.value)


def prefixed(data, **fields):
    magic, version, length = PREFIX.unpack(data[: PREFIX.size])
    return (
        PREFIX.pack(magic, fields.get("version", version), fields.get("length", length)) + data[PREFIX.size :]
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", r"Cannot load 0 bytes: It begins with b''"),
        (lambda data: b"PK\3\4" + data, "no file of nwsketch. Give one that save wrote"),
        (lambda data: data[:30], "It has 30 bytes only. It was damaged or cut short: take another copy"),
        (
            lambda data: prefixed(data, version=2),
            "version 2 of the format, .* up to version 1: upgrade nwsketch",
        ),
        (lambda data: prefixed(data, version=0), "checksum of its header does not match"),
        (lambda data: prefixed(data, length=2**63), "header of 9223372036854775808 bytes does not fit"),
        (lambda data: data[: HEAD + 5], "does not fit into"),
        (lambda data: data[: HEAD + 9] + b"x" + data[HEAD + 10 :], "checksum of its header does not match"),
        (lambda data: data[:-1], r"arrays would take \d+ bytes, but \d+ follow"),
        (lambda data: data + b"\0", r"arrays would take \d+ bytes, but \d+ follow"),
        (lambda data: data[:-9] + b"x" + data[-8:], "checksum of its arrays does not match. It was damaged"),
    ],
)
def test_damage_is_told(whole, damage, message):
    assert re.search(message, refusal(damage(whole.bytes)))


def test_errors_name_the_file(tmp_path):
    (tmp_path / "notes.txt").write_text("no sketch")
    with pytest.raises(ValueError, match=r"Cannot load .*notes\.txt: It begins with b'no sketc'"):
        NadarayaWatsonSketch.load(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError):
        NadarayaWatsonSketch.load(tmp_path / "nothing")


def test_a_file_of_the_other_class_is_told(whole, estimator):
    assert "It holds a sketch, not a regressor" in refusal(whole.bytes, NadarayaWatsonSketchRegressor)
    assert "It holds a regressor, not a sketch" in refusal(estimator.bytes)


def forged(original, way, value):
    """Return a file of which one value of the header is another, under right checksums."""
    values = json.loads(json.dumps(original.values))
    *path, last = way
    home = values[values["kind"]]
    for step in path:
        home = home[step]
    home[last] = value
    return sealed(values, original.data)


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (["n_repetitions"], True, "'n_repetitions' is True, not of type int"),
        (["n_repetitions"], 10**9, "The tables would take .* over the limit"),
        (["n_features"], 5, "'bandwidth' is float64 of shape"),
        (["n_features"], 0, "n_features=0 is out of range"),
        (["n_labels"], 2**50, "n_labels=1125899906842624 is beyond any sketch"),
        (["hashes_per_repetition"], 2, "'multipliers' is uint64 of shape"),
        (["n_buckets"], 32, "'tables' is float64 of shape"),
        (["n_outputs"], 2, "'tables' is float64 of shape"),
        (["n_jobs"], 0, "n_jobs=0 has no meaning"),
        (["random_state"], -1, "random_state=-1 is out of range"),
        (["n_rounds"], 2, "array 'offset' is missing"),
        (["rules", "aggregation"], "mode", "Unknown aggregation 'mode'"),
        (["rules", "empty"], "none", "Unknown empty='none'"),
        (["hashes", "form"], "minhash", "hashes of form 'minhash' have"),
        (["hashes", "form"], "cells", "has the form 'grid', not 'cells'"),
        (["hashes", "form"], "magic", "unknown form 'magic'"),
        (["hashes", "cells_per_hash"], 3, "'multipliers' is uint64 of shape"),
        (["hashes", "repetitions_together"], 0, "drawn together by none"),
        (["kernel", "name"], "l2", "cannot use the stored hashes"),
        (["kernel", "name"], "angular", "promises n_values=2, but its form 'grid'"),
        (["kernel", "name"], "os.system", "kernel 'os.system' is none of"),
        (["kernel", "attributes"], {"draw": 1}, "with attributes {'draw': 1}, not"),
        (["backend"], "cupy", ""),
    ],
)
def test_a_forged_header_is_refused_even_with_right_checksums(whole, way, value, message):
    if not message:  # as a pickle of a backend that is not there: it computes on the CPU
        assert NadarayaWatsonSketch.from_bytes(forged(whole, way, value)).backend == "auto"
        return
    assert re.search(message, refusal(forged(whole, way, value)))


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (["learnt", "_n_targets"], 2, "does not fit together: _flat_targets=True"),
        (["learnt", "n_features_in_"], 3, "n_features_in_=3"),
        (["learnt", "trend_"], None, ""),
        (["learnt", "trend_", "LinearTrend", "coef"], {"array": "tables"}, "trend_="),
        (["learnt", "bandwidth_"], None, "bandwidth_=None"),
        (["learnt", "n_rounds_"], 3, "n_rounds_=3"),
        (["learnt", "predict"], 3, "It has learnt .*'predict'"),
        (["learnt", "_has_moments"], True, "0 labels and 1 outputs"),
        (["parameters", "wings"], 2, r"parameters that are not known here \(\['wings'\]\): upgrade"),
        (["parameters", "kernel"], {"os.system": "ls"}, "No value is written as {'os.system': 'ls'}"),
        (["parameters", "kernel"], {"generator": {"array": "shifts"}}, "'position' is missing"),
        (["sketch", "n_labels"], 1, "'offsets' is uint32 of shape"),
    ],
)
def test_a_forged_estimator_is_refused_even_with_right_checksums(estimator, way, value, message):
    if not message:  # one that had no trend
        NadarayaWatsonSketchRegressor.from_bytes(forged(estimator, way, value)).predict(estimator.rows)
        return
    assert re.search(message, refusal(forged(estimator, way, value), NadarayaWatsonSketchRegressor))


def with_array(original, name, change):
    """Return a file of which one array is another, under right checksums."""
    parts, start = [], 0
    for entry, kind, shape in original.values["arrays"]:
        n_bytes = int(np.prod(shape)) * np.dtype(kind).itemsize
        array = np.frombuffer(original.data[start : start + n_bytes], kind).reshape(shape).copy()
        if entry == name:
            change(array)
        parts.append(array.tobytes())
        start += n_bytes
    return sealed(original.values, b"".join(parts))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tables", np.nan, "'tables' holds values from nan"),
        ("tables", -3.0, "would hold the negative weight -3"),
        ("totals", -1.0, "A sketch of -1 rows"),
        ("totals", 0.5, "A sketch of 0.5 rows"),
        ("bandwidth", 0.0, "bandwidth holds 0.0"),
        ("hash.scales", np.inf, "'scales' holds values from .* to inf"),
        ("hash.scales", -1.0, "'scales' holds values from -1"),
        ("hash.offsets", 1.0, "'offsets' holds values from .* to 1"),
    ],
)
def test_a_forged_array_is_refused_even_with_right_checksums(whole, name, value, message):
    def change(array):
        array.flat[-1] = value

    assert re.search(message, refusal(with_array(whole, name, change)))


def test_offsets_and_digits_that_would_leave_the_tables_are_refused():
    X, y = make_rows()
    rehashed = NadarayaWatsonSketch(4, n_labels=2, **SMALL)
    every = NadarayaWatsonSketch(4, n_labels=2, kernel="angular", n_repetitions=16, n_buckets=None)

    def one_more(array):
        array.flat[-1] = 64

    for sketch, name in (
        (rehashed, "offsets"),
        (every, "offsets"),
        (every, "multipliers"),
        (every, "shifts"),
    ):
        original = Original(
            sketch.update(sketch.hash(X, np.zeros(150, int)), y), sketch.hash(X, np.zeros(150, int))
        )
        assert "the stored hashes do not number" in refusal(with_array(original, name, one_more))


def test_tables_over_the_limit_are_refused_before_they_are_allocated(whole, monkeypatch):
    monkeypatch.setattr(sketch_module, "MAX_TABLE_BYTES", 1000)
    monkeypatch.setattr(np, "empty", lambda *shape: pytest.fail("memory was allocated"))
    assert "over the limit of" in refusal(whole.bytes)


@pytest.mark.parametrize("shape", [[2**40, 2**40], [2**20, 16, 2], [0, 2**62]])
def test_no_memory_is_allocated_by_a_forged_shape(whole, shape, monkeypatch):
    values = json.loads(json.dumps(whole.values))
    next(entry for entry in values["arrays"] if entry[0] == "tables")[2] = shape
    monkeypatch.setattr(np, "empty", lambda *shape: pytest.fail("memory was allocated"))
    assert re.search("impossible array|would take", refusal(sealed(values, whole.data)))


def test_brackets_that_go_deeper_than_python_are_refused(whole):
    values = whole.values | {"extra": "DEEP"}
    mutated = sealed(values, whole.data)
    header = mutated[HEAD : -len(whole.data)].replace(b'"DEEP"', b"[" * 10**5 + b"]" * 10**5)
    prefix = PREFIX.pack(b"NWSKETCH", VERSION, len(header))
    data = prefix + hashlib.sha256(prefix + header).digest() + header + whole.data
    assert "Its header is not JSON" in refusal(data)


def test_a_file_is_read_without_pickle(estimator, monkeypatch):
    monkeypatch.setattr(pickle, "loads", lambda *data: pytest.fail("pickle was asked"))
    monkeypatch.setattr(pickle, "Unpickler", lambda *data: pytest.fail("pickle was asked"))
    NadarayaWatsonSketchRegressor.from_bytes(estimator.bytes)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_mutated_files_are_refused_or_answer():
    # The same by the hundred thousand, and with kernels that check their indices: benchmarks/fuzz_files.py.
    counts, failures = fuzz(4_000, seed=1)
    assert failures == []
    assert counts["damage", "refused"] > 1_500
    assert counts["forgery", "refused"] > 1_000
    assert counts["forgery", "answered the same"] + counts["forgery", "answered as another sketch"] > 100


# -- a crash in the middle ------------------------------------------------------------------------


def boom(*arguments, **options):
    raise OSError("the disk is full")


@pytest.mark.parametrize("step", ["write", "os.fsync", "shutil.copymode", "os.replace"])
def test_an_error_at_any_step_leaves_the_old_file(step, tmp_path, monkeypatch):
    X, y = make_rows()
    sketch = NadarayaWatsonSketch(4, **SMALL)
    sketch.save(tmp_path / "file")
    before = (tmp_path / "file").read_bytes()
    home = {"write": "nwsketch.storage.storable"}.get(step, "nwsketch.storage.atomic")
    monkeypatch.setattr(f"{home}.{step}", boom)
    with pytest.raises(OSError, match="the disk is full"):
        sketch.update(X, y).save(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == before


def test_a_file_is_on_the_disk_before_it_is_in_place(tmp_path, monkeypatch):
    steps = []

    def note(name, call):
        return lambda *arguments: (steps.append(name), call(*arguments))[1]

    monkeypatch.setattr(atomic.os, "fsync", note("fsync", os.fsync))
    monkeypatch.setattr(atomic.os, "replace", note("replace", os.replace))
    NadarayaWatsonSketch(2, **SMALL).save(tmp_path / "file")
    assert steps == ["fsync", "replace", "fsync"][: 3 if hasattr(os, "O_DIRECTORY") else 2]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links are those of POSIX")
def test_permissions_and_links_stay(tmp_path):
    sketch = NadarayaWatsonSketch(2, **SMALL)
    sketch.save(tmp_path / "file")
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    sketch.update([[1.0, 2.0]], [3.0]).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert NadarayaWatsonSketch.load(tmp_path / "file").n_samples_seen == 1


SAVING = """
import sys
import numpy as np
from nwsketch import NadarayaWatsonSketch
sketch = NadarayaWatsonSketch(3, n_repetitions=64, n_buckets=512, random_state=0, n_jobs=1)
rows = np.ones((1, 3))
for number in range(1, 10**6):
    sketch.update(rows, [1.0]).save(sys.argv[1], extra={"number": number})
    if number == 1:
        print("saved", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill like that")
def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    rng, numbers = np.random.default_rng(0), []
    for _ in range(2):
        with suppress(FileNotFoundError):
            (tmp_path / "file").unlink()
        process = run(SAVING, tmp_path / "file", stdout=subprocess.PIPE)
        try:
            assert process.stdout.readline() == b"saved\n"
            time.sleep(rng.uniform(0.0, 0.1))
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        sketch, extra = NadarayaWatsonSketch.load_with_extra(tmp_path / "file")
        assert sketch.n_samples_seen == extra["number"]
        numbers.append(extra["number"])
    assert max(numbers) > 1


def test_what_is_saved_while_others_learn_is_one_state(tmp_path):
    sketch = NadarayaWatsonSketch(2, n_repetitions=64, n_buckets=256, random_state=0, n_jobs=1)
    rows, ending = np.zeros((50, 2)), threading.Event()

    def learn():
        while not ending.is_set():
            sketch.update(rows, np.ones(50))

    teacher = threading.Thread(target=learn)
    teacher.start()
    try:
        for _ in range(20):
            for again in (by_file(sketch, tmp_path), pickle.loads(pickle.dumps(sketch))):
                counts = again.tables[..., 1].sum(axis=1)
                assert (counts == again.n_samples_seen).all()
                assert again.n_samples_seen % 50 == 0
    finally:
        ending.set()
        teacher.join()


def test_what_privacy_and_a_half_life_need_is_kept():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.uniform(-1, 1, 60)
    sketch = NadarayaWatsonSketch(3, n_repetitions=8, n_buckets=32, random_state=0).update(X, y)
    private = sketch.privatize(0.5, 1.0)
    loaded = NadarayaWatsonSketch.from_bytes(private.to_bytes())
    np.testing.assert_array_equal(loaded.query(X), private.query(X))
    assert repr(loaded.privacy) == repr(private.privacy)
    with pytest.raises(ValueError, match="update"):
        loaded.update(X, y)
    fading = NadarayaWatsonSketchRegressor(n_repetitions=8, n_buckets=32, half_life=20, random_state=0)
    fading.partial_fit(X[:40], y[:40])
    again = NadarayaWatsonSketchRegressor.from_bytes(fading.to_bytes())
    for model in (fading, again):
        model.partial_fit(X[40:], y[40:])
    np.testing.assert_array_equal(again.predict(X), fading.predict(X))


@pytest.mark.parametrize("depth", [300, 600, 900])
def test_lists_within_lists_are_read_or_refused(estimator, depth):
    nested = 0
    for _ in range(depth):
        nested = [nested]
    with suppress(SketchFileError):  # the one error that there may be
        NadarayaWatsonSketchRegressor.from_bytes(forged(estimator, ["parameters", "verbose"], nested))


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (["sketch", "rules", "empty"], 10**400),
        (["learnt", "_fill"], 10**400),
        (["learnt", "_clock"], {"Clock": {"half_life": 10**400, "offset": 0.0}}),
    ],
)
def test_numbers_beyond_floats_are_refused(estimator, way, value):
    assert "too large" in refusal(forged(estimator, way, value), NadarayaWatsonSketchRegressor)


def test_an_estimator_with_routing_is_saved_without_it():
    X, y = make_rows()
    with config_context(enable_metadata_routing=True):
        model = NadarayaWatsonSketchRegressor(**SMALL).set_fit_request(sample_weight=True).fit(X, y)
        again = NadarayaWatsonSketchRegressor.from_bytes(model.to_bytes())
    assert_array_equal(again.predict(X), model.predict(X))


def test_what_is_frozen_stays_so_when_the_sketch_moves():
    X, y = make_rows()
    sketch = NadarayaWatsonSketch(4, **SMALL).update(X, y)
    kept = sketch.__getstate__()["_state"]
    sketch.to("cpu").update(X[:1], y[:1])
    assert kept.n_rows == len(X)
