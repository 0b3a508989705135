"""What other packages add, by entry points: checks of instances, steps and probes of network cutovers."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

CHECKS: Final = "wavelift.checks"
NETWORK_STEPS: Final = "wavelift.network_steps"
"""Classes that disconnect a source network from its router."""
NETWORK_PROBES: Final = "wavelift.network_probes"
"""Functions that ask whether a network can be reached."""


def installed(group: str) -> dict[str, EntryPoint]:
    """Kind → its entry point. Nothing is imported."""
    return {each.name: each for each in entry_points(group=group)}


def installed_checks() -> dict[str, EntryPoint]:
    """Checks of instances."""
    return installed(CHECKS)


def installed_network_steps() -> dict[str, EntryPoint]:
    """Ways to disconnect a network at the source, by the ``by`` of its file."""
    return installed(NETWORK_STEPS)
