"""How many of our requests the api-server works on at once."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

AT_ONCE: Final = 8
"""Requests at a time. One api-server process has 40 threads for all its routes (anyio's default)."""


class Gate:
    """Lets a few requests in at a time; the others wait, in their order, without a thread.

    A route of ours holds a thread while it asks Airflow's own API, which the same process serves by a thread of the
    same pool: with as many requests as threads, all of them would wait for one that never comes.
    """

    def __init__(self, app: ASGIApp, at_once: int = AT_ONCE) -> None:
        self._app = app
        self._places = asyncio.Semaphore(at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # starting up and shutting down is no request
            await self._app(scope, receive, send)
            return
        async with self._places:
            await self._app(scope, receive, send)
