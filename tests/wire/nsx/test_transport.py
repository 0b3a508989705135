"""The way to NSX: login, certificates, proxies, what passes by itself, and what must not be sent twice."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.connect_proxy import ConnectProxy
from tests.wire.nsx.conftest import WEB, access_of

from wavelift.adapters.nsx.access import connect
from wavelift.adapters.nsx.doctor import test_connection as try_connection
from wavelift.adapters.nsx.segments import Segments
from wavelift.adapters.nsx.vmc import Sddc
from wavelift.base import rest
from wavelift.base.errors import (
    Cancelled,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    ProxyLoginError,
    SpecError,
    ThrottledError,
    TlsError,
    UnknownNameError,
    UnreachableError,
)
from wavelift.base.rest import Ask, LostAnswerError, RestClient, RestPlace, UnreadableError
from wavelift.base.run import CancelFlag
from wavelift.simulators.nsx import NsxSimulator

pytestmark = pytest.mark.wire

URL = f"/policy/api/v1{WEB}"


@pytest.fixture
def client(nsx: NsxSimulator) -> Iterator[RestClient]:
    with connect(access_of(nsx)) as found:
        yield found


def _calls(nsx: NsxSimulator, operation: str) -> int:
    return nsx.counters().get(operation, {}).get("calls", 0)


# --- login ----------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_sent_once(nsx: NsxSimulator) -> None:
    with connect(access_of(nsx, password="wrong-and-secret")) as client:
        for _ in range(3):
            with pytest.raises(LoginError, match="refused the user name or password") as caught:
                Segments(client).read(WEB)
    assert _calls(nsx, "nsx.ReadSegment") == 1, "more could lock the account"
    assert "wrong-and-secret" not in str(caught.value)


def test_a_missing_right_is_no_wrong_login(nsx: NsxSimulator, client: RestClient) -> None:
    nsx.rule(operation="ReadSegment", status=403, code="289", count=1)
    with pytest.raises(MissingPrivilegeError):
        Segments(client).read(WEB)
    assert Segments(client).read(WEB).routed, "the login still counts"


def test_no_secret_is_shown(nsx: NsxSimulator, vmc: NsxSimulator) -> None:
    for one in (nsx, vmc):
        access = access_of(one, place={"proxy": "http://me:proxy-secret@127.0.0.1:9"})
        assert access.password not in repr(access)
        assert "proxy-secret" not in repr(access)


@pytest.mark.parametrize(
    ("client_id", "secret"), [("", None), ("simulator-client", "simulator-client-secret")], ids=["token", "app"]
)
def test_vmware_cloud_by_a_refresh_token_or_an_app(vmc: NsxSimulator, client_id: str, secret: str | None) -> None:
    access = access_of(vmc, username=client_id, password=secret or vmc.refresh_token)
    with connect(access) as client:
        assert Segments(client).read(WEB).routed
        assert client.place.base.endswith("/sks-nsxt-manager")


def test_a_refused_token_of_vmware_cloud_is_sent_once(vmc: NsxSimulator) -> None:
    with pytest.raises(LoginError, match="API token"):
        connect(access_of(vmc, password="old"))
    assert _calls(vmc, "csp.Authorize") == 1


def test_an_unknown_sddc_is_told(vmc: NsxSimulator) -> None:
    other = Sddc(org=vmc.org, sddc="nobody", csp_host=vmc.host, csp_port=vmc.port)
    with pytest.raises(NotFoundError, match="404"):
        connect(access_of(vmc, sddc=other))


def test_a_token_that_ends_in_between_is_renewed_once_for_all_threads(vmc: NsxSimulator) -> None:
    with connect(access_of(vmc)) as client:
        segments = Segments(client)
        segments.read(WEB)
        before = _calls(vmc, "csp.Authorize")
        vmc.expire_tokens()
        found: list[bool] = []
        threads = [threading.Thread(target=lambda: found.append(segments.read(WEB).routed)) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert found == [True] * 4
    assert _calls(vmc, "csp.Authorize") == before + 1


def test_a_token_that_never_counts_ends_in_an_error(vmc: NsxSimulator) -> None:
    with connect(access_of(vmc)) as client:
        vmc.rule(service="nsx", status=401, code="401")
        with pytest.raises(LoginError):
            Segments(client).read(WEB)
    assert _calls(vmc, "nsx.ReadSegment") == 2


@pytest.mark.parametrize("url", ["https://evil.example/x", "https://127.0.0.1:9/x", "http://127.0.0.1/x", None, 7])
def test_no_token_goes_to_a_host_that_is_not_vmwares(vmc: NsxSimulator, url: Any) -> None:
    vmc.settings(nsx_url=json.dumps(url))
    with pytest.raises((UnreadableError, SpecError)):
        connect(access_of(vmc))
    assert not any(name.startswith("nsx.") for name in vmc.counters())


# --- what passes by itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 502},
        {"status": 429},
        {"status": 500},
        {"cut_request_after": 0},
        {"cut_response_after": 5},
    ],
    ids=str,
)
def test_what_passes_by_itself_is_borne(nsx: NsxSimulator, client: RestClient, fault: dict[str, Any]) -> None:
    nsx.rule(operation="*Segment", count=2, **fault)
    assert Segments(client).read(WEB).routed
    nsx.rule(operation="PatchSegment", count=1, **fault)
    Segments(client).set_connectivity(WEB, "OFF")


@pytest.mark.parametrize(("status", "kind"), [(503, UnreachableError), (429, ThrottledError)])
def test_it_is_borne_for_a_bounded_time(nsx: NsxSimulator, status: int, kind: type[Exception]) -> None:
    nsx.rule(operation="ReadSegment", status=status, message="down for now")
    with connect(access_of(nsx, place={"patience_s": 0.5})) as client:
        with pytest.raises(kind, match=str(status)):
            Segments(client).read(WEB)
    assert 2 <= _calls(nsx, "nsx.ReadSegment") < 6


def test_a_cancelled_task_does_not_wait(nsx: NsxSimulator) -> None:
    nsx.rule(operation="ReadSegment", status=503)
    cancel = CancelFlag()
    with connect(access_of(nsx, place={"patience_s": 600.0}), cancel=cancel) as client:
        timer = threading.Timer(0.2, cancel.set)
        timer.start()
        with pytest.raises(Cancelled):
            Segments(client).read(WEB)
        timer.join()


def test_an_answer_that_is_late_is_borne(nsx: NsxSimulator) -> None:
    nsx.rule(operation="ReadSegment", latency=5.0, count=1)
    with connect(access_of(nsx, place={"timeout_s": 0.5})) as client:
        assert Segments(client).read(WEB).routed


@pytest.mark.parametrize(
    "fault", [{"cut_request_after": 0}, {"cut_response_after": 0}, {"status": 502}, {"status": 504}], ids=str
)
def test_what_must_not_be_sent_twice_is_not(nsx: NsxSimulator, client: RestClient, fault: dict[str, Any]) -> None:
    nsx.rule(operation="PatchSegment", **fault)
    with pytest.raises(LostAnswerError, match="nobody knows what PATCH"):
        client.send(Ask("PATCH", URL, body={"description": "once"}))
    assert _calls(nsx, "nsx.PatchSegment") == 1


def test_what_was_never_sent_is_sent_later(nsx: NsxSimulator) -> None:
    """Nobody listens at first: no request left, so that one that must not be sent twice may be tried again."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = RestPlace(system="NSX", host="127.0.0.1", port=unused.getsockname()[1], patience_s=0.5)
        with RestClient(place) as client, pytest.raises(UnreachableError, match="refuses the connection") as caught:
            client.send(Ask("POST", "/once", body={}))
    assert not isinstance(caught.value, LostAnswerError)


def test_a_wrong_name_is_told_at_once() -> None:
    place = RestPlace(system="NSX", host="no-such-host.invalid", patience_s=600.0)
    with RestClient(place) as client, pytest.raises(UnknownNameError, match="no-such-host"):
        client.send(Ask("GET", "/"))


def test_an_answer_of_another_program_is_told(nsx: NsxSimulator) -> None:
    with connect(access_of(nsx, place={"base": "/elsewhere"})) as client:
        with pytest.raises(NotFoundError, match="404"):
            Segments(client).read(WEB)


def test_an_answer_without_an_end_is_given_up(nsx: NsxSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "ANSWER_LIMIT", 100)
    with connect(access_of(nsx)) as client:
        with pytest.raises(UnreadableError, match="more than 100 bytes"):
            Segments(client).read(WEB)


# --- certificates and proxies ---------------------------------------------------------------------------------------


def _thumbprint(nsx: NsxSimulator) -> str:
    pem = ssl.get_server_certificate((nsx.host, nsx.port))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def test_an_unknown_authority_is_refused_at_once(nsx: NsxSimulator) -> None:
    with connect(access_of(nsx, place={"ca_bundle": None, "patience_s": 600.0})) as client:
        with pytest.raises(TlsError, match=r"not trusted.*NSX connection"):
            Segments(client).read(WEB)
    assert nsx.counters() == {}


def test_a_pinned_certificate_is_trusted_and_another_is_not(nsx: NsxSimulator) -> None:
    pinned = {"ca_bundle": None, "certificate_mode": "thumbprint"}
    with connect(access_of(nsx, place={**pinned, "thumbprint": _thumbprint(nsx)})) as client:
        assert Segments(client).read(WEB).routed
    with connect(access_of(nsx, place={**pinned, "thumbprint": "00" * 32})) as client:
        with pytest.raises(TlsError, match="thumbprint of the NSX connection"):
            Segments(client).read(WEB)


def test_ignoring_the_certificate_is_loud(nsx: NsxSimulator, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        with connect(access_of(nsx, place={"ca_bundle": None, "certificate_mode": "ignore"})) as client:
            assert Segments(client).read(WEB).routed
    assert "NOT checked" in caplog.text


def test_a_pin_does_not_fit_vmware_cloud(vmc: NsxSimulator) -> None:
    with pytest.raises(SpecError, match="several hosts"):
        access_of(vmc, place={"certificate_mode": "thumbprint", "thumbprint": "00" * 32})


def test_the_proxy_is_used_with_its_login_and_says_what_is_wrong(nsx: NsxSimulator, proxy: ConnectProxy) -> None:
    proxy.rules.login = "me:secret"
    with connect(access_of(nsx, place={"proxy": proxy.url("me:secret")})) as client:
        assert Segments(client).read(WEB).routed
    assert proxy.tunnels == {f"{nsx.host}:{nsx.port}"}
    with connect(access_of(nsx, place={"proxy": proxy.url("me:wrong")})) as client:
        with pytest.raises(ProxyLoginError, match="the NSX connection"):
            Segments(client).read(WEB)


def test_the_environments_proxy_is_not_used(nsx: NsxSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with connect(access_of(nsx)) as client:
        assert Segments(client).read(WEB).routed


# --- the Test button ------------------------------------------------------------------------------------------------


def test_the_test_says_what_is_there(nsx: NsxSimulator, vmc: NsxSimulator) -> None:
    assert try_connection(access_of(nsx)) == (
        f"NSX at {nsx.host}:{nsx.port}, signed in as admin: 2 segments, 2 of them routed"
    )
    assert "an API token" in try_connection(access_of(vmc))
