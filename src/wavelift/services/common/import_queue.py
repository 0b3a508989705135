"""Imports of both flows: one queue per account and region, and one way from the request to the image (AMP-04, AMP-07,
invariant 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest, ImportStatus
from wavelift.base.errors import FencedError, WaveliftError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger
from wavelift.rules.flows import SlotKind
from wavelift.services.common.line import words_of
from wavelift.services.common.slots import Granted, InQueue, give_back, win_slots
from wavelift.services.common.wanted import DEFAULT_TERMS, Terms, for_import
from wavelift.services.dataplane.importing import ImportRunning, ImportTask, ImportWaiting
from wavelift.services.dataplane.messages import ServerTask

_LICENSES: Final[dict[str, Literal["AWS", "BYOL"]]] = {"aws": "AWS", "byol": "BYOL"}


@dataclass(frozen=True, slots=True)
class WantedImport:
    """What a flow wants imported.

    :param disks: the boot disk first.
    :param instant: of what is imported (:func:`wavelift.base.names.instant_of`).
    :param license_type: as in a spec; what is neither ``aws`` nor ``byol`` leaves the choice to AWS.
    """

    task: ServerTask
    disks: Sequence[ImportDisk]
    instant: str
    license_type: str
    platform: Literal["", "Linux", "Windows"] = ""

    def request(self, run_key: str, token: str) -> ImportRequest:
        plan, target = self.task.plan, self.task.plan.target
        return ImportRequest(
            disks=self.disks,
            client_token=token,
            tags=plan.made_with(run_key),
            description=f"{plan.wave}/{self.task.name}",
            role_name=target.role,
            boot_mode=self.task.boot_mode,
            license_type=_LICENSES.get(self.license_type, ""),
            platform=self.platform,
            encrypted=target.encrypt,
            kms_key=target.kms_key or "",
        )


class ImportSink(Protocol):
    """Where a flow is told how its import stands."""

    def before_submit(self) -> None:
        """A slot is won: check that the disks are there. :raises WaveliftError: nothing is submitted then."""

    def ended(self, status: ImportStatus) -> None:
        """AWS has made the image. :raises WaveliftError: it must not be used; nothing more is done with it."""

    def submitted(self, task_id: str) -> None: ...

    def running(self, status: ImportStatus) -> None: ...

    def waiting(self, words: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ImportQueue:
    """The queue of the account and region that a server lands in.

    :param limit: imports of ours in this account and region.
    :param terms: of the run, for the account's slot.
    """

    ledger: Ledger
    access: AwsAccess
    ctx: RunContext
    limit: int
    terms: Terms = DEFAULT_TERMS

    def advance(self, wanted: WantedImport, sink: ImportSink) -> ImportStatus | ImportRunning | ImportWaiting | InQueue:
        """Bring an import one step further; the status of the completed task at its end. Never submits a second one.

        :raises WaveliftError: when the import failed, with AWS's words and our reading.
        """
        work = self._work(wanted)
        with self._given_back_on_error():
            status = work.look()
        if status is None:
            found = self._submit(wanted, work, sink)
            if not isinstance(found, ImportRunning):
                sink.waiting(found.words)
            return found
        if not status.finished:
            sink.running(status)
            return ImportRunning(status.task_id, status.phase)
        self._give_back()
        sink.ended(status)
        tags = wanted.task.plan.made_with(self.ctx.run_key)
        Ec2(self.access).tag_image(status.image_id, tags, snapshot_ids=status.snapshot_ids)
        return status

    def cancel(self, wanted: WantedImport, reason: str) -> None:
        """Cancel the import, and give its place back."""
        self._work(wanted).cancel(reason)
        self._give_back()

    def _work(self, wanted: WantedImport) -> ImportTask:
        return ImportTask(self.access, self.ctx, instant=wanted.instant, server=wanted.task.name)

    def _submit(
        self, wanted: WantedImport, work: ImportTask, sink: ImportSink
    ) -> ImportRunning | ImportWaiting | InQueue:
        requests = for_import(wanted.task.plan.target, self.ctx.run_key, self.limit, self.terms)
        found = win_slots(self.ledger, requests, self.ctx, priority=self.terms.priority)
        if not isinstance(found, Granted):
            return InQueue(found.request, words_of(found))
        with self._given_back_on_error():
            sink.before_submit()
            begun = work.submit_import(lambda token: wanted.request(self.ctx.run_key, token), limit=self.limit)
            if isinstance(begun, ImportRunning):
                sink.submitted(begun.task_id)
            return begun

    @contextmanager
    def _given_back_on_error(self) -> Iterator[None]:
        """What fails holds no slot: the next try requests one again. An outlived try gives nothing back, since the slot
        is that of the try which owns the work now."""
        try:
            yield
        except FencedError:
            raise
        except WaveliftError:
            self._give_back()
            raise

    def _give_back(self) -> None:
        give_back(self.ledger, self.ctx.run_key, kinds=[SlotKind.IMPORT], clock=self.ctx.clock)
