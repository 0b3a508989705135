"""NSX's errors as ours, by ``error_code``. Texts are never matched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wavelift.adapters.nsx import guesses
from wavelift.base.errors import BusyError, LoginError, PermanentError, WaveliftError
from wavelift.base.rest import Answer, refused


class StillAttachedError(BusyError):
    """VMs or interfaces are still attached to the segment. NSX shows them for a while after they have gone."""


class PendingDeleteError(BusyError):
    """The segment is being deleted: its id cannot be used before that has ended."""


class StaleRevisionError(WaveliftError):
    """Somebody else changed the segment since it was read. Read it again, then decide."""


class NotRealisedError(WaveliftError):
    """NSX accepted a change, and did not realise it: it failed, or did not end in time."""


STALE_STATUS: Final = 412

_AGAIN: Final = "A later try may succeed"
_TABLE: Final[dict[int, tuple[type[WaveliftError], str, str]]] = {
    503040: (
        StillAttachedError,
        "VMs or interfaces are still attached to the segment",
        "Move or remove them. NSX shows a port for some minutes after its VM has gone",
    ),
    500045: (PendingDeleteError, "the segment is being deleted", _AGAIN),
    500030: (BusyError, "the segment is used by something else", "Look in NSX what names it"),
    **dict.fromkeys(
        (500087, 500090, 500232),
        (StaleRevisionError, "somebody else changed the segment since it was read", "Look at it, then try again"),
    ),
    500105: (PermanentError, "its addresses overlap with those of another segment", "Look which segment has them"),
    640873: (PermanentError, "its VLAN overlaps with that of another segment", "Look which segment has it"),
}
"""terraform-provider-nsxt (S14), nsx-operator (S13b)."""


def explain(answer: Answer, where: Mapping[str, object]) -> WaveliftError:
    """A refused call as an error of ours."""
    code = _code(answer)
    told = {**where, "status": answer.status, "error_code": code}
    if code in _TABLE:
        kind, what, next_step = _TABLE[code]
        return kind(f"{what} ({answer.system}: {answer.words()})", next_step=next_step, **told)
    if answer.status == STALE_STATUS:
        kind, what, next_step = _TABLE[500090]
        return kind(f"{what} ({answer.system}: {answer.words()})", next_step=next_step, **told)
    if answer.status == 403 and code == guesses.LOGIN_CODE:
        return LoginError(
            f"{answer.system} refused the user name or password, or the account is locked",
            next_step="Correct the connection; nothing is tried again by itself, as that may lock the account",
            **told,
        )
    return refused(answer, {**where, "error_code": code})


def _code(answer: Answer) -> int | None:
    found = answer.error_fields.get("error_code")
    return int(found) if isinstance(found, int) or (isinstance(found, str) and found.isdecimal()) else None
