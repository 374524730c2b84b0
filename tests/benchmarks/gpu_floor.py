"""What a row costs a GPU, by the plain path of PyTorch and by the fused kernels: counted, not timed.

Bytes of the plain path are those that its operations read and write, as PyTorch dispatches them on the CPU
(those of twice as many rows less those of once as many, so that what does not grow with the rows falls out).
Bytes of the fused kernels are the row itself once for every span of repetitions, mostly from the second-level
cache, and what it adds, or is answered. The cells come on top, the same for both. Flops are of float64
products on tensor cores (angular), or of plain float64 arithmetic (laplacian: a multiplication, an addition
and a floor per feature and hash).

Seconds are for 10,000,000 rows at the peak rates of NVIDIA's data sheet of the H100 SXM, which no kernel
reaches: 3.35 TB/s, 67 Tflop/s of float64 products and 17 of plain float64 (half of 34, where a fused
multiply-add counts twice). Options take other rates, those that tests/benchmarks/gpu.py measures, say.

    python tests/benchmarks/gpu_floor.py
"""

import argparse

import torch
from gpu import SHAPES, make_rows, make_sketch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nwsketch.backends import torch_backend, torch_fused, torch_hashing

N_ROWS = 10_000_000
#: Rows that are counted, and twice as many.
COUNTED = 512


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; views are free, what is allocated is not touched."""

    def __init__(self):
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        given = [part for part in tree_leaves((arguments, options)) if isinstance(part, torch.Tensor)]
        made = [part for part in tree_leaves(result) if isinstance(part, torch.Tensor)]
        owned = {part.untyped_storage().data_ptr() for part in given}
        is_view = all(part.untyped_storage().data_ptr() in owned for part in made)
        if operation._schema.is_mutable:
            self.n_bytes += sum(map(size, given)) + size(given[0])
        elif made and not is_view and "empty" not in operation._schema.name:
            self.n_bytes += sum(map(size, given + made))
        return result


def size(part):
    """Return the bytes of a tensor, repeated ones once."""
    return min(part.numel() * part.element_size(), part.untyped_storage().nbytes())


def plain_bytes(kernel):
    """Return the bytes per row that an update and a query move."""
    counts = []
    sketch = make_sketch(kernel, "torch", "cpu")
    for n_rows in (COUNTED, 2 * COUNTED):
        X, y = make_rows(SHAPES[kernel]["n_features"], n_rows, "cpu", 0)
        backend, state = sketch._backend, sketch._state
        with Traffic() as update:
            backend.add(state, X, y[:, None], None, 1)
        with Traffic() as query:
            backend.sums(state, X, 1, None, 1)
        counts.append((update.n_bytes, query.n_bytes))
    return [(twice - once) / COUNTED for once, twice in zip(*counts, strict=True)]


def fused_bytes(kernel):
    """Return the same of the fused kernels: rows, and what they add or are answered."""
    shape = SHAPES[kernel]
    row, sums = 4 * shape["n_features"], 2 * 8
    return [row * -(-shape["n_repetitions"] // torch_fused.SPAN) + sums, row + sums]


def flops(kernel):
    """Return operations per row: of a dense product, and of the tiles that factors are multiplied in."""
    shape = SHAPES[kernel]
    n_hashes = shape.get("hashes_per_repetition", 1)
    plain = 2 * shape["n_features"] * shape["n_repetitions"] * n_hashes
    if kernel == "laplacian":
        return 3 * plain // 2, 3 * plain // 2
    n_chunks = -(-shape["n_features"] // (torch_fused.ORDER * torch_fused.DEPTH)) * torch_fused.DEPTH
    n_stacks = -(-shape["n_repetitions"] // torch_fused.ORDER)
    columns = -(-n_hashes // torch_fused.BLOCKS) * torch_fused.BLOCKS
    return plain, 2 * n_stacks * columns * torch_fused.ORDER * n_chunks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bandwidth", type=float, default=3.35e12, help="bytes per second")
    parser.add_argument("--products", type=float, default=67e12, help="flops of float64 products per second")
    parser.add_argument("--arithmetic", type=float, default=17e12, help="flops of float64 per second")
    options = parser.parse_args()
    torch_hashing.is_on_gpu = torch_backend.is_on_gpu = lambda _: True  # as it would be computed there
    print(f"per row; seconds for {N_ROWS:,} rows at {options.bandwidth / 1e12:g} TB/s, ", end="")
    print(f"{options.products / 1e12:g} and {options.arithmetic / 1e12:g} Tflop/s")
    titles = f"{'flops':>10s}{'s':>9s}{'bytes, update':>16s}{'s':>9s}{'bytes, query':>15s}{'s':>9s}"
    print(f"{'':16s}{titles}{'cells':>8s}{'tables, MB':>12s}")
    for kernel, shape in SHAPES.items():
        rate = options.products if kernel == "angular" else options.arithmetic
        megabytes = shape["n_repetitions"] * shape["n_buckets"] * 2 * 8 / 1e6
        for path, moved, work in zip(
            ("plain", "fused"), (plain_bytes(kernel), fused_bytes(kernel)), flops(kernel), strict=True
        ):
            bounds = [N_ROWS * work / rate, *(N_ROWS * n_bytes / options.bandwidth for n_bytes in moved)]
            print(
                f"{kernel:10s}{path:6s}{work:10,d}{bounds[0]:9.4f}{moved[0]:16,.0f}{bounds[1]:9.4f}"
                f"{moved[1]:15,.0f}{bounds[2]:9.4f}{shape['n_repetitions']:8,d}{megabytes:12.1f}"
            )


if __name__ == "__main__":
    main()
