"""Replication runs through VDDK (a stand-in, see tests/vddk.py): the choice of the reader, and that it changes nothing
but speed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.vddk import VddkStandIn

from wavelift.adapters.vsphere import datastore, nbdkit
from wavelift.adapters.vsphere.datastore import DatastoreReader, DatastoreRoute
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.lease import ExportLease
from wavelift.adapters.vsphere.nbdkit import MovedError, VddkReader, VddkRoute
from wavelift.base.errors import ThrottledError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, MIB
from wavelift.transfer.file import FileReader, FileWriter
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy
from wavelift.transfer.protocols import BlockStream
from wavelift.transfer.vmdk import StreamVmdkSource

from .journey import Stage
from .replica import Replica
from .servers import noise
from .test_replication import replica, tracked

__all__ = ["replica", "tracked"]

pytestmark = pytest.mark.wire

Make = Callable[..., Replica]


@pytest.fixture
def vddk(stage: Stage, tmp_path: Path) -> Iterator[VddkStandIn]:
    """Set up on the connection."""
    made = VddkStandIn(tmp_path / "vddk", stage.vc)
    stage.session_options["vddk"] = made.config()
    yield made
    stage.session_options.pop("vddk", None)


def _manifest(stream: BlockStream, capacity: int, out: Path) -> bytes:
    with closing(stream):
        manifest = Manifest.empty(capacity)
        copy(stream, FileWriter(out, capacity, sync=False), manifest, cancel=CancelFlag())
    return manifest.to_bytes()


def test_every_reader_makes_the_same_manifest_of_one_frozen_disk(
    stage: Stage, vddk: VddkStandIn, replica: Make, tmp_path: Path
) -> None:
    """Lease stream, ranges, VDDK with and without its block status, and what the simulator says that it froze."""
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    server = replica("db01")
    one = server.begin()
    cancel = CancelFlag()
    try:
        stage.vc.guest_write("db01", 0, BLOCK - 100, noise(5, 300))  # after the freeze: nobody may see it
        with stage.connect() as session:
            machine = FrozenVm(one.task.facts.moref, one.snapshot.ref.moref, "db01")
            lease = ExportLease(session, machine, one.snapshot.disks, cancel=cancel, percent=lambda: 0)
            with lease:
                for disk in one.snapshot.disks:
                    by_ranges = datastore.probe(session, machine, disk, cancel=cancel)
                    by_vddk = nbdkit.probe(session, machine, disk, cancel=cancel)
                    assert isinstance(by_ranges, DatastoreRoute), by_ranges
                    assert isinstance(by_vddk, VddkRoute), by_vddk
                    found = {
                        "nfc": _manifest(
                            StreamVmdkSource(lease.open(disk)), disk.capacity, tmp_path / f"nfc-{disk.key}"
                        )
                    }
                    with closing(DatastoreReader(session, by_ranges, cancel=cancel)) as ranged:
                        found["ranges"] = _manifest(ranged.stream(), disk.capacity, tmp_path / f"ds-{disk.key}")
                    for skip in (False, True):
                        with VddkReader(session.config, by_vddk, cancel=cancel, skip_zeros=skip) as reader:
                            out = tmp_path / f"nbd-{disk.key}-{skip}"
                            found[f"nbd {skip}"] = _manifest(reader.stream(), disk.capacity, out)
                    with closing(FileReader(stage.frozen_disk(one.snapshot.ref.moref, disk.key))) as frozen:
                        expected = _manifest(frozen.stream(), disk.capacity, tmp_path / f"frozen-{disk.key}")
                    digests = {name: hashlib.sha256(each).hexdigest() for name, each in found.items()}
                    assert digests == dict.fromkeys(found, hashlib.sha256(expected).hexdigest())
    finally:
        server.end(one, None)


def test_sms_05_a_seed_and_a_delta_through_vddk(stage: Stage, vddk: VddkStandIn, replica: Make, tracked: Make) -> None:
    """On a datastore that locks running disks: only what changed is read all the same."""
    web = tracked("copy01")
    stage.vc.clear_rules()
    stage.vc.guest_write("copy01", 0, 5 * BLOCK + 100, noise(611, 300))
    stage.vc.guest_write("copy01", 0, 9 * BLOCK - 10, noise(612, 20))
    delta = web.run().disks[0]
    assert (delta.reader, delta.kind, delta.kind_reason) == ("nbd", "delta", "")
    assert delta.reader_reason.endswith("is served by VDDK")
    assert delta.blocks_sent == 3
    assert delta.bytes_read == (3 + delta.blocks_audited) * BLOCK
    idle = web.run().disks[0]
    assert (idle.blocks_sent, idle.bytes_read) == (0, idle.blocks_audited * BLOCK)


@pytest.mark.proof
def test_a_seed_leaves_out_what_is_promised_to_be_zero(stage: Stage, vddk: VddkStandIn, replica: Make) -> None:
    stage.vc.guest_write("copy01", 0, 0, bytes(12 * MIB))  # more than is audited of it
    seed = replica("copy01").run().disks[0]
    assert (seed.reader, seed.kind) == ("nbd", "seed")
    assert seed.bytes_read < seed.lineage.capacity
    assert seed.blocks_audited


def test_a_false_promise_of_zeros_is_found_by_the_sample(stage: Stage, vddk: VddkStandIn, replica: Make) -> None:
    stage.vc.guest_write("copy01", 0, 0, noise(31, 12 * MIB))  # so much that no sample can miss it
    script = vddk.folder / "extents.py"
    script.write_text('import sys\nprint(sys.argv[3], sys.argv[2], "hole,zero")\n')
    seed = replica("copy01").run().disks[0]  # compares every byte
    assert "block status calls data zero" in seed.reader_reason
    assert seed.bytes_read == seed.lineage.capacity + seed.blocks_audited * BLOCK


def test_without_a_working_vddk_the_next_way_is_taken_and_the_reason_kept(
    stage: Stage, vddk: VddkStandIn, replica: Make
) -> None:
    vddk.refuse("[NFC ERROR] received NFC error 5 from server: Failed to allocate the requested 2097176 bytes")
    stream = replica("copy01").run().disks[0]
    assert stream.reader == "nfc"
    assert "the ESXi host is out of NFC buffers" in stream.reader_reason
    assert "no range of" in stream.reader_reason
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    ranged = replica("copy01").run().disks[0]
    assert ranged.reader == "datastore"
    assert "the ESXi host is out of NFC buffers" in ranged.reader_reason


@pytest.mark.proof
def test_a_run_goes_on_after_vddk_failed_in_the_middle(stage: Stage, vddk: VddkStandIn, replica: Make) -> None:
    """The retry reads what is not in the EBS snapshot yet, and nothing else."""
    big = replica("big01")
    one = big.begin()
    result = None
    try:
        vddk.fail_reads("EIO [NFC ERROR] received NFC error 5 from server", after=25)
        with pytest.raises(ThrottledError, match="NFC buffers"):
            big.transfer(one)
        vddk.heal()
        result = big.transfer(one)
        (disk,) = result.disks
        assert disk.reader == "nbd"
        assert disk.bytes_read < disk.lineage.capacity - 20 * BLOCK
        big.assert_equal(one, result)
    finally:
        big.end(one, result)


@pytest.mark.proof
def test_a_vm_that_moved_since_the_preflight_fails_before_anything_is_opened(
    stage: Stage, vddk: VddkStandIn, replica: Make
) -> None:
    web = replica("copy01")
    one = web.begin()
    try:
        assert one.task.nfc is not None
        assert (one.task.nfc.per_host, one.task.nfc.per_vcenter) == (4, 26)
        home = next(vm["host"] for vm in stage.vc.state()["vms"] if vm["name"] == "copy01")
        other = next(name for name in stage.vc.hosts if name != home)
        before = stage.aws.state()
        stage.vc.migrate("copy01", other)
        try:
            with pytest.raises(MovedError) as moved:
                web.transfer(one)
        finally:
            stage.vc.migrate("copy01", home)
        assert moved.value.retryable
        assert not (vddk.folder / "argv").exists()
        assert stage.aws.state()["snapshots"] == before["snapshots"]
        result = web.transfer(one)  # it came back
        web.assert_equal(one, result)
    finally:
        web.end(one, None)
