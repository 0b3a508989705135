"""What other packages add: checks of instances, under the entry point ``wavelift.checks``."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

ENTRY_POINT: Final = "wavelift.checks"


def installed_checks() -> dict[str, EntryPoint]:
    """Kind → its entry point. Nothing is imported."""
    return {each.name: each for each in entry_points(group=ENTRY_POINT)}
