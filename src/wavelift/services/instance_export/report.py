"""The report of an export's run: how it ended, with findings, method and why, object, and what was removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from wavelift.base.domain import Finding
from wavelift.base.errors import PermanentError
from wavelift.base.printable import Lines
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, WaveRun, exports, waves
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.flows import EXPORT
from wavelift.rules.instance_export import ExportState
from wavelift.services.common.report import NOT_FINISHED, end_wave_run, failed_run
from wavelift.services.dataplane.export_messages import ExportPlan
from wavelift.services.instance_export.messages import CheckedExport, ExportReport, MadeBucket, Removed, told
from wavelift.services.instance_export.opening import ended_unmade
from wavelift.services.instance_export.runs import PREFIX, frozen

STANDS: Final = "not all that it made is removed yet; the upkeep goes on every 15 minutes"


@dataclass(frozen=True, slots=True)
class EndedRun:
    """What is left of a run when its report begins.

    :param words: what its first failed task said. :param checked: what `check` found. :param bucket: what `setup` did.
    :param removed: what `remove` did; None: it did not end well.
    """

    words: str = ""
    checked: CheckedExport | None = None
    bucket: MadeBucket | None = None
    removed: Removed | None = None


def report(ledger: Ledger, ended: EndedRun, ctx: RunContext) -> ExportReport:
    """Close what made nothing, and tell how it ended. May be called again after a clear."""
    with ledger.read() as tx:
        run = waves.find(tx, ctx.run)
        known = exports.of_dag_run(tx, ctx.run)
    if known is not None and ended_unmade(ledger, known, ctx, words=ended.words):
        with ledger.read() as tx:
            known = exports.get(tx, known.id)
    if run is None:  # it was never admitted
        environment = EXPORT.wave_of(ctx.run.dag_id)
        words = ended.words or NOT_FINISHED
        return ExportReport(wave=f"{PREFIX}{environment}", environment=environment, mode="", stopped=words)
    made = _of_mode(run, ended) if known is None else _of_export(run, known, ended)
    end_wave_run(ledger, made, ctx)
    return made


def _of_mode(run: WaveRun, ended: EndedRun) -> ExportReport:
    """Modes check and setup; or one whose export could not be opened."""
    environment = frozen(run).environment
    made = ExportReport(
        wave=run.wave,
        environment=environment.environment,
        mode=run.mode,
        bucket=environment.exports_bucket,
        error=ended.words,
    )
    if run.mode == "setup" and ended.bucket is not None:
        bucket = ended.bucket
        return made.model_copy(update={"findings": bucket.findings, "changed": bucket.changed})
    if run.mode == "check" and ended.checked is not None:
        return made.model_copy(update=_checked(ended.checked))
    return made if made.error else made.model_copy(update={"error": NOT_FINISHED})


def _checked(checked: CheckedExport) -> dict[str, Any]:
    found: dict[str, Any] = {"instance_id": checked.instance_id, "findings": checked.findings}
    if checked.refused:
        found |= {"error": told(checked.blocking) or f"{checked.instance_id} can't be exported"}
    return found | (_planned(checked.plan) if checked.plan is not None else {})


def _planned(plan: ExportPlan) -> dict[str, Any]:
    return {"method": plan.method, "why": plan.why, "format": plan.format}


def _of_export(run: WaveRun, known: InstanceExport, ended: EndedRun) -> ExportReport:
    removed = ended.removed or Removed()
    unclean = removed.kept if known.state.terminal else (f"{known.id}: {STANDS}", *removed.kept)
    done = known.state is ExportState.COMPLETED
    result = known.result or {}
    made = ExportReport(
        wave=run.wave,
        environment=known.environment,
        mode=run.mode,
        export=known.id,
        state=str(known.state),
        instance_id=known.instance_id,
        findings=tuple(Finding.load(each) for each in known.findings or ()),
        bucket=known.bucket,
        key=known.object_key if done else "",
        object_bytes=known.object_bytes,
        level=result.get("level", ""),
        opened=tuple(result.get("opened", ())),
        removed=removed.removed,
        unclean=unclean,
        times=known.times or {},
        error="" if done else known.error or ended.words or NOT_FINISHED,
        next_steps=() if done else (_next(known),),
    )
    return made if known.plan is None else made.model_copy(update=_planned(ExportPlan.load(known.plan)))


def _next(known: InstanceExport) -> str:
    if not known.state.terminal:
        return f"Wait until `wavelift export show {known.id}` says that it has ended"
    if known.state is ExportState.CANCELLED:
        return f"Nothing of it is left. To export {known.instance_id} after all, start a new export"
    return (
        "Remove the cause, then clear the run's first task, `admit`, with downstream; or start a new export of "
        f"{known.subject}"
    )


def raise_when_failed(made: ExportReport) -> None:
    """:raises PermanentError: saying what is not done, and the way out."""
    if not made.succeeded:
        raise _failed(made)


def _failed(made: ExportReport) -> PermanentError:
    again = f"Remove the cause, then trigger {EXPORT.dag_id(made.environment)} again"
    lines = [made.error] if made.error else []
    return failed_run(made, "", lines, Lines("\n".join(made.next_steps) or again))
