"""A progress bar for what may take long; tqdm is optional."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

#: Seconds after which a bar appears, so that short calls stay silent.
DELAY = 0.5


def progress_bar(verbose: int, n_rows: int) -> AbstractContextManager[Callable[[int], object] | None]:
    """Show a bar while a with block runs, if ``verbose`` is not 0.

    Parameters
    ----------
    verbose : int
    n_rows : int
        Rows to be done in all.

    Returns
    -------
    context manager
        Of a callable, to be called with the number of rows done since the last call, or None.

    Raises
    ------
    ImportError
        If a bar is wanted and tqdm is not installed.
    """
    return _tqdm_bar(n_rows) if verbose else nullcontext()


@contextmanager
def _tqdm_bar(n_rows: int) -> Iterator[Callable[[int], object]]:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("verbose=1 needs tqdm: pip install 'nwsketch[progress]'") from error
    with tqdm(total=n_rows, unit=" rows", unit_scale=True, delay=DELAY) as bar:
        yield bar.update
