"""A transfer that must stop does stop, even if AWS does not answer (invariant 9)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.contexts import context_of

from wavelift.adapters.aws import bulk
from wavelift.adapters.aws.access import AwsAccess, Outages
from wavelift.base.errors import Cancelled
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import RunContext
from wavelift.services.dataplane.disk_crew import FrozenServer
from wavelift.services.dataplane.guards import LastingGuardError, TransferGuards
from wavelift.services.dataplane.replication import RunHistory, replicate_server
from wavelift.transfer import journal

from .journey import Stage
from .replica import Replica, Try

pytestmark = pytest.mark.wire

PATIENCE_S = 120.0
AT_ONCE_S = 60.0
"""Less than any patience; much, for a busy machine."""


@pytest.fixture
def big(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    monkeypatch.setattr(bulk, "RetryPolicy", lambda **_: RetryPolicy(patience_s=PATIENCE_S, base_s=0.01, cap_s=0.5))
    made = Replica(stage, "big01")
    made.options = replace(made.options, puts_in_flight=2)
    yield made
    made.discard()


def _transfer(big: Replica, one: Try, ctx: RunContext) -> None:
    stage = big.stage
    access = AwsAccess(
        stage.aws.session(),
        endpoint_url=stage.aws.endpoint_url,
        verify=stage.aws.verify,
        outages=Outages(PATIENCE_S, ctx.cancel),
    )
    access.client("s3").list_buckets()  # one that has answered is waited for
    with stage.connect() as session:
        source = FrozenServer(session, one.task, one.snapshot)
        replicate_server(source, access, ctx, big.options, RunHistory(big.lineages))


def test_a_guard_is_obeyed_while_no_segment_can_be_stored(
    stage: Stage, big: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The datastore fills up while S3 is away: it took up to 75 minutes until the snapshot went."""
    monkeypatch.setattr(journal.Journal.__init__, "__kwdefaults__", {**_defaults(), "interval": 0.5})
    breached: list[float] = []
    started = time.monotonic()

    def full(self: TransferGuards) -> None:
        if time.monotonic() - started > 5:
            breached.append(time.monotonic())
            raise LastingGuardError("no room", next_step="none")

    monkeypatch.setattr(TransferGuards, "_check_room", full)
    one = big.begin()
    try:
        stage.aws.rule(service="s3", operation="PutObject", code="ServiceUnavailable", status=503)
        stage.aws.rule(service="ebs", operation="PutSnapshotBlock", skip=8, latency=1.5)
        with pytest.raises(LastingGuardError):
            _transfer(big, one, context_of(one.run_key, checkpoints=one.checkpoints))
        assert time.monotonic() - breached[0] < AT_ONCE_S
    finally:
        stage.clear_rules()
        big.end(one, None)


def _defaults() -> dict[str, Any]:
    return dict(journal.Journal.__init__.__kwdefaults__ or {})


def test_a_cancel_is_obeyed_while_the_last_manifest_can_not_be_read(stage: Stage, big: Replica) -> None:
    big.run()
    one = big.begin()
    ctx = context_of(one.run_key, checkpoints=one.checkpoints)
    asked = threading.Timer(2.0, lambda: ctx.cancel.set("killed"))
    started = time.monotonic()
    try:
        stage.aws.rule(service="s3", operation="GetObject", code="ServiceUnavailable", status=503)
        asked.start()
        with pytest.raises(Cancelled):
            _transfer(big, one, ctx)
        assert time.monotonic() - started < AT_ONCE_S
    finally:
        asked.join()
        stage.clear_rules()
        big.end(one, None)
