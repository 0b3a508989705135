"""Who is told how far a disk is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wavelift.base.run import Progress, ignore_progress


@dataclass(frozen=True, slots=True)
class Report:
    """The listener of one disk's progress, and what the disk is called there.

    :param phase: ``export``, ``replicate``, ``verify`` or ``compare``.
    :param to: called about every 0.5 s and at the end, from the caller's thread; what it raises (a fence) stops the
        work.
    """

    server: str = ""
    disk: str = ""
    phase: str = "export"
    to: Callable[[Progress], None] = ignore_progress

    def tell(self, done: int, total: int, *, data: int = 0, sent: int = 0) -> None:
        """Bytes, as in :class:`~wavelift.base.run.Progress`."""
        self.to(Progress(self.server, self.disk, self.phase, done, total, data, sent))
