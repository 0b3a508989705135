"""NSX's own kind of fault rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from wavelift.simulators.kit import faults


@dataclass(slots=True)
class Rule(faults.Rule):
    """``key`` is a segment's path, such as ``/infra/segments/web``.

    A ``realise`` rule decides what becomes of a change of the segment's connectivity, when it is made.
    """

    kinds: ClassVar[tuple[str, ...]] = ("call", "realise")

    outcome: str = "failed"
    """``failed``: the state says so, and nothing else changes; ``stuck``: in progress while the rule is in force;
    ``ignored``: accepted with success, and nothing changes."""
