"""Rules for replication runs and jobs: when, how often, and for how long (SMS-03, SMS-06 to SMS-10, AIR-04).

Every refusal states when it ends, if that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Self, TypeVar

from wavelift.base.domain import Refusal
from wavelift.base.errors import PermanentError
from wavelift.base.times import utc_minute
from wavelift.rules.limits import LIMITS, Limit

TERM_WARNINGS: Final = (14, 7, 1)
"""Days before the end of a term (SMS-10)."""
DEFAULT_PAUSE_AFTER: Final = 3
"""Number of consecutive failed runs after which a job pauses automatically."""

T = TypeVar("T")


class JobState(StrEnum):
    """The state of a replication job."""

    ACTIVE = "active"
    PAUSED = "paused"
    DELETING = "deleting"
    """No new run starts. What the job's runs created outside is being removed."""
    DELETED = "deleted"


class RunType(StrEnum):
    """What started a run (SMS-08)."""

    AUTOMATIC = "automatic"
    ON_DEMAND = "on_demand"
    CUTOVER = "cutover"
    """Of a cutover: the runs before it, and the last one. It is never counted."""


class RunState(StrEnum):
    """The state of a replication run (SMS-08)."""

    RESERVED = "reserved"
    """Granted to a caller that has not created the DAG run yet."""
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DELETED = "deleted"
    """Ended early because its job was deleted."""
    REFUSED = "refused"
    SKIPPED = "skipped"
    EXPIRED = "expired"
    """Reserved, but the DAG run did not start in time. It does not count against the quota."""

    @property
    def terminal(self) -> bool:
        return self not in OPEN

    @property
    def resumable(self) -> bool:
        """Whether the same run continues if its tasks are cleared."""
        return self in RESUMABLE


OPEN: Final = frozenset({RunState.RESERVED, RunState.ACTIVE})
RESUMABLE: Final = frozenset({RunState.FAILED, RunState.CANCELLED})
_RUN_WAYS: Final[Mapping[RunState, frozenset[RunState]]] = {
    RunState.RESERVED: frozenset({RunState.ACTIVE, RunState.EXPIRED, RunState.DELETED}),
    RunState.ACTIVE: frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED, RunState.DELETED}),
    RunState.FAILED: frozenset({RunState.ACTIVE}),
    RunState.CANCELLED: frozenset({RunState.ACTIVE}),
    # Its DAG run started too late. It needs a new grant, like any other run.
    RunState.EXPIRED: frozenset({RunState.ACTIVE, RunState.REFUSED}),
}
_JOB_WAYS: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.ACTIVE: frozenset({JobState.PAUSED, JobState.DELETING}),
    JobState.PAUSED: frozenset({JobState.ACTIVE, JobState.DELETING}),
    JobState.DELETING: frozenset({JobState.DELETED}),
}


def require_run_way(current: RunState, target: RunState, *, run: str) -> None:
    """:raises PermanentError: if a run cannot go from ``current`` to ``target``. Staying in a state is allowed."""
    if current is not target and target not in _RUN_WAYS.get(current, frozenset()):
        raise PermanentError(
            f"A replication run cannot go from {current} to {target}",
            next_step="Start a new run of this server.",
            run=run,
        )


def require_job_way(current: JobState, target: JobState, *, job: str) -> None:
    """:raises PermanentError: if a job cannot go from ``current`` to ``target``. Staying in a state is allowed."""
    if current is not target and target not in _JOB_WAYS.get(current, frozenset()):
        raise PermanentError(
            f"A replication job cannot go from {current} to {target}",
            next_step="Run `wavelift jobs` to see its current state. If the job is deleted, create a new one.",
            job=job,
        )


class Rule(StrEnum):
    """Why a run or a job is refused."""

    IN_PROGRESS = "in_progress"
    QUOTA = "quota"
    PAUSED = "paused"
    TERM = "term"
    DELETED = "deleted"
    NO_JOB = "no_job"
    LICENSE = "license"
    BACKFILL = "backfill"
    AUTHORITY = "authority"
    """Whoever last made, changed or resumed the job may not replicate into the environment any more."""
    MAINTENANCE = "maintenance"
    """The connector is in maintenance: nothing new begins (AMP-05)."""
    CUTOVER = "cutover"
    """A cutover of the server is under way, or was not finalized: only its own runs are admitted."""
    LIVE = "live_migration"
    """A live migration of the server is under way, or HCX may still move it."""
    EXPORT = "export"
    """Another export of the instance is open."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of the rules. The defaults are those of :mod:`wavelift.rules.limits`."""

    on_demand_runs: int = LIMITS["on_demand_runs"].value
    window: timedelta = timedelta(hours=LIMITS["on_demand_window_hours"].value)
    reservation: timedelta = timedelta(seconds=LIMITS["reservation_seconds"].value)
    grace: timedelta = timedelta(seconds=LIMITS["schedule_grace_seconds"].value)
    term: timedelta = timedelta(days=LIMITS["term_days"].value)
    seed_ahead: timedelta = timedelta(days=LIMITS["seed_ahead_days"].value)

    @classmethod
    def of(cls, limits: Mapping[str, Limit]) -> Self:
        """The policy from a table of limits with overrides (``limits.limits(…)``)."""
        return cls(
            on_demand_runs=limits["on_demand_runs"].value,
            window=timedelta(hours=limits["on_demand_window_hours"].value),
            reservation=timedelta(seconds=limits["reservation_seconds"].value),
            grace=timedelta(seconds=limits["schedule_grace_seconds"].value),
            term=timedelta(days=limits["term_days"].value),
            seed_ahead=timedelta(days=limits["seed_ahead_days"].value),
        )


DEFAULT_POLICY: Final = Policy()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the ledger records about a job at the time when a run of it is requested."""

    state: JobState
    term_ends_at: datetime | None = None
    active_run: str = ""
    """Another run of the job that is active or reserved; empty if there is none."""
    on_demand: tuple[datetime, ...] = ()
    """When on-demand runs of the job were granted, whatever their result. Expired reservations are not included."""
    cutover: str = ""
    """The open cutover of the server that withholds other runs; empty if there is none."""


def refuse_run(
    standing: Standing, type: RunType, now: datetime, *, again: bool = False, policy: Policy = DEFAULT_POLICY
) -> Refusal | None:
    """Why a run may not start at ``now``; None if it may.

    :param again: the run was granted before and continues, so it is not counted a second time.
    """
    refusal = _refuse_cutover(standing, type) or _refuse_job(standing, now, type)
    if refusal is not None:
        return refusal
    if standing.active_run:
        return Refusal(rule=Rule.IN_PROGRESS, reason=f"run {standing.active_run} of this job is in progress")
    if type is RunType.ON_DEMAND and not again:
        return refuse_quota(standing.on_demand, now, policy)
    return None


def _refuse_cutover(standing: Standing, type: RunType) -> Refusal | None:
    """While a cutover is under way, another run would read the source at an instant that nobody asked for, and become
    the base of the last one."""
    if not standing.cutover or type is RunType.CUTOVER:
        return None
    reason = f"cutover {standing.cutover} of this server is open; revert or finalize it"
    return Refusal(rule=Rule.CUTOVER, reason=reason)


def _refuse_job(standing: Standing, now: datetime, type: RunType) -> Refusal | None:
    if standing.state in (JobState.DELETING, JobState.DELETED):
        return Refusal(rule=Rule.DELETED, reason="the job is deleted")
    if type is RunType.CUTOVER:  # a paused job, or one whose term is over, can still be cut over
        return None
    if standing.state is JobState.PAUSED:
        return Refusal(rule=Rule.PAUSED, reason="the job is paused; resume it")
    if standing.term_ends_at is not None and standing.term_ends_at <= now:
        ended = utc_minute(standing.term_ends_at)
        return Refusal(rule=Rule.TERM, reason=f"the server's term ended at {ended}; extend it")
    return None


def refuse_quota(granted: Sequence[datetime], now: datetime, policy: Policy = DEFAULT_POLICY) -> Refusal | None:
    """Refuse a run if the last ``window`` already contains the allowed number of on-demand runs.

    A grant in the future (the clock was set back) counts too: the limit must not be exceeded.
    """
    counted = sorted(at for at in granted if now - at < policy.window)
    if len(counted) < policy.on_demand_runs:
        return None
    hours = round(policy.window / timedelta(hours=1))
    return Refusal(
        rule=Rule.QUOTA,
        reason=f"{len(counted)} on-demand runs in {hours} hours; the limit is {policy.on_demand_runs}",
        until=counted[-policy.on_demand_runs] + policy.window,
    )


def term_end(first: datetime, policy: Policy = DEFAULT_POLICY) -> datetime:
    """When a server's replication ends if its term is not extended (SMS-10)."""
    return first + policy.term


def extended(ends: datetime, now: datetime, by: timedelta) -> datetime:
    """The new end of a term. If the term is over, the extension starts now."""
    return max(ends, now) + by


def term_warning(ends: datetime | None, now: datetime, warned: int | None) -> int | None:
    """The warning to give now, as days before the end. None: no warning is due, or it was already given.

    :param warned: the last warning that was given. If a call is late, only the most urgent warning is given.
    """
    if ends is None or ends <= now:
        return None
    due = min((days for days in TERM_WARNINGS if ends - now <= timedelta(days=days)), default=None)
    return None if due is None or (warned is not None and warned <= due) else due


def must_pause(failures: int, pause_after: int) -> bool:
    """Whether a job pauses after ``failures`` consecutive failed runs. ``pause_after`` 0 means never."""
    return 0 < pause_after <= failures


def surplus(newest_first: Sequence[T], keep: int | None) -> tuple[T, ...]:
    """The items to remove if ``keep`` are kept, oldest last. None keeps all."""
    return () if keep is None else tuple(newest_first[max(keep, 1) :])


def refuse_license(license_type: str, allowed: Sequence[str]) -> Refusal | None:
    """Linux and client Windows support BYOL only (SMS-03). For these, ``auto`` means BYOL.

    :param allowed: :attr:`wavelift.rules.guests.Guest.license_types` of the server's guest.
    """
    if license_type in allowed:
        return None
    return Refusal(
        rule=Rule.LICENSE,
        reason=f"licence '{license_type}' is not possible for this guest; allowed: {', '.join(allowed)}",
    )


def refuse_register(license_type: str, *, linux: bool, forced: bool) -> Refusal | None:
    """An AMI that is registered from snapshots has no billing data, so it is only for Linux with its own licence."""
    if forced or (linux and license_type in ("auto", "byol")):
        return None
    what = f"licence '{license_type}'" if linux else "a guest that is not Linux"
    return Refusal(
        rule=Rule.LICENSE,
        reason=f"'ami: register' makes images without billing data and is not possible for {what}; use 'import'",
    )
