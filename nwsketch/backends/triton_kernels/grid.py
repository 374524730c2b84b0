"""Cells of random grids, floor(x * scale + offset), one per feature, and what is done with them.

Work per row, repetition and feature: one multiplication, addition and floor in float64 and one 64-bit
multiplication, in registers.
"""

import triton
import triton.language as tl

from nwsketch.backends.triton_kernels.cells import load_own, store_answers, visit


@triton.jit
def joined_grids(
    x,  # in  (all rows, n_features) float32 or float64, of any strides
    row_stride,
    feature_stride,
    rows,  # in  (n_rows,)
    n_rows,
    hashes,  # in  (n_repetitions,): one elementary hash of every repetition
    valid,  # in  (n_repetitions,): which of them there are
    scales,  # in  (n_features, n_hashes) float64
    offsets,  # in  (n_features, n_hashes) float64
    multipliers,  # in  (n_features, n_hashes) int64
    n_features,
    n_hashes,
):
    """Return the sums of multiplied cells: (n_rows, n_repetitions) int64."""
    joined = tl.zeros((rows.shape[0], hashes.shape[0]), tl.int64)
    for j in range(n_features):
        here = x + rows.to(tl.int64) * row_stride + j * feature_stride
        values = tl.load(here, mask=rows < n_rows, other=0.0).to(tl.float64)
        drawn = j * n_hashes + hashes
        scale = tl.load(scales + drawn, mask=valid, other=0.0)
        offset = tl.load(offsets + drawn, mask=valid, other=0.0)
        multiplier = tl.load(multipliers + drawn, mask=valid, other=0)
        cell = tl.floor(values[:, None] * scale[None, :] + offset[None, :])
        joined += cell.to(tl.int64) * multiplier[None, :]
    return joined


@triton.jit(do_not_specialize=["n_rows", "n_repetitions", "n_buckets", "n_groups", "span"])
def grid_kernel(
    x,  # in  (n_rows, n_features) float32 or float64, of these strides
    row_stride,
    feature_stride,
    own,  # in  (n_rows, n_channels) float64: added to the cells; left out of what is read, or None
    tables,  # in or out  (n_repetitions, n_buckets, n_channels) float64
    sums,  # out  (n_rows, n_groups, n_channels) float64, if READ
    squares_out,  # out  (n_rows, n_groups) float64, if READ and REHASHED
    unit_in,  # in  () float64
    scales,  # in  (n_features, n_repetitions * HASHES) float64
    offsets,  # in  (n_features, n_repetitions * HASHES) float64
    multipliers,  # in  (n_features, n_repetitions * HASHES) int64
    shifts,  # in  (n_repetitions,) int64
    n_rows,
    n_features,
    n_repetitions,
    n_buckets,
    n_channels,
    n_groups,
    span,  # repetitions of a program, those of one group if READ
    HASHES: tl.constexpr,  # elementary hashes of a repetition
    REHASHED: tl.constexpr,
    READ: tl.constexpr,
    PADDED: tl.constexpr,  # channels, rounded up to a power of two
    ROWS: tl.constexpr,
    REPETITIONS: tl.constexpr,  # of a tile
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    first, last = group * span, min((group + 1) * span, n_repetitions)
    added = load_own(own, rows, n_rows, n_channels, PADDED)
    unit = 1.0
    if READ:
        unit = tl.load(unit_in)
    total = tl.zeros((ROWS, PADDED), tl.float64)
    squares = tl.zeros((ROWS,), tl.float64)
    for start in range(first, last, REPETITIONS):
        repetitions = start + tl.arange(0, REPETITIONS)
        valid = repetitions < last
        joined = tl.zeros((ROWS, REPETITIONS), tl.int64)
        for k in range(HASHES):
            joined += joined_grids(
                x,
                row_stride,
                feature_stride,
                rows,
                n_rows,
                repetitions * HASHES + k,
                valid,
                scales,
                offsets,
                multipliers,
                n_features,
                n_repetitions * HASHES,
            )
        total, squares = visit(
            joined,
            shifts,
            tl.where(valid, repetitions, 0),
            (rows < n_rows)[:, None] & valid[None, :],
            added,
            tables,
            n_buckets,
            n_channels,
            unit,
            total,
            squares,
            REHASHED,
            READ,
        )
    if READ:
        store_answers(total, squares, rows, n_rows, group, n_groups, n_channels, sums, squares_out, REHASHED)
