"""What comes before a route: the login, the whole body, and one of a few places.

A route of ours holds a thread while it asks Airflow's own API, which the same process serves by a thread of the same
pool: with as many requests as threads, all of them would wait for one that never comes. So few are worked on at a time.

A place is held only while a route works. A client without a login never takes one, nor does a client that sends its
request slowly or reads its answer slowly. One user can neither take all places nor make the others wait long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
from fastapi import HTTPException, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wavelift.base.units import KIB, MIB

log = logging.getLogger(__name__)

Login = Callable[[Request], Awaitable[str]]
"""The id of the user who asks. :raises HTTPException: 401 or 403, when nobody does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one api-server process."""

    at_once: int = 8
    """Requests that are worked on at a time. The process has 40 threads for all its routes (anyio's default)."""
    at_once_of_user: int = 4
    of_user: int = 100
    """Requests of one user under way: being read, waiting, worked on and being sent."""
    body_bytes: int = 256 * KIB
    """A wave has 150 servers; a request that names all of them has 40 KiB."""
    body_seconds: float = 10.0
    wait_seconds: float = 60.0
    """For a place."""
    answer_bytes: int = 4 * MIB
    """The longest list has 500 rows, which are less than 1 MiB. One user may leave 100 answers unread."""
    send_seconds: float = 30.0
    """For reading an answer of ours."""


T = TypeVar("T")

PARTS: Final = 10
"""Of a time that a client has."""
CHUNK: Final = 64 * KIB
"""Of an answer. The server stops taking more of them while the client does not read."""


class Gate:
    """Lets in who is logged in, a few requests at a time; the others wait, in their order, without a thread."""

    def __init__(self, app: ASGIApp, login: Login, limits: Limits | None = None) -> None:
        self._app = app
        self._login = login
        self._limits = limits or Limits()
        self._places = asyncio.Semaphore(self._limits.at_once)
        self._users: dict[str, _User] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # starting up and shutting down is no request
            await self._app(scope, receive, send)
            return
        try:
            async with self._counted(await self._login(Request(scope))) as user:
                body = await self._body_of(scope, receive)
                async with self._place_of(user):
                    answer = _Answer(self._limits.answer_bytes)
                    await self._app(scope, _replay(body, receive), answer.take)
                await self._deliver(answer, send)
        except HTTPException as refused:
            told = JSONResponse({"detail": refused.detail}, refused.status_code, refused.headers)
            await told(scope, receive, send)
        except _Gone:
            log.debug("the client has gone before its request was complete")

    @asynccontextmanager
    async def _counted(self, name: str) -> AsyncIterator[_User]:
        user = self._users.setdefault(name, _User(asyncio.Semaphore(self._limits.at_once_of_user)))
        if user.under_way >= self._limits.of_user:
            raise _busy(429, f"{user.under_way} of your requests are under way; wait for them, then try again")
        user.under_way += 1
        try:
            yield user
        finally:
            user.under_way -= 1
            if not user.under_way:
                self._users.pop(name, None)

    async def _body_of(self, scope: Scope, receive: Receive) -> bytes:
        most = self._limits.body_bytes
        told = Headers(scope=scope).get("content-length", "")
        if told.isdecimal() and (len(told) > 18 or int(told) > most):
            raise _refused(413, f"The request's body has more than {most} bytes")
        try:
            return await _within(self._limits.body_seconds, _read(receive, most))
        except TimeoutError:
            raise _refused(408, f"The request's body did not come within {self._limits.body_seconds:g} s") from None

    @asynccontextmanager
    async def _place_of(self, user: _User) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.wait_seconds):
                await user.places.acquire()
                try:
                    await self._places.acquire()
                except BaseException:
                    user.places.release()
                    raise
        except TimeoutError:
            raise _busy(503, "Too many requests are worked on; try again later") from None
        try:
            yield
        finally:
            self._places.release()
            user.places.release()

    async def _deliver(self, answer: _Answer, send: Send) -> None:
        if answer.too_long:
            raise HTTPException(422, f"The answer has more than {answer.most} bytes; ask for fewer rows by `limit`")
        try:
            await _within(self._limits.send_seconds, _send(answer, send))
        except TimeoutError:  # the server closes the connection, because the answer is not complete
            log.info("the client did not read its answer within %g s", self._limits.send_seconds)


class _Gone(Exception):
    """The client closed the connection."""


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives. A time in which this process stood still counts as one of ten parts at most.

    Airflow's own routes can hold the event loop for many seconds. What the client sent meanwhile lies in the socket,
    and a plain time-out would come first and blame the client.

    :raises TimeoutError: the work is given up.
    """
    task = asyncio.ensure_future(work)
    try:
        for _ in range(PARTS):
            if (await asyncio.wait({task}, timeout=seconds / PARTS))[0]:
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body += message.get("body", b"")
        if len(body) > most:
            raise _refused(413, f"The request's body has more than {most} bytes")
        if not message.get("more_body"):
            return bytes(body)


async def _send(answer: _Answer, send: Send) -> None:
    for message in answer.messages():
        await send(message)


@dataclass(slots=True)
class _User:
    places: asyncio.Semaphore
    under_way: int = 0


class _Answer:
    """What a route answers, kept until its place is given back."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.too_long = False
        self._start: Message | None = None
        self._body = bytearray()

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and not self.too_long:
            self._body += message.get("body", b"")
            if len(self._body) > self.most:
                self.too_long = True
                self._body.clear()

    def messages(self) -> list[Message]:
        if self._start is None:
            return []
        parts = [bytes(self._body[at : at + CHUNK]) for at in range(0, len(self._body), CHUNK)] or [b""]
        last = len(parts) - 1
        return [self._start] + [
            {"type": "http.response.body", "body": part, "more_body": at < last} for at, part in enumerate(parts)
        ]


async def airflow_login(request: Request) -> str:
    """The caller as Airflow's own routes see it: the bearer token, else the cookie. It needs no thread."""
    user = await get_user(request, None, await bearer_scheme(request))
    return str(user.get_id())


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body once; then what the server says, which is that the client has gone."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _refused(status: int, detail: str) -> HTTPException:
    """Without reading the rest: the connection can't be used again."""
    return HTTPException(status, detail, {"Connection": "close"})


def _busy(status: int, detail: str) -> HTTPException:
    return HTTPException(status, detail, {"Retry-After": "5"})
