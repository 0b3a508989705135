"""The named step of other people's DAGs: export an instance to S3, and wait until it has ended."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wavelift.operators.control._starting import StartingOperator
from wavelift.operators.control.export import present_environment
from wavelift.rules.instance_export import ExportState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.run import DagRun
    from wavelift.ledger import Ledger
    from wavelift.ledger.export_records import InstanceExport
    from wavelift.rules.conf import ExportConf


class InstanceExportOperator(StartingOperator):
    """Export an EC2 instance to S3, as ``POST /exports`` does, and wait, deferred, until its run has ended (AMP-10).

    Control plane. Whoever triggered this DAG run must be allowed to administer the environment. The same ``request_id``
    is the same export: a retry and a clear find it, and nothing is begun twice. Killing the task leaves the export
    alone. Returns ``{"export": …, "state": …, "bucket": …, "key": …, "bytes": …, "method": …, "dag_run_id": …}``; fails
    if there is no object.

    :param environment: whose account and region the instance is in.
    :param instance: ``i-…``, or id of the migration or cutover that made it.
    :param method: ``auto`` (default), ``instance``, ``image`` or ``direct``.
    :param target: ``vmware`` (default), ``citrix`` or ``microsoft``. :param format: default: the target's own.
    :param prefix: of the object's key, after the environment's.
    :param may_reboot: whether the instance may be restarted.
    :param controller: of the disks, of method ``direct``: ``lsilogic`` (default), ``pvscsi`` or ``sata``.
    :param verify: of method ``direct``: ``full`` or ``sample:<pct>``.
    :param request_id: your own name of this request. Default: made of this task and its DAG run.
    :param note: kept with the run.
    """

    template_inputs = (
        "environment",
        "instance",
        "method",
        "target",
        "format",
        "prefix",
        "may_reboot",
        "controller",
        "verify",
        "request_id",
        "note",
    )
    environment: str
    instance: str
    method: str = "auto"
    target: str = "vmware"
    format: str = ""
    prefix: str = ""
    may_reboot: bool = False
    controller: str = ""
    verify: str = ""
    request_id: str = ""
    note: str = ""

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.rules.conf import ExportConf
        from wavelift.services.instance_export.requests import named_run

        names = ("instance", "method", "target", "format", "prefix", "may_reboot", "controller", "verify", "note")
        given = {name: value for name in names if (value := getattr(self, name)) not in ("", False)}
        conf = ExportConf.read({"mode": "export", **given}, environment=self.environment)
        run = named_run(self.environment, conf, self.request_name(context))
        with self.ledger() as ledger:
            known = self._asked(ledger, conf, run, context)
            if self.has_ended(context, run):
                return self._told(ledger, known.id)
        self.wait_for_end(run)

    def _asked(self, ledger: Ledger, conf: ExportConf, run: DagRun, context: Context) -> InstanceExport:
        """The export of the request, whose DAG run is there."""
        from wavelift.rules.authority import Action
        from wavelift.services.common.authority import require
        from wavelift.services.instance_export import requests

        before = requests.made_before(ledger, run, subject=conf.instance)
        if before is not None:
            return before
        own, environment = self.server_context(context), present_environment(self.environment)
        require(ledger, own.asker, self.environment, Action.ADMINISTER, rights=self.rights(), clock=own.clock)
        self.require_awake(context, run.dag_id)
        ctx = replace(own, run=run)
        made = requests.reserve(ledger, environment, conf, ctx, request_id=self.request_name(context))
        assert made is not None  # in mode export
        self.start(run, conf.given(), note=self.note, give_back=lambda: requests.give_back(ledger, run, ctx))
        self.log.info("%s: %s, run %s", made.instance_id, made.id, run.dag_run_id)
        return made

    def _told(self, ledger: Ledger, id: str) -> dict[str, Any]:
        from wavelift.base.errors import PermanentError
        from wavelift.ledger import exports

        with ledger.read() as tx:
            known = exports.get(tx, id)
        if known.state is not ExportState.COMPLETED:
            raise PermanentError(
                f"The export ended without an object: {known.state}, {known.error or known.phase}",
                next_step=f"See `wavelift export show {known.id}`",
                server=known.instance_id,
            )
        return told_of(known)


def told_of(known: InstanceExport) -> dict[str, Any]:
    """A completed export, for the tasks of other DAGs."""
    return {
        "export": known.id,
        "state": str(known.state),
        "bucket": known.bucket,
        "key": known.object_key,
        "bytes": known.object_bytes,
        "method": known.method,
        "dag_run_id": known.dag_run_id,
    }
