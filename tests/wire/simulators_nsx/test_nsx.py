"""The NSX simulator is as harsh as NSX, by plain HTTPS without any code of the product."""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from wavelift.simulators.kit.process import SimulatorError
from wavelift.simulators.nsx import NsxSimulator, start

pytestmark = pytest.mark.wire

WEB = "/infra/tier-1s/cgw/segments/web"
APP = "/infra/segments/app"
NET = "10.1.2.0/24"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NsxSimulator]:
    with start(tmp_path_factory.mktemp("nsx")) as simulator:
        yield simulator


@pytest.fixture
def nsx(running: NsxSimulator) -> NsxSimulator:
    running.reset()
    running.put_segment(WEB, gateway="10.1.2.1/24")
    return running


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NsxSimulator]:
    with start(tmp_path_factory.mktemp("vmc"), vmc=True) as simulator:
        yield simulator


def _ask(
    simulator: NsxSimulator, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    login = base64.b64encode(f"{simulator.username}:{simulator.password}".encode()).decode()
    told = {"Authorization": f"Basic {login}", "Content-Type": "application/json"} if headers is None else headers
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(f"{simulator.url}{path}", data=data, method=method, headers=told)
    try:
        with urllib.request.urlopen(
            request, context=ssl.create_default_context(cafile=str(simulator.ca_file)), timeout=60
        ) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else text


def _policy(simulator: NsxSimulator, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    return _ask(simulator, method, f"/policy/api/v1{path}", body)


def test_nobody_gets_in_without_the_login(nsx: NsxSimulator) -> None:
    assert _ask(nsx, "GET", f"/policy/api/v1{WEB}", headers={})[0] == 403
    assert _ask(nsx, "GET", f"/policy/api/v1{WEB}", headers={"Authorization": "Basic !"})[0] == 403
    assert _policy(nsx, "GET", WEB)[0] == 200


def test_type_is_read_only_and_follows_the_realisation(nsx: NsxSimulator) -> None:
    nsx.settings(realise_seconds=3600.0)
    status, body = _policy(nsx, "PATCH", WEB, {"advanced_config": {"connectivity": "OFF"}, "type": "DISCONNECTED"})
    assert (status, body) == (200, None)
    found = _policy(nsx, "GET", WEB)[1]
    assert (found["advanced_config"]["connectivity"], found["type"]) == ("OFF", "ROUTED")
    assert _policy(nsx, "GET", f"{WEB}/state")[1]["state"] == "in_progress"
    nsx.advance(3601)
    assert _policy(nsx, "GET", WEB)[1]["type"] == "DISCONNECTED"
    assert _policy(nsx, "GET", f"{WEB}/state")[1]["state"] == "success"


def test_a_prefix_counts_as_routed_while_nobody_can_know(nsx: NsxSimulator) -> None:
    """Off counts from the realisation, on from the acceptance; each change is noted once, at its instant."""
    nsx.settings(realise_seconds=1.0)
    began = time.time()
    _policy(nsx, "PATCH", WEB, {"advanced_config": {"connectivity": "OFF"}})
    accepted = time.time()
    assert nsx.routed() == {NET: WEB}
    time.sleep(1.2)  # nobody looks meanwhile
    assert nsx.routed() == {}
    nsx.settings(realise_seconds=3600.0)
    _policy(nsx, "PATCH", WEB, {"advanced_config": {"connectivity": "ON"}})
    assert nsx.routed() == {NET: WEB}
    assert _policy(nsx, "GET", WEB)[1]["type"] == "DISCONNECTED"
    _on, off, again = nsx.prefix_log()
    assert [row[2] for row in nsx.prefix_log()] == ["ON", "OFF", "ON"]
    assert began + 1.0 <= off[0] <= accepted + 1.0, "when it was due, not when somebody looked"
    assert again[0] >= off[0]
    nsx.advance(3601)
    assert _policy(nsx, "GET", WEB)[1]["type"] == "ROUTED"
    assert len(nsx.prefix_log()) == 3, "it counted as routed before"


def test_a_clock_that_is_moved_puts_no_instant_before_its_cause(nsx: NsxSimulator) -> None:
    nsx.settings(realise_seconds=3600.0)
    began = time.time()
    _policy(nsx, "PATCH", WEB, {"advanced_config": {"connectivity": "OFF"}})
    nsx.advance(7200)
    assert began <= nsx.prefix_log()[-1][0] <= time.time()


def test_put_wants_the_revision(nsx: NsxSimulator) -> None:
    found = _policy(nsx, "GET", WEB)[1]
    status, error = _policy(nsx, "PUT", WEB, {**found, "_revision": 7})
    assert (status, error["error_code"]) == (412, 500090)
    assert _policy(nsx, "PUT", WEB, {"display_name": "x"})[0] == 412
    status, after = _policy(nsx, "PUT", WEB, {**found, "display_name": "x"})
    assert (status, after["_revision"], after["display_name"]) == (200, 1, "x")


def test_what_is_attached_holds_a_segment_and_lingers(nsx: NsxSimulator) -> None:
    port = nsx.add_port(WEB, "web01")
    nsx.settings(port_linger_seconds=3600.0)
    assert _policy(nsx, "DELETE", WEB)[1]["error_code"] == 503040
    nsx.remove_port(WEB, port)
    assert len(_policy(nsx, "GET", f"{WEB}/ports")[1]["results"]) == 1
    assert _policy(nsx, "DELETE", WEB)[0] == 400
    nsx.advance(3601)
    assert _policy(nsx, "DELETE", WEB) == (200, None)
    assert _policy(nsx, "GET", WEB)[0] == 404
    assert nsx.routed() == {}


def test_force_is_counted_by_its_own_name(nsx: NsxSimulator) -> None:
    nsx.add_port(WEB)
    assert _policy(nsx, "DELETE", f"{WEB}?force=true")[0] == 200
    assert "nsx.ForceDeleteSegment" in nsx.counters()


def test_a_deleted_segment_is_pending(nsx: NsxSimulator) -> None:
    nsx.settings(delete_seconds=3600.0)
    _policy(nsx, "DELETE", WEB)
    assert _policy(nsx, "PATCH", WEB, {"display_name": "x"})[1]["error_code"] == 500045
    assert _policy(nsx, "DELETE", WEB)[1]["error_code"] == 500045
    nsx.advance(3601)
    assert _policy(nsx, "DELETE", WEB)[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (
            APP,
            {"subnets": [{"gateway_address": "10.1.2.129/25"}], "connectivity_path": "/infra/tier-1s/cgw"},
            400,
            500105,
        ),
        (APP, {"connectivity_path": "/infra/tier-1s/nobody"}, 400, 500012),
        ("/infra/tier-1s/nobody/segments/x", {}, 404, 500012),
        (WEB, {"colour": "red"}, 400, 255),
        (WEB, {"advanced_config": {"connectivity": "MAYBE"}}, 400, 255),
        (WEB, {"advanced_config": {"conectivity": "OFF"}}, 400, 255),
        (WEB, {"subnets": [{"gateway_address": "here"}]}, 400, 255),
        (WEB, [], 400, 220),
        (WEB, b"{", 400, 220),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_and_changes_nothing(
    nsx: NsxSimulator, path: str, body: Any, status: int, code: int
) -> None:
    before = nsx.segments()
    found, error = _policy(nsx, "PATCH", path, body)
    assert (found, error["error_code"]) == (status, code)
    assert nsx.segments() == before


def test_a_patch_that_replaces_drops_what_it_does_not_send(nsx: NsxSimulator) -> None:
    nsx.settings(patch_replaces=True)
    nsx.put_segment(APP, gateway="10.1.3.1/24", connectivity_path="/infra/tier-1s/cgw")
    _policy(nsx, "PATCH", APP, {"advanced_config": {"connectivity": "OFF"}})
    found = nsx.segment(APP)
    assert found["subnets"] == []
    assert "connectivity_path" not in found


def test_lists_come_in_pages(nsx: NsxSimulator) -> None:
    for number in range(5):
        nsx.put_segment(f"/infra/segments/s{number}")
    names, cursor = [], ""
    for _ in range(3):
        query = urllib.parse.urlencode({"page_size": 2, **({"cursor": cursor} if cursor else {})})
        page = _policy(nsx, "GET", f"/infra/segments?{query}")[1]
        names += [one["id"] for one in page["results"]]
        cursor = page.get("cursor", "")
    assert names == [f"s{number}" for number in range(5)]
    assert not cursor


def test_a_fault_can_hold_fail_or_ignore_a_realisation(nsx: NsxSimulator) -> None:
    off = {"advanced_config": {"connectivity": "OFF"}}
    nsx.settings(realise_seconds=0.0)
    rule = nsx.rule(kind="realise", outcome="stuck", key=WEB)
    _policy(nsx, "PATCH", WEB, off)
    assert _policy(nsx, "GET", f"{WEB}/state")[1]["state"] == "in_progress"
    nsx.clear_rules(rule)
    assert _policy(nsx, "GET", WEB)[1]["type"] == "DISCONNECTED"
    nsx.rule(kind="realise", outcome="failed", key=WEB, count=1)
    _policy(nsx, "PATCH", WEB, {"advanced_config": {"connectivity": "ON"}})
    found = _policy(nsx, "GET", f"{WEB}/state")[1]
    assert found["state"] == "failed"
    assert found["failure_message"]
    assert nsx.routed() == {}, "what failed is not routed"


def test_the_control_endpoint_says_what_is_wrong(nsx: NsxSimulator) -> None:
    with pytest.raises(SimulatorError, match="500012"):
        nsx.segment("/infra/segments/nobody")
    with pytest.raises(SimulatorError, match="wants 'path'"):
        nsx.control("POST", "segment/put", {})
    with pytest.raises(SimulatorError, match="500105"):
        nsx.put_segment(APP, gateway="10.1.2.1/24", connectivity_path="/infra/tier-1s/cgw")
    with pytest.raises(SimulatorError, match="no port"):
        nsx.remove_port(WEB, "nobody")


def test_a_control_call_may_wait_for_its_realisation(nsx: NsxSimulator) -> None:
    nsx.settings(realise_seconds=3600.0)
    assert nsx.put_segment(WEB, connectivity="OFF", at_once=False)["type"] == "ROUTED"
    nsx.advance(3601)
    assert nsx.segment(WEB)["type"] == "DISCONNECTED"
    assert nsx.put_segment(WEB, connectivity="ON", extended=True)["type"] == "ROUTED_AND_EXTENDED"


def test_nothing_survives_a_reset(nsx: NsxSimulator) -> None:
    nsx.add_port(WEB)
    nsx.put_tier("extra")
    nsx.reset()
    assert nsx.state() == {"segments": [], "ports": {}, "tiers": ["/infra/tier-1s/cgw", "/infra/tier-1s/mgw"]}
    assert nsx.prefix_log() == []
    assert nsx.counters() == {}


def test_vmware_cloud_wants_a_token_at_every_door(cloud: NsxSimulator) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    exchange = "/csp/gateway/am/api/auth/api-tokens/authorize"
    sddc = f"/vmc/api/orgs/{cloud.org}/sddcs/{cloud.sddc}"
    assert _ask(cloud, "POST", exchange, b"refresh_token=wrong", form)[0] == 400
    assert _ask(cloud, "GET", sddc, headers={})[0] == 401
    token = _ask(cloud, "POST", exchange, f"refresh_token={cloud.refresh_token}".encode(), form)[1]["access_token"]
    found = _ask(cloud, "GET", sddc, headers={"csp-auth-token": token})[1]
    base = urllib.parse.urlsplit(found["resource_config"]["nsx_api_public_endpoint_url"]).path
    segments = f"{base}/policy/api/v1/infra/segments"
    assert _ask(cloud, "GET", segments, headers={"csp-auth-token": token})[0] == 200
    assert _ask(cloud, "GET", segments, headers={"Authorization": f"Bearer {token}"})[0] == 200
    assert _ask(cloud, "GET", segments)[0] == 401, "the manager's own login does not count here"
    assert _policy(cloud, "GET", "/infra/segments")[0] == 404, "there is no way past the proxy"
    cloud.expire_tokens()
    assert _ask(cloud, "GET", segments, headers={"csp-auth-token": token})[0] == 401
