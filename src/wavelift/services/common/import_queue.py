"""Places for imports: one queue per account and region, for migrations and replicas alike (AMP-04, invariant 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from wavelift.base.errors import FencedError, WaveliftError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, SlotKind
from wavelift.ledger.slots import standing
from wavelift.services.common import slots as admission
from wavelift.services.common.slots import Granted, InQueue, Queued, SlotRequest
from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting
from wavelift.services.dataplane.messages import ServerTask


def import_scope(task: ServerTask) -> str:
    """Imports are counted per account and region; the connection stands for the account."""
    return f"{task.plan.target.aws_conn_id}/{task.plan.target.region}"


@dataclass(frozen=True, slots=True)
class ImportPlace:
    """The place of one server's import.

    :param limit: imports of ours in this account and region.
    """

    ledger: Ledger
    task: ServerTask
    ctx: RunContext
    limit: int

    def submit(self, start: Callable[[], ImportRunning | ImportWaiting]) -> ImportRunning | ImportWaiting | InQueue:
        """Call ``start`` once a place is won; until then say which one of the queue it is."""
        slot = self._ask()
        if not isinstance(slot, Granted):
            self._free_dead_holders()
            slot = self._ask()
        if not isinstance(slot, Granted):
            return InQueue(self._request(), f"place {slot.position} among our own imports")
        with self.given_back_on_error():
            return start()

    @contextmanager
    def given_back_on_error(self) -> Iterator[None]:
        """What ends badly takes no place: the next try asks for one again. An outlived try gives nothing back, for the
        place is that of the try which owns the work now."""
        try:
            yield
        except FencedError:
            raise
        except WaveliftError:
            self.give_back()
            raise

    def give_back(self) -> None:
        self._release(self.ctx.run_key, "done")

    def _ask(self) -> Granted | Queued:
        scope = import_scope(self.task)
        admission.reclaim(self.ledger, self.ctx, kind=SlotKind.IMPORT, scope=scope)
        return admission.request_slot(self.ledger, self._request(), self.ctx)

    def _request(self) -> SlotRequest:
        return SlotRequest(SlotKind.IMPORT, import_scope(self.task), self.ctx.run_key, self.limit)

    def _free_dead_holders(self) -> None:
        """A task that failed for good, or was marked failed, in a living run gives nothing back by itself."""
        with self.ledger.read() as tx:
            queue = standing(tx, SlotKind.IMPORT, import_scope(self.task))
        for slot in queue:
            if slot.holder != self.ctx.run_key and not self.ctx.liveness.holder(slot.run, slot.holder, slot.kind):
                self._release(slot.holder, "its import task has ended")

    def _release(self, holder: str, reason: str) -> None:
        admission.release_slot(
            self.ledger,
            kind=SlotKind.IMPORT,
            scope=import_scope(self.task),
            holder=holder,
            reason=reason,
            clock=self.ctx.clock,
        )
