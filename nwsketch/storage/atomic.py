"""Replacing a file as a whole: whatever happens on the way, there is the old one or the new one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def replace_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], None]) -> None:
    """Write a file beside the one of this name, and put it into its place when it is on the disk.

    A process that is killed on the way leaves the old file, and maybe one called ``.<name>.<letters>.tmp``
    that nobody needs.

    Parameters
    ----------
    path : path-like
        A link is followed. An old file hands its permissions on.
    write : callable
        Called with a file open for writing.

    Raises
    ------
    OSError
        If the folder is not there, may not be written to, or is full; the old file is as it was.
    """
    target = Path(path).resolve()
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(draft, "xb") as file:
            if target.exists():
                shutil.copymode(target, draft)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        with suppress(FileNotFoundError):
            draft.unlink()
        raise
    with suppress(OSError):  # of a folder that may not be read: the new file is in its place
        _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, where a system has that (Windows has not)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
