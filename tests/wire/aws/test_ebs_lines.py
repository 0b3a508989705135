"""How the many puts reach AWS: over lines of our own, through a proxy, and under keys that end too soon."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from tests.connect_proxy import ConnectProxy
from tests.wire.aws.conftest import Connect
from tests.wire.aws.disk_replica import QUICK, Replica, make_content

from wavelift.adapters.aws import bulk, ebs_write
from wavelift.adapters.aws.access import Keys
from wavelift.adapters.aws.bulk import BulkClient, BulkRequest
from wavelift.adapters.aws.ebs_write import PutOptions
from wavelift.base.errors import LoginError, UnreachableError
from wavelift.base.run import Progress
from wavelift.simulators.aws import AwsSimulator

pytestmark = pytest.mark.wire


def test_a_session_that_is_revoked_in_mid_transfer_costs_one_refresh_and_each_put_one_refusal(
    replica: Replica, aws: AwsSimulator, connect: Connect, assumed: boto3.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local clock says 'good for an hour', AWS says ExpiredToken to every put in flight."""
    replica.access = connect(assumed)
    content = make_content()
    started = replica.start()
    aws.rule(service="ebs", operation="PutSnapshotBlock", skip=6, latency=240)
    writer = replica.writer(started, puts=PutOptions(4, QUICK))
    expired: list[int] = []
    seen: set[str] = set()
    credentials = replica.access.credentials

    def noted() -> Keys:
        keys = credentials()
        seen.add(keys.access_key)
        return keys

    replica.access.credentials = noted  # type: ignore[method-assign]
    refused: Counter[str] = Counter()

    def read_failure(request: BulkRequest, *rest: Any) -> bulk.Failure:
        refused[request.url] += 1
        return plain(request, *rest)

    plain = bulk.read_failure
    monkeypatch.setattr(bulk, "read_failure", read_failure)
    monkeypatch.setattr(ebs_write, "read_failure", read_failure)

    def revoke(progress: Progress) -> None:
        if writer.blocks_sent >= 4 and not expired:
            expired.append(aws.expire_sessions())
            aws.clear_rules()

    replica.copy(content, writer, tick=revoke)
    assert expired, "in the middle"
    assert expired[0] >= 1
    assert len(seen) == 2, "those that were revoked, and one more"
    assert refused
    assert set(refused.values()) == {1}
    assert replica.read(started) == content


def test_the_thread_that_sends_never_waits_for_credentials(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh asks STS or the machine's metadata, which can take a minute; but for the first put, none waits."""
    asked: list[str] = []
    keys = BulkClient.keys

    def noted(self: BulkClient) -> Keys:
        asked.append(threading.current_thread().name)
        return keys(self)

    monkeypatch.setattr(BulkClient, "keys", noted)
    monkeypatch.setattr("wavelift.adapters.aws.ebs_write.TICK_S", 0.02)
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", latency=0.1)
    replica.copy(make_content(), replica.writer(replica.start(), puts=PutOptions(2, QUICK)))
    assert asked.count("put-lines") <= 1
    assert asked.count("ebs-keeper") > 5


def test_a_refresh_that_fails_ends_nothing_while_the_keys_are_good(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = BulkClient.keys
    failed: list[int] = []

    def keeper_fails(self: BulkClient) -> Keys:
        if threading.current_thread().name == "ebs-keeper":
            failed.append(1)
            raise LoginError("STS does not answer")
        return keys(self)

    monkeypatch.setattr(BulkClient, "keys", keeper_fails)
    monkeypatch.setattr("wavelift.adapters.aws.ebs_write.TICK_S", 0.005)
    replica.aws.rule(service="ebs", operation="PutSnapshotBlock", latency=0.1)
    content, started = make_content(), replica.start()
    replica.copy(content, replica.writer(started, puts=PutOptions(2, QUICK)))
    assert len(failed) > 5
    assert replica.read(started) == content


@pytest.mark.parametrize("login", ["", "me:geheim@"])
def test_sms_17_puts_go_through_the_proxy_s_tunnel(
    replica: Replica, connect: Connect, proxy: ConnectProxy, login: str
) -> None:
    way = Config(proxies={"https": f"http://{login}127.0.0.1:{proxy.port}"})
    replica.access = connect(config=way)
    content = make_content()
    started = replica.start()
    before = len(proxy.heads)
    writer = replica.writer(started, puts=PutOptions(4, QUICK))
    assert writer._dials
    replica.copy(content, writer)
    dialled = proxy.heads[before:]
    place = urlsplit(str(replica.aws.endpoint_url)).netloc
    assert dialled
    assert all(head.startswith(f"CONNECT {place} ".encode()) for head in dialled)
    assert all((b"Proxy-Authorization: Basic bWU6Z2VoZWlt" in head) is bool(login) for head in dialled)
    assert replica.read(started) == content


def test_a_proxy_that_is_not_there_is_named_and_nothing_is_left(replica: Replica, connect: Connect) -> None:
    started = replica.start()
    replica.access = connect(config=Config(proxies={"https": "http://127.0.0.1:9"}))
    with pytest.raises(UnreachableError, match="refused") as caught:
        replica.copy(make_content(), replica.writer(started, puts=PutOptions(4, QUICK)))
    assert "proxy" in caught.value.next_step


def test_inv_12_no_socket_is_left_open(replica: Replica) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def once(**rule: Any) -> None:
        replica.aws.clear_rules()
        if rule:
            replica.aws.rule(service="ebs", operation="PutSnapshotBlock", **rule)
        replica.copy(make_content(), replica.writer(replica.start(), puts=PutOptions(8, QUICK)))

    once()
    gc.collect()  # what earlier tests left open is closed by chance, else between the two counts
    before = files()
    once()
    once(cut_response_after=0, count=3)
    once(status=503, count=3)
    assert files() <= before
