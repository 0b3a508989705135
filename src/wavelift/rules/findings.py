"""Helpers that create pre-flight findings, that evaluate them, and that tell them in a few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from wavelift.base.domain import Finding, Severity
from wavelift.base.units import counted

WHOLE_WAVE = "*"
"""Begins the subject of a finding about every server of the wave: ``*/role vmimport``."""
NAMES_SHOWN: Final = 5
"""Servers that one line names; of more, the number is told."""


class Findings:
    """The findings about one subject, in the order in which they were made."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.all: list[Finding] = []

    def error(self, code: str, what: str, *, why: str, do: str, row: str = "", part: str = "") -> None:
        """The server must not start."""
        self._add(part, severity=Severity.ERROR, code=code, what=what, why=why, next_action=do, requirement=row)

    def warning(self, code: str, what: str, *, why: str, do: str, row: str = "", part: str = "") -> None:
        """The server can start, but a person should read this."""
        self._add(part, severity=Severity.WARNING, code=code, what=what, why=why, next_action=do, requirement=row)

    def info(self, code: str, what: str, *, why: str, do: str, row: str = "", part: str = "") -> None:
        """Information only."""
        self._add(part, severity=Severity.INFO, code=code, what=what, why=why, next_action=do, requirement=row)

    def _add(self, part: str, **fields: Any) -> None:
        """:param fields: of the finding."""
        self.all.append(Finding(subject=f"{self.subject}/{part}" if part else self.subject, **fields))


def subject_of(server: str) -> str:
    """The subject of findings about a server or an entry of a wave: a '/' ends it, and the name of an entry may hold
    some."""
    return server.strip("/").replace("/", ":")


def server_of(finding: Finding) -> str:
    """The server that a finding is about, or ``*`` for the whole wave. Server names never contain '/'."""
    return finding.subject.split("/", 1)[0]


def stopped(findings: Iterable[Finding], server: str) -> list[Finding]:
    """The errors that keep ``server`` from starting."""
    return [
        finding
        for finding in findings
        if finding.severity is Severity.ERROR and server_of(finding) in (server, WHOLE_WAVE)
    ]


def grouped(findings: Iterable[Finding]) -> list[tuple[Finding, tuple[str, ...]]]:
    """Findings that say the same, as one with the names of all servers; errors first."""
    order = list(Severity)
    places: dict[tuple[str, ...], tuple[Finding, dict[str, None]]] = {}
    for finding in sorted(findings, key=lambda one: (order.index(one.severity), one.subject)):
        words = (finding.severity, finding.code, finding.what, finding.why, finding.next_action)
        places.setdefault(words, (finding, {}))[1][server_of(finding)] = None
    return [(finding, tuple(names)) for finding, names in places.values()]


def about(servers: Sequence[str]) -> str:
    """Whom a finding is about: ``web01, db01``, or ``whole wave``."""
    return listed(["whole wave" if name == WHOLE_WAVE else name for name in servers])


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[: NAMES_SHOWN - 1])} and {len(names) - NAMES_SHOWN + 1} more"


def verdict(findings: Sequence[Finding], servers: Sequence[str]) -> str:
    """The last line of a report: how many errors and warnings, and who may go.

    :param servers: that were found.
    """
    told = [finding.severity for finding, _ in grouped(findings)]
    errors, warnings = told.count(Severity.ERROR), told.count(Severity.WARNING)
    counts = counted(errors, "error") + (f", {counted(warnings, 'warning')}" if warnings else "")
    ready = [name for name in servers if not stopped(findings, name)]
    if not errors:
        return f"{counts}: {'ready' if servers else 'no server found'}"
    if not ready:
        return f"{counts}: not ready"
    kept = dict.fromkeys(server_of(finding) for finding in findings if finding.severity is Severity.ERROR)
    return f"{counts}: {listed(ready)} ready; {listed(list(kept))} not ready"
