"""Common sizes, in bytes unless the name has another unit; sizes, offsets and durations in words."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB
SECTOR: Final = 512
"""The unit of VMDK and of partition tables."""

BLOCK: Final = 512 * KIB
"""The block size of digests, manifests and EBS direct (the only DataLength that it accepts)."""

MBIT: Final = 1_000_000 // 8
"""Bytes in one megabit, for ``max_mbit_s``."""


def human_bytes(count: float) -> str:
    """``1536`` → ``"1.5 KiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= KIB
    return f"{count:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """``1 disk``, ``2 disks``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def about_time(seconds: float) -> str:
    """``about 40 min``: as exact as an estimate deserves."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return "less than 1 min"
    if minutes < 10:
        return f"about {minutes:.0f} min"
    if hours < 1.5:
        return f"about {5 * round(minutes / 5)} min"
    if hours < 10:
        return f"about {round(2 * hours) / 2:g} h"
    return f"about {hours:.0f} h" if hours < 48 else f"about {hours / 24:.0f} days"


def exact_bytes(count: int) -> str:
    """``1572864`` → ``"1.5 MiB (1572864 bytes)"``: for sizes that differ by a little."""
    return f"{count} bytes" if abs(count) < KIB else f"{human_bytes(count)} ({count} bytes)"


def human_offset(offset: int) -> str:
    """``1572864`` → ``"1.5 MiB (offset 1572864)"``, after the word *at*."""
    return f"{human_bytes(offset)} (offset {offset})"


def human_seconds(seconds: float) -> str:
    """``90`` → ``"90 s"``, ``600`` → ``"10 min"``: as exact as an estimate deserves."""
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 120 * size:
            return f"{seconds / size:.0f} {unit}"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
