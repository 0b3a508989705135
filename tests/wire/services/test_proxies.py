"""A whole server through a proxy: with a password, and where the proxy signs TLS anew (SMS-15)."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from botocore.config import Config
from pyVmomi import vim
from tests.connect_proxy import ConnectProxy, Inspector, Rules, login_of

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.bulk import BulkClient, BulkRequest, Trouble, connection_failure
from wavelift.adapters.aws.reach import reach_s3, sign_in
from wavelift.adapters.vsphere import hosts
from wavelift.adapters.vsphere.faults import moref
from wavelift.adapters.vsphere.properties import collect
from wavelift.adapters.vsphere.session import connect
from wavelift.adapters.vsphere.tagging import vm_tags
from wavelift.base.domain import ReplicationResult
from wavelift.base.errors import ProxyLoginError, TlsError, UnknownNameError, UnreachableError
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag
from wavelift.simulators import vcenter
from wavelift.simulators.vcenter import SimDisk, SimHost, SimVm

from .journey import Stage
from .replica import Replica
from .servers import raw_disk
from .test_replication import replica

__all__ = ["replica"]

pytestmark = pytest.mark.wire

PASSWORD: Final = "pr0xy/+<&% pass"
LOGIN: Final = f"wave:{PASSWORD}"
QUOTED: Final = "wave:pr0xy%2F%2B%3C%26%25%20pass"

Start = Callable[[Rules], ConnectProxy]


@pytest.fixture
def start(stage: Stage) -> Iterator[Start]:
    """A proxy by its rules. It is closed before ``stage`` tidies up and counts threads."""
    running: list[ConnectProxy] = []
    plain = stage.shared_access
    assert plain is not None

    def begin(rules: Rules) -> ConnectProxy:
        running.append(ConnectProxy(rules))
        return running[-1]

    yield begin
    stage.session_options.clear()
    stage.shared_access = plain
    for journey in stage.journeys:
        journey.access = plain
    for proxy in running:
        proxy.close()


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Where the code under test connects to, past every proxy; the proxies' own connections are not among them."""
    made: list[Any] = []
    plain = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> None:
        if threading.current_thread().name != ConnectProxy.THREADS and self.family != socket.AF_UNIX:
            made.append(address)
        plain(self, address)

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", noted)
        yield made


def aws_through(stage: Stage, url: str, **options: Any) -> AwsAccess:
    quick = Config(retries={"mode": "standard", "total_max_attempts": 3}, proxies={"https": url})
    settings = {"endpoint_url": stage.aws.endpoint_url, "verify": stage.aws.verify, **options}
    return AwsAccess(stage.aws.session(), config=quick, **settings)


def go_through(stage: Stage, url: str, monkeypatch: pytest.MonkeyPatch, **aws: Any) -> None:
    """All that follows, for vCenter, its hosts and AWS."""
    stage.session_options.update(proxy=url)
    stage.shared_access = aws_through(stage, url, **aws)
    monkeypatch.setattr(stage, "uploads", list)  # the test's own question, which goes directly


def everything(stage: Stage, replica: Replica) -> ReplicationResult:
    """SOAP, tags, the lease's stream, S3's parts, boto3; then ranges, and puts over lines of our own."""
    with stage.connect() as session:
        assert vm_tags(session) == {}
    done = stage.journey("mute01").run()
    assert done.error is None, done.error
    assert done.export is not None
    assert {disk.reader for disk in done.export.disks} == {"nfc"}
    assert done.launched is not None
    result = replica.run(check=False)
    assert [disk.reader for disk in result.disks] == ["datastore"]
    assert result.disks[0].blocks_sent >= 5
    access = stage.access()
    reach_s3(access)
    sign_in(access)
    return result


def places_of(stage: Stage) -> set[str]:
    """Every server of both simulators that a migration speaks to."""
    esxi = {f"{name}:{host['port']}" for name, host in stage.vc.hosts.items() if host["port"]}
    return {f"{stage.vc.host}:{stage.vc.port}", urlsplit(str(stage.aws.endpoint_url)).netloc, *esxi}


def bulk_request(access: AwsAccess) -> BulkRequest:
    return BulkRequest(
        "GET", f"{access.client('s3').meta.endpoint_url}/staging-bucket/x", "could not read", "s3:GetObject"
    )


def bulk_ask(access: AwsAccess) -> None:
    client = BulkClient(access, "s3", policy=RetryPolicy(patience_s=3.0, base_s=0.01, cap_s=0.1))
    client.send(bulk_request(access), CancelFlag())


def dial(access: AwsAccess) -> None:
    """As the writer of EBS blocks does it: what its line meets goes to the plain way, or ends all."""
    request = bulk_request(access)
    try:
        BulkClient(access, "ebs").dial(request.url).close()
    except (OSError, HTTPException) as error:
        failure = connection_failure(request, error)
        assert failure.trouble is Trouble.FINAL
        raise failure.error from error


def assert_said_nowhere(text: str) -> None:
    for secret in (PASSWORD, QUOTED.partition(":")[2], "d2F2ZTpwcjB4"):  # the last: how Basic's begins
        assert secret not in text


def test_sms_15_a_server_moves_through_a_proxy_with_a_password(
    stage: Stage,
    start: Start,
    direct: list[Any],
    replica: Callable[..., Replica],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="wavelift")
    proxy = start(Rules(login=LOGIN))
    go_through(stage, proxy.url(QUOTED), monkeypatch)
    direct.clear()
    everything(stage, replica("off01"))
    assert set(direct) == {("127.0.0.1", proxy.port)}, "something went past the proxy"
    assert places_of(stage) & proxy.tunnels == proxy.tunnels
    assert len(proxy.tunnels) >= 3, "vCenter, a host and AWS"
    assert proxy.answers[407] == 0
    assert_said_nowhere(caplog.text)


@pytest.mark.parametrize(
    ("rules", "login", "words", "way_out"),
    [
        (Rules(login=LOGIN), "", "wants a user and a password", "user and password of the proxy"),
        (Rules(login=LOGIN), "wave:wrong-pw", "refuses this user and password", "user and password of the proxy"),
        (
            Rules(login=LOGIN, schemes=("Negotiate", "NTLM")),
            QUOTED,
            "offers only Negotiate (Kerberos), NTLM",
            "neither NTLM nor Kerberos",
        ),
    ],
    ids=["no-login", "wrong-login", "ntlm-only"],
)
def test_sms_15_a_proxy_that_lets_nobody_in_is_told_with_the_way_out(
    stage: Stage, start: Start, rules: Rules, login: str, words: str, way_out: str
) -> None:
    """By each client, once: a refused password is not sent again and again, which could lock the account."""
    proxy = start(rules)
    config = stage.config(proxy=proxy.url(login))
    access = aws_through(stage, proxy.url(login))
    asked: dict[str, Callable[[], object]] = {
        "vcenter": lambda: connect(config),
        "boto3": lambda: sign_in(access),
        "S3's endpoint": lambda: reach_s3(access),
        "bulk client": lambda: bulk_ask(access),
        "lines": lambda: dial(access),
    }
    for name, ask in asked.items():
        before = sum(map(bool, map(login_of, proxy.heads)))
        with pytest.raises(ProxyLoginError) as caught:
            ask()
        told = caught.value
        assert not told.retryable
        assert words in told.what, name
        assert "407" in told.what
        assert proxy.url() in told.what
        assert way_out in told.next_step
        assert "password login (Basic) is supported" in told.next_step
        assert ("vSphere connection" if name == "vcenter" else "AWS connection") in told.next_step
        assert_said_nowhere(f"{told} {told!r} {told.__cause__!r}")
        assert "wrong-pw" not in f"{told} {told.__cause__!r}"
        sent = sum(map(bool, map(login_of, proxy.heads))) - before
        assert sent == (1 if login else 0), f"{name} sent the password {sent} times"


def test_sms_15_a_host_behind_a_proxy_with_another_password_is_a_finding(stage: Stage, start: Start) -> None:
    """vCenter is reached, but its hosts are not: the same words, host by host."""
    with stage.connect() as session:
        proxy = start(Rules(login=LOGIN))
        vms = [vm["moref"] for vm in stage.vc.state()["vms"] if vm["name"] == "web01"]
        found_vms = collect(session, vim.VirtualMachine, vms, ["runtime.host"])
        known = hosts.host_facts(session, {moref(values["runtime.host"]) for values in found_vms.values()})
        found = hosts.probe_all(stage.config(proxy=proxy.url("wave:old")), known)
    assert found
    for reach in found.values():
        assert not reach.reachable
        assert isinstance(reach.error, ProxyLoginError)


@pytest.mark.parametrize(("forbidden", "words"), [(True, "403 Forbidden"), (False, "no connection to the proxy")])
def test_sms_15_a_proxy_that_forbids_or_is_away_is_named(
    stage: Stage, start: Start, forbidden: bool, words: str
) -> None:
    proxy = start(Rules(forbidden=frozenset({stage.vc.host, urlsplit(str(stage.aws.endpoint_url)).hostname or ""})))
    url = proxy.url() if forbidden else "http://127.0.0.1:9"
    for ask in (lambda: connect(stage.config(proxy=url)), lambda: reach_s3(aws_through(stage, url))):
        with pytest.raises(UnreachableError) as caught:
            ask()
        assert words in caught.value.what or "connect to proxy" in caught.value.what
        assert "proxy" in caught.value.next_step
    with pytest.raises(UnknownNameError, match=r"the proxy http://nowhere\.invalid:3128: its name"):
        connect(stage.config(proxy="http://nowhere.invalid:3128"))


# --- a proxy that signs TLS anew --------------------------------------------------------------------------------------


@pytest.fixture
def inspector(stage: Stage, tmp_path: Path) -> Inspector:
    assert stage.aws.ca_file is not None
    (tmp_path / "proxy").mkdir()
    return Inspector(tmp_path / "proxy", [stage.vc.ca_file, stage.aws.ca_file])


@pytest.mark.proof
def test_sms_15_through_tls_signed_anew_with_its_authority(
    stage: Stage,
    start: Start,
    inspector: Inspector,
    direct: list[Any],
    replica: Callable[..., Replica],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hosts' thumbprints are vCenter's: under such a proxy the authority must decide (esxi_mode ca)."""
    proxy = start(Rules(login=LOGIN, inspector=inspector))
    go_through(stage, proxy.url(QUOTED), monkeypatch, verify=str(inspector.ca_file))
    stage.session_options.update(ca_bundle=str(inspector.ca_file), esxi_mode="ca")
    direct.clear()
    everything(stage, replica("off01"))
    assert set(direct) == {("127.0.0.1", proxy.port)}
    lines = b"\n".join(proxy.requests).decode("latin-1")
    for kind in ("POST /sdk", "/rest/com/vmware/cis", "GET /nfc/", "GET /folder/", "PUT /staging-bucket/", "PUT /snap"):
        assert kind in lines, f"the proxy read no {kind}"


def test_sms_15_without_the_authority_the_words_are_those_that_people_search_for(
    stage: Stage, start: Start, inspector: Inspector
) -> None:
    proxy = start(Rules(login=LOGIN, inspector=inspector))
    access = aws_through(stage, proxy.url(QUOTED))
    asked: dict[str, Callable[[], object]] = {
        "vcenter": lambda: connect(stage.config(proxy=proxy.url(QUOTED))),
        "boto3": lambda: sign_in(access),
        "S3's endpoint": lambda: reach_s3(access),
        "bulk client": lambda: bulk_ask(access),
        "lines": lambda: dial(access),
    }
    for name, ask in asked.items():
        with pytest.raises(TlsError) as caught:
            ask()
        assert "PKIX path building failed" in caught.value.what, name
        assert "CA bundle" in caught.value.next_step, name
        assert ("ca_bundle" if name == "vcenter" else "verify") in caught.value.next_step
        assert not caught.value.retryable
    assert proxy.requests == [], "something was sent over a connection that is not trusted"


def test_sms_15_hosts_in_mode_vcenter_name_the_mode_that_helps(
    stage: Stage, start: Start, inspector: Inspector, direct: list[Any]
) -> None:
    proxy = start(Rules(inspector=inspector))
    stage.session_options.update(proxy=proxy.url(), ca_bundle=str(inspector.ca_file))
    journey = stage.journey("mute01")
    done = journey.run()
    assert done.phase == "preflight"
    (finding,) = [one for one in done.findings if one.code == "host.certificate"]
    assert "esxi_mode" in finding.next_action
    assert "ca" in finding.next_action
    assert re.search(r"issuer CN=inspecting proxy", finding.what)


# --- names and ports --------------------------------------------------------------------------------------------------


@pytest.fixture
def short(stage: Stage, tmp_path: Path) -> Iterator[vcenter.VCenterSimulator]:
    """A vCenter at another port than 443, whose only host it calls by a name without a domain."""
    disk = raw_disk(tmp_path / "disk.raw", size=1 << 20, seed=3, data=((0, 4096),))
    host = SimHost(name="esx7", address="127.0.0.13")
    with vcenter.start(tmp_path / "vc", [SimVm("web77", [SimDisk(disk)])], hosts=[host], evidence=True) as sim:
        stage.session_options.update(
            host=sim.host, port=sim.port, ca_bundle=str(sim.ca_file), password=sim.password, username=sim.username
        )
        yield sim
        stage.session_options.clear()


def test_sms_15_a_short_host_name_leads_to_the_suffix_and_with_it_the_server_moves(
    stage: Stage, short: vcenter.VCenterSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert short.port != 443
    known = socket.getaddrinfo

    def names(host: Any, *rest: Any, **options: Any) -> Any:
        """DNS, which knows the host by its whole name only."""
        if host == "esx7":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known("127.0.0.13" if host == "esx7.hall.example" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", names)
    refused = stage.journey("web77").run()
    assert refused.phase == "preflight"
    (finding,) = [one for one in refused.findings if one.code == "host.unreachable"]
    assert "Connector is unable to reach ESX host esx7" in finding.what
    assert "DNS search suffix" in finding.next_action
    stage.session_options.update(dns_suffixes=("elsewhere.example", "hall.example"))
    journey = stage.journey("web77")
    journey.until = "verify"
    done = journey.run()
    assert done.error is None, done.error
    assert done.verified is not None
