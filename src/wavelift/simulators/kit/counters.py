"""How often each operation was called, and how many bytes it carried."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict


class Counters:
    """Keys are ``service.Operation``. A world may add counters of its own under further keys."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, Counter[str]] = defaultdict(Counter)

    def call(self, name: str, *, status: int, bytes_in: int) -> None:
        """Count a call. Status 0 means that the connection was cut before an answer."""
        with self._lock:
            row = self._calls[name]
            row["calls"] += 1
            row["bytes_in"] += bytes_in
            if status >= 400 or status == 0:
                row["errors"] += 1

    def add(self, name: str, what: str, amount: int = 1) -> None:
        with self._lock:
            self._calls[name][what] += amount

    def snapshot(self) -> dict[str, dict[str, int]]:
        with self._lock:
            return {name: dict(row) for name, row in sorted(self._calls.items())}

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()
