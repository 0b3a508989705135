"""The connection type ``nsx``: its fields, its form and its *Test* button."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk import Connection

from wavelift.adapters.nsx.segments import Segments
from wavelift.airflow.hooks.nsx import NsxHook, access_of
from wavelift.base.errors import SpecError
from wavelift.base.tunnel import Proxy
from wavelift.simulators.nsx import NsxSimulator, start

pytestmark = pytest.mark.airflow

WEB = "/infra/tier-1s/cgw/segments/web"


@pytest.fixture(scope="module", params=[False, True], ids=["on premises", "VMware Cloud"])
def simulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NsxSimulator]:
    with start(tmp_path_factory.mktemp("nsx"), vmc=request.param) as running:
        running.put_segment(WEB, gateway="10.1.2.1/24")
        yield running


def _connection(**changes: Any) -> Connection:
    fields = {"host": "nsx.corp.example", "login": "wavelift", "password": "a secret", **changes}
    return Connection(conn_id="nsx_near", conn_type="nsx", extra=json.dumps(fields.pop("extra", {})), **fields)


def _of(simulator: NsxSimulator, **extra: Any) -> dict[str, Any]:
    found = {"ca_bundle": str(simulator.ca_file), **extra}
    fields: dict[str, Any] = {"login": simulator.username, "password": simulator.password}
    if simulator.vmc:
        fields = {"login": "", "password": simulator.refresh_token}
        found |= {"vmc_org": simulator.org, "vmc_sddc": simulator.sddc, "csp_url": simulator.url}
    return {"host": simulator.host, "port": simulator.port, **fields, "extra": found}


def test_an_empty_form_means_the_defaults() -> None:
    access = access_of(_connection(extra={"ca_bundle": "", "vmc_org": "", "vmc_sddc": None}), "nsx_near")
    place = access.place
    assert (place.host, place.port, place.base, place.certificate_mode) == ("nsx.corp.example", 443, "", "verify")
    assert place.proxy is None
    assert place.patience_s == 1800
    assert access.sddc is None


def test_every_field_arrives() -> None:
    extra = {
        "proxy": "http://proxy.example",
        "proxy_user": "me",
        "proxy_password": "p/w",
        "certificate_mode": "thumbprint",
        "thumbprint": "AA:" * 31 + "AA",
    }
    place = access_of(_connection(port=8443, extra=extra), "nsx_near").place
    assert place.port == 8443
    assert place.http_proxy == Proxy("proxy.example", 3128, "me", "p/w")
    assert place.thumbprint == "AA:" * 31 + "AA"


def test_vmware_cloud_has_its_usual_addresses() -> None:
    access = access_of(_connection(host="", login="", extra={"vmc_org": "o", "vmc_sddc": "s"}), "nsx_near")
    assert access.place.host == "vmc.vmware.com"
    assert access.sddc is not None
    assert (access.sddc.csp_host, access.sddc.csp_port) == ("console.cloud.vmware.com", 443)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": ""}, "lacks a host"),
        ({"login": ""}, "lacks a user"),
        ({"host": "https://nsx.example"}, "no name of a machine"),
        ({"port": 70000}, "70000"),
        ({"extra": {"certificate_mode": "sometimes"}}, "certificate_mode"),
        ({"extra": {"vmc_org": "o"}}, "only one of vmc_org and vmc_sddc"),
        ({"extra": {"vmc_org": "o", "vmc_sddc": "s", "csp_url": "http://csp"}}, "csp_url"),
        ({"extra": {"vmc_org": "o", "vmc_sddc": "s", "csp_url": "https://me:pw@csp"}}, "csp_url"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        access_of(_connection(**changes), "nsx_near")
    assert words in str(caught.value)
    assert "pw" not in str(caught.value)


def test_the_hook_reads_a_segment(simulator: NsxSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NsxHook, "get_connection", lambda *_: _connection(**_of(simulator)))
    with NsxHook("nsx_near").get_conn() as client:
        assert Segments(client).read(WEB).routed
    good, words = NsxHook("nsx_near").test_connection()
    assert good, words
    assert "1 segments, 1 of them routed" in words


def test_another_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Connection(conn_id="nsx_near", conn_type="vsphere", host="vcenter", login="me", password="x")
    monkeypatch.setattr(NsxHook, "get_connection", lambda *_: other)
    good, words = NsxHook("nsx_near").test_connection()
    assert not good
    assert "vsphere" in words


# --- in a running Airflow -------------------------------------------------------------------------------------------


def test_the_form_of_an_nsx_connection(world: Any) -> None:
    metadata = world.api.call("GET", "/ui/connections/hook_meta")
    (form,) = [one for one in metadata if one["connection_type"] == "nsx"]
    assert form["hook_name"] == "VMware NSX (wavelift)"
    assert form["standard_fields"]["host"]["title"] == "NSX manager host name"
    fields = form["extra_fields"]
    assert set(fields) == {
        "certificate_mode",
        "thumbprint",
        "ca_bundle",
        "proxy",
        "proxy_user",
        "proxy_password",
        "vmc_org",
        "vmc_sddc",
        "csp_url",
    }
    assert fields["certificate_mode"]["schema"]["default"] == "verify", "verified unless somebody says otherwise"
    assert fields["proxy_password"]["schema"]["format"] == "password"


def test_the_test_button_of_nsx(world: Any, simulator: NsxSimulator) -> None:
    def ask(**changes: Any) -> tuple[bool, str]:
        body = {"connection_id": "nsx_try", "conn_type": "nsx", **_of(simulator), **changes}
        body["extra"] = json.dumps({**_of(simulator)["extra"], **changes.get("extra", {})})
        answer = world.api.call("POST", "/api/v2/connections/test", body)
        return bool(answer["status"]), str(answer["message"])

    good, words = ask()
    assert good, words
    assert "1 segments" in words
    for changes, part in (
        ({"password": "wrong"}, "refused"),
        ({"extra": {"ca_bundle": ""}}, "not trusted"),
        ({"port": 9}, ":9"),
    ):
        good, words = ask(**changes)
        assert not good
        assert part in words
        assert simulator.password not in words
