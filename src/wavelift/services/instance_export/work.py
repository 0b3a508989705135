"""One export on its way: its row, its plan, and what it may have made outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.domain import Instant, Message
from wavelift.base.errors import BusyError, LimitReachedError, NotFoundError, PermanentError, ThrottledError
from wavelift.base.names import TAG_ATTEMPT, TAG_RUN
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState
from wavelift.services.dataplane.export_messages import ExportOrder, ExportPlan
from wavelift.services.dataplane.export_staging import made_with, run_of
from wavelift.services.instance_export.runs import require_going

ASKING: Final = "asking"
"""The moment before a call that makes something, until its answer is recorded."""
REFUSALS: Final = (PermanentError, LimitReachedError, BusyError, ThrottledError)
"""Answers that say that this call made nothing. After any other error there may be something."""

YOUNG: Final = timedelta(seconds=60)
"""After this, AWS shows what it made (EC2 is consistent in the end)."""
SNAPSHOTS_TAKEN: Final = "snapshots_taken"
IMAGE_BEGUN: Final = "image_begun"
"""The moments at which EC2 named what it makes."""
SHOWN: Final = "sources_shown"
"""The moment at which EC2 first showed all of them: what is not there later is gone."""


class Made(Message):
    """The column ``made`` of an export: it is written before what it names is made."""

    attempt: int = 1
    """Grows when a run is cleared after its end. Tokens, names and tags carry it."""
    submission: int = 1
    """Of a task of AWS in this attempt: it grows when AWS failed inside, so that another try submits another task."""
    method: str = ""
    """Empty: nothing was begun."""
    image_id: str = ""
    snapshot_ids: tuple[str, ...] = ()
    """Of the image, or of the volumes."""
    instant: Instant | None = None
    """Of the volumes' snapshots."""
    unseen: int = 0
    """Looks at which AWS did not know the image or the task."""
    tidy: bool = False
    """What is not the result is removed."""
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """What stays, and why."""


def made_of(known: InstanceExport) -> Made:
    return Made.load(known.made or {})


def plan_of(known: InstanceExport) -> ExportPlan:
    """:raises NotFoundError: it was not checked yet."""
    if known.plan is None:
        raise NotFoundError(
            "The export was not checked yet", next_step="Clear the run's task `check`, with downstream", export=known.id
        )
    return ExportPlan.load(known.plan)


def tag_of_run(known: InstanceExport) -> dict[str, str]:
    """On everything that the export made, in every attempt."""
    return {TAG_RUN: run_of(known.id)}


class Work:
    """One look at an export; each writes what it found to the row."""

    def __init__(self, ledger: Ledger, access: AwsAccess, known: InstanceExport, ctx: RunContext) -> None:
        self.ledger, self.access, self.known, self.ctx = ledger, access, known, ctx
        self.made = made_of(known)

    @property
    def plan(self) -> ExportPlan:
        return plan_of(self.known)

    @property
    def tags(self) -> dict[str, str]:
        """Of what this attempt makes."""
        return {**made_with(self.plan), TAG_ATTEMPT: str(self.made.attempt)}

    @property
    def task_tags(self) -> dict[str, str]:
        """Of a task of AWS: no other submission's is taken for it."""
        return {**self.tags, TAG_ATTEMPT: f"{self.made.attempt}.{self.made.submission}"}

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a call that makes something and whose answer may get lost. Until the answer is recorded, the removal
        waits a moment for what AWS does not show yet.

        :raises PermanentError: the export was cancelled; nothing was asked.
        """
        earlier = moment_of(self.known, ASKING)
        self.write(ASKING, first=True)
        try:
            yield
        except REFUSALS:
            # What an earlier call made, whose answer got lost, may be why this one is refused.
            if earlier is None:
                self._forget_asking()
            raise

    def write(
        self,
        moment: str,
        *,
        made: dict[str, Any] | None = None,
        first: bool = False,
        answered: bool = False,
        **columns: Any,
    ) -> None:
        """Record that something happened, and go on only if nobody has asked to cancel the export.

        What was made is recorded also then: the removal reads it.

        :param made: changes of :class:`Made`. :param first: it is about to happen, and of a cancelled export does not.
        :param answered: it is what :meth:`asking` asked for.
        :raises PermanentError: the export was cancelled.
        """
        known = self.known
        with self.ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
            now = exports.get(tx, known.id, lock=True)
            if first:
                require_going(now)
            if now.state is ExportState.CANCELLING:
                columns.pop("state", None)
            if made is not None:
                columns["made"] = made_of(now).model_copy(update=made).dump()
            now = _without_asking(now) if answered else now
            self.known = exports.note_time(tx, now, moment, at=self.ctx.clock.now(), by=self.ctx.run, **columns)
        self.made = made_of(self.known)
        require_going(self.known)

    def _forget_asking(self) -> None:
        known = self.known
        with self.ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
            now = _without_asking(exports.get(tx, known.id, lock=True))
            at, by = self.ctx.clock.now(), self.ctx.run
            self.known = exports.apply(tx, now, "asked_in_vain", at=at, by=by, times=now.times)

    def order(self, key: str, **more: Any) -> ExportOrder:
        """For `read` and `verify`."""
        return ExportOrder(plan=self.plan, key=key, task_id=self.known.task_id, **more)


def _without_asking(known: InstanceExport) -> InstanceExport:
    return replace(known, times={name: at for name, at in (known.times or {}).items() if name != ASKING})


def moment_of(known: InstanceExport, name: str) -> datetime | None:
    """When something happened; None: it did not."""
    text = (known.times or {}).get(name)
    return datetime.fromisoformat(text) if text else None


def is_young(known: InstanceExport, moment: str, ctx: RunContext) -> bool:
    """Whether AWS may not show yet what it was told, or told us, at this moment."""
    at = moment_of(known, moment)
    return at is not None and ctx.clock.now() - at < YOUNG


def may_be_hidden(known: InstanceExport, ctx: RunContext) -> bool:
    """Whether EC2 may not show yet the snapshots, or the image, whose ids it told."""
    name = SNAPSHOTS_TAKEN if made_of(known).method == "direct" else IMAGE_BEGUN
    made, shown = moment_of(known, name), moment_of(known, SHOWN)
    return is_young(known, name, ctx) and not (made and shown and shown >= made)
