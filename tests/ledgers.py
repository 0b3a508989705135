"""Ledgers on SQLite for tests that are not about how one is made: the schema is built once per process, and copied."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from functools import cache
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from wavelift.ledger import Ledger, Tx

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        Ledger.open(f"sqlite:///{path}").close()
        return path.read_bytes()


def memory_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory, where the machine has one: for ledgers of stories with hundreds of commits, each of which
    waits for the disk."""
    shared = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shared if shared.is_dir() and os.access(shared, os.W_OK) else None)


def fresh_ledger(path: Path) -> Ledger:
    """An empty one at ``path``, open. Building the schema would cost 0.1 s of CPU each time."""
    path.write_bytes(_template())
    return Ledger.open(f"sqlite:///{path}")


def ledger_file(ledger: Ledger) -> Path:
    return Path(ledger.url.removeprefix("sqlite:///"))


def copy_content(source: Path, target: Path) -> None:
    """All that one ledger's file holds into another's, which may be open."""
    with closing(sqlite3.connect(source)) as rows, closing(sqlite3.connect(target)) as place:
        rows.backup(place)


def within(
    transaction: AbstractContextManager[Tx], call: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """One function of the ledger in a transaction of its own: ``within(ledger.read(), jobs.get, id)``."""
    with transaction as tx:
        return call(tx, *args, **kwargs)
