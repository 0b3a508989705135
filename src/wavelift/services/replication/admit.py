"""The admit task of a replicate run: which servers may run, frozen for the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from wavelift.base.errors import SpecError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.admit import RunRequest, freeze, frozen_spec
from wavelift.services.dataplane.replication_messages import (
    AdmittedRuns,
    ReplicationMode,
    TurnedDown,
)
from wavelift.services.replication.admission import Asked, RefusedServer, admit_runs
from wavelift.services.replication.jobs import TermNotice, warn_terms
from wavelift.services.replication.requests import DELETE, VERIFY, jobs_to_delete, runs_to_verify

MODE: Final = "replicate"
KEYS: Final = {
    MODE: ("mode", "servers", "note"),
    DELETE: ("mode", "jobs", "note"),
    VERIFY: ("mode", "runs", "jobs", "note"),
}
"""What the conf of a run may say, by its mode."""


def admit(ledger: Ledger, request: RunRequest, load: Callable[[str], ResolvedWave], ctx: RunContext) -> AdmittedRuns:
    """Check the conf, freeze the spec for the run, and decide which servers may run.

    A repeated call keeps the spec that was frozen first and goes on with the same runs. A run that deletes or verifies
    replicas admits no server. A warning about a term is given once, to the run that comes first (SMS-10).

    :raises SpecError: for an unknown key or value, or a broken spec. :raises PermanentError: for a backfill.
    """
    mode = _mode(request)
    servers = _servers(request)
    known = frozen_spec(ledger, ctx)
    wave = ResolvedWave.load(known) if known else load(request.wave)
    if mode != MODE:
        admitted = AdmittedRuns(
            wave=wave.model_copy(update={"servers": ()}),
            dag_id=ctx.run.dag_id,
            run_id=ctx.run.dag_run_id,
            requested_by=ctx.requester,
            scheduled=False,
            mode=mode,
            jobs=jobs_to_delete(ledger, request.wave, _given(request)) if mode == DELETE else (),
            recorded=runs_to_verify(ledger, request.wave, _given(request)) if mode == VERIFY else (),
        )
        freeze(ledger, request, ctx, mode=mode, spec=wave.dump())
        return admitted
    asked = Asked(scheduled_for=request.scheduled_for, servers=servers, backfill=request.backfill)
    found = admit_runs(ledger, request.wave, asked, ctx)
    freeze(ledger, request, ctx, mode=mode, spec=wave.dump())
    granted = tuple(each.server for each in found.granted)
    return AdmittedRuns(
        wave=_narrowed(wave, granted),
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        requested_by=ctx.requester,
        scheduled=request.scheduled_for is not None,
        granted=granted,
        refused=_told(found.refused),
        skipped=_told(found.skipped),
        finished=tuple(each.server for each in found.finished),
        warnings=tuple(_warning(each) for each in warn_terms(ledger, request.wave, clock=ctx.clock)),
    )


def _warning(notice: TermNotice) -> str:
    soon = "a day" if notice.days == 1 else f"{notice.days} days"
    ends = f" ({notice.job.term_ends_at:%Y-%m-%d %H:%M} UTC)" if notice.job.term_ends_at else ""
    return (
        f"{notice.job.server}: the term of its replication ends in less than {soon}{ends}: cut over, or extend it by "
        f"`wavelift jobs extend {notice.job.id}`"
    )


def _given(request: RunRequest) -> dict[str, Any]:
    """The conf without what the form left empty."""
    return {key: value for key, value in request.conf.items() if value is not None}


def _mode(request: RunRequest) -> ReplicationMode:
    """:raises SpecError: for an unknown mode, or a key that the mode does not know."""
    conf = _given(request)
    mode = conf.get("mode", MODE)
    if mode not in KEYS:
        raise SpecError(f"mode is {mode!r}", next_step=f"Allowed are {', '.join(KEYS)}", wave=request.wave)
    unknown = sorted(set(conf) - set(KEYS[mode]))
    if unknown:
        raise SpecError(
            f"The run's conf has unknown keys: {', '.join(unknown)}",
            next_step=f"Allowed in mode {mode} are {', '.join(KEYS[mode])}",
            wave=request.wave,
        )
    return mode  # type: ignore[no-any-return]  # a key of KEYS


def _servers(request: RunRequest) -> list[str] | None:
    value = request.conf.get("servers")
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise SpecError(f"servers is {value!r}", next_step="Give a list of names in quotes, or leave it out for all")
    return value


def _narrowed(wave: ResolvedWave, granted: Collection[str]) -> ResolvedWave:
    """The entries that may hold a granted server. A replica is taken of a running server, and launches nothing."""
    changes = {"launch": "none", "source_power": "leave_running", "allow_twin": False}
    kept = [plan for plan in wave.servers if plan.server in granted]
    if len(kept) < len(granted):  # the others come by folder or tag, whose names are known only to the vCenter
        kept += [plan for plan in wave.servers if plan.selector.many]
    return wave.model_copy(update={"servers": tuple(plan.model_copy(update=changes) for plan in kept)})


def _told(found: Iterable[RefusedServer]) -> tuple[TurnedDown, ...]:
    return tuple(TurnedDown(**each.dump()) for each in found)
