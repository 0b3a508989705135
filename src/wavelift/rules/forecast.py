"""Forecast of a cutover's downtime, from what was recorded of the server's runs and of earlier cutovers. Pure.

The downtime has phases: the source stops, the last changes are sent, the image is made, the instance starts, its checks
pass, the network is switched. Each phase has samples: recorded times, or two assumed ones if nothing was recorded. The
phases are taken as independent, so the total is the distribution of all sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from wavelift.base.domain import Message
from wavelift.base.units import MIB, counted, human_seconds

P50: Final = 0.5
P90: Final = 0.9
MOST_SAMPLES: Final = 10
"""Of one phase, the newest: servers change."""
BINS: Final = 200
"""Sums are kept as so many quantiles while phases are added: the product of six phases of ten would be a million."""
SMALL_SAMPLE: Final = 0.5
"""A P90 of n samples is raised by this share divided by n: few samples hardly ever hold the worst case. Assumption."""
FALLBACK_RATE: Final = 40 * MIB
"""Bytes per second of a whole read. Assumption; a connector's own rate replaces it."""
CHANGED_SHARE: Final = 0.05
"""Of a disk, what changed since the last run if no run tells. Assumption."""
FIRST_READ_FAST: Final = 60 * MIB
FIRST_READ_SLOW: Final = 15 * MIB
"""Bytes per second at which a volume without an initialization rate loads what is read first. Assumptions: AWS
promises nothing (EBS User Guide, "Initialize Amazon EBS volumes")."""

ASSUMED: Final = {
    "stop": (60.0, 300.0),  # a guest that shuts down by itself
    "register": (30.0, 120.0),  # RegisterImage, until it is available
    "import": (20 * 60.0, 45 * 60.0),  # VM Import of one server
    "launch": (45.0, 150.0),  # until 'running'
    "check": (150.0, 300.0),  # EC2's status checks take some minutes
    "switch": (20.0, 60.0),  # without network steps
    "step": (30.0, 90.0),  # each network step; Route 53 is in sync within 60 s mostly
}
"""Phase → seconds, P50 and P90. Assumptions, used only where nothing was recorded."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """A recorded replication run of the server that sent changes only.

    :param gap_s: seconds between the instant of the run before and its own: what was sent changed in this time.
    :param sync_s: seconds until its disks were recorded. :param image_s: from then until its image was there.
    :param sent_s: seconds of ``sync_s``, at most, that depend on how much changed; None: not known.
    """

    gap_s: float
    sync_s: float
    image_s: float | None = None
    sent_s: float | None = None


@dataclass(frozen=True, slots=True)
class PastCutover:
    """A cutover of this wave that reached its instance. None: this moment was not recorded."""

    stop_s: float | None = None
    launch_s: float | None = None
    check_s: float | None = None
    switch_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is known of the server.

    :param disks: bytes of each disk. :param since_s: seconds since the instant of the last recorded run; None: there is
        none, and every disk is sent whole.
    :param steps: number of network steps. :param rate: bytes per second of a whole read.
    :param initialization_mib_s: at which EBS loads its volumes; None: as they are first read.
    """

    disks: Sequence[int]
    since_s: float | None
    registers: bool = False
    stop_limit_s: float = 900.0
    steps: int = 0
    rate: float | None = None
    initialization_mib_s: int | None = None


class Forecast(Message):
    """Seconds of downtime, from the order to stop the source. P90: nine of ten cutovers take no longer."""

    reachable_p50_s: float
    """Until the network leads to the instance, whose volumes are still slow."""
    reachable_p90_s: float
    full_speed_p50_s: float
    """Until its volumes are loaded as well."""
    full_speed_p90_s: float
    runs: int
    """Recorded runs that it is made of."""
    cutovers: int
    """Earlier cutovers that it is made of."""
    basis: str
    """The same for people."""
    before_s: float = 0.0
    """How long the runs before the cutover may take that are still to come. The source serves meanwhile."""

    def words(self) -> str:
        before = f"after runs before it of {human_seconds(self.before_s)}, " if self.before_s else ""
        return (
            f"{before}"
            f"reachable after {human_seconds(self.reachable_p50_s)} (P90 {human_seconds(self.reachable_p90_s)}), at "
            f"full speed after {human_seconds(self.full_speed_p50_s)} (P90 {human_seconds(self.full_speed_p90_s)}); "
            f"{self.basis}"
        )


def forecast(subject: Subject, runs: Sequence[PastRun], cutovers: Sequence[PastCutover]) -> Forecast:
    """:param runs: newest first. :param cutovers: newest first."""
    runs, cutovers = runs[:MOST_SAMPLES], cutovers[:MOST_SAMPLES]
    landing = [
        _phase([one.stop_s for one in cutovers], "stop", most=subject.stop_limit_s),
        _sync(subject, runs),
        _phase([one.image_s for one in runs], "register" if subject.registers else "import"),
        _phase([one.launch_s for one in cutovers], "launch"),
    ]
    serving = [
        _phase([one.check_s for one in cutovers], "check"),
        _phase([one.switch_s for one in cutovers], "switch", steps=subject.steps),
    ]
    reachable = _total([*landing, *serving])
    loaded = _total([*landing, _loading(subject)])
    fast = [max(pair) for pair in ((quantile(reachable, q), quantile(loaded, q)) for q in (P50, P90))]
    return Forecast(
        reachable_p50_s=quantile(reachable, P50),
        reachable_p90_s=quantile(reachable, P90),
        full_speed_p50_s=fast[0],
        full_speed_p90_s=fast[1],
        runs=len(runs),
        cutovers=len(cutovers),
        basis=_basis(len(runs), len(cutovers)),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile of samples, between neighbours in proportion. :raises ValueError: there are none."""
    if not values:
        raise ValueError("no samples")
    ordered = sorted(values)
    place = min(max(share * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _basis(runs: int, cutovers: int) -> str:
    if not runs and not cutovers:
        return "nothing was measured yet: all of it is assumed"
    words = f"from {counted(runs, 'recorded run')} and {counted(cutovers, 'earlier cutover')}"
    missing = [name for name, count in (("the last changes", runs), ("stop, launch and switch", cutovers)) if not count]
    return f"{words}; assumed: {', '.join(missing)}" if missing else words


def _phase(found: Sequence[float | None], name: str, *, most: float = math.inf, steps: int = 0) -> list[float]:
    """Samples of one phase; the assumed ones if nothing was recorded."""
    known = [value for value in found if value is not None and value >= 0]
    if known:
        return _raised(known)
    usual, slow = ASSUMED[name]
    more, slower = ASSUMED["step"]
    return _assumed(min(usual + steps * more, most), min(slow + steps * slower, most))


def _sync(subject: Subject, runs: Sequence[PastRun]) -> list[float]:
    """Seconds to send what changed. A run has a part that does not depend on how much changed: what the bytes that it
    sent do not explain, or at least what the fastest run took. The rest grows with the time since the last run."""
    whole = sum(subject.disks) / (subject.rate or FALLBACK_RATE)
    if subject.since_s is None:
        return _assumed(whole, 1.5 * whole)
    known = [one for one in runs if one.sync_s >= 0]
    if not known:
        return _assumed(60 + CHANGED_SHARE * whole, 120 + 4 * CHANGED_SHARE * whole)
    fixed = min(one.sync_s for one in known)
    return _raised([_scaled(one, fixed, subject.since_s) for one in known])


def _scaled(run: PastRun, fixed: float, since_s: float) -> float:
    ratio = since_s / run.gap_s if run.gap_s > 0 else 1.0
    if run.sent_s is not None:
        return run.sync_s + min(run.sent_s, run.sync_s) * (ratio - 1)
    return run.sync_s * ratio if ratio > 1 else fixed + (run.sync_s - fixed) * ratio


def _loading(subject: Subject) -> list[float]:
    """Seconds in which the largest volume loads: volumes load side by side."""
    largest = max(subject.disks, default=0)
    if subject.initialization_mib_s is not None:
        return _assumed(largest / (subject.initialization_mib_s * MIB), largest / (subject.initialization_mib_s * MIB))
    return _assumed(largest / FIRST_READ_FAST, largest / FIRST_READ_SLOW)


def _assumed(usual: float, slow: float) -> list[float]:
    """Samples whose P50 and P90 are these."""
    slow = max(usual, slow)
    return [usual] * 5 + [usual + (slow - usual) * share for share in (0.25, 0.5, 0.75, 1.0, 1.0)]


def _raised(known: Sequence[float]) -> list[float]:
    """Recorded samples, the upper ones raised: the fewer there are, the more. By rank, not by value: where each sample
    is larger, each raised one is, so that more to send never forecasts less."""
    ordered = sorted(known)
    half = len(ordered) // 2
    upper = [value * (1 + SMALL_SAMPLE / len(ordered)) for value in ordered[half:]]
    return [*ordered[:half], *upper, quantile(ordered, P50)]


def _total(phases: Sequence[Sequence[float]]) -> list[float]:
    """The distribution of the sum of independent phases, as :data:`BINS` quantiles at most."""
    total: list[float] = [0.0]
    for phase in phases:
        total = _thinned(sorted(one + other for one, other in itertools.product(total, phase)))
    return total


def _thinned(ordered: Sequence[float]) -> list[float]:
    if len(ordered) <= BINS:
        return list(ordered)
    return list(_picked(ordered))


def _picked(ordered: Sequence[float]) -> Iterator[float]:
    """Equally many per bin, of each its middle; the largest stays."""
    width = len(ordered) / BINS
    for place in range(BINS - 1):
        yield ordered[int((place + 0.5) * width)]
    yield ordered[-1]
