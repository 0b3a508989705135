"""What ``wavelift preflight`` and ``wavelift wave plan`` print: findings as blocks, the plan, and who is ready."""

from __future__ import annotations

from typing import Any, Final

from rich.text import Text

from wavelift.base.domain import Finding, Severity
from wavelift.base.units import counted
from wavelift.cli.output import plain, say, stdout_console
from wavelift.rules.estimate import Estimate, table
from wavelift.rules.findings import about, grouped, verdict

WIDEST: Final = 100
"""Columns: longer lines are hard to read."""
GAP: Final = 2
COLOURS: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}
NOTE: Final = "note"
"""What people read for ``info``."""


def print_report(report: dict[str, Any], *, plan: bool, verbose: bool) -> None:
    """A pre-flight report for people; the last line says who is ready."""
    print_findings(report, verbose=verbose)
    if plan:
        print_estimate(report.get("estimate", {}))
    print_verdict(report, verbose=verbose)


def print_findings(report: dict[str, Any], *, verbose: bool = False) -> None:
    """One block per finding, errors first; one that several servers share is told once.

    :param verbose: notes, too.
    """
    say(f"Pre-flight of {report.get('wave', '')}")
    say("")
    print_blocks(report, verbose=verbose)


def print_blocks(report: dict[str, Any], *, verbose: bool = False, codes: bool = False) -> None:
    """The findings alone.

    :param codes: with the code of each, by which a page lists them.
    """
    for finding, servers in grouped(_findings(report)):
        if verbose or finding.severity is not Severity.INFO:
            _print_rows([(_label(finding.severity), _told(finding, servers, codes=codes))])
            say("")


def _told(finding: Finding, servers: tuple[str, ...], *, codes: bool) -> Text:
    said = plain(f"{about(servers)}: {finding.what}{f' [{finding.code}]' if codes else ''}")
    said.append("\nWhy: ", style="dim").append(Text(plain(finding.why).plain, style="dim"))
    if finding.next_action != "Nothing":
        said.append("\nDo: ", style="bold").append(plain(finding.next_action))
    return said


def print_estimate(estimate: dict[str, Any]) -> None:
    """What the wave would move, make and cost."""
    say("Plan (nothing was created)")
    say("")
    rows = table(Estimate.load(estimate))
    # A label that goes on stands once.
    repeated = {place for place in range(1, len(rows)) if rows[place][0] == rows[place - 1][0]}
    _print_rows(
        [
            (Text("" if place in repeated else label, style="dim"), plain(value))
            for place, (label, value) in enumerate(rows)
        ]
    )
    say("")


def print_verdict(report: dict[str, Any], *, verbose: bool = False) -> None:
    """How many notes are not shown, and the last line."""
    findings = _findings(report)
    notes = sum(finding.severity is Severity.INFO for finding, _ in grouped(findings))
    if notes and not verbose:
        say(f"{counted(notes, 'more note')}: -v shows {'it' if notes == 1 else 'them'}")
    say(verdict(findings, [server["name"] for server in report.get("servers", [])]))


def _findings(report: dict[str, Any]) -> list[Finding]:
    return [Finding.load(one) for one in report.get("findings", [])]


def _label(severity: Severity) -> Text:
    word = NOTE if severity is Severity.INFO else str(severity)
    return Text(word.ljust(len(Severity.WARNING)), style=COLOURS[severity])


def _print_rows(rows: list[tuple[Text, Text]]) -> None:
    """Rows of a label and a text that wraps beside it, without spaces at the ends of lines."""
    out = stdout_console()
    beside = max(len(label) for label, _ in rows) + GAP
    for label, text in rows:
        for line in text.wrap(out, max(1, min(out.width, WIDEST) - beside), overflow="fold"):
            line.rstrip()
            out.print(label + Text(" " * (beside - len(label))) + line, soft_wrap=True)
            label = Text()
