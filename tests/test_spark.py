"""Spark: record batches without a session, and DataFrames in local mode where there is Java."""

import os
import shutil
import signal
import sys
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, learnt, make_rows
from numpy.testing import assert_array_equal

from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.distribution import learnt_of, merged, prepared, unpacked

pyspark = pytest.importorskip("pyspark", reason="PySpark is not installed (the extra nwsketch[spark])")
pa = pytest.importorskip("pyarrow", reason="PyArrow is not installed (the extra nwsketch[spark])")

from nwsketch import spark  # noqa: E402

NAMES = list("abcd")
#: PySpark warns of every release of pandas that it was not tested with.
UNTESTED_PANDAS = "ignore:PySpark does not yet fully support pandas:FutureWarning"
pytestmark = pytest.mark.filterwarnings(UNTESTED_PANDAS)


def make(**parameters):
    return NadarayaWatsonSketchRegressor(**(SMALL | parameters))


def make_frame(n_rows=300):
    """Return rows, and integers as targets and weights: their sums are exact in any order."""
    X, _ = make_rows(n_rows)
    rng = np.random.default_rng(1)
    y, weights = rng.integers(-5, 6, n_rows), rng.integers(0, 4, n_rows)
    return pd.DataFrame(X, columns=NAMES).assign(y=y, z=-2 * y, weight=weights)


# -- record batches -------------------------------------------------------------------------------


class Broadcast:
    def __init__(self, value):
        self.value = value


def batches_of(frame, n_rows):
    return pa.Table.from_pandas(frame).to_batches(max_chunksize=n_rows)


@pytest.mark.parametrize("target", ["y", ["y", "z"]])
@pytest.mark.parametrize("weight", [None, "weight"])
def test_batches_of_a_partition_become_one_sketch(target, weight):
    frame = make_frame()
    columns = spark.Columns(NAMES, target, weight)
    model = prepared(make(bandwidth=1.0), 4, np.ndim(target) + 1)
    (batch,) = spark._contribute(partial(learnt_of, model), columns, iter(batches_of(frame, 40)))
    expected = make(bandwidth=1.0).fit(frame[NAMES], frame[target], None if weight is None else frame[weight])
    found = unpacked(batch.column("part")[0].as_py())
    assert learnt(found) == learnt(expected)


def test_an_empty_partition_contributes_nothing():
    columns = spark.Columns(NAMES, "y", None)
    (batch,) = spark._contribute(partial(learnt_of, make()), columns, iter([]))
    assert merged([unpacked(batch.column("part")[0].as_py())]) is None


def test_small_batches_are_gathered(monkeypatch):
    monkeypatch.setattr(spark, "BATCH_ROWS", 100)
    frame = make_frame()
    tables = list(spark._gathered(iter(batches_of(frame, 40))))
    assert [table.num_rows for table in tables] == [120, 120, 60]
    assert pa.concat_tables(tables).to_pandas().equals(frame)


@pytest.mark.parametrize("target", ["y", ["y"], ["y", "z"]])
@pytest.mark.parametrize("named", [True, False])
def test_batches_are_answered_with_a_column_more(target, named):
    frame = make_frame()
    X = frame[NAMES] if named else frame[NAMES].to_numpy()
    model = make().fit(X, frame[target])
    batches = [*batches_of(frame, 70), *batches_of(frame, 70)[0:0], pa.RecordBatch.from_pandas(frame[:0])]
    answers = list(spark._answer(Broadcast(model), NAMES, named, "guess", iter(batches)))
    table = pa.Table.from_batches(answers)
    assert table.column_names == [*frame.columns, "guess"]
    assert_array_equal(np.array(table["guess"].to_pylist()), model.predict(X))


# -- sessions -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session():
    """Two workers on this machine, which try a task up to three times."""
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        pytest.skip("Spark needs Java: neither JAVA_HOME nor java on PATH")
    from pyspark.sql import SparkSession

    options = {
        "spark.driver.memory": "1g",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        # Workers are processes of their own, which find the tests' modules here.
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        builder = SparkSession.builder.master("local[2,3]").appName("nwsketch")
        for name, value in options.items():
            builder = builder.config(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the versions beside it; they are tested here
            session = builder.getOrCreate()
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


def make_partition(batches, stumble=None):
    """Yield the rows of the partitions' numbers; the first to be here kills its worker, if asked to."""
    for batch in batches:
        for number in batch.column("id").to_pylist():
            if stumble is not None and not os.path.exists(stumble):
                open(stumble, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            yield pa.RecordBatch.from_pandas(make_frame()[number * 60 : (number + 1) * 60])


SCHEMA = ", ".join([*(f"{name} double" for name in NAMES), "y long", "z long", "weight long"])


def make_df(session, stumble=None):
    """Return the rows of make_frame, in five partitions and one without rows."""
    numbers = session.range(6, numPartitions=6).where("id < 5")
    return numbers.mapInArrow(partial(make_partition, stumble=stumble), SCHEMA)


@pytest.mark.slow
def test_rows_are_learnt_and_predicted_as_by_one_process(session, tmp_path):
    frame = make_frame()
    df = make_df(session, stumble=str(tmp_path / "killed"))  # a worker, once
    model = spark.fit(make(), df, features=NAMES, target="y", weight="weight")
    assert os.path.exists(tmp_path / "killed")
    assert list(model.feature_names_in_) == NAMES
    assert learnt(model) == learnt(make().fit(frame[NAMES], frame["y"], frame["weight"]))
    lazy = spark.predict(model, df)
    assert dict(lazy.dtypes) == dict(df.dtypes) | {"prediction": "double"}
    rows = lazy.collect()
    assert len(rows) == 300
    found = pd.DataFrame([row.asDict() for row in rows])
    assert_array_equal(found["prediction"], model.predict(found[NAMES]))


@pytest.mark.slow
def test_several_targets_make_a_column_of_arrays(session):
    frame, df = make_frame(), make_df(session)
    model = spark.fit(make(bandwidth=1.0), df, features=NAMES, target=["y", "z"])
    assert learnt(model) == learnt(make(bandwidth=1.0).fit(frame[NAMES], frame[["y", "z"]]))
    lazy = spark.predict(model, df, prediction="guess")
    assert dict(lazy.dtypes)["guess"] == "array<double>"
    row = lazy.first()
    assert_array_equal(row["guess"], model.predict(pd.DataFrame([row.asDict()])[NAMES])[0])


@pytest.mark.slow
def test_what_a_worker_refuses_is_told(session):
    df = make_df(session).selectExpr("a", "if(b > 0, null, b) as b", "y")
    model = make(bandwidth=1.0).fit([[0.0]], [1.0])
    before = learnt(model)
    with pytest.raises(pyspark.errors.PythonException, match="ValueError: Input X contains NaN"):
        spark.fit(model, df, features=["a", "b"], target="y")
    assert learnt(model) == before
    with pytest.raises(ValueError, match="There are no rows"):
        spark.fit(model, session.range(0).selectExpr("id", "id as y"), features=["id"], target="y")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ["a", "e"]}, "There is no column 'e'"),
        ({"target": "text"}, "Column 'text' is of type string: give numbers"),
        ({"weight": "vector"}, r"Column 'vector' is of type array<double>.*vector_to_array"),
        ({"estimator": make(bandwidth="loo")}, "fit on a sample on one machine first"),
    ],
)
def test_what_does_not_fit_is_refused_before_rows_are_read(session, change, message):
    df = session.range(3).selectExpr("id as a", "id as y", "'x' as text", "array(1D) as vector")
    arguments = {"estimator": make(), "df": df, "features": ["a"], "target": "y"} | change
    with pytest.raises(ValueError, match=message):
        spark.fit(**arguments)


@pytest.mark.slow
def test_predictions_need_columns(session):
    df = session.range(3).selectExpr("id as a", "id as prediction")
    model = make().fit([[0.0]], [1.0])
    with pytest.raises(ValueError, match="name the columns, features="):
        spark.predict(model, df)
    with pytest.raises(ValueError, match="There is a column 'prediction' already"):
        spark.predict(model, df, ["a"])
    with pytest.raises(ValueError, match="There is no column 'b'"):
        spark.predict(model, df, ["b"])
