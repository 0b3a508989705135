"""Many requests at one moment, each of which needs a second thread of the api-server before it can give up its own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient

from wavelift.console.access import not_loaded
from wavelift.console.api import create_app
from wavelift.console.caller import _caller, remember_roles
from wavelift.console.deps import Specs, _airflow, _ledger
from wavelift.console.gate import Gate, Limits

pytestmark = pytest.mark.unit

THREADS = 40
"""Of one api-server process: anyio's default."""
REQUESTS = 60
GATHER_S = 3
STUCK_S = 30


class OwnAirflow:
    """Airflow's API in the same process: its sync routes take a thread of the pool that ours are in."""

    def __init__(self) -> None:
        self.inside, self.go = 0, threading.Event()

    def is_paused(self, dag_id: str) -> bool | None:
        """The first callers wait for one another, so that every thread that may hold a request of ours does so."""
        self.inside += 1
        if self.inside >= THREADS:
            self.go.set()
        self.go.wait(GATHER_S)
        self.go.set()
        return anyio.from_thread.run(self._served)

    async def _served(self) -> bool | None:
        with anyio.move_on_after(STUCK_S):
            return await anyio.to_thread.run_sync(lambda: None)
        raise HTTPException(504, "no thread was free")


async def ana(request: Request) -> str:
    return "ana"


async def nobody(request: Request) -> str:
    raise HTTPException(401, "Not authenticated")


class AnySpecs:
    """The files of any wave are valid."""

    def wave(self, name: str) -> None:
        return None


def test_starting_up_takes_no_request_s_place() -> None:
    """A lifespan lasts as long as the process."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def started(gate: Gate) -> None:
        with anyio.fail_after(STUCK_S):
            await gate({"type": "lifespan"}, None, None)  # type: ignore[arg-type]  # the app asks for neither

    anyio.run(started, Gate(app, nobody, Limits(at_once=0)))
    assert seen == ["lifespan"]


def test_requests_at_once_leave_threads_for_the_api_that_they_ask() -> None:
    app = create_app(ana)
    app.dependency_overrides[get_user] = lambda: None
    app.dependency_overrides[_ledger] = lambda: None
    app.dependency_overrides[remember_roles] = lambda: None
    app.dependency_overrides[_caller] = lambda: SimpleNamespace(require=lambda dag_id, action: None)
    own = OwnAirflow()
    app.dependency_overrides[_airflow] = lambda: own
    app.dependency_overrides[Specs] = AnySpecs

    with TestClient(app) as client, ThreadPoolExecutor(REQUESTS) as pool:
        asked = [
            pool.submit(client.post, "/waves/erp/replications", json={"servers": ["web01"]}) for _ in range(REQUESTS)
        ]
        answers = {(each.result().status_code, each.result().json()["detail"]) for each in asked}
    assert answers == {(404, not_loaded("erp.replicate"))}


@pytest.mark.parametrize("stalled", [True, False])
def test_a_body_that_came_while_the_process_stood_still_is_no_slow_client(stalled: bool) -> None:
    """Airflow's own routes can hold the event loop; what the client sent meanwhile lies in the socket."""
    ours, client = socket.socketpair()
    ours.setblocking(False)
    seen: list[str] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": await asyncio.get_running_loop().sock_recv(ours, 100)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["body"].decode())

    async def asked() -> None:
        gate = Gate(app, ana, Limits(body_seconds=0.3))
        request = asyncio.ensure_future(gate({"type": "http", "headers": []}, receive, send))
        await asyncio.sleep(0.1)  # the gate waits for the body by now
        if stalled:
            client.send(b"the body")
            time.sleep(0.6)  # the loop is held
        with anyio.fail_after(STUCK_S):
            await request

    with ours, client:
        anyio.run(asked)
    assert seen == (["the body"] if stalled else [408])
