"""Fit and predict on a Dask cluster: a sketch of every partition, added up by a tree (the extra ``dask``).

Rows are read where they are; sketches and moments travel. What is computed stands in
``nwsketch.distribution``; this module pairs partitions and builds the graph. docs/clusters.md tells what
is exact, and the limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nwsketch.distribution import (
    SPLIT_EVERY,
    finished,
    for_workers,
    learnt_of,
    merged,
    moments_of,
    needs_moments,
    predicted,
    prepared,
    shape_of_prediction,
    with_scale,
)
from nwsketch.regressor import NadarayaWatsonSketchRegressor

try:
    import dask
    import dask.array as da
    import dask.dataframe as dd
    import pandas as pd
    from dask.base import tokenize
    from dask.core import flatten, get_dependencies
    from dask.delayed import Delayed, delayed
    from distributed import futures_of
except ImportError as error:
    raise ImportError('nwsketch.dask needs Dask: pip install "nwsketch[dask]"') from error


def fit(
    estimator: NadarayaWatsonSketchRegressor, X: Any, y: Any, sample_weight: Any = None
) -> NadarayaWatsonSketchRegressor:
    """Learn the rows of Dask collections, starting anew; the estimator ends up as after its own ``fit``.

    Every partition is learnt where it is, and the sketches are added up, four at a time. With
    ``bandwidth="scale"`` the rows are read twice, first for the moments of the features: persist them if they
    fit into the memory of the cluster.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        Without what needs all rows at one place: a bandwidth by rows left out, a trend, bias correction.
        With ``n_jobs=None`` a partition is learnt by one thread.
    X : dask array or DataFrame of shape (n_samples, n_features)
        All features of a row in one chunk. Lengths of chunks may be unknown, and chunks empty.
    y : dask array, Series or DataFrame of shape (n_samples,) or (n_samples, n_outputs)
        In chunks as X; an array is rechunked if lengths are known.
    sample_weight : dask array or Series of shape (n_samples,), or None, default=None
        In chunks as X.

    Returns
    -------
    estimator : NadarayaWatsonSketchRegressor

    Raises
    ------
    TypeError
        If the estimator or a collection is of another kind.
    ValueError
        If parameters or input are not as described; what was learnt before is kept then.
    """
    X, *others = _aligned(X, y, sample_weight)
    n_outputs = others[0].shape[1] if others[0].ndim == 2 else 1
    model = prepared(estimator, X.shape[1], n_outputs)
    if needs_moments(model):
        model = with_scale(model, _added_up(_moments_of_part, model, X, others))
    return finished(estimator, _added_up(_learnt_of_part, model, X, others))


def predict(estimator: NadarayaWatsonSketchRegressor, X: Any) -> Any:
    """Predict targets, lazily.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        Fitted; what it has learnt becomes a part of the graph, once.
    X : dask array or DataFrame of shape (n_samples, n_features)
        As in :func:`fit`.

    Returns
    -------
    dask array, or Series (DataFrame if y had two dimensions), of float64
        Of shape (n_samples,) or (n_samples, n_outputs), in chunks as X; a Series has the index of X.

    Raises
    ------
    TypeError, ValueError
        If the features are not those of :meth:`fit`.
    """
    check_is_fitted(estimator)
    _require_rows("X", X)
    shape = shape_of_prediction(estimator)
    # A row that tells at once whether the features fit.
    estimator.predict(X._meta_nonempty[:1] if isinstance(X, dd.DataFrame) else np.zeros((1, X.shape[1])))
    model = delayed(for_workers(estimator), traverse=False)
    if isinstance(X, dd.DataFrame):
        index = X._meta.index[:0]
        if shape:
            meta = pd.DataFrame(np.empty((0, *shape)), index=index)
        else:
            meta = pd.Series(np.empty(0), index=index)
        return X.map_partitions(_predicted_frame, model, meta=meta)
    return da.blockwise(
        _predicted_array,
        "ik"[: 1 + len(shape)],
        X,
        "ij",
        model=model,
        new_axes={"k": shape[0]} if shape else None,
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0,) * (1 + len(shape))),
    )


# -- partitions -----------------------------------------------------------------------------------


def _aligned(X: Any, y: Any, sample_weight: Any) -> list[Any]:
    """Return X, y and the weights (or None) as collections of one kind and in the same partitions."""
    given = {"X": X, "y": y} | ({} if sample_weight is None else {"sample_weight": sample_weight})
    _require_rows("X", X)
    for name, collection in given.items():
        _require_collection(name, collection)
    if isinstance(X, da.Array):
        parts = [_beside(name, _as_array(each), X) for name, each in given.items()]
    else:
        for name, each in given.items():
            _require_same_divisions(name, each, X)
        parts = [_as_frame(each) for each in given.values()]
    for (name, _), part in zip(given.items(), parts, strict=True):
        if _n_partitions(part) != _n_partitions(X):
            raise ValueError(
                f"X has {_n_partitions(X)} partitions, but {name} has {_n_partitions(part)}, and their "
                "lengths are not known: cut both alike, or call compute_chunk_sizes() of arrays."
            )
    return parts if sample_weight is not None else [*parts, None]


def _require_collection(name: str, collection: Any) -> None:
    if not isinstance(collection, da.Array | dd.DataFrame | dd.Series):
        raise TypeError(
            f"{name} is a {type(collection).__name__}: give a dask array, DataFrame or Series "
            f"(dask.array.from_array, dask.dataframe.from_pandas), or call the estimator's own method."
        )


def _require_rows(name: str, X: Any) -> None:
    """Refuse what is no table of rows, or has the features of a row in several chunks."""
    _require_collection(name, X)
    if X.ndim != 2:
        raise ValueError(f"{name} has {X.ndim} dimension(s): give rows, (n_samples, n_features).")
    if isinstance(X, da.Array) and X.numblocks[1] != 1:
        raise ValueError(
            f"{name} has its features in {X.numblocks[1]} chunks: bring each row to one place before, by "
            f"{name}.rechunk({{1: -1}})."
        )


def _require_same_divisions(name: str, collection: Any, X: Any) -> None:
    """Refuse frames whose partitions are known to be of other rows."""
    is_frame = not isinstance(collection, da.Array)
    if is_frame and collection.known_divisions and X.known_divisions and collection.divisions != X.divisions:
        raise ValueError(
            f"X has the divisions {X.divisions}, but {name} has {collection.divisions}: give "
            f"{name}.repartition(divisions=X.divisions)."
        )


def _n_partitions(collection: Any) -> int:
    return int(collection.numblocks[0] if isinstance(collection, da.Array) else collection.npartitions)


def _as_array(collection: Any) -> Any:
    return collection if isinstance(collection, da.Array) else collection.to_dask_array()


def _as_frame(collection: Any) -> Any:
    if not isinstance(collection, da.Array):
        return collection
    return dd.from_dask_array(collection if collection.ndim == 1 else collection.rechunk({1: -1}))


def _beside(name: str, array: Any, X: Any) -> Any:
    """Return an array in the chunks of X, as far as their lengths are known."""
    lengths, wanted = array.chunks[0], X.chunks[0]
    array = array.rechunk({1: -1}) if array.ndim == 2 else array
    if lengths == wanted or np.isnan([*lengths, *wanted]).any():
        return array
    if sum(lengths) != sum(wanted):
        raise ValueError(
            f"X has {sum(wanted)} rows, but {name} has {sum(lengths)}: give as many, a target (and a weight) "
            "for every row."
        )
    return array.rechunk({0: wanted})


# -- the graph ------------------------------------------------------------------------------------


def _added_up(function: Callable[..., Any], model: Any, X: Any, others: list[Any]) -> Any:
    """Compute ``function`` of every partition, and the sum of what it returns."""
    if isinstance(X, da.Array):
        args: list[Any] = [X, "ij"]
        for each in others:
            args += [each, None if each is None else "ik"[: each.ndim]]
        parts = da.blockwise(
            function,
            "i",
            *args,
            model=model,
            concatenate=True,
            align_arrays=False,
            dtype=object,
            meta=np.empty(0, dtype=object),
        )
    else:
        meta = pd.Series(dtype=object)
        parts = X.map_partitions(function, *others, model=model, meta=meta, enforce_metadata=False)
    graph, keys = _in_place(parts)
    name, level = f"merged-{tokenize(keys)}", 0
    while len(keys) > 1:
        groups = [keys[i : i + SPLIT_EVERY] for i in range(0, len(keys), SPLIT_EVERY)]
        keys, level = [(name, level, i) for i in range(len(groups))], level + 1
        graph |= {key: (merged, group) for key, group in zip(keys, groups, strict=True)}
    return Delayed(keys[0], graph).compute()


def _in_place(parts: Any) -> tuple[dict[Any, Any], list[Any]]:
    """Return a graph and the keys of the parts in it.

    What makes a partition, if nothing else needs any of it, and what learns it become one task: between two
    tasks a cluster may move the rows to another worker. Rows that a cluster holds in memory are learnt by
    tasks that go to them.
    """
    (parts,) = dask.optimize(parts)
    graph, keys = dict(parts.__dask_graph__()), list(flatten(parts.__dask_keys__()))
    futures: Any = futures_of
    if futures(parts):
        return graph, keys
    needs = {key: _needed(graph, key) for key in keys}
    n_users = Counter(chain.from_iterable(needs.values()))
    for key, needed in needs.items():
        if all(n_users[each] == 1 and _is_whole(graph, each) for each in needed):
            graph |= {key: (_compute, InOneTask({each: graph.pop(each) for each in needed}, key))}
    return graph, keys


def _needed(graph: dict[Any, Any], key: Any) -> set[Any]:
    """Return the keys of all tasks that one needs, its own too."""
    found, left = {key}, [key]
    while left:
        new = get_dependencies(graph, left.pop()) - found
        found |= new
        left += new
    return found


def _is_whole(graph: dict[Any, Any], key: Any) -> bool:
    """Return whether the graph holds all that a task needs: results in a cluster's memory are not in it."""
    return all(each in graph for each in getattr(graph[key], "dependencies", ()))


@dataclass(frozen=True)
class InOneTask:
    """A part of a graph that is computed where it is asked for.

    Attributes
    ----------
    graph : dict
        Tasks that need no others.
    key : hashable
        The one whose result is wanted.
    """

    graph: dict[Any, Any]
    key: Any


def _compute(part: InOneTask) -> Any:
    return dask.get(part.graph, part.key)


def _moments_of_part(X: Any, y: Any, sample_weight: Any, model: Any) -> Any:
    return moments_of(model, [(X, y, sample_weight)])


def _learnt_of_part(X: Any, y: Any, sample_weight: Any, model: Any) -> Any:
    return learnt_of(model, [(X, y, sample_weight)])


def _predicted_array(X: Any, model: Any) -> Any:
    return predicted(model, X)


def _predicted_frame(X: Any, model: Any) -> Any:
    answers = predicted(model, X)
    return (pd.Series if answers.ndim == 1 else pd.DataFrame)(answers, index=X.index)
