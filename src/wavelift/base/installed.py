"""What other packages add: checks under the entry point ``wavelift.checks``, ways to disconnect a network at the source
under ``wavelift.network_steps``."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

ENTRY_POINT: Final = "wavelift.checks"
NETWORK_STEPS: Final = "wavelift.network_steps"


def installed_checks() -> dict[str, EntryPoint]:
    """Kind → its entry point. Nothing is imported."""
    return {each.name: each for each in entry_points(group=ENTRY_POINT)}


def installed_network_steps() -> dict[str, EntryPoint]:
    """The ``by`` of a network's file → its entry point. Nothing is imported."""
    return {each.name: each for each in entry_points(group=NETWORK_STEPS)}
