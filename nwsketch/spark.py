"""Fit and predict on Spark DataFrames: a sketch of every partition, added up by a tree (the extra ``spark``).

Rows are read where they are, batch by batch; sketches and moments travel. What is computed stands in
``nwsketch.distribution``; this module turns record batches into rows and contributions into bytes.
docs/clusters.md tells what is exact, and the limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sklearn.utils.validation import check_is_fitted

from nwsketch.distribution import (
    SPLIT_EVERY,
    Rows,
    finished,
    for_workers,
    learnt_of,
    merged,
    moments_of,
    needs_moments,
    packed,
    predicted,
    prepared,
    shape_of_prediction,
    unpacked,
    with_scale,
)
from nwsketch.regressor import NadarayaWatsonSketchRegressor

try:
    import pyarrow as pa
    from pyspark.sql.types import (
        ArrayType,
        BooleanType,
        DoubleType,
        NumericType,
        StructField,
        StructType,
    )
except ImportError as error:
    raise ImportError('nwsketch.spark needs PySpark and PyArrow: pip install "nwsketch[spark]"') from error

#: Rows learnt at a time, at least: record batches are small, and an update of many rows copies the tables.
BATCH_ROWS = 2**16


def fit(
    estimator: NadarayaWatsonSketchRegressor,
    df: Any,
    *,
    features: Sequence[str],
    target: str | Sequence[str],
    weight: str | None = None,
) -> NadarayaWatsonSketchRegressor:
    """Learn the rows of a Spark DataFrame, starting anew.

    The estimator ends up as after its own ``fit`` of the same columns as a pandas DataFrame. With
    ``bandwidth="scale"`` the rows are read twice, first for the moments of the features: cache them if they
    are costly to make.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        Without what needs all rows at one place: a bandwidth by rows left out, a trend, bias correction.
        With ``n_jobs=None`` a partition is learnt by one thread.
    df : pyspark.sql.DataFrame
        Of a session that is not Spark Connect's: sketches are added up as an RDD.
    features : sequence of str
        Columns of numbers, without nulls.
    target : str or sequence of str
        The column of the targets; a sequence gives targets of two dimensions.
    weight : str or None, default=None
        The column of the weights.

    Returns
    -------
    estimator : NadarayaWatsonSketchRegressor

    Raises
    ------
    TypeError, ValueError
        If parameters or columns are not as described; what was learnt before is kept then.
    pyspark.errors.PythonException
        If a worker finds a null, an infinity or a negative weight; the ``ValueError`` is told in its message.
    """
    features = list(features)
    columns = Columns(features, target if isinstance(target, str) else list(target), weight)
    _require_numbers(df, columns.names())
    model = prepared(estimator, len(features), 1 if isinstance(target, str) else len(target))
    if needs_moments(model):
        model = with_scale(model, _added_up(partial(moments_of, model), columns, df))
    return finished(estimator, _added_up(partial(learnt_of, model), columns, df))


def predict(
    estimator: NadarayaWatsonSketchRegressor,
    df: Any,
    features: Sequence[str] | None = None,
    *,
    prediction: str = "prediction",
) -> Any:
    """Predict targets, lazily.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        Fitted; it is broadcast to the workers.
    df : pyspark.sql.DataFrame
    features : sequence of str or None, default=None
        Columns of numbers, without nulls; None takes the names that the estimator was fitted with.
    prediction : str, default="prediction"
        Name of the new column.

    Returns
    -------
    pyspark.sql.DataFrame
        ``df`` and a column of doubles, or of arrays of doubles if the targets had two dimensions.

    Raises
    ------
    ValueError
        If columns are missing or not numbers, or there is one named as the prediction.
    """
    check_is_fitted(estimator)
    names: Any = getattr(estimator, "feature_names_in_", None)
    if features is None and names is None:
        raise ValueError(
            "The estimator was fitted without names of features: name the columns, features=[...]."
        )
    features = list(names if features is None else features)
    _require_numbers(df, features)
    if prediction in df.columns:
        raise ValueError(f"There is a column {prediction!r} already: give another name, prediction='...'.")
    kind = ArrayType(DoubleType()) if shape_of_prediction(estimator) else DoubleType()
    model = df.sparkSession.sparkContext.broadcast(for_workers(estimator))
    schema = StructType([*df.schema.fields, StructField(prediction, kind)])
    return df.mapInArrow(partial(_answer, model, features, names is not None, prediction), schema)


# -- columns --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Where features, targets and weights stand in a table.

    Attributes
    ----------
    features : list of str
    target : str or list of str
    weight : str or None
    """

    features: list[str]
    target: str | list[str]
    weight: str | None

    def names(self) -> list[str]:
        """Return the names of all columns, each once."""
        targets = [self.target] if isinstance(self.target, str) else self.target
        return list(dict.fromkeys([*self.features, *targets, *([self.weight] if self.weight else [])]))

    def rows(self, table: pa.Table) -> Rows:
        """Return X, y and the weights (or None) of a table, as pandas."""
        frame = table.to_pandas()
        return frame[self.features], frame[self.target], None if self.weight is None else frame[self.weight]


def _require_numbers(df: Any, names: list[str]) -> None:
    missing = [name for name in names if name not in df.columns]
    if missing:
        raise ValueError(f"There is no column {missing[0]!r}: choose of {df.columns}.")
    for name in names:
        kind = df.schema[name].dataType
        if not isinstance(kind, NumericType | BooleanType):
            raise ValueError(
                f"Column {name!r} is of type {kind.simpleString()}: give numbers. (A vector can be split "
                "into columns by pyspark.ml.functions.vector_to_array.)"
            )


# -- the passes -----------------------------------------------------------------------------------


def _added_up(function: Callable[[Iterator[Rows]], Any], columns: Columns, df: Any) -> Any:
    """Compute ``function`` of every partition, and the sum of what it returns."""
    quoted = ["`" + name.replace("`", "``") + "`" for name in columns.names()]
    parts = df.select(*quoted).mapInArrow(partial(_contribute, function, columns), "part binary").rdd
    # Deep enough that no more than a few sketches reach the driver at once.
    depth = max(math.ceil(math.log(max(parts.getNumPartitions(), 1), SPLIT_EVERY)), 1)
    return parts.treeAggregate(None, _add, _sum, depth=depth)


def _add(total: Any, row: Any) -> Any:
    return merged([total, unpacked(row.part)])


def _sum(mine: Any, theirs: Any) -> Any:
    return merged([mine, theirs])


def _contribute(
    function: Callable[[Iterator[Rows]], Any], columns: Columns, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield what one partition contributes."""
    part = packed(function(columns.rows(table) for table in _gathered(batches)))
    yield pa.RecordBatch.from_pydict({"part": [part]})


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield all rows, many at a time."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(each.num_rows for each in held) >= BATCH_ROWS:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _answer(
    model: Any, features: list[str], named: bool, prediction: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield the batches with a column more; ``model`` is broadcast, and knows its features if ``named``."""
    for batch in batches:
        X = pa.Table.from_batches([batch]).select(features).to_pandas()
        answers = predicted(model.value, X if named else X.to_numpy())
        column = pa.array(answers if answers.ndim == 1 else list(answers), _arrow_type(answers.ndim))
        yield pa.RecordBatch.from_arrays([*batch.columns, column], [*batch.schema.names, prediction])


def _arrow_type(n_dimensions: int) -> pa.DataType:
    return pa.float64() if n_dimensions == 1 else pa.list_(pa.float64())
