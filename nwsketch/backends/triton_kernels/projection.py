"""Cells of projections: products in any order, and wherever that could matter, sums in order.

``directions`` are multiplied as they are, or by their factors, eight repetitions for little more than one
product (nwsketch.hashing.projections): the row is cut into chunks of eight features, each is turned by H
diag(signs), multiplied by the Gaussians of its block and added up, and the sum turned by H once more. Both
ways round otherwise than the sums, feature by feature, that define a cell. What they may differ by at most
is known, and a tile that holds a projection so near an edge is added up again, in order. In float64 that
hardly ever happens, and however often it does, every cell is right.

A tile has OUTER * HASHES_AT_ONCE * INNER columns: hashes of OUTER * INNER repetitions, INNER = 8 of which
share a block of factors (1 without factors).
"""

import triton
import triton.language as tl

from nwsketch.backends.triton_kernels.cells import load_own, store_answers, visit


@triton.jit
def butterflies(a0, a1, a2, a3, a4, a5, a6, a7):
    """Turn eight tiles by the Hadamard matrix of order 8."""
    b0, b1, b2, b3 = a0 + a1, a0 - a1, a2 + a3, a2 - a3
    b4, b5, b6, b7 = a4 + a5, a4 - a5, a6 + a7, a6 - a7
    c0, c1, c2, c3 = b0 + b2, b1 + b3, b0 - b2, b1 - b3
    c4, c5, c6, c7 = b4 + b6, b5 + b7, b4 - b6, b5 - b7
    return c0 + c4, c1 + c5, c2 + c6, c3 + c7, c0 - c4, c1 - c5, c2 - c6, c3 - c7


@triton.jit
def load_values(
    x,  # in  (all rows, n_features) float32 or float64, of these strides
    row_stride,
    feature_stride,
    rows,  # in  (n_rows,)
    n_rows,
    features,  # in  (n,)
    wanted,  # in  (n,): which of them there are
):
    """Return features of rows, zeros where there are none: (n_rows, n) float64."""
    here = x + (rows.to(tl.int64) * row_stride)[:, None] + (features.to(tl.int64) * feature_stride)[None, :]
    return tl.load(here, mask=(rows < n_rows)[:, None] & wanted[None, :], other=0.0).to(tl.float64)


@triton.jit
def scaled(
    x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, i: tl.constexpr
):
    """Return feature i of every chunk, times its scale, of which there are n_chunks * 8."""
    features = chunks % ((n_features + 7) // 8) * 8 + i  # a row's copies follow each other
    wanted = (chunks < n_chunks) & (features < n_features)
    values = load_values(x, row_stride, feature_stride, rows, n_rows, features, wanted)
    return values * tl.load(scales + chunks * 8 + i, mask=chunks < n_chunks, other=0.0)[None, :]


@triton.jit
def gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, i: tl.constexpr):
    """Return what entry i of every turned chunk is multiplied by, of (n_chunks * 8, n_blocks)."""
    wanted = (chunks < n_chunks)[:, None] & valid[None, :]
    return tl.load(
        gaussians + ((chunks * 8 + i) * n_blocks)[:, None] + blocks[None, :], mask=wanted, other=0.0
    )


@triton.jit
def products_of_factors(
    x,
    row_stride,
    feature_stride,
    rows,
    n_rows,
    n_features,
    scales,  # in  (n_chunks * 8,) float64
    gaussians,  # in  (n_chunks * 8, n_blocks) float64, over the root of 8
    n_chunks,
    n_blocks,
    blocks,  # in  (n,)
    valid,  # in  (n,)
    DEPTH: tl.constexpr,  # chunks at a time
):
    """Return projections, (n_rows, n * 8), and the sums of scaled features without signs, (n_rows,)."""
    z0 = tl.zeros((rows.shape[0], blocks.shape[0]), tl.float64)
    z1, z2, z3, z4, z5, z6, z7 = z0, z0, z0, z0, z0, z0, z0
    mass = tl.zeros((rows.shape[0],), tl.float64)
    for start in range(0, n_chunks, DEPTH):
        chunks = start + tl.arange(0, DEPTH)
        x0 = scaled(x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, 0)
        x1 = scaled(x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, 1)
        x2 = scaled(x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, 2)
        x3 = scaled(x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, 3)
        x4 = scaled(x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, 4)
        x5 = scaled(x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, 5)
        x6 = scaled(x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, 6)
        x7 = scaled(x, row_stride, feature_stride, rows, n_rows, n_features, scales, chunks, n_chunks, 7)
        mass += tl.sum(tl.abs(x0) + tl.abs(x1) + tl.abs(x2) + tl.abs(x3), axis=1)
        mass += tl.sum(tl.abs(x4) + tl.abs(x5) + tl.abs(x6) + tl.abs(x7), axis=1)
        x0, x1, x2, x3, x4, x5, x6, x7 = butterflies(x0, x1, x2, x3, x4, x5, x6, x7)
        z0 = tl.dot(x0, gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, 0), z0)
        z1 = tl.dot(x1, gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, 1), z1)
        z2 = tl.dot(x2, gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, 2), z2)
        z3 = tl.dot(x3, gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, 3), z3)
        z4 = tl.dot(x4, gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, 4), z4)
        z5 = tl.dot(x5, gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, 5), z5)
        z6 = tl.dot(x6, gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, 6), z6)
        z7 = tl.dot(x7, gaussians_of(gaussians, chunks, n_chunks, blocks, valid, n_blocks, 7), z7)
    z0, z1, z2, z3, z4, z5, z6, z7 = butterflies(z0, z1, z2, z3, z4, z5, z6, z7)
    # The last axis becomes the number of the output: each join adds a lower digit of it.
    evens = tl.join(tl.join(z0, z4), tl.join(z2, z6))
    odds = tl.join(tl.join(z1, z5), tl.join(z3, z7))
    return tl.reshape(tl.join(evens, odds), (rows.shape[0], blocks.shape[0] * 8)), mass


@triton.jit
def products(
    x,
    row_stride,
    feature_stride,
    rows,
    n_rows,
    n_features,
    directions,  # in  (n_features, n_hashes) float64
    n_hashes,
    hashes,  # in  (n_columns,)
    valid,  # in  (n_columns,)
    DEPTH: tl.constexpr,  # features at a time
):
    """Return projections, (n_rows, n_columns), and the sums of the features without signs, (n_rows,)."""
    sums = tl.zeros((rows.shape[0], hashes.shape[0]), tl.float64)
    mass = tl.zeros((rows.shape[0],), tl.float64)
    for start in range(0, n_features, DEPTH):
        features = start + tl.arange(0, DEPTH)
        inside = features < n_features
        values = load_values(x, row_stride, feature_stride, rows, n_rows, features, inside)
        drawn = directions + (features.to(tl.int64) * n_hashes)[:, None] + hashes[None, :]
        sums = tl.dot(values, tl.load(drawn, mask=inside[:, None] & valid[None, :], other=0.0), sums)
        mass += tl.sum(tl.abs(values), axis=1)
    return sums, mass


@triton.jit
def sums_in_order(
    x, row_stride, feature_stride, rows, n_rows, n_features, directions, n_hashes, hashes, valid
):
    """Return the projections that define cells, (n_rows, n_columns): features added from first to last."""
    sums = tl.zeros((rows.shape[0], hashes.shape[0]), tl.float64)
    for j in range(n_features):
        here = x + rows.to(tl.int64) * row_stride + j * feature_stride
        values = tl.load(here, mask=rows < n_rows, other=0.0).to(tl.float64)
        direction = tl.load(directions + j * n_hashes + hashes, mask=valid, other=0.0)
        sums += values[:, None] * direction[None, :]
    return sums


@triton.jit(do_not_specialize=["n_rows", "n_repetitions", "n_buckets", "n_groups", "span"])
def projection_kernel(
    x,  # in  (n_rows, n_features) float32 or float64, of these strides
    row_stride,
    feature_stride,
    own,  # in  (n_rows, n_channels) float64: added to the cells; left out of what is read, or None
    tables,  # in or out  (n_repetitions, n_buckets, n_channels) float64
    sums,  # out  (n_rows, n_groups, n_channels) float64, if READ
    squares_out,  # out  (n_rows, n_groups) float64, if READ and REHASHED
    unit_in,  # in  () float64
    directions,  # in  (n_features, n_hashes) float64, n_hashes = n_repetitions * HASHES
    errors,  # in  (n_hashes,) float64: what products may be off by, at most, per unit of mass
    offsets,  # in  (n_hashes,) float64, if FLOORS
    scales,  # in  (n_chunks * 8,) float64, if INNER is 8
    gaussians,  # in  (n_chunks * 8, n_blocks) float64, over the root of 8, if INNER is 8
    lengths,  # in  (n_hashes,) float64, if INNER is 8 and FLOORS
    multipliers,  # in  (n_hashes,) int64
    shifts,  # in  (n_repetitions,) int64
    n_rows,
    n_features,
    n_chunks,
    n_blocks,
    n_repetitions,
    n_buckets,
    n_channels,
    n_groups,
    span,  # repetitions of a program, those of one group if READ
    HASHES: tl.constexpr,  # elementary hashes of a repetition
    FLOORS: tl.constexpr,  # cells are floors, or signs
    REHASHED: tl.constexpr,
    READ: tl.constexpr,
    PADDED: tl.constexpr,  # channels, rounded up to a power of two
    ROWS: tl.constexpr,
    OUTER: tl.constexpr,
    HASHES_AT_ONCE: tl.constexpr,
    INNER: tl.constexpr,
    DEPTH: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    first, last = group * span, min((group + 1) * span, n_repetitions)
    n_hashes = n_repetitions * HASHES
    added = load_own(own, rows, n_rows, n_channels, PADDED)
    unit = 1.0
    if READ:
        unit = tl.load(unit_in)
    total = tl.zeros((ROWS, PADDED), tl.float64)
    squares = tl.zeros((ROWS,), tl.float64)
    columns = tl.arange(0, OUTER * HASHES_AT_ONCE * INNER)
    for start in range(first // INNER * INNER, last, OUTER * INNER):
        joined = tl.zeros((ROWS, OUTER * INNER), tl.int64)
        for k in range(0, HASHES, HASHES_AT_ONCE):
            of = start + columns // (HASHES_AT_ONCE * INNER) * INNER + columns % INNER
            nth = k + columns // INNER % HASHES_AT_ONCE
            valid = (of >= first) & (of < last) & (nth < HASHES)
            hashes = of * HASHES + nth
            if INNER == 1:
                projected, mass = products(
                    x,
                    row_stride,
                    feature_stride,
                    rows,
                    n_rows,
                    n_features,
                    directions,
                    n_hashes,
                    hashes,
                    valid,
                    DEPTH,
                )
            else:
                places = tl.arange(0, OUTER * HASHES_AT_ONCE)
                stacks, within = start // INNER + places // HASHES_AT_ONCE, k + places % HASHES_AT_ONCE
                blocks = stacks * HASHES + within
                there = (within < HASHES) & (blocks < n_blocks)
                projected, mass = products_of_factors(
                    x,
                    row_stride,
                    feature_stride,
                    rows,
                    n_rows,
                    n_features,
                    scales,
                    gaussians,
                    n_chunks,
                    n_blocks,
                    blocks,
                    there,
                    DEPTH,
                )
                if FLOORS:
                    projected = projected * tl.load(lengths + hashes, mask=valid, other=0.0)[None, :]
            # Products below 1e-300 may underflow.
            error = tl.load(errors + hashes, mask=valid, other=0.0)
            limits = tl.maximum(mass[:, None] * error[None, :], 1e-300)
            if FLOORS:
                moves = tl.load(offsets + hashes, mask=valid, other=0.0)[None, :]
                positions = projected + moves
                distances = tl.abs(positions - tl.floor(positions + 0.5))
                limits += tl.abs(positions) * 2.220446049250313e-16  # the addition of an offset rounds too
                safe = distances > limits
            else:
                safe = (tl.abs(projected) > limits) | (mass == 0)[
                    :, None
                ]  # zeros project to zero in any order
            safe = safe | ((rows < n_rows)[:, None] & valid[None, :] == 0)
            if tl.min(tl.min(safe.to(tl.int32), axis=1), axis=0) == 0:
                projected = sums_in_order(
                    x,
                    row_stride,
                    feature_stride,
                    rows,
                    n_rows,
                    n_features,
                    directions,
                    n_hashes,
                    hashes,
                    valid,
                )
            cells = tl.floor(projected + moves).to(tl.int64) if FLOORS else (projected >= 0).to(tl.int64)
            terms = cells * tl.load(multipliers + hashes, mask=valid, other=0)[None, :]
            by_hash = tl.reshape(terms, (ROWS, OUTER, HASHES_AT_ONCE, INNER))
            joined += tl.reshape(tl.sum(by_hash, axis=2), (ROWS, OUTER * INNER))
        repetitions = start + tl.arange(0, OUTER * INNER)
        mine = (repetitions >= first) & (repetitions < last)
        total, squares = visit(
            joined,
            shifts,
            tl.where(mine, repetitions, 0),
            (rows < n_rows)[:, None] & mine[None, :],
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
