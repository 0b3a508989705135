"""No text of a peer makes another header or another request: what is sent is read again by h11."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Any, cast

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.hostile import CLEVER, texts

from wavelift.adapters.vsphere.nfc import Body, Target, target_of
from wavelift.adapters.vsphere.ranges import Ranges, RemoteFile, folder_path
from wavelift.adapters.vsphere.session import VsphereConfig
from wavelift.base.errors import UnsafeTextError, WaveliftError
from wavelift.base.net import https_connection
from wavelift.base.remote_text import host_name, parameter, request_head
from wavelift.base.run import CancelFlag
from wavelift.base.tunnel import Proxy

pytestmark = pytest.mark.unit

CONFIG = VsphereConfig(host="vc.example", username="me", password="p")


def requests(sent: bytes) -> list[h11.Request]:
    """What a strict server understands."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(sent)
    found = []
    while isinstance(event := server.next_event(), h11.Request | h11.EndOfMessage):
        if isinstance(event, h11.Request):
            found.append(event)
        else:
            assert server.trailing_data == (b"", False)
            break
    return found


def is_one(sent: bytes, headers: set[bytes]) -> None:
    (request,) = requests(sent)
    assert request.method == b"GET"
    assert request.target.startswith(b"/")
    assert {name for name, _ in request.headers} == headers
    assert sent.count(b"\r\n") == len(headers) + 2
    assert b"\r" not in sent.replace(b"\r\n", b"")
    assert b"\n" not in sent.replace(b"\r\n", b"")


@given(target=texts, value=texts)
def test_a_head_is_one_request_with_its_own_headers_or_none_at_all(target: str, value: str) -> None:
    for path, text in (("/ok", value), (f"/{target}", "ok"), (target, "ok")):
        try:
            head = request_head("GET", path, {"Host": "a.example", "Cookie": text})
        except UnsafeTextError:
            continue
        is_one(head, {b"host", b"cookie"})


@given(host=texts, file=texts, cookie=texts)
@example(host="esx1.example", file="[ds] web01/web01-flat.vmdk", cookie="vmware_cgi_ticket=cst-abc")
def test_a_ticket_a_host_and_a_file_name_make_no_second_request_for_a_range(host: str, file: str, cookie: str) -> None:
    session = cast(Any, SimpleNamespace(config=CONFIG))
    for at, name, ticket in (
        (host, "[ds] a/a-flat.vmdk", "ok"),
        ("esx", file, "ok"),
        ("esx", "[ds] a/a-flat.vmdk", f"vmware_cgi_ticket={cookie}"),
    ):
        try:
            path = folder_path(name, datacenter="DC")
        except UnicodeEncodeError:
            continue  # XML has no lone surrogates, so vCenter can send none
        ranges = Ranges(session, RemoteFile("host", at, 443, path, 1), cast(Any, None), cancel=CancelFlag())
        try:
            head = ranges._request(0, 511, ticket)
        except UnsafeTextError:
            continue
        is_one(head, {b"host", b"range", b"cookie", b"accept-encoding", b"user-agent"})


def test_an_ordinary_ticket_is_sent_as_it_is() -> None:
    session = cast(Any, SimpleNamespace(config=CONFIG))
    path = folder_path("[ds 1] web 01/wéb01-flat.vmdk", datacenter="DC0")
    ranges = Ranges(session, RemoteFile("host", "esx1", 8443, path, 1), cast(Any, None), cancel=CancelFlag())
    (request,) = requests(ranges._request(0, 511, 'vmware_cgi_ticket=cst-VCT-52ab--tp-AB-CD; a="b c"'))
    headers = dict(request.headers)
    assert headers[b"cookie"] == b'vmware_cgi_ticket=cst-VCT-52ab--tp-AB-CD; a="b c"'
    assert headers[b"host"] == b"esx1:8443"
    assert request.target == b"/folder/web%2001/w%C3%A9b01-flat.vmdk?dcPath=DC0&dsName=ds%201"


@given(url=st.one_of(texts, texts.map(lambda text: f"https://esx1{text}"), texts.map(lambda text: f"https://*/{text}")))
@example(url="https://esx1:99999/x")
@example(url="https://[::1/x")
@example(url="http://169.254.169.254/latest/meta-data/")
@example(url="file:///etc/passwd")
def test_a_leases_url_makes_one_request_or_is_refused_as_ours(url: str) -> None:
    try:
        target = target_of(url, "vc.example", 443)
        body = Body(target, ssl.create_default_context(), connect_timeout=1, proxy=None, hashed=False)
        head = body._head("vmware_soap_session=abc")
    except WaveliftError:
        return
    assert url.lower().lstrip().startswith("https:")
    is_one(head, {b"host", b"cookie", b"accept-encoding"})


@pytest.mark.parametrize("cookie", CLEVER)
def test_a_cookie_of_vcenter_makes_no_second_header(cookie: str) -> None:
    body = Body(
        Target("vc", 443, "/nfc/1", local=True),
        ssl.create_default_context(),
        connect_timeout=1,
        proxy=None,
        hashed=False,
    )
    try:
        head = body._head(f"geheim{cookie}")
    except UnsafeTextError as refusal:
        told = str(refusal)
    else:
        told = ""
        is_one(head, {b"host", b"cookie", b"accept-encoding"})
    assert "geheim" not in told


@given(host=texts)
def test_no_connection_is_made_to_what_is_no_name_of_a_machine(host: str) -> None:
    context = ssl.create_default_context()
    for proxy in (None, Proxy("proxy.example", 3128)):
        try:
            https_connection(host, 443, context, timeout=1, proxy=proxy)
        except UnsafeTextError:
            continue
        assert host.isascii()
        assert not set(host) & set(" \r\n\t\0/?#@")


@pytest.mark.parametrize(
    "host", ["esx1", "esx1.corp.example", "esx_1", "10.0.0.1", "::1", "[fe80::1]", "fe80::1%eth0", "2001:db8::1", "a."]
)
def test_names_and_addresses_pass(host: str) -> None:
    assert host_name(host, "a host") == host


def test_an_argument_has_no_control_characters() -> None:
    assert parameter("file=[ds] wéb/x.vmdk", "a file") == "file=[ds] wéb/x.vmdk"
    for bad in ("a\nb", "a\0b", "\x1b[2J"):
        with pytest.raises(UnsafeTextError, match="a file"):
            parameter(bad, "a file")
