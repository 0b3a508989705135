"""The states of one server's live migration with HCX, and the transitions between them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from wavelift.base.errors import PermanentError


class LiveState(StrEnum):
    """The state of one server's live migration."""

    RESERVED = "reserved"
    """Granted to a caller that has not created the DAG run yet."""
    WAITING = "waiting"
    """Admitted: pre-flight, the plan, approval, window and slots come first. Nothing is touched."""
    STARTING = "starting"
    """The name of its mobility group is written down: HCX may have it, and may have started it."""
    MOVING = "moving"
    """HCX migrates it."""
    VERIFYING = "verifying"
    """HCX said that it is complete; both vCenters are asked."""
    MOVED = "moved"
    """Verified: it runs at the destination."""
    UNVERIFIED = "unverified"
    """HCX said that it is complete, and what was found in the vCenters is not as it should be."""
    FAILED = "failed"
    """HCX failed, or nobody knows how it ended. The source may run, or not: the error says what is known."""
    CANCELLED = "cancelled"
    """HCX ended it before its switchover, on somebody's wish."""
    ENDED = "ended"
    """It ended before anything was started: refused, rejected, too late, cancelled."""
    EXPIRED = "expired"
    """Reserved, but the DAG run did not start in time."""

    @property
    def terminal(self) -> bool:
        return self not in OPEN


OPEN: Final = frozenset(
    {LiveState.RESERVED, LiveState.WAITING, LiveState.STARTING, LiveState.MOVING, LiveState.VERIFYING}
)
"""At most one live migration of a VM is in one of these states."""
IN_HCX: Final = frozenset({LiveState.STARTING, LiveState.MOVING})
"""HCX may be moving it."""
_ENDS: Final = frozenset({LiveState.FAILED, LiveState.CANCELLED})
_WAYS: Final[Mapping[LiveState, frozenset[LiveState]]] = {
    LiveState.RESERVED: frozenset({LiveState.WAITING, LiveState.EXPIRED, LiveState.ENDED}),
    LiveState.EXPIRED: frozenset({LiveState.RESERVED, LiveState.WAITING, LiveState.ENDED}),
    LiveState.WAITING: frozenset({LiveState.STARTING, LiveState.ENDED}),
    # Its DAG run was cleared: everything that was found and approved is asked again.
    LiveState.ENDED: frozenset({LiveState.WAITING}),
    # Back to the wait: validation refused it, so that HCX has started nothing.
    LiveState.STARTING: frozenset({LiveState.MOVING, LiveState.ENDED, *_ENDS}),
    LiveState.MOVING: frozenset({LiveState.VERIFYING, *_ENDS}),
    # A task that follows it was cleared, and HCX knows the same migration.
    LiveState.FAILED: frozenset({LiveState.MOVING, LiveState.VERIFYING, LiveState.CANCELLED}),
    LiveState.CANCELLED: frozenset({LiveState.MOVING, LiveState.VERIFYING}),
    LiveState.VERIFYING: frozenset({LiveState.MOVED, LiveState.UNVERIFIED}),
    LiveState.MOVED: frozenset({LiveState.VERIFYING}),
    LiveState.UNVERIFIED: frozenset({LiveState.VERIFYING}),
}


def require_live_way(current: LiveState, target: LiveState, *, migration: str) -> None:
    """:raises PermanentError: it cannot go from ``current`` to ``target``. Staying in a state is allowed."""
    if current is not target and target not in _WAYS.get(current, frozenset()):
        raise PermanentError(
            f"A live migration cannot go from {current} to {target}",
            next_step="Run `wavelift live list` to see its current state.",
            migration=migration,
        )
