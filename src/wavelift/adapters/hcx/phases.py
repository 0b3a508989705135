"""A row of the query → where the migration is (HCX-03). Pure.

No source lists the names of HCX's states, so nothing is decided by a name outside the small attested set: the flags
decide. Complete needs a positive sign; an unknown name runs on, until the caller's time-out; an unknown name that ends
in ``_FAILED`` stops. The order of the questions is that of the fact sheet (4.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.loose import flag, number, once, record, text, whole, word


class Phase(StrEnum):
    """Where a migration is."""

    RUNNING = "running"
    """It runs, and HCX did not say at what."""
    REPLICATING = "replicating"
    WAITING_FOR_WINDOW = "waiting for its window"
    SWITCHOVER = "switching over"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ENDED = "ended, outcome unknown"
    """HCX says that it is done, and neither that it succeeded nor that it failed. A person looks."""

    @property
    def over(self) -> bool:
        return self in OVER


OVER: Final = frozenset({Phase.COMPLETE, Phase.FAILED, Phase.CANCELLED, Phase.ENDED})
SWITCHING: Final = frozenset({Phase.SWITCHOVER, Phase.COMPLETE})
"""Phases in which the VM may be at the destination already."""
_KNOWN: Final = frozenset().union(
    guesses.COMPLETE_NAMES.value,
    guesses.FAILED_NAMES.value,
    guesses.CANCELLED_NAMES.value,
    guesses.RUNNING_NAMES.value,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One migration, as a query saw it. None: HCX did not say.

    :param percent: 0 to 100. :param state: HCX's own name, for people.
    :param known: whether ``state`` is one of the attested names. Log one that is not.
    :param reschedulable: whether HCX would take another window.
    """

    migration_id: str
    phase: Phase
    group_id: str = ""
    entity_id: str = ""
    entity_name: str = ""
    percent: int | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    state: str = ""
    known: bool = False
    message: str = ""
    errors: tuple[str, ...] = ()
    reschedulable: bool | None = None
    retry_of: str = ""
    started_ms: int | None = None
    """When it began, epoch milliseconds. 0 or None: HCX names no such time."""

    @property
    def begun(self) -> bool:
        """Whether HCX shows that it was started. A row without any sign may be a draft, or wait for its turn."""
        return self.phase is not Phase.RUNNING or bool(self.started_ms) or self.known

    @property
    def words(self) -> str:
        """``replicating, 40 %: Initial sync in progress``."""
        share = f", {self.percent} %" if self.percent is not None and not self.phase.over else ""
        name = f" ({self.state}, a name that wavelift does not know)" if self._strange else ""
        said = "; ".join(self.errors) if self.errors and self.phase is not Phase.COMPLETE else self.message
        return f"{self.phase}{share}{name}{f': {said}' if said else ''}"

    def told(self) -> dict[str, Any]:
        """As an event of a trigger carries it."""
        return {
            "phase": str(self.phase),
            "over": self.phase.over,
            "percent": self.percent,
            "words": self.words,
            "state": self.state,
            "known": self.known,
            "errors": list(self.errors),
            "entity_id": self.entity_id,
            "entity_name": self.entity_name,
            "reschedulable": self.reschedulable,
        }

    @property
    def _strange(self) -> bool:
        return bool(self.state) and not self.known and self.phase in {Phase.FAILED, Phase.ENDED}


def read_progress(item: Mapping[str, Any]) -> Progress:
    """One of ``data.items[]`` of the query. Every field may be absent."""
    progress = record(item.get("progress"))
    state = record(progress.get("state"))
    name = word(item.get("state"))
    entity = record(item.get("entity"))
    done, total = _amounts(progress)
    return Progress(
        migration_id=text(item.get("migrationId")) or text(item.get("id")),
        group_id=text(item.get("migrationGroupId")),
        entity_id=text(item.get("entityId")) or text(entity.get("entityId")),
        entity_name=text(entity.get("entityName")),
        phase=_phase(name, progress, state),
        percent=_percent(item, progress),
        bytes_done=None if done is None else int(done),
        bytes_total=None if total is None else int(total),
        state=name,
        known=name in _KNOWN,
        message=text(progress.get("message")) or text(state.get("message")),
        errors=once((text(record(progress.get("error")).get("message")), text(state.get("errorMessage")))),
        reschedulable=_first(progress, state, "isRescheduleAllowed"),
        retry_of=text(item.get("retryOfMigrationId")),
        started_ms=whole(progress.get("startTime")),
    )


def _phase(name: str, progress: Mapping[str, Any], state: Mapping[str, Any]) -> Phase:
    ended = _ended(name, progress, state)
    if ended is not None:
        return ended
    if flag(state.get("isSwitchoverStarted")) or flag(state.get("isSwitchoverProgress")):
        return Phase.SWITCHOVER
    if flag(state.get("isWaitingForMaintWindow")):
        return Phase.WAITING_FOR_WINDOW
    if flag(state.get("isVMotionBaseSyncInProgress")) or flag(state.get("isTransferProgress")):
        return Phase.REPLICATING
    return Phase.RUNNING


def _ended(name: str, progress: Mapping[str, Any], state: Mapping[str, Any]) -> Phase | None:
    failed = name in guesses.FAILED_NAMES.value or name.endswith(guesses.FAILED_ENDING.value)
    if failed or flag(progress.get("didFail")) or flag(state.get("isError")):
        return Phase.FAILED
    cancelled = flag(state.get("isCanceled")) or flag(progress.get("isCancelled"))
    if cancelled or name in guesses.CANCELLED_NAMES.value:
        return Phase.CANCELLED
    done = _first(progress, state, "isDone")
    if name in guesses.COMPLETE_NAMES.value or (done and flag(state.get("isSwitchoverCompleted"))):
        return Phase.COMPLETE
    return Phase.ENDED if done else None


def _first(progress: Mapping[str, Any], state: Mapping[str, Any], field: str) -> bool | None:
    """The flag of the whole migration; where HCX leaves it out, that of its present state."""
    found = flag(progress.get(field))
    return flag(state.get(field)) if found is None else found


def _amounts(progress: Mapping[str, Any]) -> tuple[float | None, float | None]:
    total = record(progress.get("total"))
    return number(total.get("bytesTransferred")), number(total.get("value"))


def _percent(item: Mapping[str, Any], progress: Mapping[str, Any]) -> int | None:
    """By bytes in version 2 (0 while there are none to copy), otherwise what HCX says (S7)."""
    done, total = _amounts(progress)
    if whole(item.get("version")) == 2 and total is not None:
        share = 100 * (done or 0) / total if total > 0 else 0.0
    else:
        told = number(progress.get("percentComplete"))
        if told is None:
            return None
        share = told
    return max(0, min(100, round(share)))
