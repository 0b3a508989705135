"""The exceptions of wavelift.

Every error states what failed, where (server, disk, offset, remote id) and what to do next. No bare vendor exception
reaches an operator's log line (invariant 13). The type determines whether a retry can help.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

from wavelift.base.domain import Refusal
from wavelift.base.printable import printable, without_login
from wavelift.base.times import utc_minute
from wavelift.base.units import KIB, human_bytes

PLACE_LONGEST: Final = 500
"""Characters of one coordinate in an error's text."""

_MOST_SHOWN: Final = 200
"""Characters of a value that an error shows."""

_OFFSETS: Final = frozenset({"offset", "position"})
"""Coordinates that count bytes: their text has a unit, too."""


class WaveliftError(Exception):
    """Something failed and a retry of the task may help.

    Its text is printable and without the login of an address, whatever outside text it quotes
    (:mod:`wavelift.base.printable`).

    :param what: what failed, one sentence without a full stop.
    :param next_step: what the reader should do.
    :param where: coordinates such as ``server="web01"``, ``disk="SCSI 0:1"``, ``offset=4096``, ``task="import-ami-…"``.
    """

    retryable: ClassVar[bool] = True
    said_in_words: ClassVar[frozenset[str]] = frozenset()
    """Coordinates that the sentences already say. The text does not say them twice."""

    def __init__(self, what: str, *, next_step: str = "", **where: object) -> None:
        self.what = printable(without_login(what))
        self.next_step = printable(without_login(next_step))
        self.where = {key: value for key, value in where.items() if value is not None}
        super().__init__(self.what)

    def __str__(self) -> str:
        told = {key: value for key, value in self.where.items() if key not in self.said_in_words}
        place = ", ".join(f"{key}={_place(key, value)}" for key, value in told.items())
        text = f"{self.what} [{place}]" if place else self.what
        return f"{text}. {self.next_step}" if self.next_step else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.next_step, self.where))


def _place(key: str, value: object) -> str:
    if key in _OFFSETS and isinstance(value, int) and value >= KIB:
        return f"{value} ({human_bytes(value)})"
    return printable(without_login(str(value)), PLACE_LONGEST)


def _rebuild(kind: type[WaveliftError], what: str, next_step: str, where: dict[str, object]) -> WaveliftError:
    return kind(what, next_step=next_step, **where)


class PermanentError(WaveliftError):
    """A retry cannot help: wrong login, certificate or spec, or a missing right (invariant 9)."""

    retryable: ClassVar[bool] = False


class SpecError(PermanentError):
    """A spec, form or API body is invalid. ``where`` names file and line."""


class NoConnectionError(SpecError):
    """Airflow has no connection of this id. It says the same while its api-server does not answer."""


class DeniedConnectionError(SpecError):
    """Airflow refuses a connection to this task. It says the same when the token of a task that stood still expired."""


class LoginError(PermanentError):
    """The remote side refused the user name, password or key. Never retried, because retries can lock the account."""


class ProxyLoginError(LoginError):
    """An HTTP proxy wants a login, refuses the one it got, or offers only ways to log in that we do not have."""


class TlsError(PermanentError):
    """A certificate was refused: wrong name, expired, unknown issuer or wrong pin (SMS-16)."""


class MissingPrivilegeError(PermanentError):
    """The remote side reports a missing privilege or permission."""


class NotFoundError(PermanentError):
    """A named object does not exist (a VM, snapshot, bucket, role)."""


class AmbiguousError(PermanentError):
    """A name matches more than one object."""


class UnsafeTextError(PermanentError):
    """A text from outside has characters that its place (a request, a command) must not have. Nothing was sent."""


class UnreachableError(WaveliftError):
    """No connection, a time-out, or a connection that was interrupted."""


class UnknownNameError(UnreachableError):
    """DNS says that the name does not exist. On the first contact it is a wrong name, later an outage of DNS."""


class ThrottledError(WaveliftError):
    """The remote side throttles requests for longer than the client is configured to wait."""


class LimitReachedError(WaveliftError):
    """A limit on a number is reached (imports per region …). Wait for a free place; do not fail."""


class BusyError(WaveliftError):
    """The object is in use: consolidation, another task, or a snapshot of another wavelift run."""


class GuardError(WaveliftError):
    """A guard stopped the work: the datastore is too full, the snapshot is too old, or the source has moved."""


class CorruptStreamError(WaveliftError):
    """A disk stream is not valid: it is truncated, has a bad grain, or its tables contradict the markers."""


class TamperedError(PermanentError):
    """What a task got by XCom is not what the ledger froze for the run, or not what was stored outside.

    Every one that leaves a task of the control plane is an event in the audit trail (``run.tampered``).

    :param field: what differs, for example ``target.bucket``.
    :param expected: what the run froze or the ledger knows. :param found: what came instead. Neither is a secret.
    """

    def __init__(
        self, what: str, *, field: str, expected: object, found: object, next_step: str = "", **where: object
    ) -> None:
        self.field = field
        next_step = next_step or "Clear this run's preflight task, with all that follows; find out who edited its XComs"
        said = {"expected": printable(expected, _MOST_SHOWN), "found": printable(found, _MOST_SHOWN)}
        super().__init__(what, next_step=next_step, **{**where, "field": field, **said})


class GrantError(PermanentError):
    """A connector was not allowed to do what it was told: no grant, a forged or expired one, or one for something else.

    ``where`` names the link of the chain of rights that said no, and the field.
    """

    def __init__(self, what: str, *, field: str, next_step: str, link: str = "grant_verified", **where: object) -> None:
        self.field = field
        said = {key: None if value is None else printable(value, _MOST_SHOWN) for key, value in where.items()}
        super().__init__(what, next_step=next_step, **{"link": link, "field": field, **said})

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.next_step, self.where))


class ProofError(PermanentError):
    """Bytes differ from the manifest. A retry cannot help: the transfer must run again (invariant 1)."""


class RemoteJobError(PermanentError):
    """A remote task (an import …) failed. The message contains the vendor's text and wavelift's explanation."""


class RefusedError(PermanentError):
    """A rule refuses the request now, for each server of ``refusals``.

    ``where`` has the rule of the first refusal and, if every refusal has an end, the time when all of them have ended.
    The text says that time once, rounded up to the minute.
    """

    said_in_words = frozenset({"until"})

    def __init__(self, what: str, *, refusals: tuple[Refusal, ...], next_step: str = "", **where: object) -> None:
        self.refusals = refusals
        times = [each.until for each in refusals if each.until is not None]
        until = max(times) if len(times) == len(refusals) else None
        way_out = next_step or (f"Ask again at {utc_minute(until)}" if until else "")
        ends = until.isoformat() if until else None
        super().__init__(what, next_step=way_out, **{**where, "rule": refusals[0].rule, "until": ends})

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.next_step, {**self.where, "refusals": self.refusals}))


class DeniedError(PermanentError):
    """A link of the chain of authority said no (AMP-03). ``where`` names the link, the environment and the user."""

    @property
    def link(self) -> str:
        return str(self.where.get("link", ""))


class NotApprovedError(PermanentError):
    """A person rejected it, or nobody who may approve it did so in time. A retry would ask again."""


class Cancelled(WaveliftError):
    """The work was cancelled."""

    retryable: ClassVar[bool] = False


class FencedError(WaveliftError):
    """Another try of the same task owns the work now. Stop at once and do not clean up."""

    retryable: ClassVar[bool] = False


@contextmanager
def located(**where: object) -> Iterator[None]:
    """Add ``where`` to wavelift errors that leave the block. Values that an error already has are kept.

    An adapter knows its remote id, but not the server that it works for (invariant 13).
    """
    try:
        yield
    except WaveliftError as error:
        error.where = {**{key: value for key, value in where.items() if value is not None}, **error.where}
        raise
