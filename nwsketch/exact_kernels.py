"""Compiled distances between two blocks of rows: serial, without checks, GIL released.

Both work on differences and never on inner products, so that equal rows are at distance 0
exactly. An angle and a Jaccard distance are put together from the same two sums (see
:mod:`nwsketch.exact_tiles`).
"""

import math

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def distances(
    queries,  # in   (n_queries, n_features) float64, finite
    features,  # in   (n_features, n_rows) float64, finite: the rows, transposed, to run along them
    squared,  # whether to add squares of differences or their magnitudes
    out,  # out  (n_queries, n_rows) float64
):
    for i in range(queries.shape[0]):
        total = out[i]
        total[:] = 0.0
        for j in range(queries.shape[1]):
            value, column = queries[i, j], features[j]
            if squared:
                for k in range(total.size):
                    difference = value - column[k]
                    total[k] += difference * difference
            else:
                for k in range(total.size):
                    total[k] += abs(value - column[k])


@njit(nogil=True, cache=True, error_model="numpy")
def sparse_distances(
    query_data,  # in   (n_query_non_zeros,) float64: CSR rows, no column twice in a row
    query_indices,
    query_indptr,  # in   (n_queries + 1,)
    row_data,  # in   (n_row_non_zeros,) float64: the same
    row_indices,
    row_indptr,  # in   (n_rows + 1,)
    n_features,
    squared,  # whether to add squares of differences or their magnitudes
    out,  # out  (n_queries, n_rows) float64
):
    # The query lies spread out, and every row marks the columns that it has met: faster than merging
    # two lists of columns, where every comparison is a coin toss for the processor.
    n_queries, n_rows = out.shape
    query = np.zeros(n_features)
    met = np.full(n_features, -1, np.int64)
    for i in range(n_queries):
        query_positions = range(query_indptr[i], query_indptr[i + 1])
        for position in query_positions:
            query[query_indices[position]] = query_data[position]
        for k in range(n_rows):
            total = 0.0
            for position in range(row_indptr[k], row_indptr[k + 1]):
                column = row_indices[position]
                met[column] = k
                difference = query[column] - row_data[position]
                total += difference * difference if squared else abs(difference)
            for position in query_positions:
                difference = 0.0 if met[query_indices[position]] == k else query_data[position]
                total += difference * difference if squared else abs(difference)
            out[i, k] = total
        for position in query_positions:
            query[query_indices[position]] = 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def normalise_rows(
    data,  # in/out  (n_values,) float64: rows one after the other
    indptr,  # in      (n_rows + 1,): where each begins
):
    for i in range(indptr.size - 1):
        row = data[indptr[i] : indptr[i + 1]]
        largest = 0.0
        for value in row:
            largest = max(largest, abs(value))
        if largest > 0.0:
            # By the largest first: the squares of 1e200 overflow, those of 1e-200 vanish.
            squares = 0.0
            for k in range(row.size):
                row[k] /= largest
                squares += row[k] * row[k]
            norm = math.sqrt(squares)
            for k in range(row.size):
                row[k] /= norm
