"""Speed of the torch backend on a GPU, beside what the machine can do at most and beside numba on its CPU.

First what the device does, measured here: products of float32 matrices (TF32 off, then on) and of float64
ones, a copy of memory, and a bare scatter_add and gather of as many cells as the sketch adds to and reads.
Then update and query of

- angular: d = 128, 100 repetitions of 12 hashes, 4,096 buckets;
- laplacian: d = 16, 128 repetitions, 16,384 buckets,

10,000,000 rows of float32 each, made on the device in pieces; seconds of hashing them are summed over pieces.

The floor is the largest of

- flops over rate: angular 2 N d R K at the float32 rate (what a dense projection in float32 takes; the
  backend multiplies in float64, whose share of its own rate is printed too); laplacian 3 N d R (a
  multiplication, an addition, a floor) at the same rate;
- bytes over bandwidth: X is read once, targets or answers (8 bytes an output) once: N (4 d + 8);
- bare scatter_add, or gather, of N R cells of 2 channels (float64) in tables of the same shape, codes ready.

Where Triton is installed too, the fused kernels are timed beside the plain path, which is the default, and
which of the two pays is printed (nwsketch.backends.torch_backend.FUSED). gpu_floor.py counts what they save.

Bars, on an H100 with 16 CPU cores: at least half of the floor, at least 30 times numba. Numba learns and
answers the first rows only, scaled by the number of rows; the table says how many. Medians of five runs, each
after an untimed one; CUDA events tell the time on a GPU.

    python tests/benchmarks/gpu.py                  # minutes on a GPU; where there is none, small sizes
    python tests/benchmarks/gpu.py --record FILE    # writes what it prints to FILE too
    python tests/benchmarks/gpu.py --smoke          # small sizes, one run each, seconds
"""

import argparse
import os
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from nwsketch.backends import torch_backend
from nwsketch.backends.torch_fused import is_fusible
from nwsketch.sketch import NadarayaWatsonSketch

N_RUNS = 5
#: Least share of the floor, and least ratio to numba.
SHARE, RATIO = 0.5, 30.0
SHAPES = {
    "angular": {"n_features": 128, "n_repetitions": 100, "hashes_per_repetition": 12, "n_buckets": 2**12},
    "laplacian": {"n_features": 16, "n_repetitions": 128, "n_buckets": 2**14, "bandwidth": 4.0},
}
#: Rows on a GPU, on the CPU instead of one, and in the smoke run; sizes of matrices, and bytes to copy.
SIZES = {
    "full": {"rows": 10_000_000, "piece": 1_000_000, "numba": 200_000, "matrix": 8192, "bytes": 2**32},
    "cpu": {"rows": 50_000, "piece": 25_000, "numba": 50_000, "matrix": 1024, "bytes": 2**27},
    "smoke": {"rows": 2_000, "piece": 1_000, "numba": 2_000, "matrix": 256, "bytes": 2**22},
}


class Report:
    """Lines that are printed, and written to a file at the end."""

    def __init__(self):
        self.lines = []

    def add(self, line=""):
        """Print a line."""
        print(line, flush=True)
        self.lines.append(line)


class Clock:
    """Seconds that functions take on one device."""

    def __init__(self, device, n_runs):
        self.device, self.n_runs = device, n_runs

    def seconds(self, function):
        """Return the median of some runs, after an untimed one."""
        function()
        return statistics.median(self._run(function) for _ in range(self.n_runs))

    def _run(self, function):
        if self.device.type == "cpu":
            start = time.perf_counter()
            function()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) / 1000


def product_rate(clock, size, dtype, precision):
    """Return floating-point operations per second of a product of square matrices."""
    left, right = (torch.randn(size, size, dtype=dtype, device=clock.device) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        return 2 * size**3 / clock.seconds(partial(torch.matmul, left, right))
    finally:
        torch.set_float32_matmul_precision(before)


def copy_bandwidth(clock, n_bytes):
    """Return bytes per second, those read and those written."""
    source = torch.ones(n_bytes // 8, dtype=torch.float64, device=clock.device)
    target = torch.empty_like(source)
    return 2 * n_bytes / clock.seconds(partial(target.copy_, source))


def bare_seconds(clock, shape, n_rows):
    """Return the seconds of adding to, and of reading, the cells of some rows whose codes are random."""
    n_repetitions, n_buckets = shape["n_repetitions"], shape["n_buckets"]
    codes = torch.randint(n_buckets, (n_repetitions, n_rows), device=clock.device)
    values = torch.randn(n_rows, 2, dtype=torch.float64, device=clock.device)
    tables = torch.zeros(n_repetitions, n_buckets, 2, dtype=torch.float64, device=clock.device)
    index = codes[..., None].expand(-1, -1, 2)

    def add():
        for channel in range(2):
            tables[..., channel].scatter_add_(1, codes, values[:, channel].expand(n_repetitions, -1))

    return clock.seconds(add), clock.seconds(lambda: torch.gather(tables, 1, index).sum(dim=0))


def make_rows(n_features, n_rows, device, seed):
    """Return rows and targets, made on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    X = torch.randn(n_rows, n_features, device=device, generator=generator)
    return X, X[:, 0].double()


def torch_seconds(clock, kernel, sizes, fused):
    """Return the seconds of learning all rows, and of answering them, piece by piece.

    None for fused kernels where they cannot be compiled.
    """
    sketch = make_sketch(kernel, "torch", str(clock.device))
    if fused and not (clock.device.type == "cuda" and is_fusible(sketch.plan, clock.device)):
        return None, None
    torch_backend.FUSED = fused
    update = query = 0.0
    for seed, start in enumerate(range(0, sizes["rows"], sizes["piece"])):
        n_rows = min(sizes["piece"], sizes["rows"] - start)
        X, y = make_rows(SHAPES[kernel]["n_features"], n_rows, clock.device, seed)
        update += clock.seconds(partial(sketch.update, X, y))
        query += clock.seconds(partial(sketch.query, X))
    return update, query


def numba_seconds(kernel, n_rows, n_threads, n_runs):
    """Return the seconds of the CPU for some rows."""
    sketch, clock = make_sketch(kernel, "numba", "cpu", n_threads), Clock(torch.device("cpu"), n_runs)
    rows, targets = make_rows(SHAPES[kernel]["n_features"], n_rows, "cpu", 0)
    X, y = rows.numpy(), targets.numpy()
    return clock.seconds(partial(sketch.update, X, y)), clock.seconds(partial(sketch.query, X))


def make_sketch(kernel, backend, device, n_jobs=1):
    """Return the sketch of a kernel."""
    options = {"backend": backend, "device": device, "n_jobs": n_jobs, "random_state": 0}
    return NadarayaWatsonSketch(kernel=kernel, **SHAPES[kernel], **options)


def flops(kernel, n_rows):
    """Return the operations of hashing some rows."""
    shape = SHAPES[kernel]
    n_hashes = shape["n_repetitions"] * shape.get("hashes_per_repetition", 1)
    return (2 if kernel == "angular" else 3) * n_rows * shape["n_features"] * n_hashes


def verdict(value, bar, judged):
    """Say whether a bar is met; of runs that it is not meant for, nothing."""
    return f"{'met' if value >= bar else 'missed'} ({bar:g})" if judged else "not judged"


def compare(report, clock, kernel, sizes, rates, bare, n_threads, judged):
    """Add the lines of one kernel."""
    shape, n_rows = SHAPES[kernel], sizes["rows"]
    cpu = numba_seconds(kernel, sizes["numba"], n_threads, clock.n_runs)
    report.add()
    report.add(
        f"{kernel}: {n_rows:,} x {shape['n_features']}, {shape['n_repetitions']} x "
        f"{shape.get('hashes_per_repetition', 1)}, {shape['n_buckets']:,} buckets; numba: "
        f"{sizes['numba']:,} rows on {n_threads} threads, scaled"
    )
    arithmetic = flops(kernel, n_rows) / rates["float32"]
    memory = n_rows * (4 * shape["n_features"] + 8) / rates["copy"]
    plain, fused = (torch_seconds(clock, kernel, sizes, choice) for choice in (False, True))
    for step, seconds, at_once, cells, slow in zip(("update", "query"), plain, fused, bare, cpu, strict=True):
        bounds = {"flops": arithmetic, "bytes": memory, "cells": cells * n_rows / sizes["piece"]}
        by, floor = max(bounds.items(), key=lambda item: item[1])
        ratio = slow * n_rows / sizes["numba"] / seconds
        report.add(
            f"  {step:6s} {seconds:9.4f} s  {n_rows / seconds:12,.0f} rows/s   floor "
            + ", ".join(f"{name} {bound:.4f} s" for name, bound in bounds.items())
        )
        share = floor / seconds
        report.add(f"         share of the floor ({by}) {share:.3f}  {verdict(share, SHARE, judged)}")
        if kernel == "angular":
            share = flops(kernel, n_rows) / rates["float64"] / seconds
            report.add(f"         share of the float64 product {share:.3f}")
        report.add(f"         ratio to numba {ratio:.1f}  {verdict(ratio, RATIO, judged)}")
        if at_once is None:
            report.add("         fused: not timed, which takes a CUDA device and Triton")
            continue
        share, ratio = floor / at_once, ratio * seconds / at_once
        report.add(
            f"         fused {at_once:.4f} s, {seconds / at_once:.2f} times as fast: "
            + ("FUSED = True pays" if at_once < seconds else "it does not pay")
        )
        report.add(f"         fused: share of the floor ({by}) {share:.3f}  {verdict(share, SHARE, judged)}")
        report.add(f"         fused: ratio to numba {ratio:.1f}  {verdict(ratio, RATIO, judged)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what is printed to this file too")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of the CPU; default: all"
    )
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if has_gpu else torch.device("cpu")
    torch.set_num_threads(options.threads)
    report, clock = Report(), Clock(device, 1 if options.smoke else N_RUNS)
    sizes = SIZES["smoke" if options.smoke else "full" if has_gpu else "cpu"]
    name = (
        torch.cuda.get_device_name(device) if has_gpu else f"CPU ({platform.machine()}), no CUDA device found"
    )
    report.add(f"{name}; torch {torch.__version__}; {options.threads} threads of the CPU")
    judged = has_gpu and not options.smoke
    if not judged:
        report.add(
            "small sizes: the bars are for 10,000,000 rows on a GPU, whose figures are not measured here"
        )
    rates = {
        "float32": product_rate(clock, sizes["matrix"], torch.float32, "highest"),
        "TF32": product_rate(clock, sizes["matrix"], torch.float32, "high"),
        "float64": product_rate(clock, sizes["matrix"], torch.float64, "highest"),
    }
    for title, rate in rates.items():
        note = "" if has_gpu or title != "TF32" else "  (as float32: there is none on this CPU)"
        report.add(f"product, {title:8s} {rate / 1e12:9.3f} Tflop/s{note}")
    rates["copy"] = copy_bandwidth(clock, sizes["bytes"])
    report.add(f"copy              {rates['copy'] / 1e9:9.1f} GB/s, read and written")
    bare = {kernel: bare_seconds(clock, shape, sizes["piece"]) for kernel, shape in SHAPES.items()}
    for kernel, shape in SHAPES.items():
        added, read = bare[kernel]
        n_cells = sizes["piece"] * shape["n_repetitions"] * 2 / 1e9
        report.add(
            f"bare cells of {kernel:9s} scatter_add {n_cells / added:.3f}, gather {n_cells / read:.3f} 10^9/s"
        )
    for kernel in SHAPES:
        compare(report, clock, kernel, sizes, rates, bare[kernel], options.threads, judged)
    if options.record:
        options.record.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
