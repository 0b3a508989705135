"""What is in the way of a cutover, when its window is, and whether it may go. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from wavelift.base.domain import Finding
from wavelift.base.errors import SpecError
from wavelift.base.times import utc_minute
from wavelift.base.units import human_seconds
from wavelift.rules.cutover_places import HighTtl, Places, in_these, of_ttls
from wavelift.rules.findings import Findings
from wavelift.rules.forecast import Forecast
from wavelift.rules.problem import quoted
from wavelift.rules.wave_cutover import CutoverPlan, Window

MAX_SERVERS: Final = 50
"""Servers of one run: twelve tasks each, and a person must be able to read the plan."""
OLD_RUN: Final = timedelta(hours=24)
"""A last run that is older than this leaves much to send."""
APPROVED: Final = "approve"
"""The answer of an approval; every other one is a rejection."""


# The window


@dataclass(frozen=True, slots=True)
class Opening:
    """When sources may be stopped. None: no limit on this side."""

    start: datetime | None = None
    end: datetime | None = None

    def over(self, now: datetime) -> bool:
        return self.end is not None and self.end <= now

    def ends_before(self, now: datetime, seconds: float) -> bool:
        """Whether something that takes so long does not end inside it if it begins as soon as it can."""
        begins = max(now, self.start) if self.start is not None else now
        return self.end is not None and (self.end - begins).total_seconds() < seconds


def opening(given_start: str | None, given_end: str | None, spec: Window | None, now: datetime) -> Opening:
    """The window of a run: what its conf says, else what the wave's file says.

    :raises SpecError: a time that is none, or without offset; an end before the start, or in the past.
    """
    start = _instant("window_start", given_start) or (spec.start if spec else None)
    end = _instant("window_end", given_end) or (spec.end if spec else None)
    if start is not None and end is not None and end <= start:
        raise SpecError(
            f"The window ends at {utc_minute(end)}, and begins only at {utc_minute(start)}",
            next_step="Give window_start and window_end in this order",
        )
    found = Opening(start, end)
    if found.over(now):
        assert end is not None
        raise SpecError(
            f"The window was over at {utc_minute(end)}",
            next_step="Give another one with window_start and window_end, or change the wave's file",
        )
    return found


def _instant(name: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise SpecError(
            f"{name} {quoted(text)} is not a time with an offset",
            next_step="Write it as in '2026-12-05T22:00:00+01:00'",
        )
    return found


# What is in the way


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known of one server when its cutover is planned.

    :param has_job: there is a standing replication job. :param deleting: it is being deleted.
    :param last_run: id of the last recorded run; empty: none. :param last_at: its instant.
    :param quarantine: why the last run can't be built on; empty: it can.
    :param tested_run: the run whose image was last tested with success; empty: none was.
    :param old_answers_until: until then, caches may have a record with its old TTL; None: nothing is known, or no
        record moves. :param unlowered: records whose TTL is too high.
    :param places: what AWS shows of what the steps take.
    :param other: another open cutover of the server, in words; empty: none.
    :param asleep: DAGs that watch open cutovers, and do not run.
    """

    server: str
    plan: CutoverPlan
    instance_profile: str | None
    now: datetime
    opening: Opening
    forecast: Forecast
    has_job: bool = True
    deleting: bool = False
    last_run: str = ""
    last_at: datetime | None = None
    quarantine: str = ""
    tested_run: str = ""
    old_answers_until: datetime | None = None
    unlowered: Sequence[HighTtl] = ()
    places: Places = field(default_factory=Places)
    other: str = ""
    asleep: Sequence[str] = ()


def in_the_way(case: Case) -> list[Finding]:
    """Findings of one server. An error keeps it from being cut over."""
    found = Findings(case.server)
    _of_replication(case, found)
    _of_test(case, found)
    _of_network(case, found)
    _of_time(case, found)
    _of_watch(case, found)
    return found.all


def _of_replication(case: Case, found: Findings) -> None:
    if not case.has_job or case.deleting:
        found.error(
            "cutover.no_job",
            "its replication job is being deleted" if case.deleting else "it has no replication job",
            why="the last changes are sent on top of a replica",
            do="Create a job with `wavelift jobs create`, and wait for its first run",
        )
    elif not case.last_run:
        found.error(
            "cutover.no_run",
            "no replication run of it was recorded",
            why="every disk would be sent whole while the server is down",
            do="Wait for the first run of its job, or trigger one",
        )
    elif case.quarantine:
        found.warning(
            "cutover.quarantined",
            f"its last run is not built on: {case.quarantine}",
            why="the last run sends every disk whole while the server is down",
            do="Trigger a replication run first",
        )
    elif case.last_at is not None and case.now - case.last_at > OLD_RUN:
        found.warning(
            "cutover.old_run",
            f"its last replication run is of {utc_minute(case.last_at)}",
            why="all that changed since is sent by the runs before the cutover",
            do="Trigger a replication run now",
        )
    if case.other:
        found.error(
            "cutover.open",
            f"another cutover of it is open: {case.other}",
            why="a server has one cutover at a time",
            do="Revert or finalize that one, or let its run end",
        )


def _of_test(case: Case, found: Findings) -> None:
    if not case.last_run or case.tested_run == case.last_run:
        return
    what = f"the newest image that passed a test is of run {case.tested_run}, not of the last one"
    found.warning(
        "cutover.untested",
        what if case.tested_run else "no image of it has passed a test",
        why="that the server boots and works in EC2 shows only when the source is down",
        do="Trigger the wave's test DAG for it",
    )


def _of_network(case: Case, found: Findings) -> None:
    of_ttls(case.unlowered, case.now, found)
    begins = case.opening.start or case.now
    if case.old_answers_until is not None and begins < case.old_answers_until:
        found.warning(
            "cutover.ttl_late",
            f"the TTL was lowered so late that caches may have the old one until {utc_minute(case.old_answers_until)}",
            why="until then some clients go on with the source's address",
            do=f"Let the window begin at {utc_minute(case.old_answers_until)} or later",
        )
    in_these(case.places, found)
    if case.instance_profile is None and any(check.kind == "ssm" for check in case.plan.checks):
        found.error(
            "cutover.no_profile",
            "it has a check of kind 'ssm' and no instance profile",
            why="Systems Manager reaches an instance only by its profile",
            do="Set instance_profile in the wave's file",
        )


def _of_time(case: Case, found: Findings) -> None:
    p90, limit = case.forecast.reachable_p90_s, case.plan.downtime_minutes
    if limit is not None and p90 > limit * 60:
        found.warning(
            "cutover.downtime",
            f"its downtime may be {human_seconds(p90)} (P90); downtime_minutes is {limit:g}",
            why="the forecast is above what the wave's file allows",
            do="Raise downtime_minutes, or make the downtime shorter: another way to make the image, fewer steps",
        )
    start, hours = case.opening.start, case.plan.approval_hours
    if case.plan.approval != "none" and start is not None and start > case.now + timedelta(hours=hours):
        found.warning(
            "cutover.approval_short",
            f"an approval that is given now counts for {hours:g} h, and the window begins only at {utc_minute(start)}",
            why="an approval that has ended lets nobody go",
            do="Approve it later, or raise approval_hours in the wave's file",
        )
    if case.opening.ends_before(case.now, p90):
        assert case.opening.end is not None
        found.error(
            "cutover.window",
            f"its downtime may be {human_seconds(p90)} (P90), and the window ends at {utc_minute(case.opening.end)}",
            why="its source is not stopped if the cutover may end outside the window",
            do="Give a longer window",
        )
    elif case.opening.ends_before(case.now, p90 + case.forecast.before_s):
        assert case.opening.end is not None
        found.warning(
            "cutover.window_short",
            f"the runs before its cutover may take {human_seconds(case.forecast.before_s)}, then its downtime "
            f"{human_seconds(p90)} (P90), and the window ends at {utc_minute(case.opening.end)}",
            why="those runs are made inside the window, and its source is not stopped if too little is left after them",
            do="Give a longer window, or trigger a replication run shortly before it",
        )


def _of_watch(case: Case, found: Findings) -> None:
    for dag_id in case.asleep:
        found.warning(
            "cutover.watch_asleep",
            f"the DAG {dag_id} is paused, or Airflow does not have it",
            why="nobody notices a source that is on again, or a server that nobody serves",
            do=f"Unpause {dag_id}",
        )


# The digest, and what may go


def digest_of_steps(servers: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256, hex, of what a run will do: the servers in their order, and all that does not change by itself."""
    canonical = json.dumps(list(servers), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answered:
    """The newest answer to a plan."""

    answer: str
    by: str
    valid_until: datetime


def refuse_unapproved(
    answered: Answered | None, *, approval: str, requested_by: str, now: datetime
) -> tuple[str, str] | None:
    """Why a plan may not go, and the way out; None: it may.

    :param approval: what the wave's file says: ``required``, ``four_eyes`` or ``none``.
    """
    again = "Clear the approve task to ask again, or trigger a new run"
    if approval == "none":
        return None
    if answered is None:
        return "Nobody has approved this plan; a task that was marked a success has approved nothing", again
    if answered.answer != APPROVED:
        return f"{answered.by} rejected this plan", again
    if answered.valid_until <= now:
        return f"The approval of {answered.by} counted until {utc_minute(answered.valid_until)}", again
    if approval == "four_eyes" and answered.by == requested_by:
        return f"{answered.by} asked for this cutover, and 'approval: four_eyes' wants the yes of another person", again
    return None
