"""What the reports of all flows share: how servers' tasks ended, who was refused, what is freed and tidied, and how a
run fails, with the way out for each server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from wavelift.base.domain import Finding, Message, Severity
from wavelift.base.errors import Cancelled, FencedError, PermanentError, WaveliftError
from wavelift.base.printable import Lines, printable, printable_lines
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import Ledger, ServerRun, SnapshotState, WaveRunState, waves
from wavelift.rules.findings import WHOLE_WAVE, server_of
from wavelift.rules.flows import CONTINUE_FROM, Flow
from wavelift.services.common.slots import give_back
from wavelift.services.dataplane.messages import PreflightReport

NOT_FINISHED: Final = "its tasks ended without finishing it"
ALL_REFUSED: Final = "The pre-flight refused every server of this run"


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How one server's tasks ended."""

    server: str
    failed_tasks: tuple[str, ...]
    words: str
    """What the failing task said."""


class ServerEnded(Message):
    """How one server ended: its line of a report, as far as all flows share it."""

    server: str
    state: str
    error: str = ""
    refused: bool = False
    """Pre-flight refused it in this run, so it has no tasks that could be cleared."""
    clearable: bool = True
    """It has tasks of its own. False of what pre-flight refused or never passed: a new run takes it."""
    listed: bool = True
    """A new run can be told to take it, by this name. Else only an entry for a folder or a tag holds it."""


class RunReport(Protocol):
    """What every flow's report tells of its run."""

    @property
    def wave(self) -> str: ...

    @property
    def unclean(self) -> tuple[str, ...]:
        """What could not be removed."""

    @property
    def stopped(self) -> str:
        """Why the run as a whole ended before its servers did."""

    @property
    def succeeded(self) -> bool: ...


def refusals(preflight: PreflightReport, servers: Iterable[str] = ()) -> dict[str, str]:
    """Whom the pre-flight refused → all its reasons. An error of the whole wave is a reason for each.

    :param servers: others than those that it found.
    :returns: by the subject of the findings: a server, or an entry of the wave that found none.
    """
    return refusals_in(preflight.findings, (*(task.name for task in preflight.servers), *servers))


def refusals_in(findings: Iterable[Finding], names: Iterable[str]) -> dict[str, str]:
    """The same of findings. :param names: of all servers, for whom an error of the whole wave counts."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        if finding.severity is Severity.ERROR:
            words = printable(f"{finding.what}. {finding.next_action}".rstrip(". "))
            found.setdefault(server_of(finding), []).append(words)
    whole = found.pop(WHOLE_WAVE, [])
    if whole:
        found = {name: [] for name in names} | found
    return {name: "; ".join((*own, *whole)) for name, own in found.items()}


def wave_errors(preflight: PreflightReport) -> str:
    """Why the pre-flight refused the wave as a whole, if it did."""
    return refusals(preflight, [WHOLE_WAVE]).get(WHOLE_WAVE, "")


def free_slots(ledger: Ledger, holder: str, clock: Clock) -> None:
    """A server whose run is over holds nothing, whatever its tasks did."""
    give_back(ledger, holder, reason="the run is over", clock=clock)


def standing_snapshot(known: ServerRun[Any]) -> str:
    """Words about a vSphere snapshot that nobody saw removed, or an empty string."""
    if known.snapshot_state is not SnapshotState.INTENDED:
        return ""
    return f"{known.server}: snapshot {known.snapshot_name} may still stand"


def tidied(server: str, left: str, tidy: Callable[[], str]) -> str:
    """What ``tidy`` says of what stays; when it fails, ``left`` says what may be there.

    :raises FencedError: another try writes the report. :raises Cancelled: the task was stopped.
    """
    try:
        return tidy()
    except (FencedError, Cancelled):
        raise
    except WaveliftError as error:
        return f"{server}: {left}: {error}"


def end_wave_run(ledger: Ledger, report: RunReport, ctx: RunContext) -> None:
    """Close the run as a whole."""
    state = WaveRunState.COMPLETED if report.succeeded else WaveRunState.FAILED
    with ledger.write(waves.LOCK) as tx:
        waves.finish_wave_run(tx, ctx.run, state, clock=ctx.clock)


def told(failed: Sequence[ServerEnded]) -> Iterator[str]:
    """A line for each server that failed, and one for all that were refused for the same reason. No name is cut off."""
    refused: dict[str, list[str]] = {}
    for one in failed:
        if one.refused:
            refused.setdefault(one.error, []).append(one.server)
        else:
            yield f"{one.server} {one.state}: {one.error}"
    for why, names in refused.items():
        yield Lines(f"{_list(names)} refused by the pre-flight: {printable(why)}")


def way_out(flow: Flow, wave: str, failed: Sequence[ServerEnded]) -> Lines:
    """What to do about servers that failed, for each kind of them.

    A server that was refused, or that never got so far, has no tasks to clear. A new run takes it, and nobody else.
    """
    dag = flow.dag_id(wave)
    taskless = [one for one in failed if one.refused or not one.clearable]
    again = [one.server for one in taskless if one.listed]
    unlisted = [one.server for one in taskless if not one.listed]
    others = [one.server for one in failed if one not in taskless]
    lines = []
    if again:
        conf = json.dumps({"servers": again})
        lines.append(f"Remove the cause, then trigger {dag} again with servers: {_list(again)} (as conf: {conf})")
    if unlisted:
        lines.append(
            f"Only a folder or a tag selects {_list(unlisted)}: remove the cause, add each by name to the file of wave "
            f"{wave}, then trigger {dag} again with servers: {_list(unlisted)}"
        )
    if others:
        lines.append(
            f"To continue {_list(others)}: remove the cause, then clear the task {CONTINUE_FROM} of each, "
            "with downstream"
        )
    return Lines("\n".join(lines))


def _list(names: Iterable[str]) -> Lines:
    return Lines(", ".join(printable(name) for name in names))


def all_refused(ended: Sequence[ServerEnded]) -> bool:
    """Whether the pre-flight refused every server."""
    return bool(ended) and all(one.refused for one in ended)


def failed_run(report: RunReport, headline: str, lines: Iterable[str], next_step: str) -> PermanentError:
    """The error that names each server that failed and why; without it the run would look like a success.

    :param headline: unless the run as a whole was stopped.
    """
    first = f"The run was stopped: {report.stopped}" if report.stopped else headline
    words = [part for part in (first, *lines, *report.unclean) if part]
    return PermanentError(printable_lines(words), next_step=next_step, wave=report.wave)
