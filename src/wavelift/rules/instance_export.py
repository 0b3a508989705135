"""The states of an instance export, and the transitions between them. Pure (AMP-10, VIE-05, VIE-06)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from wavelift.base.errors import PermanentError


class ExportState(StrEnum):
    """The state of one export of one instance."""

    QUEUED = "queued"
    """Asked for. It is checked next, or waits for a slot."""
    CHECKING = "checking"
    """Bucket and instance are looked at."""
    ACTIVE = "active"
    """Something may be there: snapshots, an image, a task of AWS, an upload. It is written down before it is made."""
    VERIFYING = "verifying"
    """The object stands in S3: it can't be cancelled any more."""
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    """A person asked for its end; what it made is removed."""
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        return self not in OPEN


OPEN: Final = frozenset(
    {
        ExportState.QUEUED,
        ExportState.CHECKING,
        ExportState.ACTIVE,
        ExportState.VERIFYING,
        ExportState.CANCELLING,
    }
)
"""At most one export of an instance is in one of these states."""
CANCELLABLE: Final = frozenset({ExportState.QUEUED, ExportState.CHECKING, ExportState.ACTIVE, ExportState.CANCELLING})
_BEGINS: Final = frozenset({ExportState.QUEUED, ExportState.CHECKING, ExportState.ACTIVE})
_STOPS: Final = frozenset({ExportState.FAILED, ExportState.CANCELLING, ExportState.CANCELLED})
_WAYS: Final[Mapping[ExportState, frozenset[ExportState]]] = {
    ExportState.QUEUED: _BEGINS | _STOPS,
    ExportState.CHECKING: _BEGINS | _STOPS,
    # A retry of its DAG run after a clear begins with the check again.
    ExportState.ACTIVE: frozenset({ExportState.VERIFYING, ExportState.CHECKING, ExportState.QUEUED}) | _STOPS,
    # The object may be found wrong; or a task before was cleared.
    ExportState.VERIFYING: frozenset(
        {ExportState.COMPLETED, ExportState.FAILED, ExportState.ACTIVE, ExportState.CHECKING, ExportState.QUEUED}
    ),
    # Also of one that AWS completes before the cancellation arrives: its object is removed.
    ExportState.CANCELLING: frozenset({ExportState.CANCELLED, ExportState.FAILED}),
    # Its DAG run was cleared: it begins anew.
    ExportState.FAILED: frozenset({ExportState.QUEUED, ExportState.CHECKING}),
    ExportState.CANCELLED: frozenset({ExportState.QUEUED, ExportState.CHECKING}),
}


def require_export_way(current: ExportState, target: ExportState, *, export: str) -> None:
    """:raises PermanentError: it cannot go from ``current`` to ``target``. Staying in a state is allowed."""
    if current is not target and target not in _WAYS.get(current, frozenset()):
        raise PermanentError(
            f"An instance export cannot go from {current} to {target}",
            next_step="Run `wavelift export list` to see its current state.",
            export=export,
        )
