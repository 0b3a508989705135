"""What the reports of all flows share: how servers' tasks ended, what is freed and tidied, and how a run fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from wavelift.base.domain import Severity
from wavelift.base.errors import Cancelled, FencedError, PermanentError, WaveliftError
from wavelift.base.printable import printable_lines
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import Ledger, ServerRun, SnapshotState, WaveRunState, waves
from wavelift.services.common.slots import give_back
from wavelift.services.dataplane.messages import PreflightReport

NOT_FINISHED: Final = "its tasks ended without finishing it"


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How one server's tasks ended."""

    server: str
    failed_tasks: tuple[str, ...]
    words: str
    """What the failing task said."""


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


def errors_of(preflight: PreflightReport) -> Iterator[tuple[str, str]]:
    """The errors of the pre-flight: which server, or selector that found none, and what."""
    for finding in preflight.findings:
        if finding.severity is Severity.ERROR:
            yield finding.subject.split("/", 1)[0], finding.what


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


def failed_run(report: RunReport, headline: str, lines: Iterable[str], next_step: str) -> PermanentError:
    """The error that names each server that failed and why; without it the run would look like a success.

    :param headline: unless the run as a whole was stopped.
    """
    first = f"The run was stopped: {report.stopped}" if report.stopped else headline
    words = [part for part in (first, *lines, *report.unclean) if part]
    return PermanentError(printable_lines(words), next_step=next_step, wave=report.wave)
