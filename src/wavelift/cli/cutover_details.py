"""Cutovers, test instances and backups for people: tables, and all of one cutover."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from wavelift.base.domain import Instant
from wavelift.base.units import human_seconds
from wavelift.cli.output import Times, add_row, say, show, show_facts, table
from wavelift.cli.states import tries_again
from wavelift.cli.watch import step_row
from wavelift.console.cutover_answers import (
    BackupRow,
    CutoverApproval,
    CutoverDetails,
    CutoverRow,
    CutoverStep,
    TrialRow,
)
from wavelift.rules.cutover import CutoverState, StepState
from wavelift.rules.flows import CONTINUE_FROM

Pairs = Iterator[tuple[str, str]]
CHANGED: Final = (StepState.INTENDED, StepState.APPLIED, StepState.SETTLED, StepState.UNDOING)
SERVES: Final = {"source": "the source serves", "instance": "the instance serves", "nobody": "nobody serves"}
MOMENTS: Final = {
    "going": "go was given",
    "stopping": "source ordered to stop",
    "down": "source off and disconnected",
    "recorded": "last changes recorded",
    "image": "image made",
    "launched": "instance launched",
    "checked": "instance checked",
    "switched": "network switched",
    "reverting": "way back begun",
    "source_up": "source serves again",
}
"""What a moment of a cutover means; others are shown by their own names."""


def print_cutovers(rows: Sequence[CutoverRow]) -> None:
    """Cutovers as a table, and under it what went wrong."""
    times = Times()
    shown = table("id, asked", "wave/server", "state", "image, instance", ids=("id, asked", "image, instance"))
    for row in rows:
        state = "\n".join(filter(None, (cutover_state(row, times), served(row))))
        made = "\n".join(filter(None, (row.image_id, row.instance_id)))
        add_row(shown, f"{row.id}\n{times.of(row.requested_at)}", f"{row.wave}/{row.server}", state, made)
    show(shown)
    for row in rows:
        if words := row.error or row.retry_reason:
            say(f"{row.id} {row.server}: {words}")
    times.tell()


def cutover_state(row: CutoverRow, times: Times) -> str:
    """``moving: transfer``; the state alone where no step of the server is under way."""
    if row.state.terminal:
        return str(row.state)
    if again := tries_again(row, times):
        return again
    said = f"{row.state}: {step_row('', row).short}" if row.step else str(row.state)
    return f"{said}, is being cancelled" if row.cancel_requested else said


def served(row: CutoverRow) -> str:
    """``nobody serves since 4 min``"""
    words = SERVES.get(row.serves, row.serves)
    if row.downtime_s is None:
        return words
    down = human_seconds(row.downtime_s)
    return f"{words}, for {down} so far" if row.serves == "nobody" else f"{words}; downtime {down}"


def print_cutover(row: CutoverDetails) -> None:
    """Everything about one cutover."""
    times = Times()
    show_facts(f"{row.id}  {row.wave}/{row.server}", _cutover(row, times))
    times.tell()


def _cutover(row: CutoverDetails, times: Times) -> Pairs:
    yield "state", f"{cutover_state(row, times)}{f' ({row.phase})' if row.phase else ''}"
    yield "serves", served(row)
    yield "asked", f"{times.of(row.requested_at)} by {row.requested_by}"
    yield "note", row.note
    yield "window", _window(row, times)
    yield "tier", row.tier
    yield "forecast", _forecast(row.forecast)
    yield "approval", approval_words(row.approval, times)
    yield "source", _source(row.source)
    yield "image", "\n".join(filter(None, (row.image_id, row.run_id)))
    yield "instance", f"{row.instance_id} {row.private_ip}".strip()
    yield "checks", "\n".join(_checks(row.checks or ()))
    yield "prepared", "\n".join(step_lines(row.prepared, times))
    yield "network", "\n".join(step_lines(row.steps, times))
    yield "times", "\n".join(moment_lines(row.times, times))
    yield "error", row.error or row.retry_reason
    yield "DAG run", f"{row.dag_run_id} of {row.dag_id}"
    yield "runs", "\n".join(_runs(row))
    yield "ended", times.of(row.finished_at)
    yield "next", _next(row)


def _window(row: CutoverRow, times: Times) -> str:
    begin, end = times.of(row.window_start), times.of(row.window_end)
    return " ".join(filter(None, (f"from {begin}" if begin else "", f"to {end}" if end else "")))


def _forecast(told: Mapping[str, Any] | None) -> str:
    if not told:
        return ""
    named = {"reachable": "reachable", "full_speed": "at full speed"}
    found = [
        f"{words} after {human_seconds(told[f'{key}_p50_s'])} (P90 {human_seconds(told[f'{key}_p90_s'])})"
        for key, words in named.items()
        if f"{key}_p50_s" in told and f"{key}_p90_s" in told
    ]
    return "; ".join(filter(None, (", ".join(found), str(told.get("basis") or ""))))


def approval_words(approval: CutoverApproval | None, times: Times) -> str:
    """Who answered, and until when that counts."""
    if approval is None:
        return ""
    did = {"approve": "approved", "reject": "rejected"}.get(approval.answer, approval.answer)
    until = f", counts until {times.of(approval.valid_until)}" if did == "approved" else ""
    return f"{did} by {approval.answered_by} at {times.of(approval.answered_at)}{until}"


def _source(source: Mapping[str, Any] | None) -> str:
    if not source:
        return ""
    was = "on" if source.get("powered_on") else "off"
    addresses = ", ".join(map(str, source.get("addresses") or ()))
    return f"{source.get('path')} ({source.get('vm')}), was {was}{f', {addresses}' if addresses else ''}"


def _checks(checks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for one in checks:
        name = one.get("name") or one.get("kind") or "check"
        passed = one.get("passed", one.get("ok"))
        result = {True: "passed", False: "failed"}.get(passed, "not known")
        words = one.get("words") or one.get("what") or one.get("detail") or ""
        yield f"{name}: {result}{f': {words}' if words else ''}"


def step_lines(steps: Sequence[CutoverStep], times: Times) -> Iterator[str]:
    """Undoable steps, each with its undo."""
    for place, step in enumerate(steps, start=1):
        at = f" {times.of(step.changed_at)}" if step.changed_at else ""
        yield f"{place}. {step.name}: {step.state}{at}"
        yield f"   {step.words}"
        yield f"   undo: {step.undo_words}"
        if step.state in CHANGED and (step.before or step.wanted):
            yield f"   before: {_value(step.before)}; wanted: {_value(step.wanted)}"
        if step.waits:
            yield f"   waits: {step.waits}"
        if step.error:
            yield f"   error: {step.error}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(one)}" for key, one in value.items()) or "nothing"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "nothing"
    return "nothing" if value is None else str(value)


def moment_lines(known: Mapping[str, Instant], times: Times, names: Mapping[str, str] = MOMENTS) -> Iterator[str]:
    """Moments in their order. :param names: what each means; others are shown by their own names."""
    for name, at in sorted(known.items(), key=lambda each: each[1]):
        yield f"{times.of(at)}  {names.get(name, name)}"


def _runs(row: CutoverDetails) -> Iterator[str]:
    for id in row.presync_runs:
        yield f"before it: {id}"
    for words, id in (("verify", row.verify_run), ("revert", row.revert_run), ("finalize", row.finalize_run)):
        if id:
            yield f"{words}: {id}"


def asked_of_person(steps: Iterable[CutoverStep], confirm: str, *, undone: str = "") -> str:
    """What a step asks of a person now; empty: nothing.

    :param confirm: the command that takes the person's word. :param undone: its option on the way back.
    """
    asked = next((step for step in steps if step.kind == "person" and step.waits), None)
    if asked is None:
        return ""
    back = asked.state is StepState.UNDOING
    words = asked.undo_words if back else asked.words
    return f"{words}. Then: `{confirm} {shlex.quote(asked.name)}{undone if back else ''}`"


def _next(row: CutoverDetails) -> str:
    back = f"`wavelift cutover revert {row.id}` goes back to the source"
    if asked := asked_of_person(row.steps, f"wavelift cutover confirm {row.id}"):
        return asked
    if row.state is CutoverState.WAITING:
        return (
            f"`wavelift cutover approve {row.wave} {row.dag_run_id}` approves the plan, if its run asks; "
            f"`wavelift cutover cancel {row.id}` gives it up"
        )
    if row.state is CutoverState.SWITCHED:
        return f"{back}; `wavelift cutover finalize {row.id}` gives the way back up"
    if row.state is CutoverState.FAILED:
        return f"remove the cause, then clear the {CONTINUE_FROM} of {row.server} in that DAG run to go on; or {back}"
    if row.state in (CutoverState.REVERTING, CutoverState.FINALIZING):
        return "see its run; a task of it that failed is cleared once its cause is removed"
    if row.state.terminal:
        return ""
    return f"`wavelift cutover cancel {row.id}` stops it"


def print_tests(rows: Sequence[TrialRow]) -> None:
    """Test instances as a table, and under it what went wrong."""
    times = Times()
    shown = table("id, launched", "wave/server", "state", "image, instance", ids=("id, launched", "image, instance"))
    for row in rows:
        ends = f"ends {times.of(row.ends_at)}" if row.ends_at and not row.state.terminal else ""
        passed = {True: "passed", False: "failed", None: ""}[row.passed]
        state = str(row.state) if passed in ("", str(row.state)) else f"{row.state}: {passed}"
        made = "\n".join(filter(None, (row.image_id, row.instance_id, row.private_ip)))
        when = times.of(row.launched_at or row.created_at)
        add_row(shown, f"{row.id}\n{when}", f"{row.wave}/{row.server}", "\n".join(filter(None, (state, ends))), made)
    show(shown)
    for row in rows:
        if row.error:
            say(f"{row.id} {row.server}: {row.error}")
    times.tell()


def print_backups(rows: Sequence[BackupRow]) -> None:
    """Backups as a table, and under it what went wrong."""
    times = Times()
    columns = ("id, asked", "wave/server", "state", "image, template")
    shown = table(*columns, ids=("id, asked", "image, template"))
    for row in rows:
        how = "with a reboot" if row.reboot else "crash-consistent"
        version = f"version {row.template_version}" if row.template_version is not None else ""
        made = "\n".join(filter(None, (row.image_id, row.template_id, version)))
        where = f"{row.wave}/{row.server}\n{row.subject}"
        add_row(shown, f"{row.id}\n{times.of(row.created_at)}", where, f"{row.state}\n{how}", made)
    show(shown)
    for row in rows:
        if row.error:
            say(f"{row.id} {row.server}: {row.error}")
    times.tell()
