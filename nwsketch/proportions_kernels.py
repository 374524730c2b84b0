"""Compiled pieces of the leave-one-out error and its gradient: serial, without checks, GIL released.

All run on float32 (training) and float64 (tests) and keep the precision that they are given. They
work on differences and never on inner products, so that near rows keep their digits. Sums along a
row may be reassociated, for speed: a result depends on the shape of a tile, never on threads.
"""

import numpy as np
from numba import njit

#: Harmless here: neither NaN nor infinity enters the sums that these flags rearrange.
SUMS = {"reassoc", "contract", "nsz"}


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)
def add_distances(
    queries,  # in      (n_queries, n_features), finite
    features,  # in      (n_features, n_rows), finite: the rows, transposed, to run along them
    squared,  # whether to add squares of differences or their magnitudes
    out,  # in/out  (n_queries, n_rows)
):
    # Four features at a time: one pass over the sums for four over the rows.
    n_features = features.shape[0]
    whole = n_features - n_features % 4
    for i in range(queries.shape[0]):
        total = out[i]
        for j in range(0, whole, 4):
            q0, q1, q2, q3 = queries[i, j], queries[i, j + 1], queries[i, j + 2], queries[i, j + 3]
            c0, c1, c2, c3 = features[j], features[j + 1], features[j + 2], features[j + 3]
            if squared:
                for k in range(total.size):
                    d0, d1, d2, d3 = q0 - c0[k], q1 - c1[k], q2 - c2[k], q3 - c3[k]
                    total[k] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
            else:
                for k in range(total.size):
                    near = abs(q0 - c0[k]) + abs(q1 - c1[k])
                    total[k] += near + (abs(q2 - c2[k]) + abs(q3 - c3[k]))
        for j in range(whole, n_features):
            q0, c0 = queries[i, j], features[j]
            if squared:
                for k in range(total.size):
                    total[k] += (q0 - c0[k]) * (q0 - c0[k])
            else:
                for k in range(total.size):
                    total[k] += abs(q0 - c0[k])


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def below_least(
    distances,  # in/out  (n_queries, n_rows): becomes (least of the row) - itself, never positive
):
    for i in range(distances.shape[0]):
        row = distances[i]
        least = row[0]
        for k in range(row.size):
            least = row[k] if row[k] < least else least
        if least < np.inf:
            for k in range(row.size):
                row[k] = least - row[k]
        else:
            row[:] = -np.inf


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)
def average(
    kernel,  # in   (n_queries, n_rows), not negative
    weights,  # in   (n_rows,)
    weighted,  # in   (n_outputs, n_rows): weights times targets
    mass,  # out  (n_queries,): sums of the kernel times the weights
    predictions,  # out  (n_queries, n_outputs): 0 where there is no mass
):
    for i in range(kernel.shape[0]):
        row = kernel[i]
        total = row[0] * 0
        for k in range(row.size):
            total += row[k] * weights[k]
        mass[i] = total
        for c in range(weighted.shape[0]):
            target = weighted[c]
            together = row[0] * 0
            for k in range(row.size):
                together += row[k] * target[k]
            predictions[i, c] = together / total if total > 0 else total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)
def pull(
    kernel,  # in/out  (n_queries, n_rows): becomes d error / d distance
    weights,  # in      (n_rows,)
    weighted,  # in      (n_outputs, n_rows): weights times targets
    predictions,  # in      (n_queries, n_outputs)
    slopes,  # in      (n_queries, n_outputs): d error / d prediction, over the mass of the query
):
    n_outputs = weighted.shape[0]
    for i in range(kernel.shape[0]):
        row = kernel[i]
        if n_outputs == 1:
            target, prediction, slope = weighted[0], predictions[i, 0], slopes[i, 0]
            for k in range(row.size):
                row[k] *= slope * (prediction * weights[k] - target[k])
        else:
            together = np.zeros_like(row)
            for c in range(n_outputs):
                target, prediction, slope = weighted[c], predictions[i, c], slopes[i, c]
                for k in range(row.size):
                    together[k] += slope * (prediction * weights[k] - target[k])
            for k in range(row.size):
                row[k] *= together[k]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)
def gather(
    pulls,  # in   (n_queries, n_rows): d loss / d distance
    queries,  # in   (n_queries, n_features)
    features,  # in   (n_features, n_rows)
    squared,  # whether distances are squares of differences or magnitudes
    gradient,  # out  (n_features,) float64: sums of pulls times what a feature adds to the distance
):
    n_features = features.shape[0]
    whole = n_features - n_features % 4
    gradient[:] = 0.0
    for i in range(queries.shape[0]):
        row = pulls[i]
        zero = row[0] * 0
        for j in range(0, whole, 4):
            q0, q1, q2, q3 = queries[i, j], queries[i, j + 1], queries[i, j + 2], queries[i, j + 3]
            c0, c1, c2, c3 = features[j], features[j + 1], features[j + 2], features[j + 3]
            g0, g1, g2, g3 = zero, zero, zero, zero
            if squared:
                for k in range(row.size):
                    d0, d1, d2, d3 = q0 - c0[k], q1 - c1[k], q2 - c2[k], q3 - c3[k]
                    g0 += row[k] * (d0 * d0)
                    g1 += row[k] * (d1 * d1)
                    g2 += row[k] * (d2 * d2)
                    g3 += row[k] * (d3 * d3)
            else:
                for k in range(row.size):
                    g0 += row[k] * abs(q0 - c0[k])
                    g1 += row[k] * abs(q1 - c1[k])
                    g2 += row[k] * abs(q2 - c2[k])
                    g3 += row[k] * abs(q3 - c3[k])
            gradient[j] += g0
            gradient[j + 1] += g1
            gradient[j + 2] += g2
            gradient[j + 3] += g3
        for j in range(whole, n_features):
            q0, c0 = queries[i, j], features[j]
            g0 = zero
            if squared:
                for k in range(row.size):
                    g0 += row[k] * ((q0 - c0[k]) * (q0 - c0[k]))
            else:
                for k in range(row.size):
                    g0 += row[k] * abs(q0 - c0[k])
            gradient[j] += g0
