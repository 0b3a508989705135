"""Wait for migrations that HCX carries out. Runs where HCX is reached: the triggerer, or a worker near its manager."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from wavelift.base.errors import PermanentError
from wavelift.operators._base import StateStore, clears_of
from wavelift.operators._inputs import Declared

if TYPE_CHECKING:
    from airflow.sdk import Context

MAX_HOURS: Final = 48.0
UNTIL_KEY: Final = "hcx_until_{}"
"""In the task's state store, by the number of clears of the run: one that was cleared gets its time anew."""
COMPLETE: Final = "complete"
UNLISTED: Final = "HCX does not list it"


class HcxMigrationSensor(Declared, BaseOperator):
    """Wait until HCX has ended with all migrations; return how far each is, or fail with HCX's words (HCX-03).

    One query per manager and interval, however many migrations and sensors. It watches only: killing it leaves the
    migrations alone. Complete needs a positive sign of HCX: a migration that ended without one fails, and a person
    looks in both vCenters. Complete is what HCX says; whether the VM is where it should be is not looked at.

    :param migrations: what :class:`~wavelift.operators.hcx.HcxMigrateOperator` returned; or name → migration id; or a
        list of ids.
    :param hcx_conn_id: connection of type ``hcx``.
    :param deferrable: True: deferred, the triggerer must reach HCX. False: it reschedules itself, and asks from a
        worker of its ``queue``, for a manager that only that worker reaches.
    :param max_hours: then it fails, and HCX goes on.
    :param poll_seconds: between two queries. Default: the setting ``[wavelift] poll_seconds``; at least 60 while it
        reschedules, because each look starts a process.
    """

    template_inputs = ("migrations", "hcx_conn_id")
    plain_inputs = ("deferrable", "max_hours", "poll_seconds")
    migrations: Any
    hcx_conn_id: str = "hcx_default"
    deferrable: bool = True
    max_hours: float = MAX_HOURS
    poll_seconds: float | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        ids, until = self._ids(), self._until(context)
        if self.deferrable and ids:
            self._watch(ids, until)
        return self._look(ids, until)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """:raises AirflowFailException: one did not end well, or the time is over."""
        if "error" in event:
            raise RuntimeError(f"HCX can't be followed: {event['error']}")
        ids, until = self._ids(), self._until(context)
        if set(ids.values()) <= set(event["over"]):
            return self._ended(ids, event["progress"])
        self._in_time(ids, event["progress"], until)
        self._watch(ids, until)

    def _watch(self, ids: Mapping[str, str], until: datetime) -> NoReturn:
        from wavelift.airflow.triggers.hcx import LOOK_AGAIN_SECONDS, HcxFollowTrigger

        poll = self._poll(least=0.0)
        left = max((until - datetime.now(UTC)).total_seconds(), 2 * poll)
        trigger = HcxFollowTrigger(
            hcx_conn_id=self.hcx_conn_id,
            migration_ids=sorted(ids.values()),
            poll_seconds=poll,
            within_seconds=min(LOOK_AGAIN_SECONDS, left),
        )
        self.defer(trigger=trigger, method_name="execute_complete")
        raise AssertionError("defer does not return")

    def _look(self, ids: Mapping[str, str], until: datetime) -> dict[str, Any]:
        """Once, from here."""
        from wavelift.adapters.hcx.mobility import query_many
        from wavelift.airflow.hooks.hcx import HcxHook
        from wavelift.operators.connector.live import FOLLOW_SECONDS

        try:
            with HcxHook(self.hcx_conn_id).get_conn() as client:
                found = query_many(client, ids.values())
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error
        progress = {id: each.told() for id, each in found.items()}
        for name, id in ids.items():
            self.log.info("%s: %s", name, progress.get(id, {}).get("words", UNLISTED))
        if all(id in found and found[id].phase.over for id in ids.values()):
            return self._ended(ids, progress)
        self._in_time(ids, progress, until)
        raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=self._poll(least=FOLLOW_SECONDS)))

    def _poll(self, *, least: float) -> float:
        from wavelift.airflow import config

        return self.poll_seconds if self.poll_seconds is not None else max(config.poll_seconds(), least)

    def _ids(self) -> dict[str, str]:
        """Name → id. :raises AirflowFailException: there is none, or HCX did not take one."""
        from wavelift.services.dataplane.live_messages import Started

        given = self.migrations
        if isinstance(given, Mapping) and "servers" in given:
            started = Started.load(given)
            refused = [f"{one.server}: {'; '.join(one.errors)}" for one in started.servers if not one.migration_id]
            if refused:
                self.log.error("HCX did not take: %s", " | ".join(refused))
            found = {one.server: one.migration_id for one in started.servers if one.migration_id}
        elif isinstance(given, Mapping):
            found = {str(name): str(id) for name, id in given.items()}
        else:
            found = {str(id): str(id) for id in ([given] if isinstance(given, str) else given or ())}
        if not found:
            raise AirflowFailException("there is no migration to wait for")
        return found

    def _until(self, context: Context) -> datetime:
        store, key = StateStore(context["task_state_store"]), UNTIL_KEY.format(clears_of(context))
        kept = store.get(key)
        if kept is None:
            kept = (datetime.now(UTC) + timedelta(hours=self.max_hours)).isoformat()
            store.set(key, kept)
        return datetime.fromisoformat(str(kept))

    def _in_time(self, ids: Mapping[str, str], progress: Mapping[str, Any], until: datetime) -> None:
        if datetime.now(UTC) < until:
            return
        left = [
            f"{name}: {progress.get(id, {}).get('words', UNLISTED)}"
            for name, id in ids.items()
            if not progress.get(id, {}).get("over")
        ]
        raise AirflowFailException(f"the {self.max_hours:g} hours are over, and HCX goes on: {' | '.join(left)}")

    def _ended(self, ids: Mapping[str, str], progress: Mapping[str, Any]) -> dict[str, Any]:
        bad = [f"{name}: {progress[id]['words']}" for name, id in ids.items() if progress[id]["phase"] != COMPLETE]
        if bad:
            raise AirflowFailException(f"HCX did not migrate: {' | '.join(bad)}")
        return {name: dict(progress[id]) for name, id in ids.items()}
