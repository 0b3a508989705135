"""What the reports of all flows share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How one server's tasks ended."""

    server: str
    failed_tasks: tuple[str, ...]
    words: str
    """What the failing task said."""
