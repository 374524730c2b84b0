"""Adding rows to the tables and reading them back.

Repetitions are the outer loop: one repetition's table stays in the second-level cache while a
block of rows passes. It is streamed in first (see :func:`warm`), which is faster than fetching its
lines one by one as rows happen to need them: about half the time, or less, at 32,768 buckets and as many
rows (tests/benchmarks/kernels.py). One target is spelt out, without an inner loop over the channels: its sum
and its count are added to as one.

Within a cell rows are added in row order, so tables do not depend on how rows were cut into blocks
or shared among threads.
"""

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.vectors import add_pair

#: A table is streamed in if it holds at most this many cells per row that is coming.
CELLS_PER_ROW = 4
#: Float64 values in a cache line.
LINE = 8

_1, _2 = np.uint64(1), np.uint64(2)


@njit(nogil=True, cache=True, error_model="numpy")
def warm(
    table,  # in   (n_buckets, n_channels) float64
    n_rows,  # that will read or write a cell of it
):  # a number that callers must hand on, lest the compiler see that nobody needs the reading
    total = 0.0
    if table.shape[0] <= CELLS_PER_ROW * n_rows:
        cells = table.reshape(-1)
        for i in range(0, cells.size, LINE):
            total += cells[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def salt(
    labels,  # in      (n_rows,) intp, trusted in [0, n_labels)
    offsets,  # in      (n_labels, n_repetitions) uint32, in [0, n_buckets)
    n_buckets,
    begin,  # the rows wanted: begin <= row < end
    end,
    codes,  # in/out  (n_repetitions, n_rows) uint16 or uint32
):
    n_codes = np.uint64(n_buckets)
    for repetition in range(codes.shape[0]):
        own = codes[repetition]
        for i in range(np.uint64(begin), np.uint64(end)):
            moved = np.uint64(own[i]) + np.uint64(offsets[np.uint64(labels[i]), repetition])
            own[i] = moved if moved < n_codes else moved - n_codes


@njit(nogil=True, cache=True, error_model="numpy")
def accumulate(
    codes,  # in   (n_in_range, n_rows) uint16 or uint32, trusted in [0, n_buckets)
    values,  # in   (n_rows, n_channels) float64
    first,  # the repetitions that the codes belong to begin here; this thread owns them: no races
    tables,  # out  (n_repetitions, n_buckets, n_channels) float64
):
    n_channels = values.shape[1]
    warmth = 0.0
    for repetition in range(first, first + codes.shape[0]):
        row_codes = codes[repetition - first]
        table = tables[repetition]
        warmth += warm(table, row_codes.size)
        if n_channels == 2:
            cells, pairs = table.reshape(-1), values.reshape(-1)
            for i in range(np.uint64(row_codes.size)):
                add_pair(cells, _2 * np.uint64(row_codes[i]), pairs, _2 * i)
        else:
            for i in range(row_codes.size):
                for c in range(n_channels):
                    table[row_codes[i], c] += values[i, c]
    return warmth


@njit(nogil=True, cache=True, error_model="numpy")
def accumulate_totals(
    values,  # in   (n_rows, n_channels) float64
    sign,  # 1 for rows that come, -1 for rows that go (their values are negative then)
    totals,  # out  (n_channels + 2,) float64: sums of values, weight ever added, number of rows
):
    n_rows, n_channels = values.shape
    for k in range(n_channels + 1 if sign > 0 else n_channels):
        total, channel = totals[k], min(k, n_channels - 1)
        for i in range(n_rows):
            total += values[i, channel]
        totals[k] = total
    totals[n_channels + 1] += sign * n_rows


@njit(nogil=True, cache=True, error_model="numpy")
def commit(codes, values, tables, totals):
    # One compiled call, which no signal can interrupt: a batch is added whole or not at all.
    accumulate_totals(values, 1, totals)
    return accumulate(codes, values, 0, tables)


@njit(nogil=True, cache=True, error_model="numpy")
def _look_up_two(codes, others, table, other, unit, group, sums, squares):
    # One target, two repetitions: a row's sums are fetched half as often.
    with_squares = squares.shape[1] > 0
    cells, other_cells, pairs = table.reshape(-1), other.reshape(-1), sums.reshape(-1)
    place, step = _2 * np.uint64(group), _2 * np.uint64(sums.shape[1])
    for i in range(np.uint64(codes.size)):
        cell, other_cell = _2 * np.uint64(codes[i]), _2 * np.uint64(others[i])
        add_pair(pairs, place, cells, cell)
        add_pair(pairs, place, other_cells, other_cell)
        place += step
        if with_squares:
            count, other_count = cells[cell + _1], other_cells[other_cell + _1]
            squares[i, group] = squares[i, group] + (count * unit) ** 2 + (other_count * unit) ** 2


@njit(nogil=True, cache=True, error_model="numpy")
def look_up(
    codes,  # in   (n_repetitions, n_rows) uint16 or uint32
    tables,  # in   (n_repetitions, n_buckets, n_channels) float64
    unit,  # what counts are multiplied by before they are squared, to stay in range
    sums,  # out  (n_rows, n_groups, n_channels) float64
    squares,  # out  (n_rows, n_groups or 0) float64: sums of squared counts, in that unit, or nothing
):
    n_repetitions, n_rows = codes.shape
    n_channels = tables.shape[2]
    per_group = n_repetitions // sums.shape[1]
    warmth = 0.0
    repetition = 0
    while repetition < n_repetitions:
        group = repetition // per_group
        row_codes, table = codes[repetition], tables[repetition]
        warmth += warm(table, n_rows)
        repetition += 1
        if n_channels == 2 and repetition % per_group:
            others, other = codes[repetition], tables[repetition]
            warmth += warm(other, n_rows)
            repetition += 1
            _look_up_two(row_codes, others, table, other, unit, group, sums, squares)
            continue
        for i in range(n_rows):
            for c in range(n_channels):
                sums[i, group, c] += table[row_codes[i], c]
        if squares.shape[1]:
            for i in range(n_rows):
                squares[i, group] += (table[row_codes[i], n_channels - 1] * unit) ** 2
    return warmth


@njit(nogil=True, cache=True, error_model="numpy")
def look_up_others(
    codes,  # in   (n_repetitions, n_rows) uint16 or uint32
    tables,  # in   (n_repetitions, n_buckets, n_channels) float64
    unit,  # what counts are multiplied by before they are squared, to stay in range
    own,  # in   (n_rows, n_channels) float64: a row's own share, taken off every cell it reads
    sums,  # out  (n_rows, n_groups, n_channels) float64
    squares,  # out  (n_rows, n_groups or 0) float64: sums of squared counts, in that unit, or nothing
):
    n_repetitions, n_rows = codes.shape
    n_channels = tables.shape[2]
    per_group = n_repetitions // sums.shape[1]
    for repetition in range(n_repetitions):
        group = repetition // per_group
        for i in range(n_rows):
            cell = tables[repetition, codes[repetition, i]]
            for c in range(n_channels):
                sums[i, group, c] += cell[c] - own[i, c]
            if squares.shape[1]:
                squares[i, group] += ((cell[n_channels - 1] - own[i, n_channels - 1]) * unit) ** 2
