"""What a row costs at least on this machine, and what it costs: the tables of docs/performance.md.

Rates first, on one thread and on two, each range of ``run_ranges`` with buffers of its own:

- float32 matrix products of chunks of 4,096 rows by 1,500 directions, and one large square product;
- copying: two buffers of 128 KiB, in the second-level cache, and 256 MiB in all, beyond all caches;
- random cells of 16 bytes (two float64): read and added up ("gather"), or read, increased and written
  ("scatter"). Tables lie one after another in 64 MiB (but at most 512 tables), and 65,536 rows pass each of
  them, their codes read in order. "warmed": a table is read in first, that time included;
- cells of fixed points, the high bits of float32 sums x * scale + offset, joined with 32-bit multipliers, and
  the least of what lies behind the points, four features at a time on 256 rows in the first-level cache;
  64-bit cells, joined alike; the least mixed rank and its column, two columns at a time.

Threads share the tables where they write, the rows everywhere else. BLAS has one thread per caller.
Nanoseconds are those of one thread: time on the clock times threads over items (or, with ``--cpu``, processor
time of all threads over items, which is steadier where others use the machine, and does not see a thread that
waits). Medians of at least five calls, and of as many as take half a second, each after an untimed one.

The model counts what a row needs and prices it by these rates: max(arithmetic, bytes) + random cells, where

- float32 flops cost what the square product takes for them, other operations on vectors two flops each (one
  fused multiply-add); cells, joins and mixes what the loops take;
- bytes of rows, targets and answers cost as much as copying beyond the caches; codes, sums and what is added
  to cells as much as inside;
- random cells cost a gather or a scatter in tables of that size, warmed or not, whichever takes less.

Beside it stand ``sketch.update`` and ``sketch.query`` of two blocks of rows, to and from a sketch that holds
rows already, and where their time goes: hashing (by the backend's Hasher), tables (``accumulate`` and
``look_up``), the copy that ``update`` makes of the tables, and the rest by difference. Parts are measured
alone, one after the other, so that noise may make the rest negative.

    python tests/benchmarks/floors.py                 # some minutes
    python tests/benchmarks/floors.py --cpu           # by processor time
    python tests/benchmarks/floors.py --paste FILE    # also replaces the tables in FILE, see below
    python tests/benchmarks/floors.py --smoke         # small sizes, seconds: does it run?

``--paste`` puts every table after its line ``<!-- floors: NAME -->`` in FILE, in place of the one there.
"""

import argparse
import re
import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numba import njit
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from nwsketch.backends.numba_hashing import Hasher
from nwsketch.backends.numba_kernels.minhash import mix
from nwsketch.backends.numba_kernels.tables import accumulate, look_up, warm
from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    bits,
    lesser,
    load,
    masked,
    multiply_add,
    shift_right,
    splat,
    store,
)
from nwsketch.backends.threads import run_ranges
from nwsketch.hashing.projections import ORDER
from nwsketch.sketch import NadarayaWatsonSketch

THREADS = (1, 2)
CHUNK, N_DIRECTIONS = 4096, 1500
WIDTHS = (18, 64, 256, 784)  # features of the matrix products
TABLE_CELLS = (2**11, 2**14, 2**15, 2**16, 2**18, 2**20)
CODE_TYPES = (np.uint16, np.uint32)
CELL_BYTES = 16
TILE = 256  # rows of the loops in the first-level cache
N_SEEDS = 512
N_DIGITS = 18  # of fixed points


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and by which clock."""

    n_calls: int = 5  # at least
    seconds: float = 0.5  # at least, of all calls together
    n_rows: int = 2**16  # that pass each table
    n_chunks: int = 4  # that are multiplied
    square: int = 2048  # rows and columns of the large product
    near_bytes: int = 2**18
    far_bytes: int = 2**28
    table_bytes: int = 2**26
    n_passes: int = 2**13  # over a tile
    n_blocks: int = 2  # that update and query are given
    most_rows: int = 2**20  # of a block
    by_cpu: bool = False


SMOKE = Sizes(1, 0.0, 2**10, 1, 256, 2**16, 2**20, 2**21, 2**4, 1, 2**9)


def nanoseconds(function, n_threads, n_items, sizes):
    """Return the median time of one thread per item; every timed call follows an untimed one."""
    clock = time.process_time if sizes.by_cpu else time.perf_counter
    times = []
    while len(times) < sizes.n_calls or sum(times) < sizes.seconds:
        function()
        start = clock()
        function()
        times.append(clock() - start)
    return statistics.median(times) * (1 if sizes.by_cpu else n_threads) / n_items * 1e9


# -- loops of the rates ------------------------------------------------------------------------


@njit(nogil=True)
def _copy(source, target, n_times):
    for _ in range(n_times):
        for i in range(source.size):
            target[i] = source[i]


@njit(nogil=True)
def _gather(codes, tables, warmed):
    # Four sums each, so that additions do not wait for one another.
    t0, t1, t2, t3, c0, c1, c2, c3, warmth = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for repetition in range(tables.shape[0]):
        row_codes, table = codes[repetition % codes.shape[0]], tables[repetition]
        if warmed:
            warmth += warm(table, table.shape[0])
        for i in range(0, row_codes.size - 3, 4):
            k0, k1, k2, k3 = row_codes[i], row_codes[i + 1], row_codes[i + 2], row_codes[i + 3]
            t0 += table[k0, 0]
            c0 += table[k0, 1]
            t1 += table[k1, 0]
            c1 += table[k1, 1]
            t2 += table[k2, 0]
            c2 += table[k2, 1]
            t3 += table[k3, 0]
            c3 += table[k3, 1]
    return t0 + t1 + t2 + t3, c0 + c1 + c2 + c3, warmth


@njit(nogil=True)
def _scatter(codes, tables, first, warmed, target, weight):
    warmth = 0.0
    for repetition in range(tables.shape[0]):
        row_codes, table = codes[(first + repetition) % codes.shape[0]], tables[repetition]
        if warmed:
            warmth += warm(table, table.shape[0])
        for i in range(row_codes.size):
            code = row_codes[i]
            total, count = table[code, 0], table[code, 1]
            table[code, 0] = total + target
            table[code, 1] = count + weight
    return warmth


@njit(nogil=True, error_model="numpy")
def _points(x, scales, offsets, multipliers, n_digits, least, joined, n_passes):
    shift, mask = splat(n_digits[0]), splat(np.uint32(2**N_DIGITS - 1))
    for k in range(np.uint64(n_passes)):
        for i in range(np.uint64(0), np.uint64(TILE), np.uint64(LANES)):
            smallest, join = load(least, i), load(joined, i)
            for j in range(np.uint64(4)):
                t = np.uint64(4) * k + j
                own = multiply_add(load(x, j * np.uint64(TILE) + i), splat(scales[t]), splat(offsets[t]))
                smallest = lesser(masked(bits(own), mask), smallest)
                join = multiply_add(shift_right(bits(own), shift), splat(multipliers[t]), join)
            store(least, i, smallest)
            store(joined, i, join)


@njit(nogil=True, error_model="numpy")
def _joins(c0, c1, c2, c3, multipliers, joined, n_passes):
    for k in range(n_passes):
        m0, m1, m2, m3 = multipliers[k, 0], multipliers[k, 1], multipliers[k, 2], multipliers[k, 3]
        for i in range(TILE):
            joined[i] += (c0[i] * m0 + c1[i] * m1) + (c2[i] * m2 + c3[i] * m3)


@njit(nogil=True, error_model="numpy")
def _least_of_two(column, another, seeds, ranks, cells):
    for h in range(seeds.size):
        rank, other = mix(column ^ seeds[h]), mix(another ^ seeds[h])
        cell = column if rank < other else another
        rank = rank if rank < other else other
        cells[h] = cell if rank < ranks[h] else cells[h]
        ranks[h] = rank if rank < ranks[h] else ranks[h]


@njit(nogil=True, error_model="numpy")
def _least_mixes(seeds, ranks, cells, n_passes):
    for k in range(n_passes):
        _least_of_two(np.uint64(2 * k), np.uint64(2 * k + 1), seeds, ranks, cells)


# -- rates -------------------------------------------------------------------------------------


class Rates:
    """What the machine does on some threads: nanoseconds of one thread per item."""

    def __init__(self, n_threads, sizes):
        self.n_threads, self.sizes = n_threads, sizes
        self.rng = np.random.default_rng(0)
        self.products = {d: self._product(d) for d in WIDTHS}
        self.flop = self._square() / (2 * sizes.square**3)
        self.near = self._copy(sizes.near_bytes, 2**24 // sizes.near_bytes)  # per byte read or written
        self.far = self._copy(sizes.far_bytes // n_threads, 1)
        self.gather, self.scatter = {}, {}
        for n_cells in TABLE_CELLS:
            for code_type in CODE_TYPES:
                if n_cells <= np.iinfo(code_type).max + 1:
                    self._random(n_cells, code_type)
        self.cell = self._points()
        self.join = self._joins()
        self.mix = self._mixes()

    def _time(self, task, n_ranges, n_items):
        """Time ``task(first, last)`` over all ranges."""
        return nanoseconds(
            lambda: run_ranges(task, n_ranges, self.n_threads), self.n_threads, n_items, self.sizes
        )

    def _product(self, n_features):
        n_chunks = self.sizes.n_chunks * self.n_threads
        X = self.rng.standard_normal((n_chunks * CHUNK, n_features), dtype=np.float32)
        directions = self.rng.standard_normal((n_features, N_DIRECTIONS), dtype=np.float32)
        results = [np.zeros((CHUNK, N_DIRECTIONS), np.float32) for _ in range(self.n_threads)]

        def multiply(first, last):
            for chunk in range(first, last):
                rows = X[chunk * CHUNK : (chunk + 1) * CHUNK]
                np.matmul(rows, directions, out=results[first * self.n_threads // n_chunks])

        return self._time(multiply, n_chunks, len(X))

    def _square(self):
        side = self.sizes.square
        factors = [self.rng.standard_normal((side, side), dtype=np.float32) for _ in range(self.n_threads)]
        results = [np.zeros_like(factor) for factor in factors]

        def multiply(first, last):
            for k in range(first, last):
                np.matmul(factors[k], factors[k], out=results[k])

        return self._time(multiply, self.n_threads, self.n_threads)

    def _copy(self, n_bytes, n_times):
        sources, targets = np.ones((2, self.n_threads, n_bytes // 16))  # in place from here on

        def copy(first, last):
            for k in range(first, last):
                _copy(sources[k], targets[k], n_times)

        return self._time(copy, self.n_threads, self.n_threads * n_times * n_bytes)

    def _random(self, n_cells, code_type):
        n_tables = min(max(self.sizes.table_bytes // (n_cells * CELL_BYTES), 2), 512)
        n_rows = self.sizes.n_rows
        codes = self.rng.integers(0, n_cells, (min(n_tables, 128), n_rows), dtype=code_type)
        tables = np.ones((n_tables, n_cells, 2))
        bounds = [n_rows * k // self.n_threads for k in range(self.n_threads + 1)]
        shares = [codes[:, start:stop].copy() for start, stop in pairwise(bounds)]
        for warmed in (True, False):

            def read(first, last, warmed=warmed):
                for k in range(first, last):
                    _gather(shares[k], tables, warmed)

            def write(first, last, warmed=warmed):
                _scatter(codes, tables[first:last], first, warmed, 0.5, 1.0)

            key = (n_cells, code_type, warmed)
            self.gather[key] = self._time(read, self.n_threads, n_tables * n_rows)
            self.scatter[key] = self._time(write, n_tables, n_tables * n_rows)

    def _alone(self, loop, *arrays, n_items):
        """Time a loop that every thread runs on copies of the arrays."""
        copies = [[array.copy() for array in arrays] for _ in range(self.n_threads)]

        def task(first, last):
            for k in range(first, last):
                loop(*copies[k], self.sizes.n_passes)

        return self._time(task, self.n_threads, self.n_threads * self.sizes.n_passes * n_items)

    def _points(self):
        x, n_terms = self.rng.standard_normal(4 * TILE, np.float32), 4 * self.sizes.n_passes
        scales, offsets = self.rng.random((2, n_terms), np.float32)
        offsets += np.float32(1.5 * 2 ** (23 - N_DIGITS))
        multipliers = self.rng.integers(0, 2**32, n_terms, dtype=np.uint32)
        n_digits, least = np.array([N_DIGITS], np.uint32), np.full(TILE, 2**32 - 1, np.uint32)
        arrays = (x, scales, offsets, multipliers, n_digits, least, np.zeros(TILE, np.uint32))
        return self._alone(_points, *arrays, n_items=4 * TILE)

    def _joins(self):
        cells = self.rng.integers(0, 2**64, (4, TILE), dtype=np.uint64)
        multipliers = self.rng.integers(0, 2**64, (self.sizes.n_passes, 4), dtype=np.uint64)
        return self._alone(_joins, *cells, multipliers, np.zeros(TILE, np.uint64), n_items=4 * TILE)

    def _mixes(self):
        seeds = self.rng.integers(0, 2**64, N_SEEDS, dtype=np.uint64)
        ranks = np.full(N_SEEDS, 2**64 - 1, dtype=np.uint64)
        return self._alone(_least_mixes, seeds, ranks, np.zeros_like(ranks), n_items=2 * N_SEEDS)

    def random(self, call, case):
        """Return the price of a random cell of the case's tables."""
        prices = self.scatter if call == "update" else self.gather
        return min(prices[case.n_buckets, case.code_type, warmed] for warmed in (True, False))


# -- the model ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One sketch."""

    kernel: str
    n_repetitions: int
    hashes_per_repetition: int
    n_buckets: int
    n_features: int
    n_filled: int = 0  # columns of a row that are not zero, if rows are sparse

    @property
    def title(self):
        size = f"{self.n_repetitions:,} x {self.hashes_per_repetition}, 2^{self.n_buckets.bit_length() - 1}"
        filled = f", {self.n_filled} filled" if self.n_filled else ""
        return f"{self.kernel} {size} buckets, d = {self.n_features}{filled}"

    @property
    def n_hashes(self):
        return self.n_repetitions * self.hashes_per_repetition

    @property
    def code_type(self):
        return np.uint16 if self.n_buckets <= 2**16 else np.uint32

    @property
    def row_type(self):
        return np.float32 if self.kernel in ("angular", "l2", "l1") else np.float64

    @property
    def rehashed(self):
        """Whether counts are squared: a code of signs may be the bucket itself."""
        return self.kernel != "angular" or 2**self.hashes_per_repetition > self.n_buckets

    def sketch(self, n_threads):
        bandwidth = {"l2": np.sqrt(2 * self.n_features), "l1": 2.0 * self.n_features}.get(self.kernel, 1.0)
        return NadarayaWatsonSketch(
            self.n_features,
            kernel=self.kernel,
            bandwidth=float(bandwidth),
            hashes_per_repetition=self.hashes_per_repetition,
            n_repetitions=self.n_repetitions,
            n_buckets=self.n_buckets,
            n_jobs=n_threads,
            random_state=0,
        )

    def rows(self, n_rows):
        rng = np.random.default_rng(0)
        if not self.n_filled:
            return rng.standard_normal((n_rows, self.n_features)).astype(self.row_type)
        columns = rng.random((n_rows, self.n_features)).argpartition(self.n_filled)[:, : self.n_filled]
        columns = np.sort(columns, axis=1).astype(np.int32)
        indptr = np.arange(n_rows + 1, dtype=np.int32) * self.n_filled
        data = np.ones(columns.size)
        return csr_array((data, columns.ravel(), indptr), shape=(n_rows, self.n_features))


CASES = (
    *(Case("angular", 100, 15, 2**15, d) for d in WIDTHS),
    *(Case("l2", 128, 8, 2**14, d) for d in (18, 64, 256)),
    *(Case("l1", 128, 8, 2**14, d) for d in (18, 64)),
    Case("laplacian", 128, 1, 2**14, 8),
    Case("laplacian", 1024, 1, 2**11, 10),
    Case("jaccard", 128, 4, 2**14, 1000, 20),
)
CALLS = ("update", "query")


def count(case, call):
    """Return flops, other operations, bytes from memory, bytes in caches and random cells of a row."""
    d, n_hashes = case.n_features, case.n_hashes
    n_chunks = -(-d // ORDER)
    flops, others = {
        "angular": (n_hashes * (2 * n_chunks + 3) + 24 * n_chunks, 4 * n_hashes),
        "l2": (n_hashes * (2 * n_chunks + 3 + 2) + 24 * n_chunks, 4 * n_hashes),
        "l1": (n_hashes * (2 * d + 2), 4 * n_hashes),
        "laplacian": (2 * n_hashes * d, 4 * n_hashes * d),
        "jaccard": (0, n_hashes * (12 * case.n_filled + 2)),
    }[case.kernel]
    row = 12 * case.n_filled or d * np.dtype(case.row_type).itemsize
    code = np.dtype(case.code_type).itemsize
    # A code is written and read. What is added: two numbers; sums, and squares, are read and written for two.
    values = 16 if call == "update" else (32 + 16 * case.rehashed) // 2
    cache = case.n_repetitions * (2 * code + values)
    return flops, others, row + 8, cache, case.n_repetitions


def price(case, call, rates):
    """Return arithmetic, bytes and random cells of a row in nanoseconds of one thread."""
    flops, others, memory, cache, n_random = count(case, call)
    n_hashes = case.n_hashes
    if case.kernel == "angular":
        arithmetic = (flops + 2 * others) * rates.flop
    elif case.kernel in ("l2", "l1"):
        arithmetic = (flops - 2 * n_hashes) * rates.flop + n_hashes * rates.cell
    elif case.kernel == "laplacian":
        arithmetic = n_hashes * case.n_features * rates.cell
    else:
        arithmetic = n_hashes * (case.n_filled * rates.mix + rates.join)
    return arithmetic, memory * rates.far + cache * rates.near, n_random * rates.random(call, case)


def measure(case, n_threads, sizes):
    """Return nanoseconds of one thread per row of each call, and of their parts."""
    sketch = case.sketch(n_threads)
    n_block = min(sketch._backend._block_rows(case.rows(1)), sizes.most_rows)
    X = case.rows(sizes.n_blocks * n_block)
    y = np.random.default_rng(1).standard_normal(X.shape[0])
    hasher = Hasher(sketch.plan)
    rows, n_repetitions = hasher.prepare(X[:n_block]), case.n_repetitions
    codes = np.empty((n_repetitions, n_block), dtype=hasher.code_type)
    bounds = [n_block * k // n_threads for k in range(n_threads + 1)]
    values = np.ones((n_block, 2))
    sums = np.zeros((n_block, 1, 2))
    squares = np.zeros((n_block, 1 if sketch.plan.rehashed else 0))

    def hash_rows(first, last):
        hasher.hash(rows, first, last, 0, n_repetitions, codes)

    def add(first, last):
        accumulate(codes[first:last], values, first, tables)

    def read(first, last):
        for k in range(first, last):
            part = slice(bounds[k], bounds[k + 1])
            look_up(shares[k], tables, 1.0, sums[part], squares[part])

    def timed(function, n_rows):
        return nanoseconds(function, n_threads, n_rows, sizes)

    def ranges(task, n_items):
        return timed(lambda: run_ranges(task, n_items, n_threads), n_block)

    times = {
        "update": timed(partial(sketch.update, X, y), X.shape[0]),
        "query": timed(partial(sketch.query, X), X.shape[0]),
        "hashing": ranges(hash_rows, n_block),
    }
    tables = sketch.tables.copy()
    shares = [codes[:, start:stop].copy() for start, stop in pairwise(bounds)]  # one thread's rows each
    times["update tables"] = ranges(add, n_repetitions)
    times["query tables"] = ranges(read, n_threads)
    in_place = X.shape[0] < min(case.n_buckets, n_block)
    times["copy"] = 0.0 if in_place else timed(tables.copy, X.shape[0])
    return times


# -- tables ------------------------------------------------------------------------------------


class Tables:
    """Markdown tables by name, printed as they come."""

    def __init__(self):
        self.texts = {}

    def add(self, name, columns, lines):
        rule = ["---"] + ["--:"] * (len(columns) - 1)
        text = "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *lines))
        self.texts[name] = text
        print(f"\n<!-- floors: {name} -->\n\n{text}", flush=True)

    def paste(self, path):
        """Replace the tables in a file; say which it does not ask for, and fail if one is unknown."""
        text = path.read_text()
        names = re.findall(r"^<!-- floors: (.+) -->$", text, re.MULTILINE)
        unknown = sorted(set(names) - set(self.texts))
        if unknown:
            sys.exit(f"{path} asks for tables that there are not: {', '.join(unknown)}")
        text = re.sub(
            r"^(<!-- floors: (.+) -->)$\n*(?:\|.*\n)*\n*",
            lambda found: f"{found[1]}\n\n{self.texts[found[2]]}\n\n",
            text,
            flags=re.MULTILINE,
        )
        path.write_text(text.rstrip("\n") + "\n")
        left = ", ".join(sorted(set(self.texts) - set(names))) or "none"
        print(f"\nTables that {path} does not ask for: {left}")


def of_threads(n_threads):
    return f"{n_threads} thread{'s' if n_threads > 1 else ''}"


def print_rates(tables, all_rates):
    sizes = all_rates[0].sizes
    rows = [of_threads(rates.n_threads) for rates in all_rates]
    square = sizes.square

    def both(rate, form):
        return [format(rate(rates), form) for rates in all_rates]

    lines = []
    for d in WIDTHS:
        size = f"{CHUNK:,} x {d} by {d} x {N_DIRECTIONS:,}"
        flops = 2 * d * N_DIRECTIONS
        speeds = both(lambda rates, d=d, flops=flops: flops / rates.products[d] * rates.n_threads, ".0f")
        lines.append([size, *speeds, *both(lambda rates, d=d: rates.products[d], ",.0f")])
    size = f"{square:,} x {square:,} by {square:,} x {square:,}"
    lines.append([size, *both(lambda rates: rates.n_threads / rates.flop, ".0f"), *[""] * len(all_rates)])
    columns = [f"GFLOP/s, {row}" for row in rows] + [f"ns per row of one thread, {row}" for row in rows]
    tables.add("products", ["float32 matrix product", *columns], lines)

    lines = [
        ["in the second-level cache", *both(lambda rates: rates.n_threads / rates.near, ".1f")],
        ["beyond all caches", *both(lambda rates: rates.n_threads / rates.far, ".1f")],
    ]
    tables.add("copies", ["copy", *(f"GB/s read + written, {row}" for row in rows)], lines)

    for name in ("gather", "scatter"):
        for rates in all_rates:
            lines = []
            for n_cells in TABLE_CELLS:
                prices = [
                    getattr(rates, name).get((n_cells, code_type, warmed))
                    for code_type in CODE_TYPES
                    for warmed in (True, False)
                ]
                cells = ["" if each is None else f"{each:.2f}" for each in prices]
                lines.append([f"2^{n_cells.bit_length() - 1}", f"{n_cells * CELL_BYTES // 1024:,}", *cells])
            columns = ["uint16, warmed", "uint16, not", "uint32, warmed", "uint32, not"]
            tables.add(f"{name}, {of_threads(rates.n_threads)}", ["cells of a table", "KiB", *columns], lines)

    lines = [
        ["fixed point, cell, join; 32 bits", *both(lambda rates: rates.cell, ".3f")],
        ["joined += cell * multiplier; 64 bits", *both(lambda rates: rates.join, ".3f")],
        ["least mix(column ^ seed); 64 bits", *both(lambda rates: rates.mix, ".3f")],
    ]
    tables.add("loops", ["loop", *(f"ns of one thread each, {row}" for row in rows)], lines)


def print_counts(tables):
    lines = [
        [f"{call} {case.title}", *(f"{number:,}" for number in count(case, call))]
        for case in CASES
        for call in CALLS
    ]
    columns = ["flops", "other operations", "bytes, memory", "bytes, cache", "random cells"]
    tables.add("counts", ["per row", *columns], lines)


def print_floors(tables, all_rates, times):
    for kernel in dict.fromkeys(case.kernel for case in CASES):
        lines = []
        for case in (case for case in CASES if case.kernel == kernel):
            for rates in all_rates:
                for call in CALLS:
                    arithmetic, moved, random = price(case, call, rates)
                    floor = max(arithmetic, moved) + random
                    measured = times[case, rates.n_threads][call]
                    numbers = (arithmetic, moved, random, floor, measured)
                    cells = [str(rates.n_threads), *(f"{number:,.0f}" for number in numbers)]
                    lines.append([f"{call} {case.title}", *cells, f"{measured / floor:.2f}"])
        columns = ["threads", "arithmetic", "bytes", "random", "floor", "measured", "ratio"]
        tables.add(kernel, ["ns per row of one thread", *columns], lines)


def print_parts(tables, rates, times):
    lines = []
    for case in CASES:
        spent = times[case, rates.n_threads]
        for call in CALLS:
            copy = spent["copy"] if call == "update" else 0.0
            parts = (spent["hashing"], spent[f"{call} tables"], copy)
            numbers = (spent[call], *parts, spent[call] - sum(parts))
            arithmetic, _, random = price(case, call, rates)
            ratios = (parts[0] / arithmetic, parts[1] / random)
            lines.append(
                [
                    f"{call} {case.title}",
                    *(f"{number:,.0f}" for number in numbers),
                    *(f"{each:.2f}" for each in ratios),
                ]
            )
    columns = ["all", "hashing", "tables", "copy", "rest", "hashing / arithmetic", "tables / random"]
    name = f"parts, {of_threads(rates.n_threads)}"
    tables.add(name, ["ns per row of one thread", *columns], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--cpu", action="store_true", help="processor time instead of the clock")
    parser.add_argument("--paste", type=Path, metavar="FILE", help="replace the tables in this file")
    options = parser.parse_args()
    if options.smoke and options.paste:
        parser.error("--smoke measures nothing that is worth pasting")
    if options.paste and not options.paste.is_file():
        parser.error(f"there is no file {options.paste}")
    sizes = replace(SMOKE if options.smoke else Sizes(), by_cpu=options.cpu)
    tables = Tables()
    clock = "processor time" if options.cpu else "the clock"
    tables.add("run", ["time by", "calls, at least"], [[clock, str(sizes.n_calls)]])
    with threadpool_limits(1, user_api="blas"):
        all_rates = [Rates(n_threads, sizes) for n_threads in THREADS]
        print_rates(tables, all_rates)
        print_counts(tables)
        times = {(case, n): measure(case, n, sizes) for n in THREADS for case in CASES}
    print_floors(tables, all_rates, times)
    for rates in all_rates:
        print_parts(tables, rates, times)
    if options.paste:
        tables.paste(options.paste)


if __name__ == "__main__":
    main()
