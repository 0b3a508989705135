"""Items of the query of migrations, in all the looseness that the published schema allows."""

from __future__ import annotations

import json
from typing import Any, Final

from wavelift.simulators.hcx.intents import VMOTION
from wavelift.simulators.hcx.invented import (
    MESSAGES,
    STATUS_TYPE,
    TRANSFER_FAILED,
    UNKNOWN_FAILED,
    WINDOW_PASSED,
    Phase,
)
from wavelift.simulators.hcx.migrations import Migration, Migrations
from wavelift.simulators.hcx.settings import Settings

BOOLEANS: Final = frozenset(
    {"isDone", "isRescheduleAllowed", "errorsOccurred", "isVMotionBaseSyncInProgress", "didFail"}
)
"""Of the flags, those that the schema has as booleans; the others are integers."""
AFTER_TRANSFER: Final = frozenset({Phase.WAITING, Phase.SWITCHOVER, Phase.COMPLETE})


class Answers:
    def __init__(self, migrations: Migrations, settings: Settings) -> None:
        self._migrations, self._settings = migrations, settings
        self._asked = 0

    def query(self, found: list[Migration], now: float) -> list[dict[str, Any]]:
        self._asked += 1
        every = self._settings.absent_every
        thin = bool(every) and self._asked % every == 0
        return [self._item(each, now, thin) for each in found]

    def state(self, migration: Migration) -> str:
        other = self._settings.other_words
        if migration.unnamed:
            return UNKNOWN_FAILED.said(other_words=other)
        if migration.phase is Phase.FAILED and migration.before_switchover:
            return TRANSFER_FAILED
        return migration.phase.value.said(other_words=other)

    def _item(self, migration: Migration, now: float, thin: bool) -> dict[str, Any]:
        plan = migration.plan
        changed = int(1000 * max(at for at, _ in migration.history))
        return {
            "id": migration.id,
            "version": 2,
            "initiator": "hcx",
            "username": "hcx",
            "creationDate": self._time(migration.created),
            "lastUpdated": changed,
            "migrationId": migration.id,
            "migrationGroupId": migration.group,
            "migrationType": plan.kind,
            "entityId": plan.vm.id,
            "entityType": "VirtualMachine",
            "state": self.state(migration),
            "source": plan.intent["source"],
            "destination": plan.intent["destination"],
            "entity": plan.intent["entity"],
            "transferParams": plan.intent["transferParams"],
            "switchoverParams": plan.intent["switchoverParams"],
            "progress": self._progress(migration, now, thin),
        }

    def _progress(self, migration: Migration, now: float, thin: bool) -> dict[str, Any]:
        done, size = self._migrations.transferred(migration), migration.plan.size
        total = {"bytesTransferred": done, "value": size}
        found = {
            "startTime": self._time(migration.created),
            "endTime": self._time(migration.ended),
            "message": self._message(migration, now),
            "percentComplete": round(100 * done / size) if size else 0,
            "total": json.dumps(total) if self._settings.total_as_text else total,
            "error": {"count": int(bool(migration.message)), "value": 0, "message": migration.message},
            **self._flags(_outer(migration)),
            "state": {
                "statusType": STATUS_TYPE.said(other_words=self._settings.other_words),
                "message": self._message(migration, now),
                "errorMessage": migration.message,
                **self._flags(_inner(migration)),
            },
        }
        if thin:
            del found["state"], found["total"]
        return found

    def _message(self, migration: Migration, now: float) -> str:
        window, other = migration.plan.window, self._settings.other_words
        if migration.phase is Phase.WAITING and window is not None and now > window.end:
            return WINDOW_PASSED.said(other_words=other)
        return migration.message or MESSAGES[migration.phase].said(other_words=other)

    def _time(self, seconds: float) -> int | str:
        value = int(1000 * seconds)
        return str(value) if self._settings.times_as_text else value

    def _flags(self, flags: dict[str, bool]) -> dict[str, bool | int]:
        if self._settings.absent_when_false:
            flags = {name: value for name, value in flags.items() if value}
        kind = self._settings.flags
        return {
            name: value if kind == "booleans" or (kind == "documented" and name in BOOLEANS) else int(value)
            for name, value in flags.items()
        }


def _outer(migration: Migration) -> dict[str, bool]:
    phase = migration.phase
    return {
        "isRescheduleAllowed": phase in (Phase.BASE_SYNC, Phase.WAITING) and migration.plan.window is not None,
        "isCancelled": phase is Phase.CANCELLED,
        "isDone": not migration.active and not migration.unnamed,
        "didFail": phase is Phase.FAILED and not migration.unnamed,
    }


def _inner(migration: Migration) -> dict[str, bool]:
    phase, failed = migration.phase, migration.phase is Phase.FAILED and not migration.unnamed
    cancelled, crossed = phase is Phase.CANCELLED, bool(migration.switching)
    early = not crossed
    return {
        "errorsOccurred": failed,
        "isRescheduleAllowed": False,
        "isDone": not migration.active and not migration.unnamed,
        "isVMotionBaseSyncInProgress": phase is Phase.BASE_SYNC and migration.kind == VMOTION,
        "isTransfer": phase in (Phase.PREPARING, Phase.BASE_SYNC),
        "isTransferProgress": phase is Phase.BASE_SYNC,
        "isTransferCompleted": phase in AFTER_TRANSFER,
        "isTransferError": failed and early,
        "isTransferParked": False,
        "isTransferAborted": False,
        "isTransferCanceled": cancelled and early,
        "isWaitingForMaintWindow": phase is Phase.WAITING,
        "isSwitchover": phase is Phase.SWITCHOVER,
        "isSwitchoverStarted": phase is Phase.SWITCHOVER,
        "isSwitchoverProgress": phase is Phase.SWITCHOVER,
        "isSwitchoverCompleted": phase is Phase.COMPLETE,
        "isSwitchoverError": failed and crossed,
        "isSwitchoverParked": False,
        "isSwitchoverAborted": False,
        "isSwitchoverCanceled": False,
        "isParked": False,
        "isAborted": False,
        "isCanceled": cancelled,
        "isError": failed,
    }
