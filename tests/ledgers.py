"""Ledgers on SQLite for tests that are not about how one is made: the schema is built once per process, and copied."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from wavelift.ledger import Ledger


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
