"""Pre-flight of what the service account may do beyond its work (SMS-12): no access outside the source data centres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wavelift.base.domain import Finding
from wavelift.rules.findings import WHOLE_WAVE, Findings, listed


class SeenElsewhere(Protocol):
    """A data centre without a server of the wave, which the account sees all the same."""

    @property
    def path(self) -> str: ...
    @property
    def exports(self) -> bool:
        """Whether the account may export, and so read, its VMs."""
        ...


def check_elsewhere(account: str, connection: str, seen: Sequence[SeenElsewhere]) -> list[Finding]:
    """What the account reaches outside the data centres of the wave's servers. It stops nothing: one account may serve
    waves of several data centres.
    """
    found = Findings(WHOLE_WAVE)
    part = f"connection {connection}"
    do = "In vCenter, give the account the role 'No access' there (with propagation), unless other waves need it"
    if exported := [one.path for one in seen if one.exports]:
        found.warning(
            "privilege.elsewhere",
            f"{account} may also export VMs in {listed(exported)}, where no server of this wave is",
            why="whoever has this password, or may write waves, can read every disk there",
            do=do,
            row="SMS-12",
            part=part,
        )
    if seen_only := [one.path for one in seen if not one.exports]:
        found.info(
            "privilege.sees_elsewhere",
            f"{account} also sees {listed(seen_only)}, where no server of this wave is",
            why="it may not export VMs there, but it can read their names and settings",
            do=do,
            row="SMS-12",
            part=part,
        )
    return found.all
