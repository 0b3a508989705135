"""The states of a migration and the transitions between them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from wavelift.base.errors import PermanentError


class MigrationState(StrEnum):
    """The state of one server's migration (one-shot import)."""

    QUEUED = "queued"
    TRANSFERRING = "transferring"
    VERIFYING = "verifying"
    IMPORTING = "importing"
    LAUNCHING = "launching"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    """Pre-flight refused it. It has no tasks: a new run is its way out, not a clear of ``server.reserve``."""

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL: Final = frozenset(
    {MigrationState.COMPLETED, MigrationState.FAILED, MigrationState.CANCELLED, MigrationState.REFUSED}
)
_ORDER: Final = (
    MigrationState.QUEUED,
    MigrationState.TRANSFERRING,
    MigrationState.VERIFYING,
    MigrationState.IMPORTING,
    MigrationState.LAUNCHING,
    MigrationState.COMPLETED,
)
_MAY_BE_LEFT_OUT: Final = frozenset({MigrationState.VERIFYING, MigrationState.LAUNCHING})
"""States that a migration may skip: ``verify: off`` skips VERIFYING, ``launch: none`` skips LAUNCHING."""


def allowed(current: MigrationState, target: MigrationState) -> bool:
    """Whether a migration may go from ``current`` to ``target``.

    A migration goes forward one step at a time. It may go back to any step at any time, because clearing tasks in
    Airflow repeats them. It may fail or be cancelled from any step, but not once it is finished: then a step must
    start again first.

    Only pre-flight refuses: what still waits for it, or what has ended and is looked at again in the same run. A
    completed migration stays completed. A refused one must be queued first, when pre-flight accepts it. If ``reserve``
    refuses it then, it has failed.
    """
    if current is target:
        return True
    if target is MigrationState.REFUSED:
        return current in (MigrationState.QUEUED, MigrationState.FAILED, MigrationState.CANCELLED)
    if current is MigrationState.REFUSED:
        return target in (MigrationState.QUEUED, MigrationState.FAILED)
    if target in (MigrationState.FAILED, MigrationState.CANCELLED):
        return not current.terminal
    if current in (MigrationState.FAILED, MigrationState.CANCELLED):
        return target is not MigrationState.COMPLETED
    before, after = _ORDER.index(current), _ORDER.index(target)
    return after < before or all(state in _MAY_BE_LEFT_OUT for state in _ORDER[before + 1 : after])


def require(current: MigrationState, target: MigrationState, *, migration: str) -> None:
    """:raises PermanentError: if the transition is not :func:`allowed`."""
    if not allowed(current, target):
        raise PermanentError(
            f"A migration cannot go from {current} to {target}",
            next_step="Clear the server's tasks from `reserve` on. The server then starts again from the first step.",
            migration=migration,
        )
