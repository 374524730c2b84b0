"""What a step of the selector spends its time on, compiled."""

from typing import Any

from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def subtract(
    rows: Any,  # in   (n_rows, n_features) float32 or float64
    centre: Any,  # in   (n_features,) of the same type
    out: Any,  # out  (n_rows, n_features) of the same type
) -> Any:
    """Subtract the centre from rows; return whether all differences are finite."""
    wrong = 0
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            value = rows[i, j] - centre[j]
            out[i, j] = value
            wrong |= value - value != 0  # infinite, or NaN
    return wrong == 0
