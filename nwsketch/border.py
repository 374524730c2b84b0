"""What a sketch lets in: rows, targets and weights as arrays, as tensors, or as codes, checked once.

Arrays are checked here and handed on as arrays. Tensors stay tensors if the backend computes with them, and
their device is asked about all values at once; else they are brought to the host.
"""

from __future__ import annotations

from typing import Any

from nwsketch.backends import Backend, Codes
from nwsketch.hashing import HashPlan
from nwsketch.inputs import (
    check_cells,
    check_codes,
    check_rows,
    check_sums,
    check_targets,
    check_weights,
    harmless_magnitude,
)
from nwsketch.tensors import is_tensor, to_host


class Border:
    """Checks input for the hashes of one plan. What is returned, everything inside trusts.

    Parameters
    ----------
    plan : HashPlan
    n_labels : int
        Number of labels that rows are told apart by; 0 if they have none.
    """

    def __init__(self, plan: HashPlan, n_labels: int) -> None:
        self._plan, self._n_labels = plan, n_labels
        self._harmless = harmless_magnitude(plan.cells_per_unit)

    def rows(
        self,
        backend: Backend,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        n_outputs: int,
        weight_before: Any,
        check_input: bool,
    ) -> tuple[Any, Any, Any]:
        """Check rows that are learnt, forgotten or left out, with what belongs to them.

        Parameters
        ----------
        backend : Backend
            That will compute with them.
        X, y, sample_weight
            As the user gave them.
        n_outputs : int
            Wanted columns of ``y``.
        weight_before : float or Tensor
            Weight that is added to.
        check_input : bool
            False trusts all but shapes of tensors, and sums.

        Returns
        -------
        X : ndarray, canonical CSR, Tensor or Codes of n_samples rows
        y : ndarray or Tensor of shape (n_samples, n_outputs), float64
        sample_weight : ndarray or Tensor of shape (n_samples,), float64, or None
        """
        if is_tensor(X) and backend.takes_tensors:
            from nwsketch.torch_inputs import as_targets, as_weights

            X = self._tensor(self._labelled(X))
            y = as_targets(y, X, n_outputs)
            weights = None if sample_weight is None else as_weights(sample_weight, X)
            return self._within_reach(backend, X, y, weights, weight_before, check_input), y, weights
        rows, y, sample_weight = self.queries(backend, X, check_input), to_host(y), to_host(sample_weight)
        if check_input:
            y = check_targets(y, rows.shape[0], n_outputs)
            sample_weight = None if sample_weight is None else check_weights(sample_weight, rows.shape[0])
        check_sums(y, sample_weight, float(weight_before))
        return rows, y, sample_weight

    def queries(self, backend: Backend, X: Any, check_input: bool) -> Any:
        """Check rows that are asked about or learnt; those with labels must be given as codes."""
        return self.hashable(backend, self._labelled(X), check_input)

    def hashable(self, backend: Backend, X: Any, check_input: bool) -> Any:
        """Check rows, or the codes of rows."""
        if isinstance(X, Codes):
            if check_input:
                check_codes(X.array, self._plan.n_repetitions, self._plan.n_buckets)
            return X if backend.takes_tensors else Codes(to_host(X.array))
        if is_tensor(X):
            if backend.takes_tensors:
                return self._within_reach(backend, self._tensor(X), None, None, 0.0, check_input)
            X = to_host(X)
        if check_input:
            X = check_rows(X, self._plan.n_features)
        check_cells(X, self._plan.cells_per_unit, self._harmless)
        return X

    def _labelled(self, X: Any) -> Any:
        if self._n_labels and not isinstance(X, Codes):
            raise ValueError(
                f"This sketch tells rows apart by n_labels={self._n_labels} labels: give hash(X, labels) in "
                "place of X."
            )
        return X

    def _tensor(self, X: Any) -> Any:
        from nwsketch.torch_inputs import as_rows

        return as_rows(X, self._plan.n_features)

    def _within_reach(
        self, backend: Backend, X: Any, y: Any, weights: Any, weight_before: Any, check_input: bool
    ) -> Any:
        """Check the values of tensors; rows that a GPU would hash wrongly are returned as codes."""
        if not check_input:
            return X
        from nwsketch.torch_inputs import check_values

        largest = check_values(X, y, weights, weight_before)
        if largest >= self._harmless:
            check_cells(to_host(X), self._plan.cells_per_unit, self._harmless)
        return backend.codes_on_host(X) if largest >= backend.farthest else X
