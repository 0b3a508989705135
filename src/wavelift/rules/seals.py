"""Seals of the audit trail: the form in which an event is sealed, its check, and the exported file.

A seal lists the events that it covers, each with the beginning of its own digest, and names the digest of the seal
before. Its digest is the SHA-256 of the lines of its events, each with its newline, and of the seal's own line without
``digest``. An exported file has the line of a seal and under it the lines of its events. So a file can be checked
without the ledger, and with other programs than this one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from wavelift.base.errors import PermanentError
from wavelift.base.units import KIB, MIB

SETTLED: Final = timedelta(minutes=10)
"""Only older events are sealed. An id is given before its transaction is committed, so a younger event may appear late
with a smaller id. Our transactions take milliseconds; the database gives one up after a minute and a half."""
EVENTS_A_SEAL: Final = 500
BYTES_A_SEAL: Final = 512 * KIB
"""Of the lines of one seal, about: an answer of the REST API carries whole seals, and has 4 MiB at most."""
LONGEST_LINE: Final = 16 * MIB
"""Of an exported file. A longer one is no line of ours, and is not read into memory."""
SHORT: Final = 16
"""Hex digits of an event's own digest in its seal. They only name the event that differs; the seal's digest proves."""


class Kind(StrEnum):
    """What an event, or a seal, is that differs."""

    CHANGED = "changed"
    MISSING = "missing"
    ADDED = "added"
    SEAL = "seal"


class Difference(BaseModel):
    """The first thing that is not as it was sealed.

    :param event_id: None: the seal itself differs.
    """

    model_config = ConfigDict(frozen=True)

    kind: Kind
    event_id: int | None
    what: str


class Seal(BaseModel):
    """What a seal says.

    :param rows: id and beginning of the digest of each event, in the order of the ids.
    :param previous: the digest of the seal before; empty for the first one.
    :param sealed_at: ISO 8601 in UTC.
    """

    model_config = ConfigDict(frozen=True)

    first_event_id: int
    last_event_id: int
    rows: tuple[tuple[int, str], ...]
    previous: str
    digest: str
    sealed_at: str
    sealed_by: str

    def line(self) -> str:
        return canonical({"seal": self.model_dump(mode="json")})


def canonical(value: Mapping[str, Any]) -> str:
    """One line of JSON: sorted keys, no spaces, only ASCII. The same value gives the same line everywhere."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=repr)


def short_digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:SHORT]


class Sealing:
    """Takes events in the order of their ids, and makes their seal."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.rows: list[tuple[int, str]] = []
        self.bytes = 0

    @property
    def full(self) -> bool:
        return len(self.rows) >= EVENTS_A_SEAL or self.bytes >= BYTES_A_SEAL

    def take(self, id: int, line: str) -> None:
        raw = line.encode()
        self._hash.update(raw + b"\n")
        self.rows.append((id, short_digest(raw)))
        self.bytes += len(raw) + 1

    def seal(self, *, previous: str, at: str, by: str) -> Seal:
        first, last = self.rows[0][0], self.rows[-1][0]
        told = Seal(
            first_event_id=first,
            last_event_id=last,
            rows=tuple(self.rows),
            previous=previous,
            digest="",
            sealed_at=at,
            sealed_by=by,
        )
        return told.model_copy(update={"digest": _digest(self._hash, told)})


class Check:
    """Compares a seal with events as they are now, taken in the order of their ids; keeps the first difference."""

    def __init__(self, seal: Seal, previous: str | None) -> None:
        """:param previous: the digest of the seal that stands before it. None: not known."""
        self._seal = seal
        self._hash = hashlib.sha256()
        self._rows = iter(seal.rows)
        self._next = next(self._rows, None)
        self.found: Difference | None = None
        if previous is not None and seal.previous != previous:
            self._find(Kind.SEAL, None, "it follows another seal than the one before it, which was removed or changed")

    def take(self, id: int, line: bytes) -> None:
        """The next event of the seal's range."""
        while self._next and self._next[0] < id:
            self._miss(self._next[0])
        if not self._next or self._next[0] != id:
            self._find(Kind.ADDED, id, f"event {id} is not among the events that were sealed here")
            return
        if short_digest(line) != self._next[1]:
            self._find(Kind.CHANGED, id, f"event {id} is not what it was when it was sealed")
        self._hash.update(line + b"\n")
        self._next = next(self._rows, None)

    def end(self) -> Difference | None:
        """The first difference, once all events of the range were taken."""
        while self._next:
            self._miss(self._next[0])
        if self.found is None and _digest(self._hash, self._seal) != self._seal.digest:
            self._find(Kind.SEAL, None, "its events are as it lists them, but its digest is not theirs: it was changed")
        return self.found

    def _miss(self, id: int) -> None:
        self._find(Kind.MISSING, id, f"event {id} was sealed and is gone")
        self._next = next(self._rows, None)

    def _find(self, kind: Kind, id: int | None, what: str) -> None:
        if self.found is None:
            at = f"Seal of the events {self._seal.first_event_id} to {self._seal.last_event_id}: {what}"
            self.found = Difference(kind=kind, event_id=id, what=at)


def _digest(lines: hashlib._Hash, seal: Seal) -> str:
    whole = lines.copy()
    whole.update(canonical({"seal": seal.model_dump(mode="json", exclude={"digest"})}).encode())
    return whole.hexdigest()


# Exported files


@dataclass(slots=True)
class SealedFile:
    """An exported file, taken line by line; nothing of it is kept but the seal at hand.

    :param tell: called with each whole seal.
    :param whole_bytes: of the file, up to the end of the last whole seal: from there on it can be continued.
    """

    tell: Callable[[Seal], None] | None = None
    seals: int = 0
    events: int = 0
    whole_bytes: int = 0
    last: Seal | None = None
    """The last whole one."""
    _seal: Seal | None = None
    _check: Check | None = None
    _line: int = 0
    _read: int = 0

    def take(self, raw: bytes) -> None:
        """The next line, with its newline.

        :raises PermanentError: what is wrong, and in which line.
        """
        self._line += 1
        self._read += len(raw)
        value = self._value(raw)
        if "seal" in value:
            self._finish()
            self._begin(value["seal"])
        else:
            self._event(value.get("id"), raw[:-1])

    def end(self) -> None:
        """:raises PermanentError: the last seal lacks events."""
        self._finish()

    def forget_open_seal(self) -> None:
        """Go on after the last whole seal: the next line is the first one after it."""
        self._seal = self._check = None
        self._read = self.whole_bytes

    def _value(self, raw: bytes) -> dict[str, Any]:
        if not raw.endswith(b"\n"):
            raise self._wrong("is cut: the export was ended here")
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._wrong("is no line of an exported audit trail")
        return value

    def _begin(self, told: Any) -> None:
        try:
            self._seal = Seal.model_validate(told)
        except ValidationError:
            raise self._wrong("is no seal of an exported audit trail") from None
        self._check = Check(self._seal, self.last.digest if self.last else None)

    def _event(self, id: Any, line: bytes) -> None:
        if self._seal is None or self._check is None:
            raise self._wrong("has an event that stands under no seal")
        if not isinstance(id, int) or isinstance(id, bool):
            raise self._wrong("is no event")
        self._check.take(id, line)
        if self._check.found:
            raise self._wrong(f"differs. {self._check.found.what}")
        if id == self._seal.last_event_id:
            self._finish()

    def _finish(self) -> None:
        """The seal at hand has all its events, or lacks some."""
        if self._seal is None or self._check is None:
            return
        if found := self._check.end():
            raise self._wrong(f"is the last one before the difference. {found.what}")
        self.last = self._seal
        self.seals += 1
        self.events += len(self._seal.rows)
        self.whole_bytes = self._read
        if self.tell:
            self.tell(self._seal)
        self._seal = self._check = None

    def _wrong(self, what: str) -> PermanentError:
        return PermanentError(
            f"Line {self._line} {what}",
            next_step="Compare it with another copy of the file, or with the ledger (`wavelift events verify`)",
        )
