"""Mutated files: is every one refused, or does it answer as the whole one does?

Small files of every kernel, of sketches and of estimators, are mutated at random and loaded. There are two
kinds:

- damage: cut short, bits flipped, bytes overwritten, inserted, taken out, blocks swapped, fields of lengths
  forged, two files spliced. Such a file must be refused with ``SketchFileError``;
- forgery: values of the header, the listing of the arrays, or their bytes, changed at random, and both
  checksums reckoned anew. Such a file is refused, or is that of some other sketch, which then must predict
  and learn without any error but that of an input that it states to be out of its range. (Whoever can
  reckon a checksum can write a file that predicts anything; what he cannot do is to have memory read that is
  not the sketch's. Kernels are compiled to check every index, NUMBA_BOUNDSCHECK, which takes minutes.)

Memory is limited to a little more than the process has before the first load, so that an allocation by a
forged size would fail.

    python tests/benchmarks/fuzz_files.py --n 100000
    python tests/benchmarks/fuzz_files.py --smoke       # seconds: does it run?
"""

import argparse
import copy
import hashlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter

if __name__ == "__main__" and "--smoke" not in sys.argv:  # before numba is imported
    cache = tempfile.TemporaryDirectory()  # compiled kernels that check are not those of others
    os.environ |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": cache.name}

import numpy as np

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor, SketchFileError
from nwsketch.hashing import registered_families
from nwsketch.storage.container import CHECKSUM_BYTES, MAGIC, PREFIX, VERSION

SMALL = {"n_repetitions": 9, "n_buckets": 16, "random_state": 3, "n_jobs": 1}
HEAD = PREFIX.size + CHECKSUM_BYTES
#: Bytes of memory that a load may take beyond what the process has.
ROOM = 2**28

NASTY = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3,
        7,
        8,
        9,
        16,
        17,
        255,
        2**16,
        2**31,
        2**32,
        2**53,
        2**63,
        2**64,
        -(2**70),
    ),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "mean", "nan", "median_of_means", "torch", "cuda:9", "cells", "grid", "minhash", "laplacian"),
    *(
        "sign_projection",
        "floor_projection",
        "angular",
        "jaccard",
        "l2",
        "tables",
        "\ud800",
        "../x",
        "__class__",
    ),
    *([], [0], [[]], [-1, 2], [2**40, 2**40], {}, {"array": "tables"}, {"tuple": []}, {"tuple": 3}),
    *({"family": {}}, {"family": {"name": "l2", "attributes": {}}}, {"strings": ["a"]}, {"generator": {}}),
    *({"LinearTrend": {}}, {"array": ["x"]}, {"array": "hash.scales"}, {"strings": 1}, {"generator": None}),
)


def make_rows(n_features, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, n_features)) * (rng.random((40, n_features)) < 0.7)
    return X, X[:, 0] - X[:, 1]


def make_sketch(kernel, n_features=4, n_labels=0, corrected=False, **parameters):
    """Return a sketch that has learnt, its rows, and their codes if it has labels."""
    X, y = make_rows(n_features)
    sketch = NadarayaWatsonSketch(n_features, kernel=kernel, n_labels=n_labels, **(SMALL | parameters))
    rows = sketch.hash(X, np.arange(40) % n_labels) if n_labels else X
    return (sketch.correct(rows, y, n_rounds=2) if corrected else sketch.update(rows, y)), rows


def make_estimator(n_features=4, two=False, **parameters):
    X, y = make_rows(n_features)
    y = np.column_stack([y, y**2]) if two else y
    return NadarayaWatsonSketchRegressor(**(SMALL | parameters)).fit(X, y), X


def originals():
    """Yield objects, and rows that they know."""
    for kernel in registered_families():
        yield make_sketch(kernel)
        yield make_sketch(kernel, 10, hashes_per_repetition=2)
    yield make_sketch("angular", hashes_per_repetition=3, n_buckets=None)
    yield make_sketch("angular", 10, hashes_per_repetition=2, n_buckets=None, n_labels=2)
    yield make_sketch("jaccard", n_buckets=None)
    yield make_sketch("laplacian", n_labels=3, aggregation="median_of_means", n_groups=3)
    yield make_sketch("l2", corrected=True, empty=1.5)
    yield make_estimator(trend="linear", uncertainty=True, empty="nan", bandwidth=[1.0, 2.0, 3.0, 4.0])
    yield make_estimator(8, kernel="angular", random_state=np.random.RandomState(0), two=True)
    yield make_estimator(kernel="l2", bias_correction=2, uncertainty=True)
    yield make_estimator(bandwidth="loo", empty=0)


class Original:
    """A whole file: its bytes, and what is predicted by what it holds."""

    def __init__(self, thing, rows):
        self.kind, self.rows = type(thing), rows
        self.bytes = thing.to_bytes({"position": 7})
        self.answers = self.ask(self.kind.from_bytes(self.bytes))
        length = PREFIX.unpack(self.bytes[: PREFIX.size])[2]
        self.values, self.data = json.loads(self.bytes[HEAD : HEAD + length]), self.bytes[HEAD + length :]

    def ask(self, thing):
        ask = thing.query if self.kind is NadarayaWatsonSketch else thing.predict
        return np.asarray(ask(self.rows))

    def use(self, thing):
        """Predict, learn and predict again; whether the answers before are those of the original."""
        answers = self.ask(thing)
        if self.kind is NadarayaWatsonSketch:
            learn, sketch = thing.update, thing
        else:  # which has no partial_fit if a forger has set its bias_correction
            learn, sketch = getattr(thing, "partial_fit", None), thing.sketch_
        if learn is not None and sketch.correction is None:
            learn(self.rows, np.ones(answers.shape))
            self.ask(thing)
        return np.array_equal(answers, self.answers, equal_nan=True)


def sealed(values, data):
    """Return a file with right checksums."""
    values = values | {"sha256": hashlib.sha256(data).hexdigest()}
    header = json.dumps(values).encode()
    prefix = PREFIX.pack(MAGIC, VERSION, len(header))
    return prefix + hashlib.sha256(prefix + header).digest() + header + data


# -- damage ---------------------------------------------------------------------------------------


def span(rng, data, most=64):
    """Return a random range of bytes."""
    start = int(rng.integers(len(data)))
    return start, min(start + int(rng.integers(1, most)), len(data))


def cut_short(rng, data, other):
    return data[: rng.integers(len(data))]


def flip_bits(rng, data, other):
    mutated = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        mutated[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(mutated)


def flip_bits_of_head(rng, data, other):
    return flip_bits(rng, data[:HEAD], other) + data[HEAD:]


def overwrite(rng, data, other):
    first, last = span(rng, data)
    return data[:first] + rng.bytes(last - first) + data[last:]


def insert(rng, data, other):
    first, last = span(rng, data)
    return data[:first] + rng.bytes(last - first) + data[first:]


def take_out(rng, data, other):
    first, last = span(rng, data, 1024)
    return data[:first] + data[last:]


def swap_blocks(rng, data, other):
    a, b, c, d = sorted(rng.integers(0, len(data) + 1, 4).tolist())
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def append(rng, data, other):
    return data + rng.bytes(int(rng.integers(1, 64)))


def splice(rng, data, other):
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def forge_lengths(rng, data, other):
    version = int(rng.choice([0, VERSION, VERSION + 1, 2**31, 2**32 - 1]))
    lengths = [0, 1, len(data) - HEAD, len(data), 2**24, 2**24 + 1, 2**31, 2**63, 2**64 - 1]
    prefix = PREFIX.pack(MAGIC, version, lengths[rng.integers(len(lengths))])
    mutated = prefix + data[PREFIX.size :]
    if rng.random() < 0.5:
        mutated = prefix + hashlib.sha256(prefix + data[HEAD:]).digest() + data[HEAD:]
    return mutated


def noise(rng, data, other):
    return (MAGIC if rng.random() < 0.5 else b"") + rng.bytes(int(rng.integers(300)))


DAMAGE = (
    *(cut_short, flip_bits, flip_bits_of_head, overwrite, insert, take_out, swap_blocks, append, splice),
    *(forge_lengths, noise),
)

# -- forgery --------------------------------------------------------------------------------------


def places(values, path=()):
    """Yield the path to every value within a value."""
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for name, value in items:
        yield (*path, name)
        yield from places(value, (*path, name))


def forge_value(rng, original, other):
    """Change, take out, rename or exchange values of the header."""
    values = copy.deepcopy(original.values)
    for _ in range(rng.integers(1, 3)):
        *way, last = pick(rng, list(places(values)))
        home = values
        for step in way:
            home = home[step]
        act = rng.random()
        if act < 0.7:
            home[last] = pick(rng, NASTY)
        elif act < 0.8 and isinstance(home[last], int):
            home[last] += int(rng.integers(-2, 3))
        elif act < 0.9:
            home[last] = copy.deepcopy(find(values, pick(rng, list(places(values)))))
        elif isinstance(home, dict):
            value = home.pop(last)
            if act < 0.95:
                home[pick(rng, ("extra", "tables", "__dict__", f"{last}_"))] = value
        else:
            del home[last]
        if not list(places(values)):
            break
    return sealed(values, original.data)


def forge_shapes(rng, original, other):
    """Change shapes or types of arrays so that they take as many bytes, or nearly."""
    values = copy.deepcopy(original.values)
    entry = pick(rng, values["arrays"])
    act = rng.random()
    if act < 0.3:
        entry[1] = pick(rng, ("<f8", "<u8", "<i8", "<f4", "|b1", "<u2", ">f8", "|O", "<M8[s]", "<U4", "V8"))
    elif act < 0.5:
        rng.shuffle(entry[2])
    elif act < 0.7 and entry[2]:
        entry[2] = pick(
            rng, (entry[2][::-1], [*entry[2], 1], [1, *entry[2]], entry[2][1:], [int(np.prod(entry[2]))])
        )
    elif act < 0.85 and entry[2]:
        entry[2][rng.integers(len(entry[2]))] = pick(rng, (0, 1, -1, 2**20, 2**40, 2**62, 2**64))
    else:
        another = pick(rng, values["arrays"])
        entry[0], another[0] = another[0], entry[0]
    return sealed(values, original.data)


def forge_arrays(rng, original, other):
    """Change bytes of arrays: at random, or to numbers that are not usual."""
    data = bytearray(original.data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) // 8)) * 8
        numbers = (np.nan, np.inf, -np.inf, -1.0, 1e300, -1e300, 0.0, 1e-320, 1.0, 2.0**53)
        word = np.float64(pick(rng, numbers)).tobytes() if rng.random() < 0.6 else rng.bytes(8)
        data[at : at + 8] = word[: len(data) - at]
    return sealed(original.values, bytes(data))


def forge_size(rng, original, other):
    """Blow an axis up in the header, with and without the arrays that it would take."""
    values = copy.deepcopy(original.values)
    sketch = values[values["kind"]]
    sketch = sketch.get("sketch", sketch)
    name = pick(
        rng, ("n_features", "n_outputs", "n_labels", "n_repetitions", "n_buckets", "hashes_per_repetition")
    )
    sketch[name] = pick(rng, (0, 1, 2, sketch[name] * 2, sketch[name] + 1, 2**20, 2**33, 2**50))
    for entry in values["arrays"]:
        if rng.random() < 0.3 and entry[2]:
            entry[2][-1] = int(pick(rng, (0, sketch[name], entry[2][-1] * 2)))
    n_bytes = sum(
        int(np.prod(entry[2], dtype=object)) * np.dtype(entry[1]).itemsize for entry in values["arrays"]
    )
    data = original.data
    if n_bytes < 2**20:
        data = (data * (n_bytes // len(data) + 1))[:n_bytes]
    return sealed(values, data)


FORGERY = (forge_value, forge_value, forge_shapes, forge_arrays, forge_size)


def pick(rng, choices):
    return choices[rng.integers(len(choices))]


def find(values, path):
    for step in path:
        values = values[step]
    return values


# -- the run --------------------------------------------------------------------------------------


def judge(original, mutated, is_sealed):
    """Return what became of a mutated file: a word, which is "FAILED ..." if it must not be."""
    try:
        thing = original.kind.from_bytes(mutated)
    except SketchFileError:
        return "refused"
    except Exception as error:
        return f"FAILED: load raised {error!r}"
    if not is_sealed:
        return "unchanged" if mutated == original.bytes else "FAILED: damage was not seen"
    try:
        same = original.use(thing)
    except ValueError as error:
        if "overflow" in str(error):  # of cells or sums: what was forged is a bandwidth, or a weight
            return "refused its input"
        return f"FAILED: {error!r}"
    except Exception as error:
        return f"FAILED: {error!r}"
    return "answered the same" if same else "answered as another sketch"


def fuzz(n_files, seed, report=None):
    """Judge mutated files.

    Returns the counts of the words of :func:`judge` by the name of the mutation, and the failures.
    """
    rng, counts, failures = np.random.default_rng(seed), Counter(), []
    whole = [Original(*each) for each in originals()]
    limit_memory()
    for number in range(n_files):
        original, other = pick(rng, whole), pick(rng, whole)
        is_sealed = rng.random() < 0.5
        mutate = pick(rng, FORGERY if is_sealed else DAMAGE)
        mutated = mutate(rng, original, other) if is_sealed else mutate(rng, original.bytes, other.bytes)
        verdict = judge(original, mutated, is_sealed)
        if verdict.startswith("FAILED"):
            failures.append(f"seed {seed}, file {number}, {mutate.__name__}: {verdict}")
            verdict = "FAILED"
        counts["forgery" if is_sealed else "damage", verdict] += 1
        if report is not None and (number + 1) % max(n_files // 20, 1) == 0:
            report(number + 1, counts)
    return counts, failures


def limit_memory():
    """Let allocations fail that go far beyond what the process has (on Linux, as a command alone)."""
    if __name__ != "__main__" or not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (has + ROOM, has + ROOM))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="number of mutated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="few files, to see that it works")
    options = parser.parse_args()
    start = time.perf_counter()

    def report(n_done, counts):
        told = ", ".join(f"{kind} {verdict}: {n}" for (kind, verdict), n in sorted(counts.items()))
        print(f"{n_done} files, {time.perf_counter() - start:.0f} s: {told}", flush=True)

    warnings.simplefilter("ignore")  # forged sums may overflow when they are averaged
    counts, failures = fuzz(2_000 if options.smoke else options.n, options.seed, report)
    print(*failures[:20], sep="\n")
    print(f"{sum(counts.values())} mutated files, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
