"""What a call costs beyond its arithmetic: one row at a time, the first call, the import.

- one row, sketch: the whole of an update or a query, of a sketch so small (8 repetitions, 8 features)
  that all but 2 microseconds are overhead;
- one row, estimator: ``partial_fit`` and ``predict`` of the same size, beside scikit-learn's
  ``validate_data`` with the very arguments that they pass; once for arrays, which they need not have
  validated, and once for lists, which they do. Calls are made in turn, each right after an untimed one of
  its own; medians are quoted. The default size, whose arithmetic outweighs all of this, is printed without
  a bar;
- a fresh process: the import, beside that of scikit-learn and numba, and the first ``fit`` and ``predict``
  after it (100 rows, 5 features), with Python's bytecode and what numba compiled kept on disk. Medians over
  processes, in turn, after one of each that is not timed.

Run it with the threads that BLAS and numba are to use, one being the fairest: those of a fresh process
take time to start.

    python tests/benchmarks/overhead.py            # a minute
    python tests/benchmarks/overhead.py --smoke    # seconds: does it run?
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from sklearn.utils.validation import validate_data

from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.sketch import N_REPETITIONS, NadarayaWatsonSketch
from nwsketch.validation import X_OPTIONS, Y_OPTIONS

N_FEATURES = 8
SMALL = 8

#: What any regressor that uses numba imports.
REGRESSOR = "import numba, sklearn, sklearn.base, sklearn.utils.metaestimators, sklearn.utils.validation"
CLOCK = "import time\nstart = time.perf_counter()\n{}\nprint(time.perf_counter() - start)"
FIRST_CALL = """
import numpy as np
import nwsketch
X = np.random.default_rng(0).standard_normal((100, 5))
import time
start = time.perf_counter()
nwsketch.NadarayaWatsonSketchRegressor().fit(X, X[:, 0]).predict(X)
print(time.perf_counter() - start)
"""


def measure(*functions, n_runs):
    """Return the median microseconds of each function, called in turn after an untimed call of its own."""
    seconds = [[] for _ in functions]
    for _ in range(n_runs):
        for function, times in zip(functions, seconds, strict=True):
            function()
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [1e6 * statistics.median(times) for times in seconds]


def report(title, ours, baseline=None, bar=None, unit="us"):
    """Print one line of the table; ``bar`` is the largest ratio wanted, or time without a baseline."""
    judged = ours if baseline is None else ours / baseline
    cells = [f"{ours:9.4g} {unit:2s}"]
    cells.append("" if baseline is None else f"{baseline:9.4g} {unit:2s}")
    cells.append("" if baseline is None else f"{judged:.3g}")
    cells.append("" if bar is None else f"{bar:g}" + ("" if baseline else f" {unit}"))
    verdict = "" if bar is None else "met" if judged <= bar else "missed"
    print(f"{title:58s} {cells[0]:>12s} {cells[1]:>12s} {cells[2]:>7s} {cells[3]:>7s}  {verdict}", flush=True)


def make_model(n_repetitions, X, y):
    return NadarayaWatsonSketchRegressor(n_repetitions=n_repetitions, random_state=0).fit(X, y)


def beside_validation(name, model, row, target, n_runs, bar):
    """One row to the estimator, as an array or a list."""
    learn, validate_both, predict, validate = measure(
        lambda: model.partial_fit(row, target),
        lambda: validate_data(model, row, target, reset=False, **Y_OPTIONS, **X_OPTIONS),
        lambda: model.predict(row),
        lambda: validate_data(model, row, reset=False, **X_OPTIONS),
        n_runs=n_runs,
    )
    report(f"partial_fit / validate_data, {name}", learn, validate_both, bar)
    report(f"predict / validate_data, {name}", predict, validate, bar)


def one_row(n_repetitions, dtype, n_runs, *, has_bar):
    """One row at a time, checked as a user's."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((100, N_FEATURES), dtype=dtype), rng.standard_normal(100)
    row, target = X[:1].copy(), y[:1].copy()
    sketch = NadarayaWatsonSketch(N_FEATURES, n_repetitions=n_repetitions, random_state=0).update(X, y)
    update, query = measure(
        lambda: sketch.update(row, target),
        lambda: sketch.query(row),
        n_runs=n_runs,
    )
    name = f"{n_repetitions} repetitions, {np.dtype(dtype)}"
    report(f"sketch.update, {name}", update, bar=50 if has_bar else None)
    report(f"sketch.query, {name}", query, bar=50 if has_bar else None)
    bar = 1.3 if has_bar else None
    beside_validation(name, make_model(n_repetitions, X, y), row, target, n_runs, bar)
    if dtype == np.float64 and has_bar:
        model = make_model(n_repetitions, X, y)
        beside_validation(f"{n_repetitions} repetitions, lists", model, row.tolist(), [*target], n_runs, bar)


def fresh_process(n_runs):
    """Import and first call."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    codes = {
        "nwsketch": CLOCK.format("import nwsketch"),
        "regressor": CLOCK.format(REGRESSOR),
        "plain": CLOCK.format("import sklearn, numba"),
        "first": FIRST_CALL,
    }
    seconds = {name: [] for name in codes}
    for _ in range(n_runs + 1):
        for name, code in codes.items():
            command = [sys.executable, "-c", code]
            run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            seconds[name].append(float(run.stdout))
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    report("import nwsketch / what a regressor imports", medians["nwsketch"], medians["regressor"], 1.2, "s")
    report("import nwsketch / import sklearn, numba", medians["nwsketch"], medians["plain"], 1.2, "s")
    report("first fit and predict", medians["first"], bar=1, unit="s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few runs, to see that it works")
    smoke = parser.parse_args().smoke
    print(f"{'':58s} {'nwsketch':>12s} {'baseline':>12s} {'ratio':>7s} {'bar':>7s}")
    for n_repetitions in (SMALL, N_REPETITIONS):
        for dtype in (np.float64, np.float32):
            one_row(n_repetitions, dtype, 20 if smoke else 2000, has_bar=n_repetitions == SMALL)
    fresh_process(1 if smoke else 9)


if __name__ == "__main__":
    main()
