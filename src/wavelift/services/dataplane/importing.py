"""One ImportImage task over retries, deferrals and clears: submitted once, found again, and never twice at a time.

The task id lies in the checkpoint store, which survives a clear: so it is checked against AWS before use. A task that
was cancelled under us (a cleared task's old trigger does that, facts/airflow-shapes.md 7) is submitted again under a
new client token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.vmimport import (
    ImportRequest,
    ImportState,
    ImportStatus,
    VmImport,
    explain_import_failure,
)
from wavelift.base.errors import LimitReachedError, WaveliftError
from wavelift.base.names import client_token
from wavelift.base.run import RunContext

IMPORT_KEY: Final = "import"
MAX_RESUBMITS: Final = 3
"""How often an import that somebody cancelled under us is submitted again."""
MAX_UNSEEN: Final = 10
"""Looks that find AWS not knowing the task before it counts as gone: a young task is not seen at once."""


@dataclass(frozen=True, slots=True)
class ImportRunning:
    """AWS works on it."""

    task_id: str
    phase: str


@dataclass(frozen=True, slots=True)
class ImportWaiting:
    """No place for another import: ``queued`` in our own ledger, or the account is full.

    :param below: how few imports must be active in the account before it is worth asking again.
    """

    reason: str
    queued: bool = False
    below: int = 0


class ImportJob:
    """The import of one piece of work (``ctx.run_key``)."""

    def __init__(self, access: AwsAccess, ctx: RunContext, *, server: str | None = None) -> None:
        self._imports = VmImport(access)
        self._ctx = ctx
        self._server = server
        stored: dict[str, Any] = ctx.checkpoints.get(IMPORT_KEY) or {}
        self.task_id: str = stored.get("task_id", "")
        self._attempt: int = stored.get("attempt", 0)
        self._cancelled: int = stored.get("cancelled", 0)
        self._unseen: int = stored.get("unseen", 0)

    def look(self) -> ImportStatus | None:
        """The task that runs or is completed; None when one must be submitted.

        :raises WaveliftError: when it failed, with AWS's words and our reading; the next look finds nothing to wait
            for and a new one may be submitted.
        """
        if not self.task_id:
            return None
        status = self._imports.describe([self.task_id]).get(self.task_id)
        if status is not None and (not status.finished or status.state is ImportState.COMPLETED):
            return status
        if status is None:
            self._submit_again()
            return None
        cancelled = explain_import_failure(status.message).code == "cancelled"
        self._forget(cancelled=cancelled)
        if not cancelled:
            raise status.failure(server=self._server)
        if self._cancelled > MAX_RESUBMITS:
            raise WaveliftError(
                "The import was cancelled again and again",
                server=self._server,
                next_step="Find out who cancels import tasks in this account, then clear this task",
            )
        return None

    def submit(self, request: Callable[[str], ImportRequest], *, limit: int) -> ImportRunning | ImportWaiting:
        """Submit the import if the account has a place for it (invariant 8).

        :param request: makes the request for a client token. :param limit: active imports of account and region.
        """
        self._ctx.cancel.check()
        active = self._imports.count_active()
        if active >= limit:
            return ImportWaiting(f"{active} imports are active in the account, the limit is {limit}", below=limit)
        token = client_token(self._ctx.run_key, "import", self._attempt)
        try:
            self._remember(self._imports.import_image(request(token)))
        except LimitReachedError as error:
            # AWS's limit is lower than ours: only when one of these has ended is it worth asking again.
            return ImportWaiting(error.what, below=max(1, active))
        return ImportRunning(self.task_id, "submitted")

    def cancel(self, reason: str) -> None:
        """Cancel the task if it still runs."""
        if self.task_id:
            self._imports.cancel(self.task_id, reason)

    def _remember(self, task_id: str) -> None:
        self.task_id = task_id
        self._store()

    def _submit_again(self) -> None:
        """AWS does not know the task: too young to be seen, or forgotten. The same client token tells: AWS answers it
        with the task that it started for it, and only if there is none with a new one (invariant 5).
        """
        self._unseen += 1
        if self._unseen > MAX_UNSEEN:
            self._forget(cancelled=False)
            return
        self.task_id = ""
        self._store()

    def _forget(self, *, cancelled: bool) -> None:
        """The remote end is final and bad: the next submission needs a new client token."""
        self.task_id = ""
        self._attempt += 1
        self._unseen = 0
        self._cancelled = self._cancelled + 1 if cancelled else 0
        self._store()

    def _store(self) -> None:
        self._ctx.checkpoints.set(
            IMPORT_KEY,
            {
                "task_id": self.task_id,
                "attempt": self._attempt,
                "cancelled": self._cancelled,
                "unseen": self._unseen,
            },
        )


def import_disks(
    access: AwsAccess, request: Callable[[str], ImportRequest], ctx: RunContext, *, limit: int
) -> ImportStatus | ImportRunning | ImportWaiting:
    """Bring an import outside any wave one step further; the completed task's status at its end.

    :raises WaveliftError: when it failed, with AWS's words and our reading.
    """
    job = ImportJob(access, ctx)
    status = job.look()
    if status is None:
        return job.submit(request, limit=limit)
    return status if status.finished else ImportRunning(status.task_id, status.phase)
