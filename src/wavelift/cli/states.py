"""The states of migrations, runs and exports in words, with progress where it means something."""

from __future__ import annotations

from typing import Final

from wavelift.airflow.rest import RETRY
from wavelift.cli.output import Times, say
from wavelift.cli.watch import step_row
from wavelift.console.answers import MigrationRow, RunRow, ServerStep
from wavelift.console.export_answers import ExportRow
from wavelift.rules.flows import MIGRATE
from wavelift.rules.instance_export import ExportState
from wavelift.rules.lifecycle import MigrationState

IMPORT: Final = "import: "
"""What the ledger puts before AWS's words about a running import."""
STEPS: Final = {
    "export": "",
    "launching": "",
    "verifying": "reading back what is stored",
    "compares the image with its source": "comparing the image",
}
"""Steps of migrations that a state says already, or that older rows name in other words."""
UNTOLD: Final = ("Refused", "Skipped", "Expired")
"""States of runs whose status says why."""
BEFORE_EXPORT: Final = MIGRATE.before("export")
NOT_BEGUN: Final = ("queued", "scheduled")
READERS: Final = {"nfc": "stream", "datastore": "ranges", "nbd": "VDDK (nbd)"}
"""A reader of the data path → what it is called for people. The reason beside it says more."""


def migration_state(row: MigrationRow, times: Times) -> str:
    """``transferring: 40 %``, ``importing: 40 % (converting)``: a percentage is that of the step, and never of all."""
    if row.state.terminal:
        return str(row.state)
    if again := tries_again(row, times):
        return again
    if row.step in BEFORE_EXPORT or row.step_state in NOT_BEGUN:
        said = f"{row.state}: {step_row('', row).short}"
        return f"{said}, is being cancelled" if row.cancel_requested else said
    importing = row.phase.startswith(IMPORT)
    step = row.phase.removeprefix(IMPORT)
    step = STEPS.get(step, step)
    if importing or (row.state is MigrationState.TRANSFERRING and row.bytes_total):
        said = f"{row.state}: {row.progress_pct} %{f' ({step})' if step else ''}"
    else:
        said = f"{row.state}: {step}" if step else str(row.state)
    return f"{said}, is being cancelled" if row.cancel_requested else said


def run_state(row: RunRow, times: Times) -> str:
    """``Uploading 40 %`` of an active run; else its state."""
    if row.state != "Active":
        return row.state
    if again := tries_again(row, times):
        return again
    waits = row.status.startswith("Waits") or not row.status
    said = row.status or "Active"
    if row.step and row.status in ("", row.step.capitalize()):  # the ledger knows nothing better
        said = step_row("", row).short
    elif not waits or row.progress_pct:
        said = f"{said} {row.progress_pct} %"
    return f"{said}, is being cancelled" if row.cancel_requested else said


def export_state(row: ExportRow, times: Times) -> str:
    """``active: 40 % (AWS: converting)``: a percentage is that of the phase, and never of all."""
    if row.state.terminal:
        return str(row.state)
    if again := tries_again(row, times):
        return again
    if row.state is ExportState.ACTIVE and row.percent > 0:
        return f"{row.state}: {row.percent} %{f' ({row.phase})' if row.phase else ''}"
    phase = row.phase or step_row("", row).short
    return f"{row.state}: {phase}" if phase else str(row.state)


def tries_again(row: ServerStep, times: Times) -> str:
    """``snapshot: failed, tries again 2026-12-01 14:03`` while a failed step waits for its next try; else empty.

    A server that is older than this command does not tell.
    """
    if row.step_state != RETRY:
        return ""
    return f"{row.step}: failed, tries again {times.of(row.retry_at, up=True)}".rstrip()


def why(row: MigrationRow | RunRow, times: Times) -> str:
    """What went wrong, or what is waited for, in one sentence; empty if nothing did."""
    if isinstance(row, RunRow) and not row.error and row.state in UNTOLD:
        until = f"; not before {times.of(row.refused_until, up=True)}" if row.refused_until else ""
        return f"{row.status}{until}" if row.status else ""
    return row.error or row.retry_reason


def say_why(row: MigrationRow | RunRow, times: Times) -> None:
    """The sentence under a table."""
    if words := why(row, times):
        say(f"{row.id} {row.server}: {words}")
