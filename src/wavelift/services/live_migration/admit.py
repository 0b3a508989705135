"""The admit task of a live run: which servers, in which window; frozen for the run."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from wavelift.base.errors import SpecError
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.authority import Action
from wavelift.rules.conf import LiveConf
from wavelift.rules.cutover_plan import opening
from wavelift.rules.hcx_wave import FOLLOWED_NEAR, over
from wavelift.rules.live_plans import ResolvedLive
from wavelift.rules.wave_cutover import Window
from wavelift.services.common.admit import RunRequest, freeze, frozen_spec
from wavelift.services.common.authority import Rights, require_run, require_where
from wavelift.services.common.reserve import refuse_in_maintenance
from wavelift.services.dataplane.live_messages import AdmittedLive
from wavelift.services.live_migration import cancelling
from wavelift.services.live_migration.opening import open_migrations
from wavelift.services.live_migration.runs import Load, hcx_has_window, lost_of_live

LAST_YES: Final = timedelta(minutes=15)
"""Before the window: without a yes by then, what has not begun to switch over is cancelled. HCX looks for windows by
the minute, and a cancel needs a while."""
ASKED_AHEAD: Final = timedelta(days=6)
"""The order to cancel what has no yes is given at the start: its grant, which nobody renews, outlives the question."""


def admit(ledger: Ledger, request: RunRequest, load: Load, ctx: RunContext, *, rights: Rights) -> AdmittedLive:
    """Check the conf, freeze the spec for the run, and open its migrations. Mode plan opens none.

    A repeated call keeps the spec that was frozen first.

    :raises SpecError: an unknown key, value or server; a window that is none, over, or too short; the present files
        allow no run.
    :raises RefusedError: a server has another open migration.
    :raises DeniedError: whoever asked may not migrate there.
    """
    conf = LiveConf.read(request.conf, wave=request.wave)
    if conf.mode == "cancel":
        return _cancels(ledger, request, conf, ctx, rights=rights)
    known = frozen_spec(ledger, request, lost_of_live(load), ctx)
    wave = ResolvedLive.load(known) if known else load(request.wave)
    environment = wave.environment.environment
    require_run(ledger, environment, Action.MIGRATE, ctx, rights=rights)
    if conf.priority == "next":
        require_run(ledger, environment, Action.ADMINISTER, ctx, rights=rights)
    wave = as_asked(wave, conf, ctx.clock.now())
    opened: tuple[LiveMigration, ...] = ()
    if conf.mode == "migrate":
        if known is None:
            with ledger.read() as tx:
                refuse_in_maintenance(tx, wave.environment.hcx.queue, wave=wave.wave)
        opened = open_migrations(ledger, wave, ctx, note=conf.note or "")
    freeze(ledger, request, ctx, mode=conf.mode, spec=wave.dump())
    return AdmittedLive(
        wave=wave, mode=conf.mode, requested_by=ctx.requester, migrations={each.server: each.id for each in opened}
    )


def as_asked(wave: ResolvedLive, conf: LiveConf, now: datetime) -> ResolvedLive:
    """The wave with the servers, the window and the choice of a run's conf.

    :raises SpecError: an unknown server; a window that is none, over, too short, or too soon to ask anybody.
    """
    chosen = wave.choose(conf.servers)
    window = _window(chosen, conf, now)
    accepts = wave.accept_warnings or conf.accept_warnings
    return chosen.model_copy(update={"window": window, "accept_warnings": accepts})


def _window(wave: ResolvedLive, conf: LiveConf, now: datetime) -> Window | None:
    found = opening(conf.window_start, conf.window_end, wave.window, now)
    if found.start is None and found.end is None:
        if wave.approve_switchover and hcx_has_window(wave):
            raise SpecError("A switchover is held back until a window, and there is none", next_step="Give a window")
        return None
    if found.start is None or found.end is None:
        raise SpecError(
            "A window needs its first and its last instant",
            next_step="Give window_start and window_end",
            wave=wave.wave,
        )
    window = Window(start=found.start, end=found.end)
    if not hcx_has_window(wave):  # HCX can't schedule these: we wait before the start
        return window
    problem = over(window, now) or over(window, window.start)
    if problem is not None:
        raise SpecError(problem.message, next_step="Give another window", wave=wave.wave)
    _require_kept(wave, window, now)
    return window


def _require_kept(wave: ResolvedLive, window: Window, now: datetime) -> None:
    """Whether people and the queue can do in time what belongs to a window that HCX keeps."""
    begins = f"The window begins at {utc_minute(window.start)}"
    ahead, hours = window.start - now, timedelta(hours=wave.max_hours)
    if wave.approve_switchover and ahead <= LAST_YES:
        words = f"{begins}, and the switchover must be approved {LAST_YES.total_seconds() / 60:.0f} minutes before"
        raise SpecError(words, next_step="Give a later window", wave=wave.wave)
    if wave.approve_switchover and ahead > ASKED_AHEAD:
        words = f"{begins}, and a switchover can be held back for its approval for {ASKED_AHEAD.days} days at most"
        raise SpecError(words, next_step="Trigger the run later, or give an earlier window", wave=wave.wave)
    if wave.environment.hcx.reach == "connector" and ahead + hours > FOLLOWED_NEAR:
        words = f"{begins}, and with 'max_hours: {wave.max_hours:g}' it would be followed for more than "
        words += f"{FOLLOWED_NEAR.days} days, which the queue near HCX can't"
        raise SpecError(words, next_step="Trigger the run later, or lower max_hours", wave=wave.wave)


def _cancels(ledger: Ledger, request: RunRequest, conf: LiveConf, ctx: RunContext, *, rights: Rights) -> AdmittedLive:
    """A run that ends migrations of other runs needs no files but those that say who may."""
    found, wave = cancelling.chosen(ledger, request.wave, conf.migrations or ())
    require_where(ledger, {each.run for each in found}, Action.MIGRATE, ctx, rights=rights)
    cancelling.ask(ledger, found, ctx)
    freeze(ledger, request, ctx, mode=conf.mode, spec=wave.dump())
    return AdmittedLive(
        wave=wave, mode=conf.mode, requested_by=ctx.requester, migrations={each.server: each.id for each in found}
    )
