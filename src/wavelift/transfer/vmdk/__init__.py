"""Stream-optimised VMDK: the format of NFC leases, of OVA, and of what ImportImage reads."""

from __future__ import annotations

from wavelift.transfer.vmdk.encoder import PreparedBlock, StreamVmdkEncoder, prepare_block
from wavelift.transfer.vmdk.image import VmdkFile
from wavelift.transfer.vmdk.reader import StreamVmdkSource

__all__ = ["PreparedBlock", "StreamVmdkEncoder", "StreamVmdkSource", "VmdkFile", "prepare_block"]
