"""Whether an import reads the disks that were exported: compared before it is submitted and after it has ended.

ImportImage takes bucket and key only, and AWS reads the objects when it gets to them, which may be hours later. So an
image is refused, and removed, unless its objects are the same ones before and after.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.vmimport import ImportStatus
from wavelift.base.domain import ExportResult
from wavelift.base.errors import Cancelled, FencedError, PermanentError, ProofError, WaveliftError
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import Ledger, migrations
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.plans import ServerPlan
from wavelift.services.dataplane.importing import accept_once, discard_imports
from wavelift.services.dataplane.staged_object import check_unchanged
from wavelift.services.dataplane.staging import ServerStaging

log = logging.getLogger(__name__)

BEFORE: Final = "between its export and its import"
DURING: Final = "while it was imported"


@dataclass(frozen=True, slots=True)
class LedgerVerdicts:
    """The verdict of a migration's import, in its row: whoever may clear a task may also edit the task's state."""

    ledger: Ledger
    id: str
    clock: Clock

    def get(self) -> Mapping[str, Any] | None:
        with self.ledger.read() as tx:
            return migrations.get(tx, self.id).import_verdict

    def set(self, verdict: Mapping[str, Any]) -> None:
        with self.ledger.write() as tx:
            migrations.record_verdict(tx, self.id, verdict, clock=self.clock)


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """The staged disks of one server's import."""

    ledger: Ledger
    access: AwsAccess
    plan: ServerPlan
    export: ExportResult
    ctx: RunContext

    def before_submit(self) -> None:
        """Also ends an import that was submitted before and had no answer, if a disk was changed.

        S3 dates an object by when its upload was initiated. One that was initiated together with ours, and completed
        while AWS imports, could put a disk back with the date that it had: so none may be open when AWS begins.

        :raises ProofError: a disk is not the one that was exported. :raises PermanentError: the export has its image.
        """
        if image := self._recorded():
            raise PermanentError(
                f"This export was imported before, its image {image} is recorded, and its disks are deleted",
                image=image,
                next_step=f"Nothing, if the image is there. To import anew, clear the server's {CONTINUE_FROM} task",
            )
        keys = {disk.object_key for disk in self.export.disks}
        with ServerStaging.of(self.access, self.plan, self.ctx.run_key) as staging:
            staging.abort_uploads(of=keys)
        try:
            self._check(BEFORE)
        except ProofError as error:
            self._refuse(error)
            raise

    def ended(self, status: ImportStatus) -> None:
        """:raises ProofError: a disk was changed meanwhile: the image and its snapshots are removed, also by each later
        try. Once accepted, an import is not compared again: its disks are deleted when the image is recorded."""
        if status.image_id == self._recorded():
            return
        verdicts = LedgerVerdicts(self.ledger, migrations.migration_id(self.ctx.run_key), self.ctx.clock)
        accept_once(verdicts, status.task_id, lambda: self._check(DURING), self._refuse)

    def _check(self, when: str) -> None:
        with ServerStaging.of(self.access, self.plan, self.ctx.run_key) as staging:
            check_unchanged(staging.s3, self.export.disks, when)

    def _recorded(self) -> str:
        """The image that the ledger has of this export; empty if it has none. It was accepted: the checkpoint that says
        so may be gone, because Airflow deletes old ones."""
        with self.ledger.read() as tx:
            return migrations.get(tx, migrations.migration_id(self.ctx.run_key)).image_id

    def _refuse(self, error: ProofError) -> None:
        keys = [disk.object_key for disk in self.export.disks]
        with self.ledger.write() as tx:
            id = migrations.migration_id(self.ctx.run_key)
            migrations.record_source_changed(tx, id, error.what, error.where, clock=self.ctx.clock)
        try:
            discard_imports(self.access, self.ctx.run_key, keys, "wavelift: a staged disk was changed")
        except (FencedError, Cancelled):
            raise
        except WaveliftError as problem:  # the reason of the refusal is what must be told
            log.error("what was imported of the changed disk is not removed: %s", problem)
            error.where["not_removed"] = str(problem)
