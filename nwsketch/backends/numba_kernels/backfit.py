"""One round of backfitting: every repetition in turn refits its table to what the others leave over.

Within one repetition no two buckets share a row, so that the ridge regression on its buckets has a
closed form: the sum of the residuals in a bucket over its weight plus the ridge. A round is one
scatter and one gather over the codes, with the residuals and one table in the second-level cache.
"""

from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def backfit(
    codes,  # in      (last - first, n_rows) uint16 or uint32, trusted in [0, n_buckets)
    weights,  # in      (n_rows,) float64; 0 for rows that are only predicted
    first,  # the repetitions that the codes belong to begin here
    output,  # the channel to refit
    ridge,  # added to the weight of every bucket, times the number of repetitions
    residuals,  # in/out  (n_rows,) float64
    change,  # scratch (n_buckets,) float64
    tables,  # in/out  (n_repetitions, n_buckets, n_channels) float64
):
    n_repetitions = tables.shape[0]
    weight = tables.shape[2] - 1
    for repetition in range(first, first + codes.shape[0]):
        row_codes = codes[repetition - first]
        table = tables[repetition]
        change[:] = 0.0
        for i in range(row_codes.size):
            change[row_codes[i]] += weights[i] * residuals[i]
        for b in range(change.size):  # all zero where the bucket is empty: no branch, which would cost more
            count, share = table[b, weight], table[b, output] / n_repetitions
            change[b] = (change[b] + count * share) / (count + ridge * n_repetitions) - share
            table[b, output] += change[b] * n_repetitions
        for i in range(row_codes.size):
            residuals[i] -= change[row_codes[i]]


@njit(nogil=True, cache=True, error_model="numpy")
def accumulate_channel(
    codes,  # in   (last - first, n_rows) uint16 or uint32
    values,  # in   (n_rows,) float64
    first,  # the repetitions that the codes belong to begin here
    channel,
    tables,  # out  (n_repetitions, n_buckets, n_channels) float64
):
    for repetition in range(first, first + codes.shape[0]):
        row_codes = codes[repetition - first]
        table = tables[repetition]
        for i in range(row_codes.size):
            table[row_codes[i], channel] += values[i]
