"""The backup of a migrated instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._base import conf_of
from wavelift.operators.control._waiting import WaitingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class BackupInstanceOperator(WaitingOperator):
    """Make an image of an instance that a migration or a cutover made, wait, deferred, until it is available, and save
    a launch template that names it (AMP-09).

    Control plane. Without ``reboot`` in the run's conf the image is crash-consistent. At most one image per run,
    whatever is retried or cleared. Returns image, template and version.
    """

    first_contact = True

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.steps import StepsTrigger
        from wavelift.rules.conf import BackupConf
        from wavelift.services.cutover import backup
        from wavelift.services.cutover.steps import Waits

        conf = BackupConf.read(conf_of(context))
        ctx = self.server_context(context, conf.subject)
        with self.ledger() as ledger:
            known = backup.order(ledger, conf.subject, ctx, reboot=conf.reboot, rights=self.rights())
            place = backup.place_of(known)
            found = backup.advance(ledger, self.aws_of(place), known.id, ctx)
        if isinstance(found, Waits):
            self.log.info("waits: %s", found.words)
            waits = [{"aws_conn_id": place.aws_conn_id, "region_name": place.region, "waits": list(found.waits)}]
            self.wait_for(StepsTrigger(waits=waits, poll_seconds=config.poll_seconds()))
        told = f"{found.image_id}, launch template {found.template_id} version {found.template_version}"
        self.log.info("%s of %s: %s", found.id, found.server, told)
        return {
            "backup": found.id,
            "server": found.server,
            "image_id": found.image_id,
            "template_id": found.template_id,
            "template_version": found.template_version,
        }
