"""A progress bar for what may take long; tqdm is optional."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds after which a bar appears, so that short calls stay silent.
DELAY = 0.5


@contextmanager
def progress_bar(verbose: int, n_rows: int) -> Iterator[Callable[[int], object] | None]:
    """Show a bar while the block runs, if ``verbose`` is not 0.

    Parameters
    ----------
    verbose : int
    n_rows : int
        Rows to be done in all.

    Yields
    ------
    callable or None
        To be called with the number of rows done since the last call.

    Raises
    ------
    ImportError
        If a bar is wanted and tqdm is not installed.
    """
    if not verbose:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("verbose=1 needs tqdm: pip install 'nwsketch[progress]'") from error
    with tqdm(total=n_rows, unit=" rows", unit_scale=True, delay=DELAY) as bar:
        yield bar.update
