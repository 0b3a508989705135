"""An instance's export on the control plane: admission, check, slot, AWS's tasks, and how it ended (AMP-10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from airflow.sdk.exceptions import DownstreamTasksSkipped

from wavelift.base.domain import Message
from wavelift.operators._base import StateStore, conf_of
from wavelift.operators._keys import REPORT_KEY
from wavelift.operators.control._plane import WaveRunOperator
from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.report import ReportingOperator, first_failure, task_states
from wavelift.rules.flows import EXPORT

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from wavelift.ledger import Ledger
    from wavelift.rules.environment import Environment
    from wavelift.services.dataplane.export_messages import ExportPlace
    from wavelift.services.instance_export.messages import ExportReport
    from wavelift.services.instance_export.waits import Waits

M = TypeVar("M", bound=Message)


def present_environment(name: str) -> Environment:
    """The environment as its file is now. :raises SpecError: it allows no export."""
    from wavelift.airflow import config
    from wavelift.specs import exporting_environment

    return exporting_environment(name, config.environments_folder())


class ExportRunOperator(WaveRunOperator):
    """Base of the control plane's tasks in the run of an export."""

    def limit(self) -> int:
        """Exports of account and region at a time, where the environment does not say another number.

        :raises SpecError: the setting is more than AWS raises it to.
        """
        from wavelift.airflow import config

        return config.limit("exports_per_region")

    def place(self, ledger: Ledger, context: Context, *, begins: bool = True) -> ExportPlace:
        """Where this run's exports are, by what it froze.

        :param begins: False: nothing is begun any more, and a wrong setting is in nobody's way.
        """
        from wavelift.services.instance_export.runs import of_this_run, place_of

        with ledger.read() as tx:
            environment = of_this_run(tx, self.server_context(context)).environment
        return place_of(environment, self.limit()) if begins else place_of(environment)


class ExportWaitingOperator(ExportRunOperator, WaitingOperator):
    """Of tasks that wait, deferred, for AWS."""

    def wait_for_aws(self, waits: Waits, place: ExportPlace) -> NoReturn:
        self.log.info("waits: %s", waits.words)
        self.wait_for(self._trigger(waits, {"aws_conn_id": place.aws_conn_id, "region_name": place.region}))

    def _trigger(self, waits: Waits, aws: Mapping[str, Any]) -> BaseTrigger:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.exports import ExportSlotTrigger
        from wavelift.airflow.triggers.owned_exports import OwnedExportTrigger
        from wavelift.airflow.triggers.snapshots import EbsSnapshotsTrigger
        from wavelift.airflow.triggers.steps import StepsTrigger
        from wavelift.services.dataplane.steps.poll import image_is_available
        from wavelift.services.instance_export.waits import ForImage, ForPlace, ForSnapshots, ForTask

        poll = config.poll_seconds()
        if isinstance(waits, ForTask):
            return OwnedExportTrigger(export_task_id=waits.task_id, poll_seconds=poll, **aws)
        if isinstance(waits, ForPlace):
            return ExportSlotTrigger(below=waits.below, poll_seconds=poll, **aws)
        if isinstance(waits, ForSnapshots):
            return EbsSnapshotsTrigger(snapshot_ids=waits.snapshot_ids, poll_seconds=poll, **aws)
        if isinstance(waits, ForImage):
            image = {**aws, "waits": [image_is_available(waits.image_id)]}
            return StepsTrigger(waits=[image], poll_seconds=poll)
        return StepsTrigger(waits=[{**aws, "waits": [soon(poll)]}], poll_seconds=poll)


def soon(seconds: float) -> str:
    """A wait of one interval."""
    from datetime import UTC, datetime, timedelta

    from wavelift.airflow.triggers.steps import TIME

    return f"{TIME}{(datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}"


class AdmitExportOperator(ExportRunOperator):
    """Check the run's conf and who asks, freeze both, and open the export. Skip the tasks of other modes.

    Control plane. Refused to whom the environment's ``may.administer`` does not name. Of an export that has completed,
    only the report is made again.

    :param environment: its name.
    """

    plain_inputs = ("environment",)
    environment: str

    def work(self, context: Context) -> NoReturn:
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.instance_export.admit import admit, has_arrived

        request = RunRequest(wave=self.environment, conf=conf_of(context))
        with self.ledger() as ledger:
            ctx = self.server_context(context)
            conf, known = admit(ledger, request, present_environment, ctx, rights=self.rights())
        export = known.id if known is not None else ""
        self.log.info("%s: %s %s", self.environment, conf.mode, export)
        context["ti"].xcom_push(key="return_value", value={"mode": conf.mode, "export": export})
        self.skip_all_but("" if has_arrived(known) else EXPORT.first_step(conf.mode))


class SetupExportOperator(ExportRunOperator):
    """Make the region's bucket, or see that it is right; never change another one, but for two grants if the run's
    conf says ``grant`` (VIE-02).

    Control plane. Returns a :class:`~wavelift.services.instance_export.messages.MadeBucket`.
    """

    first_contact = True

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.instance_export.setup import refuse_wrong, set_up

        with self.ledger() as ledger:
            place = self.place(ledger, context)
            made = set_up(ledger, self.aws_of(place), place, self.server_context(context), rights=self.rights())
        context["ti"].xcom_push(key=REPORT_KEY, value=made.dump())
        for line in made.changed:
            self.log.info("%s: %s", made.bucket, line)
        refuse_wrong(made)
        return dict(made.dump())


class CheckExportOperator(ExportRunOperator):
    """Look at bucket and instance, and choose the method; refuse what no method may export (VIE-02, VIE-03).

    Control plane. The plan is frozen with the export. Returns method and digest; the whole
    :class:`~wavelift.services.instance_export.messages.CheckedExport` is XCom ``report``. In mode ``check`` nothing
    else comes but the report.
    """

    first_contact = True

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.instance_export.check import check, refuse_blocked

        ti = context["ti"]
        with self.ledger() as ledger:
            place = self.place(ledger, context)
            mode, checked = check(ledger, self.aws_of(place), place, self.server_context(context))
        ti.xcom_push(key=REPORT_KEY, value=checked.dump())
        for line in checked.lines():
            self.log.info("%s", line)
        plan = checked.plan
        said = {"method": plan.method if plan else "", "digest": plan.digest if plan else ""}
        if mode == "check":
            ti.xcom_push(key="return_value", value=said)
            self.skip_all_but("")
        refuse_blocked(checked)
        return said


class ReserveExportOperator(ExportRunOperator, WaitingOperator):
    """Wait, deferred, until account and region have a free slot for an export (VIE-04). Control plane."""

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.instance_export.reserve import reserve

        with self.ledger() as ledger:
            place = self.place(ledger, context)
            queued = reserve(ledger, place, self.server_context(context), rights=self.rights())
        if queued is not None:
            self.wait_for_slot(queued)
        return {"account": place.account, "region": place.region}


class BeginExportOperator(ExportWaitingOperator):
    """Write the intent, then start AWS's task and follow it, deferred, to its end; or take the snapshots that `read`
    reads (VIE-04, VIE-05).

    Control plane. Bucket and instance are looked at again right before the first write. Never submits a second task.
    Returns an :class:`~wavelift.services.dataplane.export_messages.ExportOrder`, and skips `read` where AWS made the
    object.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.export_messages import ExportOrder
        from wavelift.services.instance_export.begin import begin

        with self.ledger() as ledger:
            place = self.place(ledger, context)
            found = begin(ledger, self.aws_of(place), place, self.server_context(context))
        if not isinstance(found, ExportOrder):
            self.wait_for_aws(found, place)
        order: dict[str, Any] = found.dump()
        if found.plan.method == "direct":
            return order
        context["ti"].xcom_push(key="return_value", value=order)
        raise DownstreamTasksSkipped(tasks=[EXPORT.task_id("read")])


class RecordExportOperator(ExportRunOperator):
    """Record the object as the export's result, once it was compared with the ledger and with S3. Control plane.

    :param written: what `read` returned; None where AWS made the object. :param verified: what `verify` returned.
    """

    template_inputs = ("written", "verified")
    written: Any
    verified: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.export_messages import ExportVerified, ExportWritten
        from wavelift.services.instance_export.record import record

        written = ExportWritten.load(self.written) if self.written is not None else None
        verified = ExportVerified.load(self.verified)
        with self.ledger() as ledger:
            place = self.place(ledger, context, begins=False)
            known = record(ledger, self.aws_of(place), written, verified, self.server_context(context))
        self.log.info("%s: s3://%s/%s, %d bytes", known.id, known.bucket, known.object_key, known.object_bytes or 0)
        return {"export": known.id, "bucket": known.bucket, "key": known.object_key, "bytes": known.object_bytes}


class RemoveExportOperator(ExportWaitingOperator):
    """Remove snapshots and image; of an export without result also AWS's task, upload and object. A teardown (VIE-06).

    Control plane. Waits, deferred, while a task of AWS that can't be cancelled any more ends. Returns a
    :class:`~wavelift.services.instance_export.messages.Removed`.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.ledger import exports
        from wavelift.services.instance_export.ending import remove
        from wavelift.services.instance_export.messages import Removed
        from wavelift.services.instance_export.opening import ended_unmade

        ctx = self.server_context(context)
        with self.ledger() as ledger:
            with ledger.read() as tx:
                known = exports.of_dag_run(tx, ctx.run)
            words = first_failure(context, EXPORT, task_states(context))
            if known is None or ended_unmade(ledger, known, ctx, words=words):
                return dict(Removed().dump())
            place = self.place(ledger, context, begins=False)
            store = StateStore(context["task_state_store"])
            fence: Callable[[], None] = lambda: store.set("removing", known.id)  # noqa: E731  # as the reports have it
            found = remove(ledger, self.aws_of(place), known, ctx, words=words, fence=fence)
        if not isinstance(found, Removed):
            self.wait_for_aws(found, place)
        for line in (*found.removed, *found.kept):
            self.log.info("%s: %s", known.id, line)
        return dict(found.dump())


class ReleaseExportOperator(ExportRunOperator):
    """Give the slot of account and region back; a teardown after the removal. Control plane."""

    def work(self, context: Context) -> None:
        from wavelift.services.instance_export.reserve import release

        with self.ledger() as ledger:
            release(ledger, self.server_context(context))


class ExportReportOperator(ReportingOperator):
    """Tell how the run ended, in every mode; use it as a teardown.

    Returns an :class:`~wavelift.services.instance_export.messages.ExportReport`, and fails unless the run did what it
    was asked for.
    """

    def finish(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> ExportReport:
        from wavelift.services.instance_export import report as reports
        from wavelift.services.instance_export.messages import CheckedExport, MadeBucket, Removed

        ended = reports.EndedRun(
            words=first_failure(context, EXPORT, states),
            checked=self._left(context, "check", CheckedExport, key=REPORT_KEY),
            bucket=self._left(context, "setup", MadeBucket, key=REPORT_KEY),
            removed=self._left(context, "remove", Removed) if states.get("remove") == "success" else None,
        )
        return reports.report(ledger, ended, self.server_context(context))

    def _left(self, context: Context, task: str, kind: type[M], *, key: str = "return_value") -> M | None:
        """What a task left; another form than ours is nothing."""
        from pydantic import ValidationError

        left = context["ti"].xcom_pull(task_ids=task, key=key, map_indexes=-1)
        try:
            return kind.load(left) if left is not None else None
        except ValidationError:
            self.log.warning("what %s left is not read", task)
            return None

    def tell(self, report: ExportReport) -> None:
        from wavelift.services.instance_export.report import raise_when_failed

        where = f"s3://{report.bucket}/{report.key}" if report.key else ""
        self.log.info("%s %s %s %s %s", report.export, report.instance_id, report.state, where, report.error)
        raise_when_failed(report)
