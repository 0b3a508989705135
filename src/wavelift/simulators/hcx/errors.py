"""Errors in HCX's forms: JSON with ``errors`` and ``items``, or XML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from wavelift.simulators.hcx.invented import CODES
from wavelift.simulators.kit.message import Response
from wavelift.simulators.kit.world import Refusal


@dataclass
class HcxError(Refusal):
    """``about`` is a key of :data:`.invented.CODES`. ``items`` are the answer's items, if it has any."""

    status: int
    about: str
    message: str
    items: list[dict[str, Any]] | None = None
    xml: bool = False
    code: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a validation says about one VM."""

    about: str
    message: str

    def said(self, *, other_words: bool) -> dict[str, str]:
        return {"code": CODES[self.about].said(other_words=other_words), "message": self.message}


@dataclass(slots=True)
class Findings:
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def error(self, about: str, message: str) -> None:
        self.errors.append(Finding(about, message))

    def warn(self, about: str, message: str) -> None:
        self.warnings.append(Finding(about, message))

    def said(self, *, other_words: bool) -> dict[str, Any]:
        """Warnings have no code."""
        return {
            "errors": [each.said(other_words=other_words) for each in self.errors],
            "warnings": [{"message": each.message} for each in self.warnings],
        }


def answer(value: Any, status: int = 200, **headers: str) -> Response:
    return Response(status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())


def render(error: HcxError, *, other_words: bool) -> Response:
    if error.xml:
        return Response(error.status, {"Content-Type": "application/xml"}, _xml({"message": error.message}).encode())
    code = error.code or CODES[error.about].said(other_words=other_words)
    if error.items is not None:
        return answer({"items": error.items, "errors": [], "warnings": []}, error.status)
    return answer({"errors": [{"code": code, "message": error.message}], "warnings": []}, error.status)


def _xml(values: dict[str, str]) -> str:
    """A map, as Java's servers write one."""
    entries = "".join(_entry(pair) for pair in values.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<entries>{entries}</entries>'


def _entry(pair: Sequence[str]) -> str:
    return f"<entry>{''.join(f'<string>{escape(text)}</string>' for text in pair)}</entry>"
