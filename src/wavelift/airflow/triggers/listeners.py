"""Who hears of remote jobs that still run, whenever this triggerer has asked about them.

A job takes an hour, and its task sleeps: without a listener nobody sees how far it is. A listener decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Listener = Callable[[Mapping[str, Any]], None]
"""Blocking; is told how the jobs of its kind stand: id → status. Must not raise."""

_listeners: dict[str, set[Listener]] = {}


def listen(kind: str, listener: Listener) -> None:
    """Tell ``listener`` of the jobs of a kind; once, however often it is added."""
    _listeners.setdefault(kind, set()).add(listener)


def tell(kind: str, running: Mapping[str, Any]) -> None:
    """Tell the listeners of a kind."""
    for listener in tuple(_listeners.get(kind, ())):
        listener(running)
