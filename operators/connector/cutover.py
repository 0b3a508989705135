"""What a cutover does to a source on its connector's queue: stop and fence it, then read its last changes.

All of it needs the grant that the server's ``reserve`` left for stopping the source. None of it reaches the ledger.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wavelift.operators.connector._plane import StoppingOperator
from wavelift.operators.connector.replication import ReplicationRunOperator
from wavelift.operators.connector.snapshot import VmSnapshotOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import ServerTask

LOOK_SECONDS: Final = 15.0
"""Until the next look at a guest that takes long. Each look starts a process, which costs seconds of a core."""
ORDER_TRIGGER: Final = "wavelift.airflow.triggers.orders.StopOrderTrigger"
"""Asks the ledger, which a connector does not reach."""
ANSWER_COUNTS: Final = timedelta(seconds=20)
"""So old may the ledger's answer be when the source is touched. A revert waits for a minute before it begins, and one
look takes three quarters of that."""
MOST_ASKED: Final = 10
"""So often in a row may an answer come too late, before the try fails."""


class StopSourceOperator(StoppingOperator):
    """Shut the guest of a source down, and fence the source: disconnect its network cards for good.

    Runs on the connector's queue. Before each look it defers until the ledger has said that the order to stop still
    counts: the cutover may be on its way back, or cancelled. So it holds no worker while a guest takes long. A guest
    that does not shut down in time is powered off, or the task fails, as the plan's ``shutdown`` says. Returns a
    :class:`~wavelift.services.dataplane.replication_messages.StoppedSource`.

    :param server: one of the dicts that the pre-flight returned.
    :param reserved: what :class:`ReserveCutoverOperator` returned: it says until when a source may be stopped.
    """

    template_inputs = ("reserved",)
    reserved: Any
    _answered: bool = False
    _asked: int = 0

    def execute_complete(self, context: Context, event: dict[str, Any], asked: int = 0) -> Any:
        """The ledger has answered."""
        with self.failing_in_words(context):
            self._asked, self._answered = asked, _counts(event)
        return self.execute(context)

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane import grants
        from wavelift.services.dataplane.replication_messages import ReservedRun, StoppedSource
        from wavelift.services.dataplane.source_switch import stop_source

        if not self._answered:
            self._ask(task, context, after=0.0, asked=self._asked + 1)
        reserved = ReservedRun.load(self.reserved)
        with self.vcenter(task.plan.connection) as session:
            assert self._grant is not None  # nothing was opened without it
            grants.verify_source(session, self._grant, task.facts.moref, task.plan.selector.value)
            found = stop_source(session, task, reserved, self.server_context(context, task.name))
        if isinstance(found, StoppedSource):
            return found.dump()
        self.log.info("%s: %s", task.name, found.words)
        self._ask(task, context, after=LOOK_SECONDS, asked=1)

    def _ask(self, task: ServerTask, context: Context, *, after: float, asked: int) -> NoReturn:
        """Defer until the ledger has said whether the source may be touched."""
        from wavelift.airflow.triggers.named import NamedTrigger
        from wavelift.base.errors import BusyError

        if asked > MOST_ASKED:
            raise BusyError(
                f"{MOST_ASKED} times, the ledger's answer was older than {ANSWER_COUNTS.total_seconds():g} seconds "
                "when it came to the task",
                next_step="The source was not touched. Give the connector's queue more workers, and compare its clock "
                "with the triggerer's",
                server=task.name,
            )
        ti = context["ti"]
        about = {"dag_id": ti.dag_id, "run_id": ti.run_id, "server": task.name, "wait_s": after}
        self.defer(trigger=NamedTrigger(ORDER_TRIGGER, about), method_name="execute_complete", kwargs={"asked": asked})
        raise AssertionError("defer does not return")


def _counts(event: dict[str, Any]) -> bool:
    """Whether the ledger says yes, and said so just now.

    :raises PermanentError: it says no. :raises WaveliftError: it could not be asked.
    """
    from wavelift.base.errors import PermanentError, WaveliftError

    if "error" in event:
        raise WaveliftError(
            "The ledger could not be asked whether the source may still be stopped",
            detail=str(event["error"])[:200],
            next_step="The source was not touched; the retry asks again. Look at Airflow's triggerer",
        )
    if event["refused"]:
        raise PermanentError(str(event["refused"]), next_step=str(event["next_step"]))
    return abs(datetime.now(UTC) - datetime.fromisoformat(event["asked_at"])) <= ANSWER_COUNTS


class CutoverSnapshotOperator(StoppingOperator, VmSnapshotOperator):
    """Take this run's snapshot of a stopped source; as :class:`VmSnapshotOperator`.

    :param server: one of the dicts that the pre-flight returned.
    """

    plain_inputs = ("replicates",)
    replicates: bool = True


class FinalRunOperator(StoppingOperator, ReplicationRunOperator):
    """Send a stopped source's last changes into EBS snapshots; as :class:`ReplicationRunOperator`.

    It fails when the source is powered on meanwhile.

    :param server: one of the dicts that the pre-flight returned.
    :param reserved: what :class:`ReserveCutoverOperator` returned.
    :param snapshot: what :class:`CutoverSnapshotOperator` returned.
    """
