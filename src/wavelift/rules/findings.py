"""Helpers that create pre-flight findings and that evaluate them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wavelift.base.domain import Finding, Severity

WHOLE_WAVE = "*"
"""Begins the subject of a finding about every server of the wave: ``*/role vmimport``."""


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
