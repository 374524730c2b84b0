"""From joined cells to buckets, and what is done with the cells of a tile: shared by all fused kernels."""

import triton
import triton.language as tl


@triton.jit
def to_buckets(
    joined,  # int64: sums of multiplied cells, which wrap
    n_buckets,
    REHASHED: tl.constexpr,  # whether codes must be folded into the table, or are the buckets themselves
):
    if REHASHED:
        # The arithmetic of unsigned integers: what a shift drags in on the left is masked off.
        joined = ((((joined >> 32) & 0xFFFFFFFF) * n_buckets) >> 32) & 0xFFFFFFFF
    return joined


@triton.jit
def visit(
    joined,  # in  (n_rows, n_repetitions) int64: sums of multiplied cells
    shifts,  # in  (all repetitions,) int64
    repetitions,  # in  (n_repetitions,): numbers that exist, also where nothing is inside
    inside,  # in  (n_rows, n_repetitions): which are rows, and repetitions of this program
    own,  # in  (n_rows, n_padded) float64: what is added to the cells, or left out of what is read
    tables,  # in or out  (all repetitions, n_buckets, n_channels) float64
    n_buckets,
    n_channels,
    unit,  # what counts are multiplied by before they are squared
    total,  # (n_rows, n_padded) float64: what has been read so far
    squares,  # (n_rows,) float64: squared counts so far
    REHASHED: tl.constexpr,
    READ: tl.constexpr,  # read the cells, or add to them
):
    """Add to the cells of a tile, or read them: returns total and squares."""
    moved = joined + tl.load(shifts + repetitions)[None, :]
    buckets = to_buckets(moved, n_buckets, REHASHED)
    channels = tl.arange(0, own.shape[1])
    cells = (repetitions.to(tl.int64)[None, :] * n_buckets + buckets) * n_channels
    places = tables + cells[:, :, None] + channels[None, None, :]
    wanted = inside[:, :, None] & (channels < n_channels)[None, None, :]
    if READ:
        found = tl.where(wanted, tl.load(places, mask=wanted, other=0.0) - own[:, None, :], 0.0)
        total += tl.sum(found, axis=1)
        is_count = (channels == n_channels - 1)[None, None, :]
        counts = tl.sum(tl.where(is_count, found, 0.0), axis=2) * unit
        squares += tl.sum(counts * counts, axis=1)
    else:
        added = tl.broadcast_to(own[:, None, :], places.shape)
        tl.atomic_add(places, added, mask=wanted, sem="relaxed")  # nothing else is read or written meanwhile
    return total, squares


@triton.jit
def load_own(
    own,  # in  (all rows, n_channels) float64, or None
    rows,  # in  (n_rows,)
    n_rows,
    n_channels,
    PADDED: tl.constexpr,  # n_padded: a power of two, at least n_channels
):
    """Return what every row adds, or leaves out: (n_rows, n_padded), zeros where there is nothing."""
    if own is not None:
        channels = tl.arange(0, PADDED)
        wanted = (rows < n_rows)[:, None] & (channels < n_channels)[None, :]
        return tl.load(
            own + (rows.to(tl.int64) * n_channels)[:, None] + channels[None, :], mask=wanted, other=0.0
        )
    return tl.zeros((rows.shape[0], PADDED), tl.float64)


@triton.jit
def store_answers(
    total,  # in  (n_rows, n_padded) float64
    squares,  # in  (n_rows,) float64
    rows,  # in  (n_rows,)
    n_rows,
    group,  # the number of this group of repetitions
    n_groups,
    n_channels,
    sums_out,  # out  (all rows, n_groups, n_channels) float64
    squares_out,  # out  (all rows, n_groups) float64, if REHASHED
    REHASHED: tl.constexpr,
):
    channels = tl.arange(0, total.shape[1])
    answers = rows.to(tl.int64) * n_groups + group
    wanted = (rows < n_rows)[:, None] & (channels < n_channels)[None, :]
    tl.store(sums_out + (answers * n_channels)[:, None] + channels[None, :], total, mask=wanted)
    if REHASHED:
        tl.store(squares_out + answers, squares, mask=rows < n_rows)
