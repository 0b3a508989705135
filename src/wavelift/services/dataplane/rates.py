"""How fast this connector reads whole disks: measured by transfers, told by pre-flight, kept in the state folder."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from statistics import median
from typing import Final

from wavelift.base.units import GIB

log = logging.getLogger(__name__)

FILE: Final = "rates.json"
KEPT: Final = 20
"""Measures: the newest. The median of few forgets a line that was changed, and forgives one bad night."""
LEAST_BYTES: Final = GIB
"""Less than this measures the snapshot's and the lease's beginning, not the line."""


def note_rate(folder: Path, passed: int, seconds: float) -> None:
    """A server's disks were read whole in one go. What can't be kept is no reason to fail a transfer.

    :param passed: bytes of the disks, zeros included.
    """
    if passed < LEAST_BYTES or seconds <= 0:
        return
    path = folder / FILE
    measures = [*_measures(path), passed / seconds][-KEPT:]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(measures))
        fresh.replace(path)  # of two that end at the same moment one is forgotten
    except OSError as error:
        log.warning("the rate of this transfer is not kept: %s", error)


def measured_rate(folder: Path) -> float | None:
    """Bytes per second of one server; None: nothing was measured."""
    measures = _measures(folder / FILE)
    return median(measures) if measures else None


def _measures(path: Path) -> list[float]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    if not isinstance(found, list):
        return []
    return [float(each) for each in found if isinstance(each, int | float) and each > 0]
