"""Transfer rates: how the rate and the remaining time are computed, and where rates are stored.

* While a task transfers bytes, its heartbeat stores a :class:`TransferProgress` in Airflow's task state store. CLI and
  REST read it and compute no rates themselves. A rate is valid for :data:`WINDOW_SECONDS` after it was stored.
* A finished transfer has an :func:`average`.
* A connector stores in its state folder how fast it read whole disks (:func:`note_rate`). Pre-flight reads the median.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from wavelift.base.private import private_file, private_folder
from wavelift.base.run import Progress
from wavelift.base.units import GIB

log = logging.getLogger(__name__)

PROGRESS_KEY: Final = "progress"
"""Key of :class:`TransferProgress` in the task state store."""
WINDOW_SECONDS: Final = 10.0
"""The rate covers the last seconds only: an average since the start would hide a stall. A stored rate that is older
counts as 0: the process that wrote it has ended, or cannot reach Airflow."""
FILE: Final = "rates.json"
KEPT: Final = 20
"""How many of the newest measurements are kept. With few, the median soon follows a changed network line; with several,
one slow transfer does not change it."""
LEAST_BYTES: Final = GIB
"""Smaller reads are not measured: they mostly measure the start of snapshot and lease, not the network line."""


class RateMeter:
    """Bytes per second over the last :data:`WINDOW_SECONDS`."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def rate(self, now: float, done: int) -> float:
        """The rate after ``done`` bytes at ``now`` (seconds, monotonic); 0 while it is unknown."""
        samples = self._samples
        if samples and done < samples[-1][1]:  # the source is read again from its start
            samples.clear()
        samples.append((now, done))
        while now - samples[0][0] > WINDOW_SECONDS and len(samples) > 2:
            samples.popleft()
        return average(done - samples[0][1], now - samples[0][0])


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """Progress of all disks of a task together, in bytes. ``rate`` is in bytes per second; 0 while it is unknown, and
    when nothing was stored for longer than :data:`WINDOW_SECONDS`."""

    done: int
    total: int
    sent: int
    rate: float

    @staticmethod
    def stored(disks: Mapping[str, Progress], rate: float) -> dict[str, Any]:
        """The JSON form."""
        return {
            "disks": {
                name: {"phase": one.phase, "done": one.done, "total": one.total, "data": one.data, "sent": one.sent}
                for name, one in disks.items()
            },
            "rate": round(rate),
        }

    @classmethod
    def load(cls, stored: Mapping[str, Any] | None, *, age: float) -> Self | None:
        """The progress from the result of :meth:`stored`; None if no disk has started.

        :param age: seconds since it was stored.
        """
        if not stored or not stored.get("disks"):
            return None
        disks = stored["disks"].values()
        done, total, sent = (sum(disk.get(name, 0) for disk in disks) for name in ("done", "total", "sent"))
        return cls(done, total, sent, stored.get("rate", 0.0) if age <= WINDOW_SECONDS else 0.0)


def average(passed: int, seconds: float) -> float:
    """Average bytes per second of a finished transfer; 0 if it took no time."""
    return passed / seconds if seconds > 0 else 0.0


def seconds_left(done: int, total: int, rate: float) -> float | None:
    """Seconds until ``total`` bytes are done; None if nothing is left or the rate is unknown."""
    return (total - done) / rate if rate > 0 and done < total else None


def note_rate(folder: Path, passed: int, seconds: float) -> None:
    """Store the rate after all disks of a server were read completely. A write error does not fail the transfer.

    :param passed: bytes of the disks, zeros included.
    """
    if passed < LEAST_BYTES or seconds <= 0:
        return
    path = folder / FILE
    measures = [*_measures(path), average(passed, seconds)][-KEPT:]
    try:
        private_folder(folder)
        fresh = path.with_suffix(f".{os.getpid()}")
        private_file(fresh)
        fresh.write_text(json.dumps(measures))
        fresh.replace(path)  # if two transfers end at the same moment, one measurement is lost
    except OSError as error:
        log.warning("the rate of this transfer could not be stored: %s", error)


def measured_rate(folder: Path) -> float | None:
    """Bytes per second for one server; None if nothing was measured."""
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
