"""The report of a migrate run: closes what is open, tidies, and says how each server ended. It may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from wavelift.base.domain import Message
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import Ledger, Migration, WaveRun, migrations, waves
from wavelift.rules.flows import MIGRATE
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.plans import ServerPlan
from wavelift.services.common.leftovers import record_removed
from wavelift.services.common.report import (
    ALL_REFUSED,
    NOT_FINISHED,
    ServerEnded,
    TaskOutcome,
    all_refused,
    end_wave_run,
    failed_run,
    free_slots,
    standing_snapshot,
    tidied,
    told,
    wave_errors,
    way_out,
)
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.messages import (
    Admitted,
    CleanupReport,
    PreflightReport,
)
from wavelift.services.migration import unbegun


class ServerOutcome(ServerEnded):
    """One line of the report."""

    migration: str = ""
    image_id: str = ""
    instance_id: str = ""
    import_task: str = ""
    bytes: int = 0
    bytes_read_back: int = 0
    content: tuple[str, ...] = ()
    """Content digest of each disk."""
    changed_bytes: int = 0
    """Bytes of the boot disk that the conversion changed."""


class WaveReport(Message):
    """What a run did, for people and for the API."""

    wave: str
    mode: str
    outcomes: tuple[ServerOutcome, ...]
    unclean: tuple[str, ...] = ()
    """What could not be removed."""
    stopped: str = ""
    """Why the run as a whole ended before its servers did."""

    @property
    def succeeded(self) -> bool:
        return not (self.failed or self.unclean or self.stopped)

    @property
    def failed(self) -> tuple[ServerOutcome, ...]:
        return tuple(one for one in self.outcomes if one.state != MigrationState.COMPLETED)


Tidy = Callable[[Migration, ServerPlan], str]
"""Removes what a failed server left in AWS. Returns words about what stays, or an empty string."""


def nothing_to_tidy(migration: Migration, plan: ServerPlan) -> str:
    """A :data:`Tidy` for runs without AWS."""
    return ""


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a run when its report begins.

    :param stopped: why the run as a whole ended before its servers did, if it did.
    :param swept: what a run in mode ``cleanup`` found and removed.
    """

    preflight: PreflightReport | None
    tasks: Collection[TaskOutcome] = ()
    stopped: str = ""
    swept: CleanupReport | None = None


def finish(ledger: Ledger, ended: Ended, ctx: RunContext, *, tidy: Tidy = nothing_to_tidy) -> WaveReport:
    """Close what is open, free slots, and report how each server ended. May be called again after a clear."""
    run, clock, preflight = ctx.run, ctx.clock, ended.preflight
    with ledger.read() as tx:
        known = waves.find(tx, run)
        found = migrations.of_dag_run(tx, run)
    by_server = {outcome.server: outcome for outcome in ended.tasks}
    closed = [
        migration if migration.waits else _close(ledger, migration, by_server.get(migration.server), clock)
        for migration in found
    ]
    stopped = ended.stopped
    if preflight is not None and known is not None and known.mode == "migrate":
        closed = unbegun.record(ledger, known, preflight, by_server, closed, ctx)
        if not closed:
            stopped = stopped or wave_errors(preflight)
    closed = [unbegun.stop(ledger, row.id, stopped, ctx) if row.waits else row for row in closed]
    listed = unbegun.listed(known, preflight) if known is not None and known.mode == "migrate" else ()
    passed = {task.name for task in preflight.passed} if preflight is not None else set()
    outcomes = [
        outcome_of(migration, listed, clearable=migration.server_id is not None or migration.server in passed)
        for migration in closed
    ]
    report = WaveReport(
        wave=known.wave if known else run.dag_id,
        mode=known.mode if known else "",
        outcomes=tuple(sorted(outcomes, key=lambda one: one.server)),
        unclean=(
            *(words for each in closed for words in _left_by(each, known, tidy)),
            *_removed(ledger, ended.swept, known, ctx),
        ),
        stopped=stopped,
    )
    if known is not None:
        end_wave_run(ledger, report, ctx)
    return report


def _removed(ledger: Ledger, swept: CleanupReport | None, run: WaveRun | None, ctx: RunContext) -> Iterator[str]:
    """What a clean-up removed is recorded; words about what it could not remove. The report came by XCom: only a run
    in that mode has one, and it is about the runs that its admission named."""
    if swept is not None and run is not None and run.mode == "cleanup":
        yield from record_removed(ledger, swept, Admitted.load(run.spec).runs, ctx)


def _left_by(migration: Migration, run: WaveRun | None, tidy: Tidy) -> Iterator[str]:
    """What a closed migration left outside that could not be removed."""
    if words := standing_snapshot(migration):
        yield words
    if migration.server_id is None:
        return  # it never began
    # An image in the ledger was compared with its source: it is a result, also when a later step failed.
    if run is None or migration.state is MigrationState.COMPLETED or migration.image_id:
        return
    any_plan = Admitted.load(run.spec).wave.servers[0]
    plan = any_plan.model_copy(update={"server": migration.server})
    left = "what it staged may still lie in S3, and its import may still run"
    if words := tidied(migration.server, left, lambda: tidy(migration, plan)):
        yield words


def _close(ledger: Ledger, migration: Migration, tasks: TaskOutcome | None, clock: Clock) -> Migration:
    if not migration.state.terminal:
        if migration.cancel_requested:
            with ledger.write() as tx:
                migration = migrations.mark_cancelled(tx, migration.id, CANCELLED, clock=clock)
        else:
            words = tasks.words if tasks and tasks.words else NOT_FINISHED
            with ledger.write() as tx:
                migration = migrations.fail(tx, migration.id, words, clock=clock)
    free_slots(ledger, migration.run_key, clock)
    return migration


def outcome_of(migration: Migration, listed: Collection[str] = (), *, clearable: bool = True) -> ServerOutcome:
    """A ledger row as a line of the report.

    :param listed: the servers that a new run can be told to take. :param clearable: it has tasks of its own.
    """
    export = migration.export_result or {}
    verify = migration.verify_result or {}
    disks = export.get("disks", ())
    changed = sum(part["length"] for disk in migration.conversion_report or () for part in disk.get("changed", ()))
    return ServerOutcome(
        server=migration.server,
        state=str(migration.state),
        migration=migration.id,
        image_id=migration.image_id,
        instance_id=migration.instance_id,
        import_task=migration.import_task_id,
        bytes=int(verify.get("bytes_verified", 0)) if migration.state is MigrationState.COMPLETED else 0,
        bytes_read_back=int(verify.get("bytes_read_back", 0)),
        content=tuple(disk["content_digest"] for disk in disks),
        changed_bytes=changed,
        error=migration.error,
        refused=migration.state is MigrationState.REFUSED,
        listed=migration.server in listed,
        clearable=clearable,
    )


def raise_when_failed(report: WaveReport) -> None:
    """:raises PermanentError: naming each server that failed or was refused, why, and the way out."""
    if report.succeeded:
        return
    headline = f"{len(report.failed)} of {len(report.outcomes)} servers did not get through"
    raise failed_run(
        report,
        ALL_REFUSED if all_refused(report.outcomes) else headline,
        told([one for one in report.failed if not (report.stopped and one.error.endswith(report.stopped))]),
        way_out(MIGRATE, report.wave, report.failed),
    )
