"""The control plane's tasks of a replicate run: they alone write the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow.sdk.exceptions import AirflowSkipException

from wavelift.airflow.links import ImageLink, image_url
from wavelift.operators._base import StateStore, WaveliftOperator
from wavelift.operators.connector.replication import PROOF_KEY, REPORT_KEY, TRACKING_KEY
from wavelift.operators.control._report import GROUP, ended_by, task_outcomes, task_states, why_stopped
from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.image import ImportingOperator

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from wavelift.ledger.replication_records import ReplicationRun
    from wavelift.services.dataplane.replication_messages import AdmittedRuns
    from wavelift.services.replication.report import ServerEnd

UPKEEP: Final = {"delete": "delete_replicas", "verify": "verify_recorded"}
"""Mode of a run → the one task that it has after ``admit``; others have the pre-flight, if a server may run."""


class AdmitReplicationOperator(WaveliftOperator):
    """Decide which servers of the wave may run now, and freeze the wave's spec for the run (SMS-06, SMS-07, AIR-04).

    Control plane. A run of the timetable serves every server that is due; any other is on demand and limited. A
    backfill is refused. A run that deletes or verifies replicas admits none. Leaves an
    :class:`~wavelift.services.dataplane.replication_messages.AdmittedRuns` as its return value, and skips the tasks of
    the other modes.

    :param wave: name of the wave.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, wave: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wave = wave

    def work(self, context: Context) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.replication.admit import admit
        from wavelift.specs import resolved_wave

        run = context["dag_run"]
        request = RunRequest(
            wave=self.wave,
            conf={**context["params"], **(run.conf or {})},
            source="schedule" if run.run_type == "scheduled" else "api",
            scheduled_for=scheduled_instant(run),
            backfill=run.run_type == "backfill",
        )
        with Ledger.open(config.ledger_url()) as ledger:
            admitted = admit(
                ledger,
                request,
                lambda wave: resolved_wave(
                    wave, config.waves_folder(), config.environments_folder(), config.last_valid_folder()
                ),
                self.server_context(context),
            )
        self.log.info("%s: %s: %s may run", self.wave, admitted.mode, ", ".join(admitted.granted) or "no server")
        for one in (*admitted.refused, *admitted.skipped):
            self.log.info("%-20s %s: %s %s", one.server, one.rule, one.reason, one.until or "")
        for words in admitted.warnings:
            self.log.warning("%s", words)
        context["ti"].xcom_push(key="return_value", value=admitted.dump())
        self.skip_all_but(_first_of(admitted))


def _first_of(admitted: AdmittedRuns) -> str:
    """The task with which a run goes on; empty: none, since no server may run."""
    return UPKEEP.get(admitted.mode, "preflight" if admitted.granted else "")


def scheduled_instant(run: Any) -> datetime | None:
    """The instant for which the timetable made a DAG run, as plain UTC; None for every other run."""
    from wavelift.airflow.timetables import plain

    if run.run_type != "scheduled":
        return None
    return plain(run.data_interval_end or run.logical_date or run.run_after)


class ReserveRunOperator(WaitingOperator):
    """Wait, deferred, for a transfer slot, then write the snapshot's intent (AMP-04, invariant 4).

    Control plane. Continuing a failed server means clearing from this task; of a completed one it does nothing. Returns
    a :class:`~wavelift.services.dataplane.replication_messages.ReservedRun`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    """

    template_fields: Sequence[str] = ("server",)

    def __init__(self, *, server: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.dataplane.replication_messages import ReservedRun
        from wavelift.services.replication.reserve import Finished, reserve

        task = self.server_task(context, self.server)
        ctx = self.server_context(context, task.name)
        with Ledger.open(config.ledger_url()) as ledger:
            found = reserve(ledger, task, ctx, limit=config.integer("transfers_per_connector"))
        if isinstance(found, ReservedRun):
            return found.dump()
        if isinstance(found, Finished):
            raise AirflowSkipException(f"{found.run} has completed: clearing it does nothing")
        self.wait_for_slot(found, soon=True)


class RecordOperator(WaitingOperator):
    """Wait, deferred, until AWS calls the run's EBS snapshots completed, then record them all at once (invariant 4).

    Returns the server's name and its EBS snapshots.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    :param transferred: what :class:`ReplicationRunOperator` returned.
    """

    template_fields: Sequence[str] = ("server", "transferred")

    def __init__(self, *, server: Any, transferred: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.transferred = transferred

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.snapshots import EbsSnapshotsTrigger
        from wavelift.base.domain import ReplicationResult
        from wavelift.ledger import Ledger
        from wavelift.services.replication.record import record

        task = self.server_task(context, self.server)
        result = ReplicationResult.load(self.transferred)
        aws: dict[str, Any] = {"aws_conn_id": task.plan.target.aws_conn_id, "region_name": task.plan.target.region}
        with Ledger.open(config.ledger_url()) as ledger:
            pending = record(ledger, self.aws(**aws), result, self.server_context(context, task.name))
        if pending:
            self.log.info("AWS still works on %s", ", ".join(pending))
            self.wait_for(EbsSnapshotsTrigger(snapshot_ids=pending, poll_seconds=config.poll_seconds(), **aws))
        return {"server": task.name, "snapshots": [disk.lineage.snapshot_id for disk in result.disks]}


class ReleaseRunOperator(WaveliftOperator):
    """Give the transfer slot back, and note whose change tracking lied; a teardown after the snapshot's removal.

    :param server: as for :class:`ReserveRunOperator`.
    """

    template_fields: Sequence[str] = ("server",)

    def __init__(self, *, server: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.replication.reserve import release

        task = self.server_task(context, self.server)
        ti = context["ti"]
        removed = ti.xcom_pull(task_ids=f"{GROUP}remove_snapshot", map_indexes=ti.map_index) is not None
        lies = ti.xcom_pull(task_ids=f"{GROUP}transfer", key=TRACKING_KEY, map_indexes=ti.map_index) or {}
        with Ledger.open(config.ledger_url()) as ledger:
            release(
                ledger,
                self.server_context(context, task.name),
                removed=removed,
                distrusted={int(key): why for key, why in lies.items()},
            )
        return {"server": task.name, "snapshot_removed": removed}


class AmiOperator(ImportingOperator):
    """Make the run's AMI as its job says, complete the run, and deregister the AMIs that the job keeps no longer.

    Control plane. ``import`` waits, deferred, for ImportImage of the EBS snapshots; ``register`` is done at once. A
    failed conversion fails the AMI only: the next run builds on this one all the same. Returns a
    :class:`~wavelift.services.replication.image.MadeImage`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    :param transferred: what :class:`ReplicationRunOperator` returned.
    :param verified: what :class:`VerifyReplicatedOperator` returned; only so that nothing unproven becomes an image.
    """

    template_fields: Sequence[str] = ("server", "transferred", "verified")

    def __init__(self, *, server: Any, transferred: Any, verified: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.transferred = transferred
        self.verified = verified

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.base.domain import ReplicationResult
        from wavelift.ledger import Ledger
        from wavelift.services.common.slots import InQueue
        from wavelift.services.dataplane.importing import ImportRunning
        from wavelift.services.replication.image import MadeImage, advance_image

        task = self.server_task(context, self.server)
        target = task.plan.target
        aws: dict[str, Any] = {"aws_conn_id": target.aws_conn_id, "region_name": target.region}
        limit = target.imports_per_region or config.integer("imports_per_region")
        with Ledger.open(config.ledger_url()) as ledger:
            result = ReplicationResult.load(self.transferred)
            ctx = self.server_context(context, task.name)
            found = advance_image(ledger, self.aws(**aws), task, result, ctx, limit=limit)
        if isinstance(found, MadeImage):
            if found.image_id:
                context["ti"].xcom_push(key=ImageLink.key, value=image_url(target.region, found.image_id))
            return found.dump()
        if isinstance(found, ImportRunning):
            self.watch(found, aws)
        if isinstance(found, InQueue):
            self.wait_for_slot(found)
        self.wait_for_place(found, aws)


class ReplicationReportOperator(WaveliftOperator):
    """Tell how every server ended, close and tidy what is open; use it as a teardown.

    Fails when a server failed, or was refused on demand: with the rule, and the time from which it holds no more.
    Returns a :class:`~wavelift.services.replication.report.ReplicationReport`.
    """

    template_fields: Sequence[str] = ()

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.dataplane.messages import PreflightReport
        from wavelift.services.dataplane.replication_messages import AdmittedRuns
        from wavelift.services.replication.report import Ended, finish, raise_when_failed

        ti = context["ti"]
        states = task_states(context)
        left = ti.xcom_pull(task_ids="admit", map_indexes=-1)
        admitted = AdmittedRuns.load(left) if left else None
        # What an earlier try of it left stays when this one was skipped.
        looked = states.get("preflight") == "success"
        found = ti.xcom_pull(task_ids="preflight", key=REPORT_KEY, map_indexes=-1) if looked else None
        mapped = (ti.xcom_pull(task_ids="preflight", map_indexes=-1) or []) if looked else []
        ended = Ended(
            admitted,
            PreflightReport.load(found) if found else None,
            self._ends(context, states, [one["name"] for one in mapped]),
            stopped=why_stopped(context, states, ended_by(_first_of(admitted) if admitted else "")),
            deleted=ti.xcom_pull(task_ids=UPKEEP["delete"], map_indexes=-1) or (),
            verified=ti.xcom_pull(task_ids=UPKEEP["verify"], map_indexes=-1) or (),
            wrong=ti.xcom_pull(task_ids=UPKEEP["verify"], key=PROOF_KEY, map_indexes=-1) or {},
        )
        with Ledger.open(config.ledger_url()) as ledger:
            report = finish(ledger, ended, self.server_context(context), tidy=self._tidy(context, ledger))
        ti.xcom_push(key=REPORT_KEY, value=report.dump())
        for one in report.outcomes:
            self.log.info("%-20s %-10s %s %d blocks %s", one.server, one.state, one.ami_id, one.blocks_sent, one.error)
        raise_when_failed(report)
        return report.dump()

    def _tidy(self, context: Context, ledger: Any) -> Callable[[ReplicationRun], str]:
        """A report that was cleared meanwhile must not touch anything: each removal is fenced."""
        ti = context["ti"]
        fence = StateStore(context["task_state_store"])

        def tidy(known: ReplicationRun) -> str:
            from wavelift.base.run import DagRun
            from wavelift.ledger import waves
            from wavelift.rules.plans import ResolvedWave
            from wavelift.services.replication.image import tidy_run

            fence.set("tidying", known.id)
            with ledger.read() as tx:
                plan = ResolvedWave.load(waves.get(tx, DagRun(ti.dag_id, ti.run_id)).spec).servers[0]
            access = self.aws(plan.target.aws_conn_id, plan.target.region)
            return tidy_run(ledger, access, plan, known)

        return tidy

    def _ends(self, context: Context, states: dict[str, str], servers: list[str]) -> list[ServerEnd]:
        """How each server's tasks ended, and what its proof found wrong."""
        from wavelift.services.replication.report import ServerEnd

        verify = f"{GROUP}verify"
        ends = []
        for index, outcome in enumerate(task_outcomes(context, states, servers)):
            left = None
            if states.get(f"{verify}_{index}") == "failed":
                left = context["ti"].xcom_pull(task_ids=verify, key=PROOF_KEY, map_indexes=index)
            ends.append(ServerEnd(outcome, (left or {}).get("what", "")))
        return ends
