"""What a run of an export tells, for people and for the API. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wavelift.base.domain import Finding, Instant, Message, Severity
from wavelift.rules.export_facts import ExportFormat, ExportMethod
from wavelift.services.dataplane.export_messages import ExportPlan


class CheckedExport(Message):
    """What `check` found."""

    environment: str
    instance_id: str
    bucket: str
    findings: tuple[Finding, ...] = ()
    plan: ExportPlan | None = None
    """None: no method may export it."""
    seen_at: Instant

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """What forbids the export."""
        return tuple(each for each in self.findings if each.severity is Severity.ERROR)

    @property
    def refused(self) -> bool:
        return self.plan is None or bool(self.blocking)

    def lines(self) -> list[str]:
        """For a log, and for who asked."""
        found = [
            f"{each.severity}: {each.code}: {each.what}. Why: {each.why}. Do: {each.next_action}"
            for each in self.findings
        ]
        if self.plan is None:
            return [*found, f"{self.instance_id} can't be exported"]
        method, why = self.plan.method, self.plan.why
        return [*found, f"{self.instance_id}: method {method} ({why}), {self.plan.format} for {self.plan.target}"]


class MadeBucket(Message):
    """What `setup` did."""

    environment: str
    bucket: str
    region: str
    ours: bool = True
    """wavelift made it, now or before."""
    changed: tuple[str, ...] = ()
    """One line each."""
    findings: tuple[Finding, ...] = ()


class Removed(Message):
    """What `remove` did."""

    removed: tuple[str, ...] = ()
    """One line each: ``snapshot snap-…``."""
    kept: tuple[str, ...] = ()
    """What stays, and why."""


class ExportReport(Message):
    """What a run did."""

    wave: str
    """``export/<environment>``, as the ledger calls the run."""
    environment: str
    mode: str
    export: str = ""
    state: str = ""
    instance_id: str = ""
    method: ExportMethod | None = None
    why: str = ""
    """This method."""
    format: ExportFormat | None = None
    findings: tuple[Finding, ...] = ()
    bucket: str = ""
    key: str = ""
    object_bytes: int | None = None
    level: str = ""
    """How the object was verified."""
    opened: tuple[str, ...] = ()
    """What is in it, one line each."""
    changed: tuple[str, ...] = ()
    """Of the bucket, in mode setup."""
    removed: tuple[str, ...] = ()
    unclean: tuple[str, ...] = ()
    """What stays outside."""
    times: Mapping[str, str] = {}
    error: str = ""
    next_steps: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def succeeded(self) -> bool:
        return not (self.error or self.stopped)


def told(findings: Sequence[Finding]) -> str:
    """Findings in one line."""
    return "; ".join(f"{each.what}. {each.next_action}".rstrip(". ") for each in findings)
