"""A replication run whose tasks are cleared, or whose tries fail: which EBS snapshot is whose, and of which instant."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.domain import DiskLineage, ReplicationResult
from wavelift.base.errors import PermanentError, WaveliftError
from wavelift.base.units import MIB
from wavelift.services.dataplane.staging import SEED_SUFFIX

from .journey import Stage
from .replica import Replica, Try
from .servers import noise

pytestmark = pytest.mark.wire

Make = Callable[..., Replica]


@pytest.fixture
def replica(stage: Stage) -> Iterator[Make]:
    made: list[Replica] = []

    def make(server: str) -> Replica:
        made.append(Replica(stage, server))
        return made[-1]

    yield make
    for one in made:
        one.discard()


def _cut(web: Replica, begun: Try, *, after: int = 4) -> None:
    """A try that ends for good after a few blocks."""
    refused = {"code": "AccessDeniedException", "status": 403, "skip": after}
    web.stage.aws.rule(service="ebs", operation="PutSnapshotBlock", **refused)
    with pytest.raises(PermanentError, match="AccessDenied"):
        web.transfer(begun)
    web.stage.clear_rules()


def _manifest(stage: Stage, lineage: DiskLineage) -> str:
    body = stage.aws.client("s3").get_object(Bucket=lineage.bucket, Key=lineage.manifest_key)["Body"].read()
    return hashlib.sha256(body).hexdigest()


def _standing(stage: Stage) -> set[str]:
    return {one["id"] for one in stage.aws.state()["snapshots"]}


def _recorded(one: Replica, server: str, seed: int) -> tuple[Try, ReplicationResult]:
    """A run that was recorded, and then cleared from its ``server.reserve`` on; the guest has written since.

    :param seed: of what it writes: the tests share the server.
    """
    begun = one.begin()
    result = one.transfer(begun)
    one.record(result)
    one.stage.vc.guest_write(server, 0, 2 * MIB + 9, noise(seed, 3000))
    return one.again(begun), result


# --- what the lineage names ---------------------------------------------------------------------------------------


def test_inv_4_a_recorded_run_that_is_cleared_builds_on_its_own_replica(stage: Stage, replica: Make) -> None:
    web = replica("copy01")
    begun, first = _recorded(web, "copy01", 611)
    result = None
    try:
        result = web.transfer(begun)
        (disk,) = result.disks
        assert (disk.kind, disk.parent_snapshot_id) == ("delta", first.disks[0].lineage.snapshot_id)
        web.assert_equal(begun, result)
        (named,) = web.lineages
        assert named.snapshot_id in _standing(stage)
        assert _manifest(stage, named) == named.manifest_digest, "another instant's manifest lies at its key"
    finally:
        web.end(begun, result)


def test_inv_4_a_cleared_run_that_fails_leaves_the_recorded_replica(stage: Stage, replica: Make) -> None:
    web = replica("copy01")
    begun, first = _recorded(web, "copy01", 612)
    try:
        _cut(web, begun, after=0)
    finally:
        web.end(begun, None)
    assert first.disks[0].lineage.snapshot_id in _standing(stage)
    assert web.run().disks[0].kind == "delta"


def test_inv_4_a_transfer_that_does_not_know_the_lineage_deletes_nothing_of_it(stage: Stage, replica: Make) -> None:
    """Cleared from ``server.snapshot`` on: what ``reserve`` returned is older than the record."""
    web = replica("copy01")
    begun, first = _recorded(web, "copy01", 613)
    known, web.lineages = web.lineages, ()
    result = None
    try:
        result = web.transfer(begun)
        assert result.disks[0].kind == "seed"
        assert known[0].snapshot_id in _standing(stage)
        assert _manifest(stage, known[0]) == known[0].manifest_digest
    finally:
        web.end(begun, result)
    assert first.disks[0].lineage == known[0]


# --- the tokens of StartSnapshot ----------------------------------------------------------------------------------


@pytest.mark.proof
def test_inv_6_each_instant_of_a_run_has_tokens_of_its_own(stage: Stage, replica: Make) -> None:
    """Three instants, all asked for with the same parameters: none is answered with another's snapshot. What the cut
    ones left is not taken up here, since nothing is known of it any more."""
    web = replica("copy01")
    begun = web.begin()
    result = None
    try:
        for _ in range(2):
            _cut(web, begun)
            _forget_seeds(stage)
            begun = web.again(begun)
        stage.aws.control("DELETE", "counters")
        result = web.transfer(begun)
        assert stage.aws.counters()["ebs.StartSnapshot"]["calls"] == 1
        web.assert_equal(begun, result)
        assert len(_standing(stage)) == 1, "what belonged to the other instants is gone"
    finally:
        web.end(begun, result)


def _forget_seeds(stage: Stage) -> None:
    s3 = stage.aws.client("s3")
    for entry in s3.list_objects_v2(Bucket=stage.account.bucket).get("Contents", []):
        if entry["Key"].endswith(SEED_SUFFIX):
            s3.delete_object(Bucket=stage.account.bucket, Key=entry["Key"])


def test_inv_5_a_lost_answer_of_start_snapshot_makes_no_second_one(stage: Stage, replica: Make) -> None:
    web = replica("copy01")
    begun = web.begin()
    result = None
    try:
        stage.aws.rule(service="ebs", operation="StartSnapshot", cut_response_after=0, count=3)
        result = web.transfer(begun)  # three: the call gives up, and the try opens its source again
        web.assert_equal(begun, result)
        assert len(_standing(stage)) == 1
    finally:
        web.end(begun, result)


@pytest.mark.proof
def test_however_many_tokens_are_spent_a_later_try_finds_a_free_one(stage: Stage, replica: Make) -> None:
    """Somebody deletes each snapshot right after it was started, and the answers are lost: AWS remembers the tokens."""
    web = replica("copy01")
    begun = web.begin()
    result = None
    try:
        for _ in range(6):
            stage.aws.rule(service="ebs", operation="StartSnapshot", cut_response_after=0, count=3)
            with suppress(WaveliftError):
                web.transfer(begun)
            stage.clear_rules()
            for snapshot_id in _standing(stage):
                Ec2(stage.access()).delete_snapshot(snapshot_id)
        for _ in range(3):
            with suppress(WaveliftError):
                result = result or web.transfer(begun)
        assert result is not None
        web.assert_equal(begun, result)
    finally:
        web.end(begun, result)


# --- a seed in the place of a delta -------------------------------------------------------------------------------


def test_inv_6_a_seed_after_a_refused_parent_is_gone_on_with(stage: Stage, replica: Make) -> None:
    web = replica("copy01")
    web.run()
    stage.vc.guest_write("copy01", 0, 3 * MIB, noise(602, 5000))
    begun = web.begin()
    result = None
    try:
        stage.aws.control("DELETE", "counters")
        stage.aws.rule(service="ebs", operation="StartSnapshot", code="ValidationException", status=400, count=1)
        _cut(web, begun)
        (begun_with,) = _standing(stage) - {web.lineages[0].snapshot_id}
        result = web.transfer(begun)
        (disk,) = result.disks
        assert (disk.kind, disk.parent_snapshot_id, disk.lineage.snapshot_id) == ("seed", "", begun_with)
        assert "AWS makes no child of the parent snapshot" in disk.kind_reason
        assert stage.aws.counters()["ebs.StartSnapshot"]["calls"] == 2
        assert stage.aws.counters()["ebs.blocks"].get("repeated", 0) <= web.options.puts_in_flight
        web.assert_equal(begun, result)
    finally:
        web.end(begun, result)
