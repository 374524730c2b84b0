"""
======================================
Learn from a file larger than memory
======================================

Streams the row groups of a Parquet file through ``partial_fit``, one in memory at a time, and saves the model
every few groups, together with the number of the next group: in one file, which replaces the old one as a
whole. So a process that is killed, at whatever moment, goes on from the last save when it is started again:
no row is lost and none is learnt twice. Try it:

    python examples/stream_parquet.py --groups 400    # and Ctrl-C, or kill -9, somewhere on the way
    python examples/stream_parquet.py --groups 400    # goes on, and ends with the same model

It needs the extra ``parquet``. By default it writes rows of its own to the folder of ``--folder`` first. Any
other file is read by ``--parquet FILE --target COLUMN``: the other columns are the features and must be
numbers. The last row group is not learnt: it tells the R2 of the model.
"""

import argparse
import time
from pathlib import Path

import numpy as np

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise SystemExit("this example reads Parquet: pip install 'nwsketch[parquet]'") from error

from nwsketch import NadarayaWatsonSketchRegressor

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None


def write_rows(path, n_groups, rows_per_group, seed=0):
    """Write a file of random rows, group by group, and put it in place when it is whole."""
    names = [f"x{i}" for i in range(8)]
    schema = pa.schema([(name, pa.float32()) for name in [*names, "y"]])
    draft = path.with_suffix(".draft")
    with parquet.ParquetWriter(draft, schema) as writer:
        for group in range(n_groups):
            rng = np.random.default_rng([seed, group])
            X = rng.uniform(-2, 2, (len(names), rows_per_group)).astype(np.float32)
            y = np.sin(2 * X[0]) + X[1] * X[2] + 0.1 * rng.standard_normal(rows_per_group, dtype=np.float32)
            writer.write_table(pa.table([*X, y], schema=schema), row_group_size=rows_per_group)
    draft.replace(path)


def read_group(source, group, target):
    """Return the features and targets of one row group."""
    table = source.read_row_group(group, use_threads=False)
    features = [name for name in table.column_names if name != target]
    X = np.column_stack([table.column(name).to_numpy() for name in features])
    return X, table.column(target).to_numpy()


def describe(source, target):
    """Return what tells one source from another: a model goes on only with the one that it began with."""
    columns = [str(column) for column in source.schema_arrow]
    rows = [source.metadata.row_group(group).num_rows for group in range(source.num_row_groups)]
    return {"columns": columns, "rows": rows, "target": target}


def stream(path, target, model_path, save_every, **parameters):
    """Learn all row groups but the last, from where the saved model stands, and return the model."""
    source = parquet.ParquetFile(path)
    told, n_groups = describe(source, target), source.num_row_groups - 1
    if n_groups < 1:
        raise SystemExit(f"{path} has one row group, and the last is kept to score by: write it in several.")
    model, first = NadarayaWatsonSketchRegressor(random_state=0, **parameters), 0
    if model_path.exists():
        model, extra = NadarayaWatsonSketchRegressor.load_with_extra(model_path)
        if extra["source"] != told:
            raise SystemExit(f"{model_path} has learnt from another file than {path}: give another --folder.")
        first = extra["next_group"]
    what = f"row groups {first} to {n_groups - 1}" if first < n_groups else "nothing left to learn"
    print(f"{what} of {path.name}, {model_path.name} at {first}", flush=True)
    groups = range(first, n_groups)
    if tqdm is not None:  # on a terminal alone
        groups = tqdm(groups, initial=first, total=n_groups, unit="group", disable=None)
    for group in groups:
        model.partial_fit(*read_group(source, group, target))
        if (group + 1) % save_every == 0 or group + 1 == n_groups:
            model.save(model_path, extra={"next_group": group + 1, "source": told})
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[1])
    parser.add_argument("--folder", type=Path, default=Path("stream"), help="of the model, and the rows")
    parser.add_argument("--parquet", type=Path, help="the file to read, instead of generated rows")
    parser.add_argument("--target", default="y", help="the column to predict")
    parser.add_argument("--groups", type=int, default=60, help="row groups to generate")
    parser.add_argument("--rows", type=int, default=10_000, help="rows in a generated group")
    parser.add_argument("--save-every", type=int, default=10, help="row groups from one save to the next")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.parquet or options.folder / f"rows_{options.groups}x{options.rows}.parquet"
    if options.parquet is None and not path.exists():
        write_rows(path, options.groups, options.rows)
    start = time.perf_counter()
    model = stream(path, options.target, options.folder / f"{path.stem}.nwsketch", options.save_every)
    seconds = time.perf_counter() - start
    source = parquet.ParquetFile(path)
    X, y = read_group(source, source.num_row_groups - 1, options.target)
    print(f"{model.n_samples_seen_} rows learnt; {seconds:.1f} s in this run")
    print(f"R2 on the {len(y)} rows of the last group: {model.score(X, y):.3f}")


if __name__ == "__main__":
    main()
