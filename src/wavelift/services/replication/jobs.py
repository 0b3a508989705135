"""Replication jobs: made, changed, paused, resumed, extended, deleted, kept as a spec says (SMS-03, SMS-09)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from wavelift.base.domain import Refusal
from wavelift.base.errors import BusyError, PermanentError, RefusedError
from wavelift.base.run import Clock
from wavelift.ledger import jobs, lineage
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.records import SourceServer
from wavelift.ledger.replication_records import ReplicationJob
from wavelift.rules.guests import Guest
from wavelift.rules.replication import (
    DEFAULT_POLICY,
    JobState,
    Policy,
    extended,
    refuse_license,
    refuse_register,
    term_warning,
)
from wavelift.rules.schedule import NOW, frequency, parse_seed, seed_instant
from wavelift.rules.wave_replication import ReplicationPlan

_PLAIN: Final = ("frequency_hours", "description", "keep_amis", "pause_after_failures", "ami", "force_register")
"""Fields that a job copies from its plan unchanged."""
LONGEST_TERM: Final = timedelta(days=7300)
"""From now. Without it, a term extended again and again would pass the last year that a time can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """What a job should be.

    :param guest: of the server, where known: its licence is checked then; otherwise by the run that first sees it.
    :param source: the server's vCenter, where known. :param identity: of the server in it (instance UUID).
    """

    server: str
    plan: ReplicationPlan
    license_type: str = "auto"
    guest: Guest | None = None
    source: str = ""
    identity: str = ""


def create_jobs(
    ledger: Ledger, wave: str, orders: Sequence[JobOrder], *, by: str, clock: Clock, policy: Policy = DEFAULT_POLICY
) -> tuple[ReplicationJob, ...]:
    """Make the jobs of these servers: all of them or none (SMS-03).

    :raises BusyError: when a server has a job in this wave.
    :raises RefusedError: for a licence that its guest can't have.
    :raises SpecError: for a seed time too far ahead, or another frequency than 12 to 24 hours.
    """
    with ledger.write(jobs.lock_name(wave)) as tx:
        now = clock.now()
        edit = _Edit(tx, now, by, policy)
        made = tuple(_create(edit, wave, order) for order in orders)
        jobs.reschedule(tx, wave, at=now)
        return made


def update_job(
    ledger: Ledger,
    job_id: str,
    *,
    by: str,
    clock: Clock,
    guest: Guest | None = None,
    policy: Policy = DEFAULT_POLICY,
    **changes: Any,
) -> ReplicationJob:
    """Change a job: fields of :class:`~wavelift.rules.wave_replication.ReplicationPlan`, and ``license_type``.

    :param guest: of the server, where known: the licence is checked against it.

    A new seed time or frequency applies from now on: past instants are not made up for.

    :raises PermanentError: for another field, or a job that is being deleted.
    """
    unknown = sorted(set(changes) - {"seed_time", "license_type", *_PLAIN})
    if unknown:
        raise PermanentError(
            f"A replication job has no field {', '.join(unknown)} to change",
            next_step=f"Fields: seed_time, license_type, {', '.join(_PLAIN)}.",
            job=job_id,
        )
    with ledger.read() as tx:
        wave = jobs.get(tx, job_id).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known = _changeable(tx, job_id)
        order = _order_of(known)
        plan = ReplicationPlan.load({**order.plan.dump(), **_without(changes, "license_type")})
        order = replace(order, plan=plan, guest=guest, license_type=changes.get("license_type", order.license_type))
        return _update(_Edit(tx, clock.now(), by, policy), known, order, again="seed_time" in changes)


def pause_job(ledger: Ledger, job_id: str, *, by: str, reason: str = "", clock: Clock) -> ReplicationJob:
    """Start no run until the job is resumed; an active run continues. Pausing twice changes nothing."""
    with ledger.read() as tx:
        wave = jobs.get(tx, job_id).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known = _changeable(tx, job_id)
        if known.state is JobState.PAUSED:
            return known
        why = reason or f"paused by {by}"
        return jobs.apply(tx, known, "paused", at=clock.now(), by=by, state=JobState.PAUSED, state_reason=why)


def resume_job(ledger: Ledger, job_id: str, *, by: str, clock: Clock) -> ReplicationJob:
    """Continue with the next instant; the count of failures restarts. Resuming an active job does neither.

    From now on, scheduled runs have the right of ``by``.
    """
    with ledger.read() as tx:
        wave = jobs.get(tx, job_id).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known = _changeable(tx, job_id)
        now = clock.now()
        if known.state is JobState.ACTIVE:
            if known.authorised_by == by:
                return known
            details = {"from": known.authorised_by, "to": by}
            return jobs.apply(tx, known, "authorised", at=now, by=by, authorised_by=by, details=details)
        fresh: dict[str, Any] = {
            "authorised_by": by,
            "scheduled_since": now,
            "failures_since": now,
            "failures": 0,
            "state_reason": "",
        }
        return jobs.apply(tx, known, "resumed", at=now, by=by, state=JobState.ACTIVE, **fresh)


def extend_job(
    ledger: Ledger,
    job_id: str,
    *,
    days: int | None = None,
    by: str,
    clock: Clock,
    policy: Policy = DEFAULT_POLICY,
) -> ReplicationJob:
    """Extend the term of the server's replication (SMS-10).

    :param days: from the end of the term, or from now when it is over; another whole term by default.
    :raises PermanentError: when the term hasn't begun: no run was recorded yet.
    """
    with ledger.read() as tx:
        wave = jobs.get(tx, job_id).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known = _changeable(tx, job_id)
        if known.term_ends_at is None or (days is not None and days < 1):
            raise PermanentError(
                "The term can't be extended: it begins with the first replication"
                if known.term_ends_at is None
                else f"A term can't be extended by {days} days",
                next_step="Extend it by whole days once the first run is recorded.",
                job=job_id,
                server=known.server,
            )
        now = clock.now()
        ends = extended(known.term_ends_at, now, policy.term if days is None else timedelta(days=days))
        if ends - now > LONGEST_TERM:
            raise PermanentError(
                f"A term can't end more than {LONGEST_TERM.days} days from now",
                next_step="Extend it again when it comes near its end.",
                job=job_id,
                server=known.server,
            )
        # Once over, the instants of the gap are not made up.
        since = now if known.term_ends_at <= now else known.scheduled_since
        details = {"from": known.term_ends_at.isoformat(), "to": ends.isoformat()}
        return jobs.apply(
            tx,
            known,
            "extended",
            at=now,
            by=by,
            term_ends_at=ends,
            term_warned=None,
            scheduled_since=since,
            details=details,
        )


def remember_server(ledger: Ledger, job_id: str, seen: SourceServer, *, by: str, clock: Clock) -> ReplicationJob:
    """Store which server of which vCenter the job's name means, as a run found it.

    An instance UUID names one server whatever the connection is called; a managed object id only within one vCenter.

    :raises PermanentError: when it meant another server before: one lineage must never mix the disks of two servers.
    """
    with ledger.read() as tx:
        before = jobs.get(tx, job_id)
    if (before.source, before.identity) == (seen.source, seen.identity):
        return before
    with ledger.write(jobs.lock_name(before.wave)) as tx:
        known = _changeable(tx, job_id)
        same = known.identity == seen.identity and (bool(seen.instance_uuid) or known.source == seen.source)
        if known.identity and not same and lineage.rows(tx, job_id):
            raise PermanentError(
                "The name now stands for another server than the one that was replicated",
                next_step="Delete the job and make a new one for this server, or give it another name in the wave.",
                job=job_id,
                server=known.server,
                known=known.identity,
                found=seen.identity,
            )
        who: dict[str, Any] = {"source": seen.source, "identity": seen.identity}
        return jobs.apply(tx, known, "server_met", at=clock.now(), by=by, details=who, **who)


@dataclass(frozen=True, slots=True)
class TermNotice:
    """A job whose term ends within ``days``."""

    job: ReplicationJob
    days: int


def warn_terms(ledger: Ledger, wave: str, *, clock: Clock) -> tuple[TermNotice, ...]:
    """The warnings that are due now: 14, 7 and 1 days before the end of a term, each given once (SMS-10)."""
    now = clock.now()
    with ledger.read() as tx:
        due = any(_warning(job, now) for job in jobs.standing(tx, wave))
    if not due:
        return ()
    notices = []
    with ledger.write(jobs.lock_name(wave)) as tx:
        for job in jobs.standing(tx, wave):
            days = _warning(job, now)
            if days is not None:
                ends = job.term_ends_at.isoformat() if job.term_ends_at else ""
                details = {"days": days, "term_ends_at": ends}
                warned = jobs.apply(tx, job, "term_warned", at=now, by="wavelift", term_warned=days, details=details)
                notices.append(TermNotice(warned, days))
    return tuple(notices)


# A wave's spec


class ChangeKind(StrEnum):
    """What applying a spec does to one server."""

    CREATE = "create"
    UPDATE = "update"
    KEEP = "keep"
    MISSING = "missing"
    """The ledger has a job that the spec does not have: it is shown, and never deleted automatically."""


@dataclass(frozen=True, slots=True)
class JobChange:
    """How a server's job differs from the spec.

    :param fields: field → (value in the ledger, value in the spec).
    """

    kind: ChangeKind
    server: str
    job: ReplicationJob | None = None
    fields: Mapping[str, tuple[Any, Any]] | None = None


def plan_changes(ledger: Ledger, wave: str, orders: Sequence[JobOrder]) -> tuple[JobChange, ...]:
    """What :func:`apply_wave` would do: the differences between spec and ledger. Only reads."""
    with ledger.read() as tx:
        return _compare(jobs.standing(tx, wave), orders)


def apply_wave(
    ledger: Ledger,
    wave: str,
    orders: Sequence[JobOrder],
    *,
    by: str,
    clock: Clock,
    policy: Policy = DEFAULT_POLICY,
) -> tuple[JobChange, ...]:
    """Create and update the wave's jobs as its spec says, all or none. Returns what was done.

    Pauses and terms are only in the ledger, not in a spec. A seed time of ``now`` is the time of the job's creation.
    """
    with ledger.write(jobs.lock_name(wave)) as tx:
        now = clock.now()
        edit = _Edit(tx, now, by, policy)
        by_server = {order.server: order for order in orders}
        done = []
        for change in _compare(jobs.standing(tx, wave), orders):
            order = by_server.get(change.server)
            if change.kind is ChangeKind.CREATE and order is not None:
                made = _create(edit, wave, order)
                change = replace(change, job=made)
            elif change.kind is ChangeKind.UPDATE and order is not None and change.job is not None:
                changed = _update(edit, change.job, order, reschedule=False)
                change = replace(change, job=changed)
            done.append(change)
        if any(change.kind in (ChangeKind.CREATE, ChangeKind.UPDATE) for change in done):
            jobs.reschedule(tx, wave, at=now)
        return tuple(done)


def _compare(known: Sequence[ReplicationJob], orders: Sequence[JobOrder]) -> tuple[JobChange, ...]:
    standing = {job.server: job for job in known}
    asked = {order.server for order in orders}
    changes = []
    for order in orders:
        job = standing.get(order.server)
        if job is None:
            changes.append(JobChange(ChangeKind.CREATE, order.server))
            continue
        fields = _differences(job, order)
        changes.append(JobChange(ChangeKind.UPDATE if fields else ChangeKind.KEEP, order.server, job, fields))
    changes += [JobChange(ChangeKind.MISSING, job.server, job) for job in known if job.server not in asked]
    return tuple(changes)


def _differences(job: ReplicationJob, order: JobOrder) -> dict[str, tuple[Any, Any]]:
    wanted: dict[str, Any] = {name: getattr(order.plan, name) for name in _PLAIN}
    wanted["license_type"] = order.license_type
    seed = parse_seed(order.plan.seed_time)
    if seed is not None:
        wanted["seed_at"] = seed
    if order.identity:
        wanted |= {"source": order.source, "identity": order.identity}
    return {name: (getattr(job, name), value) for name, value in wanted.items() if getattr(job, name) != value}


@dataclass(frozen=True, slots=True)
class _Edit:
    """One transaction that makes or changes jobs."""

    tx: Tx
    now: datetime
    by: str
    policy: Policy


def _create(edit: _Edit, wave: str, order: JobOrder) -> ReplicationJob:
    """The caller reschedules the wave."""
    _check(order)
    known = jobs.find_standing(edit.tx, wave, order.server)
    if known is not None:
        raise BusyError(
            "The server has a replication job in this wave",
            next_step="Change that job, or wait until it is deleted.",
            wave=wave,
            server=order.server,
            job=known.id,
            state=str(known.state),
        )
    return jobs.insert(
        edit.tx,
        at=edit.now,
        by=edit.by,
        wave=wave,
        server=order.server,
        source=order.source,
        identity=order.identity,
        seed_at=seed_instant(order.plan.seed_time, edit.now, edit.policy.seed_ahead),
        scheduled_since=edit.now,
        license_type=order.license_type,
        **{name: getattr(order.plan, name) for name in _PLAIN},
    )


def _update(
    edit: _Edit, known: ReplicationJob, order: JobOrder, *, again: bool = False, reschedule: bool = True
) -> ReplicationJob:
    """:param again: a seed time of ``now`` means this moment, not the time of the job's creation."""
    _check(order)
    if known.state is JobState.DELETING:
        raise _being_deleted(known)
    fields = _differences(known, order)
    if again and order.plan.seed_time == NOW:
        fields["seed_at"] = (known.seed_at, edit.now)
    if not fields:
        return known
    columns = {name: wanted for name, (_, wanted) in fields.items()} | {"authorised_by": edit.by}
    if "seed_at" in columns:
        columns["seed_at"] = seed_instant(columns["seed_at"], edit.now, edit.policy.seed_ahead)
    if columns.keys() & {"seed_at", "frequency_hours"}:
        columns["scheduled_since"] = edit.now
    details = {name: [_plain(old), _plain(new)] for name, (old, new) in fields.items()}
    change = jobs.apply if reschedule else jobs.change
    return change(edit.tx, known, "updated", at=edit.now, by=edit.by, details=details, **columns)


def _check(order: JobOrder) -> None:
    """:raises SpecError: for the frequency; :raises RefusedError: for the licence."""
    frequency(order.plan.frequency_hours)
    refusal: Refusal | None = None
    if order.guest is not None:
        refusal = refuse_license(order.license_type, order.guest.license_types)
        if refusal is None and order.plan.ami == "register":
            linux = order.guest.family == "linux"
            refusal = refuse_register(order.license_type, linux=linux, forced=order.plan.force_register)
    if refusal is not None:
        raise RefusedError(
            f"The replication job is refused: {refusal.reason}",
            next_step="Choose another license_type or ami.",
            refusals=(refusal.model_copy(update={"server": order.server}),),
            server=order.server,
        )


def _order_of(job: ReplicationJob) -> JobOrder:
    plan = ReplicationPlan(seed_time=job.seed_at.isoformat(), **{name: getattr(job, name) for name in _PLAIN})
    return JobOrder(server=job.server, plan=plan, license_type=job.license_type)


def _changeable(tx: Tx, job_id: str) -> ReplicationJob:
    known = jobs.get(tx, job_id)
    if known.state in (JobState.DELETING, JobState.DELETED):
        raise _being_deleted(known)
    return known


def _being_deleted(known: ReplicationJob) -> PermanentError:
    return PermanentError(
        "The replication job is deleted",
        next_step="Make a new one once the deletion has completed.",
        job=known.id,
        server=known.server,
        state=str(known.state),
    )


def _warning(job: ReplicationJob, now: datetime) -> int | None:
    standing = job.state in (JobState.ACTIVE, JobState.PAUSED)
    return term_warning(job.term_ends_at, now, job.term_warned) if standing else None


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
