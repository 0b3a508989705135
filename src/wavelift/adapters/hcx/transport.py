"""The way to one HCX manager: its login, and its errors in our words.

The token of a login is a header of its answer; one new login follows a 401, and the call is sent again. Errors are JSON
with ``errors[]`` or ``items[].errors[]``, or XML, as while the manager starts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.loose import messages, once, record, records, text
from wavelift.base.errors import LoginError, PermanentError, UnreachableError, WaveliftError
from wavelift.base.rest import PAUSES, Answer, Ask, RestClient, RestPlace, UnreadableError, refused
from wavelift.base.run import CancelFlag

SYSTEM: Final = "HCX"
BAD_REQUEST: Final = 400
LOGIN_ANSWERS: Final = frozenset({400, 401, 403, 500})
"""Statuses of a refused login. That of a manager that still starts is not known, so its words decide."""


class RefusedRequestError(PermanentError):
    """HCX refuses what it was asked, in its own words. A retry of the same would be refused, too."""


@dataclass(frozen=True, kw_only=True)
class HcxAccess:
    """How to reach one manager, and as whom.

    :param place: made by :func:`hcx_place`, or with ``system="HCX"``.
    """

    place: RestPlace
    username: str
    password: str = field(repr=False)

    def client(self, *, cancel: CancelFlag | None = None) -> RestClient:
        """A client that logs in with its first call. Use it in ``with``, or close it."""
        flag = cancel or CancelFlag()
        return RestClient(self.place, login=lambda client: self._log_in(client, flag), explain=explain, cancel=flag)

    def _log_in(self, client: RestClient, cancel: CancelFlag) -> Mapping[str, str]:
        """The header of every later call.

        :raises LoginError: wrong user or password. :raises UnreachableError: the manager starts, for too long.
        """
        began = time.monotonic()
        for tries in count(1):
            body = {"username": self.username, "password": self.password}
            ask = Ask("POST", guesses.SESSIONS.value, body=body, accept=LOGIN_ANSWERS, again=True, signed=False)
            answer = client.send(ask)
            if answer.ok:
                return {guesses.TOKEN_HEADER.value: _token(answer)}
            problem = self._refusal(answer)
            if isinstance(problem, LoginError) or time.monotonic() - began >= self.place.patience_s:
                raise problem
            cancel.wait(PAUSES.pause(tries))
        raise AssertionError

    def _refusal(self, answer: Answer) -> WaveliftError:
        where = {"hcx": self.place.place, "status": answer.status}
        said = answer.words()
        if guesses.STARTING_UP.value in said:
            return UnreachableError(
                f"HCX is still starting ({said})", next_step="Wait until its services run, then try again", **where
            )
        if answer.status == 500:
            return UnreachableError(f"HCX answers 500 to the login: {said}", next_step="Look at HCX's health", **where)
        return LoginError(
            f"HCX refuses the user {self.username} or the password: {said}",
            next_step="Correct user and password of the HCX connection. It is not tried again by itself: that may lock "
            "the account",
            **where,
        )


def _token(answer: Answer) -> str:
    token = answer.headers.get(guesses.TOKEN_HEADER.value, "")
    if not token:
        raise UnreadableError(
            f"the login was answered without the header {guesses.TOKEN_HEADER.value}",
            next_step="Check host and port: another program may answer there",
            status=answer.status,
        )
    return token


def explain(answer: Answer, where: Mapping[str, object]) -> WaveliftError:
    """HCX's own words for a refused call."""
    if answer.status == BAD_REQUEST:
        return RefusedRequestError(
            f"HCX refuses it: {'; '.join(error_messages(answer)) or 'it does not say why'}",
            next_step="Correct what HCX names",
            **{**where, "status": answer.status},
        )
    return refused(answer, where)


def error_messages(answer: Answer) -> tuple[str, ...]:
    """Every error of an answer: of the whole, and of its items. Of one that is not JSON, its words."""
    fields = answer.error_fields
    found = [*messages(fields.get("errors"))]
    for item in records(fields.get("items")):
        for each in (item, *records(item.get("migrations"))):
            found += messages(each.get("errors"))
    return once(found) or once((text(answer.words()),))


def items_of(answer: Answer) -> list[Mapping[str, Any]]:
    """``items[]`` or ``data.items[]``: HCX has both forms.

    :raises UnreadableError: the answer is no JSON object.
    """
    found = answer.object()
    return records(found.get("items")) or records(record(found.get("data")).get("items"))
