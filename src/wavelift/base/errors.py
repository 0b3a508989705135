"""The errors that leave wavelift.

Every error says what failed, where (server, disk, offset, remote id) and what to do next; no bare vendor
exception reaches an operator's log line (invariant 13). Whether a retry can help is part of the type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from wavelift.base.domain import Refusal


class WaveliftError(Exception):
    """Something failed and a retry of the task may help.

    :param what: what failed, one sentence without a full stop.
    :param next_step: what the person reading it should do.
    :param where: coordinates such as ``server="web01"``, ``disk="SCSI 0:1"``, ``offset=4096``, ``task="import-ami-…"``.
    """

    retryable: ClassVar[bool] = True

    def __init__(self, what: str, *, next_step: str = "", **where: object) -> None:
        self.what = what
        self.next_step = next_step
        self.where = {key: value for key, value in where.items() if value is not None}
        super().__init__(what)

    def __str__(self) -> str:
        place = ", ".join(f"{key}={value}" for key, value in self.where.items())
        text = f"{self.what} [{place}]" if place else self.what
        return f"{text}. {self.next_step}" if self.next_step else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.next_step, self.where))


def _rebuild(kind: type[WaveliftError], what: str, next_step: str, where: dict[str, object]) -> WaveliftError:
    return kind(what, next_step=next_step, **where)


class PermanentError(WaveliftError):
    """A retry cannot cure it: wrong login, certificate, spec, missing right (invariant 9)."""

    retryable: ClassVar[bool] = False


class SpecError(PermanentError):
    """A spec, form or API body is wrong; ``where`` names file and line."""


class LoginError(PermanentError):
    """The remote side refused the user name, password or key. Never retried: retries lock accounts."""


class TlsError(PermanentError):
    """A certificate was refused: wrong name, expired, unknown issuer or wrong pin (SMS-16)."""


class MissingPrivilegeError(PermanentError):
    """The remote side says that a privilege or permission is missing."""


class NotFoundError(PermanentError):
    """A named thing does not exist (a VM, snapshot, bucket, role)."""


class AmbiguousError(PermanentError):
    """A name fits more than one thing."""


class UnreachableError(WaveliftError):
    """No connection, time-out, or a cut in the middle."""


class ThrottledError(WaveliftError):
    """The remote side asks for a slower pace for longer than the client's own patience."""


class LimitReachedError(WaveliftError):
    """A count limit is reached (imports per region …): wait for a free place, do not fail."""


class BusyError(WaveliftError):
    """The object is occupied: consolidation, another task, a snapshot of another run of ours."""


class GuardError(WaveliftError):
    """A guard stopped the work: the datastore is too full, the snapshot too old, or the source has moved."""


class CorruptStreamError(WaveliftError):
    """A disk stream breaks its own format: truncated, bad grain, tables that contradict the markers."""


class ProofError(PermanentError):
    """Bytes differ from the manifest. Never retried as is: the transfer must run again (invariant 1)."""


class RemoteJobError(PermanentError):
    """A remote job (an import …) ended in failure; the message carries the vendor's words and our reading."""


class RefusedError(PermanentError):
    """A rule forbids it now, for each server of ``refusals``.

    ``where`` tells the first one's rule and, if every refusal has one, the time from which none of them holds.
    """

    def __init__(self, what: str, *, refusals: tuple[Refusal, ...], next_step: str = "", **where: object) -> None:
        self.refusals = refusals
        times = [each.until for each in refusals if each.until is not None]
        until = max(times).isoformat() if len(times) == len(refusals) else None
        way_out = next_step or (f"Ask again at {until}" if until else "")
        super().__init__(what, next_step=way_out, **{**where, "rule": refusals[0].rule, "until": until})

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.next_step, {**self.where, "refusals": self.refusals}))


class Cancelled(WaveliftError):
    """The work was asked to stop."""

    retryable: ClassVar[bool] = False


class FencedError(WaveliftError):
    """Another try of the same task owns the work now: stop at once and clean up nothing."""

    retryable: ClassVar[bool] = False


@contextmanager
def located(**where: object) -> Iterator[None]:
    """Errors of ours that leave the block say where they belong, unless they know better: an adapter below knows its
    remote id, not the server that it works for (invariant 13)."""
    try:
        yield
    except WaveliftError as error:
        error.where = {**{key: value for key, value in where.items() if value is not None}, **error.where}
        raise
