"""Requests and answers of a vendor's REST API, and what a status says in every API. No socket is opened here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from wavelift.base.errors import (
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    ThrottledError,
    UnreachableError,
    UnsafeTextError,
    WaveliftError,
)
from wavelift.base.printable import printable

WORDS_LONGEST: Final = 1000
"""Characters of a vendor's words in an error."""
TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
THROTTLED: Final = 429
UNAUTHORIZED: Final = 401


class LostAnswerError(UnreachableError):
    """A call that must not be sent twice was sent, and its answer did not come. Look what it did, then decide."""


class UnreadableError(UnreachableError):
    """The answer is not this API's: no JSON, too long, or without a field that every answer has."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    :param path: below the place's base, percent-encoded: see :func:`segment`.
    :param body: sent as JSON; None sends none. :param form: sent as an HTML form in its place.
    :param accept: statuses from 400 on that are no error.
    :param again: whether it may be sent twice. None: if it is a GET. Say True for what sets a state, or only reads.
    :param signed: whether it carries the login. False for the login itself.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    form: Mapping[str, str] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    accept: frozenset[int] = frozenset()
    again: bool | None = None
    signed: bool = True

    @property
    def repeatable(self) -> bool:
        return self.method == "GET" if self.again is None else self.again

    @property
    def target(self) -> str:
        return f"{self.path}?{urlencode(self.query, quote_via=quote)}" if self.query else self.path

    def payload(self) -> tuple[bytes | None, dict[str, str]]:
        """The bytes and their type."""
        if self.form is not None:
            return urlencode(self.form).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
        if self.body is None:
            return None, {}
        return json.dumps(self.body).encode(), {"Content-Type": "application/json"}


def segment(text: str) -> str:
    """``text`` as one segment of a path: a slash in it does not lead elsewhere.

    :raises UnsafeTextError: it is empty, or leads to another folder.
    """
    if text in {"", ".", ".."}:
        raise UnsafeTextError(f"'{text}' cannot be a part of the address of a request", next_step="Nothing was sent")
    return quote(text, safe="")


@dataclass(frozen=True)
class Answer:
    """An answer that was read completely."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    data: bytes = field(repr=False)
    system: str = ""

    @property
    def ok(self) -> bool:
        """Not one that leads elsewhere: nobody goes there, and it did nothing."""
        return self.status < 300

    def json(self) -> Any:
        """The body; None if there is none. :raises UnreadableError: it is no JSON."""
        if not self.data.strip():
            return None
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError) as error:
            raise UnreadableError(
                f"the answer is not {self.system}'s: no JSON, but {self.data[:40]!r}",
                next_step="Check host, port and path: a proxy or another program may answer there",
                status=self.status,
            ) from error

    def object(self) -> dict[str, Any]:
        """The body as an object; empty if there is none. :raises UnreadableError: it is something else."""
        found = self.json()
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise UnreadableError(f"the answer is not {self.system}'s: no JSON object", status=self.status)
        return found

    @cached_property
    def error_fields(self) -> dict[str, Any]:
        """The fields of an error: of a JSON object, or of XML ``<entry><string>name</string><string>text</string>``
        (HCX, while it starts). Empty if it is neither. Never raises."""
        try:
            found = json.loads(self.data)
            return found if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            return _xml_entries(self.data)

    def words(self) -> str:
        """The vendor's words, if they are where vendors put them; else the beginning of the body."""
        fields = self.error_fields
        texts = [fields.get(name) for name in ("error_message", "message", "errorMessage", "error")]
        texts += [one.get("message") for one in _objects(fields.get("errors"))]
        said = "; ".join(dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip()))
        return printable(said or self.data[: WORDS_LONGEST + 1].decode("utf-8", "replace").strip(), WORDS_LONGEST)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _xml_entries(data: bytes) -> dict[str, Any]:
    # A document type could define entities, which make a short text long.
    if not data.lstrip().startswith(b"<") or b"<!" in data:
        return {}
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return {}
    pairs = ([child.text or "" for child in entry] for entry in root.iter("entry"))
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) >= 2}


Explain = Callable[[Answer, Mapping[str, object]], WaveliftError]
"""A refused call (an answer from 400 on) as an error of ours, with these coordinates."""


def refused(answer: Answer, where: Mapping[str, object]) -> WaveliftError:
    """What a status says in every API."""
    said = f"{answer.system} answers {answer.status}: {answer.words()}".rstrip(": ")
    told = {**where, "status": answer.status}
    if answer.status == UNAUTHORIZED:
        return LoginError(
            f"{answer.system} refused the login ({said})",
            next_step="Correct the connection; nothing is tried again by itself, as that may lock the account",
            **told,
        )
    if answer.status == 403:
        return MissingPrivilegeError(said, next_step="Give the account of the connection the right to it", **told)
    if answer.status == 404:
        return NotFoundError(said, next_step="Look whether it still exists, and under this name", **told)
    if answer.status == THROTTLED:
        return ThrottledError(said, next_step="A later try may succeed", **told)
    if answer.status in TRANSIENT:
        return UnreachableError(said, next_step=f"Look at {answer.system}'s health; a later try may succeed", **told)
    if answer.status < 400:
        return WaveliftError(
            said, next_step="Check host, port and path of the connection: the answer leads elsewhere", **told
        )
    return WaveliftError(said, next_step=f"Look at {answer.system}'s own log of this call", **told)
