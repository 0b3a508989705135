"""Ledgers on SQLite for tests that are not about how one is made: the schema is built once per process, and copied."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
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


def fresh_ledger(path: Path) -> Ledger:
    """An empty one at ``path``, open. Building the schema would cost 0.1 s of CPU each time."""
    path.write_bytes(_template())
    return Ledger.open(f"sqlite:///{path}")


def within(
    transaction: AbstractContextManager[Tx], call: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """One function of the ledger in a transaction of its own: ``within(ledger.read(), jobs.get, id)``."""
    with transaction as tx:
        return call(tx, *args, **kwargs)
