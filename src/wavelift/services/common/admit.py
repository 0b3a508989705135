"""What the admit tasks of all flows share: what triggered a run, and its spec as it is frozen for the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wavelift.base.errors import PermanentError, SpecError
from wavelift.base.printable import printable_lines
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, WaveRun, WaveRunState, waves
from wavelift.rules.frozen import lost_rights
from wavelift.rules.plans import ResolvedWave


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Airflow's conf, and how the run came about. Who asked for it is :attr:`RunContext.requester`.

    :param source: ``ui``, ``api`` or ``schedule``.
    :param scheduled_for: the instant of a run that the timetable made; None: on demand.
    :param first: nobody may have asked for a run of this id before: the REST API, for a run that it makes next.
    """

    wave: str
    conf: Mapping[str, Any]
    source: str = "api"
    scheduled_for: datetime | None = None
    backfill: bool = False
    first: bool = False


Lost = Callable[[WaveRun], list[str]]
"""What a run froze that the present files do not allow any more, one line each.

:raises SpecError: the present files allow nothing.
"""


def lost_of(load: Callable[[str], ResolvedWave]) -> Lost:
    """Of the run of a wave that lands in EC2. :param load: the wave of this name as its files are now."""
    return lambda known: lost_rights(frozen_wave(known), load(known.wave).environment)


def frozen_spec(ledger: Ledger, request: RunRequest, lost: Lost, ctx: RunContext) -> Mapping[str, Any] | None:
    """What an earlier call of this run's admit task froze; None: nothing yet.

    A run that goes on needs no files. One that has ended and is cleared begins anew, with the spec that it froze, so
    the present files must allow it.

    :raises SpecError: when they do not.
    """
    with ledger.read() as tx:
        known = waves.find(tx, ctx.run)
    if known is None:
        return None
    _require_new(known, request)
    _require_rights(known, lost)
    return known.spec


def reopen(ledger: Ledger, lost: Lost, ctx: RunContext) -> None:
    """A task of an ended run was cleared: the run goes on if the present files still allow what it froze.

    :raises SpecError: when they do not. :raises NotFoundError: the run was never admitted.
    """
    with ledger.read() as tx:
        known = waves.get(tx, ctx.run)
    if known.state is not WaveRunState.RUNNING:
        _require_rights(known, lost)
        with ledger.write(waves.LOCK) as tx:
            waves.reopen_wave_run(tx, ctx.run, by=str(ctx.run), clock=ctx.clock)


def must_be_allowed(ledger: Ledger, lost: Lost, ctx: RunContext) -> bool:
    """Whether the run has ended, so that what it froze must be allowed by the present files: here it is.

    :raises SpecError: the present files do not allow what the run froze. :raises NotFoundError: it was never admitted.
    """
    with ledger.read() as tx:
        known = waves.get(tx, ctx.run)
    _require_rights(known, lost)
    return known.state is not WaveRunState.RUNNING


def _require_rights(known: WaveRun, lost: Lost) -> None:
    """:raises SpecError: the run has ended, and what it froze is not allowed any more."""
    if known.state is WaveRunState.RUNNING:
        return
    gone = lost(known)
    if gone:
        raise SpecError(
            printable_lines(["This run has ended, and what it froze is not allowed any more:", *gone]),
            next_step="Trigger a new run of the wave",
            wave=known.wave,
        )


def frozen_wave(run: WaveRun) -> ResolvedWave:
    """The wave as it was frozen for a run."""
    return ResolvedWave.load(waves.wave_of(run.spec))


def frozen_environment(run: WaveRun) -> str:
    """The name of the environment in which a run lands: without the wave's plans, of which there may be hundreds."""
    return str(waves.wave_of(run.spec)["environment"]["environment"])


def freeze(ledger: Ledger, request: RunRequest, ctx: RunContext, *, mode: str, spec: dict[str, Any]) -> None:
    """Store a run's mode and spec. A repeated call keeps what was stored first.

    :raises PermanentError: the run must be new, and is not.
    """
    asked = waves.NewWaveRun(
        run=ctx.run,
        wave=request.wave,
        mode=mode,
        requested_by=ctx.requester,
        source=request.source,
        spec=spec,
        note=str(request.conf.get("note") or ""),
    )
    with ledger.write(waves.LOCK) as tx:
        _require_new(waves.find(tx, ctx.run), request)
        waves.freeze_wave_run(tx, asked, clock=ctx.clock)


def _require_new(known: WaveRun | None, request: RunRequest) -> None:
    if known is not None and request.first:
        raise PermanentError(
            "This request was made before: nothing was started again",
            next_step="List its migrations by wave and dag_run_id; for another run, give another request_id",
            wave=known.wave,
            run=known.dag_run_id,
            state=str(known.state),
        )
