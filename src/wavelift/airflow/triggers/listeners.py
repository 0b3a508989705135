"""Listeners that get the status of running remote tasks whenever this triggerer has queried them.

A remote task, such as an import, can take an hour while the Airflow task is deferred. The listener records the progress
in the meantime. A listener does not decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Listener = Callable[[Mapping[str, Any]], None]
"""A blocking function that gets the status of the remote tasks of one kind: id → status. It must not raise."""

_listeners: dict[str, set[Listener]] = {}


def listen(kind: str, listener: Listener) -> None:
    """Add a listener for the remote tasks of a kind. Adding it several times has no further effect."""
    _listeners.setdefault(kind, set()).add(listener)


def tell(kind: str, running: Mapping[str, Any]) -> None:
    """Call all listeners of a kind."""
    for listener in tuple(_listeners.get(kind, ())):
        listener(running)
