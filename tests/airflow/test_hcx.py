"""HCX in Airflow without a running Airflow: the connection, its *Test* button, and the trigger that follows."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import BaseHook, Connection

from wavelift.adapters.hcx import mobility
from wavelift.adapters.hcx.phases import Phase, Progress
from wavelift.airflow.hooks import hcx as hooks
from wavelift.airflow.hooks.hcx import HcxHook, access_of
from wavelift.airflow.provider_info import get_provider_info
from wavelift.airflow.triggers import hcx as triggers
from wavelift.airflow.triggers.hcx import MIGRATIONS, HcxFollowTrigger
from wavelift.airflow.triggers.listeners import listen
from wavelift.airflow.triggers.watch import SharedPoller
from wavelift.base.errors import LoginError, SpecError, UnreachableError
from wavelift.base.rest import RestPlace

pytestmark = pytest.mark.airflow

POLL = 0.05
PIN = ":".join(["AA"] * 20)


def _hcx(**changes: Any) -> Connection:
    extra = {key: changes.pop(key) for key in list(changes) if key not in ("conn_type", "host", "port", "login")}
    values: dict[str, Any] = {"conn_type": "hcx", "host": "hcx.example", "login": "me", **changes}
    return Connection(conn_id="hcx1", password="a secret", extra=json.dumps(extra), **values)


# --- the connection -------------------------------------------------------------------------------------------------


def test_every_field_of_the_form_arrives() -> None:
    access = access_of(
        _hcx(
            port=8443,
            certificate_mode="thumbprint",
            thumbprint=PIN,
            ca_bundle="/etc/ssl/hcx.pem",
            proxy="http://proxy:3128",
            proxy_user="us",
            proxy_password="p/w",
        ),
        "hcx1",
    )
    place = access.place
    assert (access.username, access.password) == ("me", "a secret")
    assert (place.system, place.host, place.port) == ("HCX", "hcx.example", 8443)
    assert (place.certificate_mode, place.thumbprint, place.ca_bundle) == ("thumbprint", PIN, "/etc/ssl/hcx.pem")
    assert place.http_proxy is not None
    assert (place.http_proxy.host, place.http_proxy.username, place.http_proxy.password) == ("proxy", "us", "p/w")
    assert place.patience_s > 60
    assert "a secret" not in repr(access)
    assert "p/w" not in repr(access)


def test_the_defaults_verify() -> None:
    place = access_of(_hcx(certificate_mode="", proxy=None), "hcx1").place
    assert (place.port, place.certificate_mode, place.proxy) == (443, "verify", None)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"host": ""}, "lacks a host"),
        ({"login": ""}, "lacks a user"),
        ({"host": "https://hcx.example/"}, "no name of a machine"),
        ({"port": 70_000}, "port 70000"),
        ({"certificate_mode": "sometimes"}, "certificate_mode"),
        ({"certificate_mode": "thumbprint"}, "thumbprint"),
        ({"thumbprint": "no digits"}, "thumbprint"),
        ({"proxy": "ftp://proxy"}, "proxy"),
    ],
)
def test_a_wrong_field_is_named(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], word: str) -> None:
    monkeypatch.setattr(HcxHook, "get_connection", lambda self, conn_id: _hcx(**changes))
    with pytest.raises(SpecError, match=word):
        HcxHook("hcx1").access()
    good, words = HcxHook("hcx1").test_connection()
    assert not good
    assert word in words
    assert "a secret" not in words


def test_a_connection_of_another_type_is_no_hcx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HcxHook, "get_connection", lambda self, conn_id: _hcx(conn_type="vsphere"))
    with pytest.raises(SpecError, match="not 'hcx'"):
        HcxHook("hcx1").access()

    async def other(conn_id: str) -> Connection:
        return _hcx(conn_type="vsphere")

    monkeypatch.setattr(BaseHook, "aget_connection", other)
    with pytest.raises(SpecError, match="not 'hcx'"):
        asyncio.run(hooks.aaccess("hcx1"))
    with pytest.raises(SpecError, match="not the id of a connection"):
        asyncio.run(hooks.aaccess("../variables/x"))


def test_airflow_knows_the_type_and_its_form() -> None:
    info = get_provider_info()
    (form,) = [one for one in info["connection-types"] if one["connection-type"] == "hcx"]
    assert form["hook-class-name"] == f"{HcxHook.__module__}.{HcxHook.__qualname__}"
    assert form["hook-name"] == HcxHook.hook_name
    assert form["conn-fields"]["certificate_mode"]["schema"]["enum"] == ["verify", "thumbprint", "ignore"]
    assert form["conn-fields"]["proxy_password"]["schema"]["format"] == "password"
    listed = {module for one in info["triggers"] for module in one["python-modules"]}
    assert HcxFollowTrigger.__module__ in listed


# --- the trigger ----------------------------------------------------------------------------------------------------


@dataclass
class Manager:
    """What HCX says, and what it was asked."""

    asked: list[tuple[str, ...]] = field(default_factory=list)
    rows: dict[str, Progress] = field(default_factory=dict)
    error: Exception | None = None
    patience: set[float] = field(default_factory=set)

    def say(self, phase: Phase, *ids: str, **fields: Any) -> None:
        for id in ids:
            self.rows[id] = Progress(migration_id=id, phase=phase, entity_name=f"vm {id}", **fields)

    def __call__(self, client: Any, ids: Iterable[str]) -> dict[str, Progress]:
        wanted = tuple(dict.fromkeys(ids))
        self.asked.append(wanted)
        if self.error is not None:
            raise self.error
        return {id: self.rows[id] for id in wanted if id in self.rows}


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager()

    @dataclass
    class Access:
        place: RestPlace

        def client(self) -> Any:
            made.patience.add(self.place.patience_s)
            return SimpleNamespace()

    async def aaccess(conn_id: str) -> Access:
        return Access(RestPlace(system="HCX", host=f"{conn_id}.example"))

    monkeypatch.setattr(hooks, "aaccess", aaccess)
    monkeypatch.setattr(mobility, "query_many", made)
    yield made
    assert not [poller for poller in SharedPoller._pollers.values() if poller._waiting], "nobody waits on"


def trigger(*ids: str, within: float = 30.0) -> HcxFollowTrigger:
    return HcxFollowTrigger(hcx_conn_id="hcx1", migration_ids=ids, poll_seconds=POLL, within_seconds=within)


async def asked(manager: Manager, times: int) -> None:
    async with asyncio.timeout(60):
        while len(manager.asked) < times:
            await asyncio.sleep(POLL / 5)


def test_hcx_03_it_ends_when_all_are_over_however(manager: Manager) -> None:
    manager.say(Phase.COMPLETE, "m-1")
    manager.say(Phase.FAILED, "m-2", errors=("no space",))
    manager.say(Phase.CANCELLED, "m-3")
    manager.say(Phase.ENDED, "m-4")
    found = asyncio.run(trigger("m-1", "m-2", "m-3", "m-4").wait())
    assert found["over"] == ["m-1", "m-2", "m-3", "m-4"]
    assert found["progress"]["m-2"]["words"] == "failed: no space"
    assert len(manager.asked) == 1
    assert json.loads(json.dumps(found)) == found, "an event is JSON"


def test_hcx_03_one_query_per_interval_for_all_vms_of_all_tasks(manager: Manager) -> None:
    ids = [f"m-{number}" for number in range(100)]
    manager.say(Phase.REPLICATING, *ids, percent=0)

    async def main() -> None:
        runs = [asyncio.create_task(trigger(*ids[at : at + 50]).wait()) for at in (0, 50)]
        await asked(manager, 4)
        for percent in (10, 20, 30):
            manager.say(Phase.REPLICATING, *ids, percent=percent)
            await asked(manager, len(manager.asked) + 2)
        assert all(set(each) == set(ids) for each in manager.asked[1:]), "however many tasks and VMs"
        manager.say(Phase.COMPLETE, *ids)
        found = await asyncio.gather(*runs)
        assert [len(each["over"]) for each in found] == [50, 50]

    asyncio.run(main())


def test_hcx_03_percent_and_words_of_each_vm_are_in_event_and_log(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    manager.say(Phase.REPLICATING, "m-1", percent=40, message="Initial sync", state="COPYING")
    manager.say(Phase.COMPLETE, "m-2")
    heard: list[Any] = []
    listen(MIGRATIONS, heard.append)
    found = asyncio.run(trigger("m-1", "m-2", "m-3", within=5 * POLL).wait())
    assert found["over"] == ["m-2"]
    assert found["progress"]["m-1"] == {
        "phase": "replicating",
        "over": False,
        "percent": 40,
        "words": "replicating, 40 %: Initial sync",
        "state": "COPYING",
        "known": False,
        "errors": [],
        "entity_id": "",
        "entity_name": "vm m-1",
        "reschedulable": None,
    }
    assert "m-3" not in found["progress"], "what HCX does not list has no outcome"
    lines = [each.getMessage() for each in caplog.records]
    assert lines.count("vm m-1: replicating, 40 %: Initial sync [COPYING]") == 1, "once, while it says the same"
    assert lines.count("HCX does not list the migration m-3; waiting") == 1
    assert heard[0]["m-1"].percent == 40


def test_a_percentage_is_logged_in_steps(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        task = asyncio.create_task(trigger("m-1").wait())
        for percent in (*range(10, 31), 100):
            manager.say(Phase.REPLICATING, "m-1", percent=percent)
            await asked(manager, len(manager.asked) + 2)
        manager.say(Phase.COMPLETE, "m-1")
        await task

    asyncio.run(main())
    lines = [each.getMessage() for each in caplog.records if each.getMessage().startswith("vm m-1: replicating")]
    assert lines == [f"vm m-1: replicating, {percent} %" for percent in (10, 20, 30, 100)]


def test_an_outage_of_hcx_is_borne_in_the_poller_and_not_in_a_thread(manager: Manager) -> None:
    manager.error = UnreachableError("HCX does not answer")

    async def main() -> None:
        task = asyncio.create_task(trigger("m-1").wait())
        await asked(manager, 12)  # longer than the poller alone bears
        manager.error = None
        manager.say(Phase.COMPLETE, "m-1")
        assert (await task)["over"] == ["m-1"]

    asyncio.run(main())
    assert manager.patience == {0.0}


def test_an_outage_beyond_all_patience_ends_it(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavelift.airflow.config.patience_s", lambda: 0.0)
    manager.error = UnreachableError("HCX does not answer")
    with pytest.raises(UnreachableError):
        asyncio.run(trigger("m-1", "m-2").wait())


def test_a_refused_login_ends_it_soon(manager: Manager) -> None:
    manager.error = LoginError("the password is wrong")
    with pytest.raises(LoginError):
        asyncio.run(trigger("m-1").wait())
    assert len(manager.asked) == 2, "one more look at the connection"


def test_nothing_to_follow_is_over_at_once(manager: Manager) -> None:
    assert asyncio.run(trigger().wait()) == {"over": [], "progress": {}}
    assert not manager.asked
    assert triggers.LOOK_AGAIN_SECONDS >= 60
