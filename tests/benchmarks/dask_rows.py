"""A hundred million rows through Dask: rows per second, memory, and the error that is left.

The workers make the rows, of 3 features and a known function with noise, partition by partition, learn them
and add up the sketches; the rows are made twice, as the bandwidths of ``"scale"`` need their moments first.
Workers are processes of one thread. "peak MB" is the largest resident size of a process since its start, of
which libraries take some 300 MB; "all rows" and "all sketches" are never in memory at once. R2 is that
of 20,000 new queries against the function without noise, beside that of a fit of the first partition alone.

    python tests/benchmarks/dask_rows.py            # 10^8 rows, some minutes
    python tests/benchmarks/dask_rows.py --smoke    # 10^5 rows, seconds
"""

import argparse
import resource
import sys
import time

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from sklearn.base import clone
from sklearn.metrics import r2_score

import nwsketch.dask
from nwsketch import NadarayaWatsonSketchRegressor

N_WORKERS = 2
MEMORY_LIMIT = "1GiB"
NAMES = ["a", "b", "c"]
NOISE = 0.5


def function(X):
    return np.sin(2 * np.pi * X[:, 0]) + X[:, 1] ** 2 - X[:, 1] * X[:, 2]


def make_partition(number, n_rows):
    """Return rows of a partition, always the same ones."""
    rng = np.random.default_rng([0, number])
    X = rng.random((n_rows, len(NAMES)))
    return pd.DataFrame(X, columns=NAMES).assign(y=function(X) + NOISE * rng.standard_normal(n_rows))


def peak_megabytes():
    """Return the largest resident size of this process so far (kilobytes on Linux, bytes on macOS)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="10^5 rows, to see that it runs")
    n_rows, n_partitions = (10**5, 10) if parser.parse_args().smoke else (10**8, 400)
    part_rows = n_rows // n_partitions
    df = dd.from_map(
        make_partition, range(n_partitions), n_rows=part_rows, meta=make_partition(0, part_rows)[:0]
    )
    model = NadarayaWatsonSketchRegressor(
        hashes_per_repetition=4, n_repetitions=128, n_buckets=2**13, random_state=0
    )
    queries = pd.DataFrame(np.random.default_rng(1).random((20_000, len(NAMES))), columns=NAMES)
    truth = function(queries.to_numpy())
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ.NUMBA_NUM_THREADS": 1}),
        LocalCluster(
            n_workers=N_WORKERS, threads_per_worker=1, memory_limit=MEMORY_LIMIT, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(clone(model).fit, np.zeros((2, 1)), np.zeros(2))  # load the kernels
        start = time.perf_counter()
        nwsketch.dask.fit(model, df[NAMES], df["y"])
        seconds = time.perf_counter() - start
        workers = client.run(peak_megabytes)
    first = make_partition(0, part_rows)
    alone = clone(model).set_params(bandwidth=model.bandwidth_).fit(first[NAMES], first["y"])
    sketch = model.sketch_.nbytes
    print(f"{N_WORKERS} workers of 1 thread and at most {MEMORY_LIMIT}")
    print(f"rows                {model.n_samples_seen_:>15,} in {n_partitions} partitions")
    print(f"fit                 {seconds:>15.1f} s, {n_rows / seconds:,.0f} rows/s")
    print(f"peak MB of workers  {max(workers.values()):>15.0f} (the larger one)")
    print(f"peak MB of client   {peak_megabytes():>15.0f}")
    print(f"all rows            {n_rows * 8 * (len(NAMES) + 1) / 1e6:>15,.0f} MB")
    print(f"all sketches        {n_partitions * sketch / 1e6:>15,.0f} MB, of {sketch / 1e6:.1f} MB each")
    print(f"R2                  {r2_score(truth, model.predict(queries)):>15.5f}")
    print(f"R2, one partition   {r2_score(truth, alone.predict(queries)):>15.5f}")


if __name__ == "__main__":
    main()
