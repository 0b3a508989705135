"""Folders and files that only the user of this process may read, whatever its umask."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

FOLDER: Final = 0o700
FILE: Final = 0o600
OTHERS: Final = 0o077


def private_folder(folder: Path) -> None:
    """Create a missing folder. An existing one keeps its mode: it may belong to others, as ``AIRFLOW_HOME`` does."""
    if not folder.is_dir():
        folder.mkdir(mode=FOLDER, parents=True, exist_ok=True)


def private_file(path: Path) -> None:
    """Create a missing file, empty. Take an existing one away from others.

    :raises OSError: it can be neither created nor looked at.
    """
    if not path.exists():
        path.touch(mode=FILE)
    elif is_open_to_others(path):
        try:
            path.chmod(FILE)
        except OSError as error:
            log.warning("%s can be read by other users of this machine, and its mode stays: %s", path, error)


def is_open_to_others(path: Path) -> bool:
    """Whether other users of this machine may do anything with a file or folder."""
    return bool(path.stat().st_mode & OTHERS)
