"""The way back: network steps undone in reverse, the instance stopped, then the source connected and on again.

A source is never started while its instance may run, or while the network may lead there. Each part looks at what is
outside and does what is left, so that a revert may be killed and repeated anywhere. An instance that will not stop
keeps its source off: somebody must decide.

The final replication run stays what it is: the base of the server's next run. Its snapshot froze a source that was off,
and change tracking goes on when the source runs again, so the next delta holds all that is written since. A source that
was powered off the hard way is doubted by the next run itself, as after any unclean power-off (invariant 3).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import GONE_STATES, Ec2
from wavelift.adapters.aws.instances import Instances
from wavelift.base.domain import Message
from wavelift.base.errors import BusyError, PermanentError, WaveliftError
from wavelift.base.names import TAG_RUN, run_hash
from wavelift.base.run import DagRun, RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger, Tx, cutovers, events, jobs, replication_runs, waves
from wavelift.ledger.cutover_records import Cutover, TargetPlace
from wavelift.rules.cutover import REVERTIBLE, CutoverState, SourceBefore
from wavelift.rules.grants import LOOK_LIFETIME, Grant, sign
from wavelift.rules.plans import Target
from wavelift.rules.replication import RunState
from wavelift.services.common.admit import frozen_wave
from wavelift.services.common.grant_keys import private_key
from wavelift.services.cutover.moving import LAUNCHING
from wavelift.services.cutover.steps import Waits, cutover_subject, go_back
from wavelift.services.dataplane.cutover_messages import SourceToStart, StartedSource
from wavelift.services.dataplane.steps.poll import instance_is
from wavelift.services.replication.outcome import cancel_run

STOP_BOUND: Final = timedelta(minutes=20)
"""How long an instance may take to stop. A guest that does not shut down is ended by EC2 after some minutes."""
GRACE: Final = timedelta(seconds=60)
"""While the run that moved the server is alive, a call of its tasks may be under way when the revert begins."""
FENCE_GRACE: Final = timedelta(minutes=5)
"""So long may a grant of the watch to fence a source again be used, with what clocks differ."""
ALERT: Final = "cutover.alert"
"""Event: somebody must act now. Its details say why and what to do."""
INSTANCE_STOPPED: Final = "instance_stopped"
"""Moment of a cutover: its instance was seen stopped, or there is none."""

FAILED_KEY: Final = "failed"
"""Checkpoint: id of a cutover → why it does not go on, until all others have ended."""

Access = Callable[[TargetPlace], AwsAccess]


class Undone(Message):
    """What ``undo`` returns: whose sources may run again, and who failed."""

    sources: tuple[SourceToStart, ...] = ()
    failed: Mapping[str, str] = {}
    """Id of a cutover → why."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Some servers wait. ``waits``: connection and region → waits of :func:`.poll.poll`; empty ones: the ledger's."""

    waits: Mapping[tuple[str, str], tuple[str, ...]]
    words: tuple[str, ...]


def alert(tx: Tx, known: Cutover, kind: str, words: str, *, at: datetime, by: str) -> None:
    """Write that somebody must act: what notifications are made of. Needs the lock of the wave's jobs.

    :param kind: ``instance_runs``, ``nobody_serves``, ``fence`` …
    """
    subject = events.Subject("cutover", known.id, known.run)
    details = {"kind": kind, "words": words, "server": known.server, "wave": known.wave, "at": at.isoformat()}
    events.append(tx, subject, ALERT, at=at, actor=by, details=details)


# Undo


def undo(ledger: Ledger, access: Access, ids: Collection[str], ctx: RunContext, *, key_file: Path) -> Undone | Waiting:
    """Bring each cutover as far back as possible without its source. A server that fails does not stop the others.

    Call it again when a wait is over. It returns only once nobody waits any more.

    :param key_file: of the key that signs grants.
    """
    sources: list[SourceToStart] = []
    failed: dict[str, str] = dict(ctx.checkpoints.get(FAILED_KEY) or {})
    waits: dict[tuple[str, str], list[str]] = {}
    words: list[str] = []
    for id in (each for each in ids if each not in failed):
        ctx.cancel.check()
        try:
            known = begin(ledger, id, ctx)
            if known.state is CutoverState.REVERTED:
                continue
            place = place_of(ledger, known)
            found = _undo(ledger, access(place), known, ctx)
        except WaveliftError as error:
            if error.retryable and not isinstance(error, BusyError):
                raise
            failed[id] = str(error)
            # It begins anew once somebody clears the task, not while others wait.
            ctx.checkpoints.set(FAILED_KEY, failed)
            continue
        if isinstance(found, Waits):
            waits.setdefault((place.aws_conn_id, place.region), []).extend(found.waits)
            words.append(f"{known.server}: {found.words}")
        elif found is not None:
            sources.append(grant_for(found, key_file, ctx))  # only now: nothing else may be on
    if waits:
        return Waiting({where: tuple(each) for where, each in waits.items()}, tuple(words))
    ctx.checkpoints.delete(FAILED_KEY)
    return Undone(sources=tuple(sources), failed=failed)


def begin(ledger: Ledger, id: str, ctx: RunContext) -> Cutover:
    """The cutover, being reverted by this run. What it still replicates is asked to stop.

    :raises PermanentError: it can't be reverted any more. :raises BusyError: another run reverts it.
    """
    with ledger.read() as tx:
        known = cutovers.get(tx, id)
    other = known.revert_run not in ("", ctx.run.dag_run_id)
    if known.state is CutoverState.REVERTING and other:
        run = DagRun(ctx.run.dag_id, known.revert_run)
        if ctx.liveness.run(run):
            raise BusyError(
                "Another run reverts this cutover",
                run=known.revert_run,
                cutover=id,
                next_step="Wait until it has ended",
            )
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        known = cutovers.get(tx, id, lock=True)
        mine = known.revert_run == ctx.run.dag_run_id
        if known.state is CutoverState.REVERTED and mine:
            return known
        if known.state not in REVERTIBLE:
            raise PermanentError(
                f"The cutover is {known.state}: there is no way back",
                next_step="See `wavelift cutover list`",
                cutover=id,
                server=known.server,
            )
        if known.state is not CutoverState.REVERTING or not mine:
            known = cutovers.note_time(
                tx,
                known,
                "reverting",
                at=ctx.clock.now(),
                by=ctx.requester,
                state=CutoverState.REVERTING,
                revert_run=ctx.run.dag_run_id,
                phase="going back: network steps first",
                error="",
            )
    _stop_replicating(ledger, known, ctx)
    return known


def _stop_replicating(ledger: Ledger, known: Cutover, ctx: RunContext) -> None:
    run_id = replication_runs.ROWS.id_of(known.run_key)
    with ledger.read() as tx:
        run = replication_runs.find(tx, run_id)
    if run is not None and run.state is RunState.ACTIVE and not run.cancel_requested:
        try:
            cancel_run(ledger, run_id, by=ctx.requester, clock=ctx.clock)
        except PermanentError:
            return  # it ended meanwhile


def _undo(ledger: Ledger, aws: AwsAccess, known: Cutover, ctx: RunContext) -> Waits | SourceToStart | None:
    if (grace := _grace(known, ctx)) is not None:
        return grace
    found = go_back(ledger, aws, cutover_subject(known), ctx)
    if isinstance(found, Waits):
        return found
    stopping = _stop(ledger, aws, known, ctx)
    if stopping is not None:
        return stopping
    known = _note(ledger, known, ctx, INSTANCE_STOPPED, phase="the instance is stopped; the source comes back next")
    if known.source is None:
        return None  # it was never touched
    with ledger.read() as tx:
        environment = known.environment or waves.wave_of(waves.get(tx, known.run).spec)["environment"]["environment"]
    return SourceToStart(
        server=known.server,
        cutover=known.id,
        environment=environment,
        before=SourceBefore.load(known.source),
    )


def _grace(known: Cutover, ctx: RunContext) -> Waits | None:
    """A call of the run that moves the server may be under way: it may still write once."""
    now, since = ctx.clock.now(), known.moment("reverting")
    if (fenced := known.moment("fence_granted")) is not None and now - fenced < FENCE_GRACE:
        return _until(fenced + FENCE_GRACE, "its source may be fenced again until then")
    if since is None or now - since >= GRACE:
        return None
    if known.moment(LAUNCHING) is not None and not known.instance_id:
        # Nobody noted what became of the launch: EC2 may not show it yet, or its task may be in the middle of the call
        # though its run was ended.
        return _until(since + GRACE, "an instance may have been launched that EC2 does not show yet")
    if known.run == ctx.run or not ctx.liveness.run(known.run):
        return None
    return _until(since + GRACE, "the run that moves it may be in the middle of a call")


def _until(at: datetime, words: str) -> Waits:
    return Waits((f"time|{at.isoformat()}",), words)


def _stop(ledger: Ledger, aws: AwsAccess, known: Cutover, ctx: RunContext) -> Waits | None:
    """None: every instance of the cutover is stopped, or there is none.

    Also one whose launch nobody could note any more is found: by its tag.

    :raises PermanentError: it does not stop. The source stays off.
    """
    key = f"stopping:{known.id}"
    running = _running(aws, known)
    if not running:
        ctx.checkpoints.delete(key)
        return None
    instances, now = Instances(aws), ctx.clock.now()
    for instance in running:
        instances.stop(instance)
    began = ctx.checkpoints.get(key)
    if began is None:
        ctx.checkpoints.set(key, now.isoformat())
        _note(ledger, known, ctx, "instance_stopping", phase="the instance stops")
    elif now - datetime.fromisoformat(began) >= STOP_BOUND:
        ctx.checkpoints.delete(key)
        words = (
            f"{known.server}: {', '.join(running)} has not stopped since {utc_minute(datetime.fromisoformat(began))}. "
            "Its source stays off, so that they are never both on"
        )
        with ledger.write(jobs.lock_name(known.wave)) as tx:
            alert(tx, known, "instance_runs", words, at=now, by=str(ctx.run))
        raise PermanentError(
            words,
            next_step="Stop the instance yourself (with force, if its data do not matter), then clear the undo task",
            cutover=known.id,
        )
    waits = tuple(instance_is(instance, "stopped") for instance in running)
    return Waits(waits, f"until {', '.join(running)} is stopped")


def _running(aws: AwsAccess, known: Cutover) -> list[str]:
    """The instances of a cutover that are not seen stopped or terminated."""
    ec2 = Ec2(aws)
    found = {one.instance_id: one.state for one in ec2.find_ours({TAG_RUN: run_hash(known.run_key)}).instances}
    if known.instance_id and known.instance_id not in found:
        found |= {id: one.state for id, one in ec2.describe_instances([known.instance_id]).items()}
    return sorted(id for id, state in found.items() if state != "stopped" and state not in GONE_STATES)


def place_of(ledger: Ledger, known: Cutover) -> TargetPlace:
    """Where a cutover's instance is, or would have been."""
    if known.target:
        return TargetPlace.load(known.target)
    with ledger.read() as tx:
        target = Target.of(frozen_wave(waves.get(tx, known.run)).environment)
    return TargetPlace(aws_conn_id=target.aws_conn_id, region=target.region, account=target.account)


def grant_for(
    source: SourceToStart, key_file: Path, ctx: RunContext, *, lifetime: timedelta = LOOK_LIFETIME
) -> SourceToStart:
    """With the grant to start a source, or to fence it again: its DAG run says which."""
    grant = Grant(
        scope="stop",
        user=ctx.requester,
        action="cutover",
        environment=source.environment,
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        server=source.server,
        vm=source.before.instance_uuid,
        vcenter=source.before.connection,
        connector=source.before.connector,
        plan=source.digest,
    )
    token = sign(grant, private_key(key_file), now=ctx.clock.now(), lifetime=lifetime)
    return source.model_copy(update={"token": token})


def _note(ledger: Ledger, known: Cutover, ctx: RunContext, moment: str, **columns: Any) -> Cutover:
    """A moment, once: a later call changes nothing."""
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        now = cutovers.get(tx, known.id, lock=True)
        if now.moment(moment) is not None:
            return now
        return cutovers.note_time(tx, now, moment, at=ctx.clock.now(), by=ctx.requester, **columns)


# Reverted


class RevertedServer(Message):
    """How one server's way back ended."""

    server: str
    cutover: str
    state: str
    words: str = ""
    error: str = ""


def reverted(
    ledger: Ledger,
    access: Access,
    ids: Collection[str],
    undone: Undone,
    started: Collection[StartedSource],
    ctx: RunContext,
) -> tuple[RevertedServer, ...]:
    """Record which sources serve again. The caller fails if one has an error."""
    by_id = {each.cutover: each for each in started}
    ended = []
    for id in ids:
        with ledger.read() as tx:
            known = cutovers.get(tx, id)
        if known.state is CutoverState.REVERTED and known.revert_run == ctx.run.dag_run_id:
            ended.append(_told(known))
            continue
        error = undone.failed.get(id) or _not_started(known, by_id.get(id))
        if not error and known.state is CutoverState.REVERTING:
            error = _runs_again(ledger, access, known, ctx)
        ended.append(_end(ledger, known, error, by_id.get(id), ctx))
    return tuple(ended)


def _not_started(known: Cutover, source: StartedSource | None) -> str:
    if known.state is not CutoverState.REVERTING:
        return f"the cutover is {known.state}"
    if known.moment(INSTANCE_STOPPED) is None:
        return "its way back did not come to its instance"
    if source is None:
        return "" if known.source is None else "its source was not started"
    return source.error


def _runs_again(ledger: Ledger, access: Access, known: Cutover, ctx: RunContext) -> str:
    """An instance may have been started while the source came back: then both are on. Also one of which the ledger
    knows nothing: a launch that was under way when its task was killed may take effect only now."""
    aws = access(place_of(ledger, known))
    running = _running(aws, known)
    if not running:
        return ""
    for instance in running:
        Instances(aws).stop(instance)
    words = f"{known.server}: {', '.join(running)} was started while its source came back. It is being stopped again"
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        alert(tx, known, "both_run", words, at=ctx.clock.now(), by=str(ctx.run))
    return words


def _end(ledger: Ledger, known: Cutover, error: str, source: StartedSource | None, ctx: RunContext) -> RevertedServer:
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        now = cutovers.get(tx, known.id, lock=True)
        if error:
            if now.state is CutoverState.REVERTING:
                at, phase = ctx.clock.now(), "the way back is not done"
                now = cutovers.apply(tx, now, "revert_failed", at=at, by=ctx.requester, error=error, phase=phase)
            return RevertedServer(server=now.server, cutover=now.id, state=str(now.state), error=error)
        now = cutovers.note_time(
            tx,
            now,
            "source_up",
            at=ctx.clock.now(),
            by=ctx.requester,
            state=CutoverState.REVERTED,
            phase=_words(now, source),
            error="",
        )
        return _told(now)


def _words(known: Cutover, source: StartedSource | None) -> str:
    """What a person must know: where what was written since is."""
    serves = "The source serves again" if source is not None and source.powered_on else "The source is as it was: off"
    if source is None:
        serves = "The source was never touched"
    if not known.instance_id:
        return f"{serves}. There was no instance"
    switched = known.moment("switched") or known.moment("launched")
    since = f"since {utc_minute(switched)}" if switched else "there"
    return f"{serves}. Instance {known.instance_id}, stopped, keeps what was written {since}"


def _told(known: Cutover) -> RevertedServer:
    return RevertedServer(server=known.server, cutover=known.id, state=str(known.state), words=known.phase)


def raise_when_failed(ended: Collection[RevertedServer]) -> None:
    """:raises PermanentError: naming each server whose way back is not done."""
    wrong = [each for each in ended if each.error]
    if wrong:
        raise PermanentError(
            "The way back is not done: " + "; ".join(f"{each.server}: {each.error}" for each in wrong),
            next_step="Do what each says, then clear the undo task: it goes on where it stopped",
        )
