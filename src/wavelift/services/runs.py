"""Wave runs: what may begin, frozen for the run, and what is told at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from wavelift.base.domain import ExportResult, Message, Severity
from wavelift.base.errors import PermanentError, SpecError, WaveliftError
from wavelift.base.names import run_hash
from wavelift.base.run import Clock
from wavelift.ledger import (
    DagRun,
    Ledger,
    Migration,
    ReplicationRun,
    SnapshotState,
    WaveRun,
    WaveRunState,
    migrations,
    replication_runs,
    waves,
)
from wavelift.ledger.events import record_event
from wavelift.ledger.slots import list_slots
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.services import admission
from wavelift.services.dataplane.messages import (
    SNAPSHOT_KIND,
    Admitted,
    CleanupReport,
    Imported,
    KnownRun,
    Mode,
    PreflightReport,
    StandingSnapshot,
)

FORM_KEYS: Final = ("servers", "launch", "mode", "note")
EXTRA_KEYS: Final = ("migrations", "dry_run")
"""What our own REST routes add to the form's keys."""
MODES: Final[tuple[Mode, ...]] = ("migrate", "plan", "preflight", "launch", "verify", "cleanup")
LAUNCH: Final = ("spec", "none", "running")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What triggered a run: Airflow's conf and who sent it."""

    run: DagRun
    wave: str
    conf: Mapping[str, Any]
    requested_by: str
    source: str
    """``ui``, ``api`` or ``schedule``."""


def admit(
    ledger: Ledger,
    request: RunRequest,
    load: Callable[[str], ResolvedWave],
    *,
    clock: Clock,
) -> Admitted:
    """Check the conf, resolve the spec and freeze it for the run. A repeated call returns what was frozen first.

    :raises SpecError: for an unknown key or value, naming what is allowed, or a broken spec.
    """
    known = waves.find_wave_run(ledger, request.run)
    frozen = Admitted.load(known.spec) if known else _resolve(ledger, request, load)
    waves.freeze_wave_run(
        ledger,
        run=request.run,
        wave=request.wave,
        mode=frozen.mode,
        requested_by=request.requested_by,
        source=request.source,
        spec=frozen.dump(),
        note=str(request.conf.get("note") or ""),
        clock=clock,
    )
    return frozen


def _resolve(ledger: Ledger, request: RunRequest, load: Callable[[str], ResolvedWave]) -> Admitted:
    conf = request.conf
    allowed = (*FORM_KEYS, *EXTRA_KEYS)
    unknown = sorted(set(conf) - set(allowed))
    if unknown:
        raise SpecError(
            f"The run's conf has unknown keys: {', '.join(unknown)}",
            next_step=f"Allowed are {', '.join(allowed)}",
            wave=request.wave,
        )
    mode = _one_of("mode", conf.get("mode", "migrate"), MODES)
    launch = _one_of("launch", conf.get("launch", "spec"), LAUNCH)
    servers = _names("servers", conf.get("servers"))
    ids = _names("migrations", conf.get("migrations"))
    wave = load(request.wave)
    if mode in ("migrate", "plan", "preflight"):
        wave = wave.choose(servers)
    if mode == "migrate" and launch != "spec":
        wave = wave.with_launch(launch)  # type: ignore[arg-type]
    named = _named(ledger, request.wave, ids) if mode in ("launch", "verify") else []
    return Admitted(
        wave=wave,
        mode=mode,  # type: ignore[arg-type]
        dag_id=request.run.dag_id,
        run_id=request.run.dag_run_id,
        requested_by=request.requested_by,
        migrations=tuple(each.id for each in named),
        imported=tuple(_imported(each) for each in named) if mode == "verify" else (),
        dry_run=_flag("dry_run", conf.get("dry_run", True)),
        runs=tuple(_known_runs(ledger)) if mode == "cleanup" else (),
        standing=tuple(_standing(ledger)) if mode == "cleanup" else (),
    )


def _one_of(key: str, value: object, allowed: Collection[str]) -> str:
    if value not in allowed:
        raise SpecError(f"{key} is {value!r}", next_step=f"Allowed are {', '.join(allowed)}")
    return str(value)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"{key} is {value!r}", next_step="Allowed are true, false")
    return value


def _names(key: str, value: object) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SpecError(f"{key} is {value!r}", next_step="Give a list of names in quotes, or leave it out for all")
    return value


def _named(ledger: Ledger, wave: str, ids: list[str] | None) -> list[Migration]:
    """The migrations that the conf names; all must be of this wave."""
    if not ids:
        raise SpecError("No migration is named", next_step="Give their ids in conf under migrations", wave=wave)
    found = [migrations.get_migration(ledger, id) for id in ids]
    for known in found:
        if known.wave != wave:
            raise SpecError(f"{known.id} belongs to wave {known.wave}", wave=wave, next_step="Trigger that wave's DAG")
    return found


def _imported(known: Migration) -> Imported:
    if not known.export_result or not known.snapshot_ids:
        raise SpecError(
            f"{known.id} has no image to verify: it is {known.state}",
            server=known.server,
            next_step="Verify only finished imports; see wavelift migrations list",
        )
    return Imported(migration=known.id, export=ExportResult.load(known.export_result), snapshot_ids=known.snapshot_ids)


def _known_runs(ledger: Ledger) -> Iterator[KnownRun]:
    """Every run of the ledger that may have made something, with the run hashes of its servers."""
    hashes: dict[DagRun, list[str]] = {}
    started = replication_runs.RunFilter(started=True)
    for pages in (migrations.list_migrations, partial(replication_runs.list_runs, which=started)):
        offset = 0
        while (page := pages(ledger, limit=500, offset=offset)).items:
            for each in page.items:
                hashes.setdefault(each.run, []).append(run_hash(each.run_key))
            offset += len(page.items)
    for run, found in hashes.items():
        yield KnownRun(dag_id=run.dag_id, run_id=run.dag_run_id, hashes=tuple(found))


def _standing(ledger: Ledger) -> Iterator[StandingSnapshot]:
    """The snapshots that the ledger takes for standing: nobody else may tell it when one went another way."""
    standing: list[Migration | ReplicationRun] = [*migrations.open_snapshots(ledger)]
    standing += replication_runs.open_snapshots(ledger)
    for each in standing:
        frozen = waves.find_wave_run(ledger, each.run)
        if frozen is not None:
            spec = frozen.spec.get("wave")  # of a replicate run the wave itself is frozen, of any other what it admits
            wave = ResolvedWave.load(spec if isinstance(spec, dict) else frozen.spec)
            yield StandingSnapshot(
                server=each.server,
                connection=wave.connection,
                vm=each.snapshot_vm,
                name=each.snapshot_name,
                run=run_hash(each.run_key),
            )


class ServerOutcome(Message):
    """One line of the report."""

    server: str
    state: str
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
    error: str = ""


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
        return tuple(one for one in self.outcomes if one.state in ("failed", "cancelled", "refused"))


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How one server's tasks ended."""

    server: str
    failed_tasks: tuple[str, ...]
    words: str
    """What the failing task said."""


Tidy = Callable[[Migration, ServerPlan], str]
"""Clears what a server that did not get through left in AWS; words about what stays, or an empty string."""


def nothing_to_tidy(migration: Migration, plan: ServerPlan) -> str:
    """A :data:`Tidy` for runs without AWS."""
    return ""


def finish(
    ledger: Ledger,
    run: DagRun,
    preflight: PreflightReport | None,
    tasks: Collection[TaskOutcome],
    *,
    clock: Clock,
    tidy: Tidy = nothing_to_tidy,
    stopped: str = "",
    swept: CleanupReport | None = None,
) -> WaveReport:
    """Close what is open, free what is held, and tell how each server ended. May be called again after a clear.

    :param stopped: why the run as a whole ended before its servers did, if it did.
    :param swept: what a run in mode ``cleanup`` found and removed.
    """
    known = waves.find_wave_run(ledger, run)
    by_server = {outcome.server: outcome for outcome in tasks}
    closed = [
        _close(ledger, migration, by_server.get(migration.server), clock)
        for migration in migrations.migrations_of_run(ledger, run)
    ]
    outcomes = [outcome_of(migration) for migration in closed]
    told = {one.server for one in outcomes}
    if preflight is not None and (known is None or known.mode == "migrate"):
        outcomes += _refused(preflight, told)
        outcomes += _never_begun(preflight, {one.server for one in outcomes}, by_server)
    report = WaveReport(
        wave=known.wave if known else run.dag_id,
        mode=known.mode if known else "",
        outcomes=tuple(sorted(outcomes, key=lambda one: one.server)),
        unclean=(
            *(words for each in closed for words in _left_by(each, known, tidy)),
            *(_record_cleanup(ledger, run, swept, clock) if swept is not None else ()),
        ),
        stopped=stopped,
    )
    if known is not None:
        ended = WaveRunState.COMPLETED if report.succeeded else WaveRunState.FAILED
        waves.finish_wave_run(ledger, run, ended, clock=clock)
    return report


def _left_by(migration: Migration, run: WaveRun | None, tidy: Tidy) -> Iterator[str]:
    """What a closed migration left outside and could not be removed."""
    if migration.snapshot_state is SnapshotState.INTENDED:
        yield f"{migration.server}: snapshot {migration.snapshot_name} may still stand"
    # An image in the ledger was proven: a failure after it leaves a result, not a leftover.
    if run is None or migration.state is MigrationState.COMPLETED or migration.image_id:
        return
    any_plan = Admitted.load(run.spec).wave.servers[0]
    try:
        left = tidy(migration, any_plan.model_copy(update={"server": migration.server}))
    except WaveliftError as error:
        left = f"{migration.server}: what it staged may still lie in S3, and its import may still run: {error}"
    if left:
        yield left


def _record_cleanup(ledger: Ledger, run: DagRun, swept: CleanupReport, clock: Clock) -> Iterator[str]:
    """Write down what was removed, so that its server is free again; words about what could not be."""
    for one in swept.leftovers:
        if one.error:
            yield f"{one.name}: {one.error}"
        if not one.removed:
            continue
        record_event(
            ledger,
            clock=clock,
            actor=str(run),
            action="cleanup.removed",
            object_kind=one.kind,
            object_id=one.name,
            run=run,
        )
        if one.kind != SNAPSHOT_KIND:
            continue
        owner = migrations.find_migration(ledger, f"mig-{one.run}")
        if owner is not None and owner.snapshot_state is SnapshotState.INTENDED:
            migrations.record_snapshot_removed(ledger, owner.id, by=str(run), clock=clock)
        replica = replication_runs.find_run(ledger, f"run-{one.run}")
        if replica is not None and replica.snapshot_state is SnapshotState.INTENDED:
            replication_runs.record_snapshot_removed(ledger, replica.id, by=str(run), clock=clock)


def _close(ledger: Ledger, migration: Migration, tasks: TaskOutcome | None, clock: Clock) -> Migration:
    if not migration.state.terminal:
        if migration.cancel_requested:
            migration = migrations.mark_cancelled(ledger, migration.id, "cancelled on request", clock=clock)
        else:
            words = tasks.words if tasks and tasks.words else "its tasks ended without finishing it"
            migration = migrations.fail(ledger, migration.id, words, clock=clock)
    _free(ledger, migration, clock)
    return migration


def _free(ledger: Ledger, migration: Migration, clock: Clock) -> None:
    """Whatever the tasks did: a server whose run is over holds nothing."""
    for slot in list_slots(ledger):
        if slot.holder == migration.run_key:
            admission.release_slot(
                ledger, kind=slot.kind, scope=slot.scope, holder=slot.holder, reason="the run is over", clock=clock
            )


def outcome_of(migration: Migration) -> ServerOutcome:
    """A ledger row as a line of the report."""
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
    )


def _refused(preflight: PreflightReport, told: set[str]) -> list[ServerOutcome]:
    """Servers that the pre-flight kept back, and selectors that found none."""
    refused: dict[str, list[str]] = {}
    for finding in preflight.findings:
        if finding.severity is Severity.ERROR:
            refused.setdefault(finding.subject.split("/", 1)[0], []).append(finding.what)
    return [
        ServerOutcome(server=name, state="refused", error="; ".join(words))
        for name, words in refused.items()
        if name not in told
    ]


def _never_begun(
    preflight: PreflightReport, told: set[str], tasks: Mapping[str, TaskOutcome]
) -> Iterator[ServerOutcome]:
    """Servers that passed the pre-flight and have no migration: refused at the slot, or the run was stopped before."""
    for task in preflight.passed:
        if task.name not in told:
            said = tasks[task.name].words if task.name in tasks else ""
            words = said or "none of its tasks began: the run was stopped"
            yield ServerOutcome(server=task.name, state="failed", error=words)


def raise_when_failed(report: WaveReport) -> None:
    """:raises PermanentError: naming each server that failed and why; otherwise the run would look like a success."""
    if report.succeeded:
        return
    lines = [f"{one.server} {one.state}: {one.error}" for one in report.failed] + list(report.unclean)
    counted = f"{len(report.failed)} of {len(report.outcomes)} servers did not get through"
    raise PermanentError(
        "\n".join([f"The run was stopped: {report.stopped}" if report.stopped else counted, *lines]),
        next_step="Clear a failed server from its server.reserve task to continue it; the others are done"
        if report.failed
        else "",
        wave=report.wave,
    )
