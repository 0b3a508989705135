"""Compares stream-optimised VMDKs in S3 with their manifests (invariant 1): staged disks, and those within OVAs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wavelift.base.errors import CorruptStreamError, ProofError, WaveliftError
from wavelift.base.run import RunContext
from wavelift.base.units import BLOCK, SECTOR, exact_bytes
from wavelift.services.dataplane.suspects import Suspects
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.protocols import RawSource
from wavelift.transfer.report import Report
from wavelift.transfer.verify import Verification, verify_full, verify_sample
from wavelift.transfer.vmdk import StreamVmdkSource, VmdkFile


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The comparison of one server's disks.

    :param next_step: what the user does when one differs.
    """

    server: str
    ctx: RunContext
    workers: int
    next_step: str

    def full(self, raw: RawSource, label: str, manifest: Manifest) -> Verification:
        """:param raw: the VMDK's bytes, front to back."""
        cancel = self.ctx.cancel
        report = Report(self.server, label, "verify", self.ctx.progress)
        return verify_full(StreamVmdkSource(raw), manifest, cancel=cancel, workers=self.workers, report=report)

    def sample(
        self, read: Callable[[int, int], bytes], size: int, manifest: Manifest, percent: float, *, subject: str
    ) -> Verification:
        """Some blocks, and those that an earlier sample found wrong.

        :param read: ``read(offset, length)`` gives those bytes of the VMDK. :param size: of the VMDK, bytes.
        :param subject: of the blocks that are kept for the next try (:class:`.suspects.Suspects`).
        """
        image = VmdkFile(read, size)
        due = -(-manifest.capacity // SECTOR) * SECTOR
        if image.size != due:
            raise CorruptStreamError(
                f"It is of a disk of {exact_bytes(image.size)} where the manifest says {exact_bytes(due)}"
            )
        suspects = Suspects(self.ctx.checkpoints, subject)
        sampled = suspects.sample(manifest, percent)
        found = verify_sample(image.read_block, manifest, sampled, cancel=self.ctx.cancel)
        if not found.ok:
            suspects.keep(mismatch.offset for mismatch in found.mismatches)
        return found

    def require(self, found: Verification, label: str, key: str) -> None:
        """:raises ProofError: it differs; naming the first differing disk offset."""
        if found.ok:
            return
        first = found.mismatches[0]
        raise ProofError(
            f"What S3 holds differs from the source's manifest in {found.mismatch_count} place(s): {first.why}",
            server=self.server,
            disk=label,
            offset=first.offset,
            object=key,
            next_step=self.next_step,
        )

    def broken(self, error: WaveliftError, label: str, key: str) -> ProofError:
        """The object is not even the file that was stored, or not any more."""
        return ProofError(
            f"What S3 holds can't be read as the disk that was stored: {error.what}",
            server=self.server,
            disk=label,
            offset=error.where.get("offset"),
            object=key,
            next_step=self.next_step,
        )


def bytes_compared(level: str, found: Verification, capacity: int) -> int:
    """Bytes of a disk that were compared.

    :param level: ``full`` or ``sample:<pct>``.
    """
    return capacity if level == "full" else min(capacity, found.blocks_checked * BLOCK)
