"""Estimate of what a wave would transfer, create and cost. All costs are upper bounds."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from wavelift.base.domain import Message, ServerFacts
from wavelift.base.units import BLOCK, MIB, about_time, counted, human_bytes
from wavelift.rules.fields import parse_verify
from wavelift.rules.limits import LIMITS, Limit
from wavelift.rules.plans import ServerPlan
from wavelift.rules.preflight_time import UNMEASURED, LineFacts, rate_of

GB: Final = 10**9
PART: Final = 8 * MIB
"""The usual part size of an upload. Large disks have larger parts, and so fewer of them."""
STREAM_RANGE: Final = 8 * MIB
"""Bytes per request that the estimate assumes for a full read-back. An interrupted stream needs more requests."""
DAYS_IN_STAGING: Final = 1.0
DAYS_IN_MONTH: Final = 30.0
BLOCKS_PER_LIST: Final = 1_000
CENT: Final = 0.01
"""US dollars. Items that cost less are not listed."""


@dataclass(frozen=True, slots=True)
class Prices:
    """List prices in US dollars. Every estimate includes their source and date."""

    usd: Mapping[str, float]
    source: str
    date: str
    region: str


@cache
def prices() -> Prices:
    """The price table in ``data/prices.json``."""
    data: dict[str, Any] = json.loads(resources.files("wavelift.rules").joinpath("data/prices.json").read_text("utf-8"))
    return Prices({row["name"]: row["usd"] for row in data["prices"]}, data["source"], data["date"], data["region"])


class Estimate(Message):
    """What a wave would transfer, create and cost."""

    servers: int = 0
    disks: int = 0
    capacity: int = 0
    """Virtual bytes of all disks."""
    read_back: int = 0
    """Bytes that ``verify`` reads, near AWS."""
    snapshots: int = 0
    """vSphere snapshots, each removed once its server is transferred."""
    seconds: float | None = None
    """Of all transfers, at the rate that this connector had before, or is limited to. None: not known."""
    transfer_rounds: int = 0
    import_rounds: int = 0
    """How many rounds the slots of the limit need to process all servers."""
    creates: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    costs: dict[str, float] = {}
    """Item → US dollars (upper bound). The name of what is paid every month ends with ``per month``."""
    notes: tuple[str, ...] = ()


def estimate(
    servers: Sequence[tuple[ServerPlan, ServerFacts]],
    *,
    limits: Mapping[str, Limit] = LIMITS,
    line: LineFacts = UNMEASURED,
) -> Estimate:
    """The estimate for all these servers together.

    :param line: how fast their connector is.
    """
    if not servers:
        return Estimate(notes=("no server is ready, so nothing would be made",))
    disks = [disk.capacity for _, facts in servers for disk in facts.disks]
    transfers, imports = limits["transfers_per_connector"], limits["imports_per_region"]
    transfer_rounds = max(_rounds(Counter(plan.connector for plan, _ in servers), transfers.value))
    import_rounds = max(_rounds(Counter(plan.target.region for plan, _ in servers), imports.value))
    read_back = sum(round(facts.capacity * parse_verify(plan.verify) / 100) for plan, facts in servers)
    return Estimate(
        servers=len(servers),
        disks=len(disks),
        capacity=sum(disks),
        read_back=read_back,
        snapshots=len(servers),
        seconds=_seconds(servers, transfers.value, line),
        transfer_rounds=transfer_rounds,
        import_rounds=import_rounds,
        creates=_creates(servers),
        limits=(
            f"{transfers.value} transfers at a time per connector: {counted(transfer_rounds, 'round')}",
            f"{imports.value} imports at a time per region: {counted(import_rounds, 'round')}",
        ),
        costs=_costs(servers, disks),
        notes=(
            f"prices of {prices().region}, {prices().date}: {prices().source}",
            "costs are upper bounds: every block counts as data; instances and traffic come on top",
        ),
    )


def _rounds(counts: Mapping[str, int], places: int) -> list[int]:
    return [math.ceil(count / places) for count in counts.values()]


def _seconds(servers: Sequence[tuple[ServerPlan, ServerFacts]], places: int, line: LineFacts) -> float | None:
    """The places work side by side, but the largest server takes its time, and a limit of the line holds for all."""
    each = []
    for plan, facts in servers:
        rate = rate_of(plan, line)
        if rate is None:
            return None
        each.append(facts.capacity / rate)
    whole = sum(facts.capacity for _, facts in servers) / line.limit if line.limit else 0.0
    return max(max(each), sum(each) / places, whole)


def _creates(servers: Sequence[tuple[ServerPlan, ServerFacts]]) -> tuple[str, ...]:
    disks = sum(len(facts.disks) for _, facts in servers)
    targets = sorted({f"s3://{plan.target.bucket}/{plan.target.prefix}" for plan, _ in servers})
    started = Counter(plan.instance_type or "" for plan, _ in servers if plan.launch == "running")
    instances = ", ".join(f"{count} {kind}" for kind, count in sorted(started.items()))
    return (
        f"{counted(len(servers), 'vSphere snapshot')}, removed after the transfer",
        f"{counted(disks, 'disk object')}, removed after the import, and {counted(disks, 'manifest')} in "
        f"{', '.join(targets)}",
        f"{counted(len(servers), 'import task')}, {counted(len(servers), 'AMI')}, {counted(disks, 'EBS snapshot')}",
        f"{counted(sum(started.values()), 'instance')}: {instances}" if started else "no instance",
    )


def _costs(servers: Sequence[tuple[ServerPlan, ServerFacts]], disks: Sequence[int]) -> dict[str, float]:
    usd = prices().usd
    blocks = sum(math.ceil(size / BLOCK) for size in disks)
    gigabytes = sum(disks) / GB
    costs = {
        "upload requests": _thousands(sum(math.ceil(size / PART) + 2 for size in disks)) * usd["s3_put"],
        "staging for a day": gigabytes * usd["s3_gb_month"] * DAYS_IN_STAGING / DAYS_IN_MONTH,
        "reading back (verify)": _thousands(sum(_gets(plan, facts) for plan, facts in servers)) * usd["s3_get"],
        "conversion report": _thousands(blocks) * usd["ebs_get_block"]
        + _thousands(math.ceil(blocks / BLOCKS_PER_LIST)) * usd["ebs_list_blocks"],
        "AMI snapshots per month": gigabytes * usd["ebs_snapshot_gb_month"],
        "volumes of launched instances per month": sum(
            facts.capacity for plan, facts in servers if plan.launch == "running"
        )
        / GB
        * usd["ebs_volume_gb_month"],
    }
    return {name: round(value, 4) for name, value in costs.items()}


def _gets(plan: ServerPlan, facts: ServerFacts) -> int:
    """Requests of the read-back: one per range if everything is read, one per block if blocks are sampled."""
    share = parse_verify(plan.verify)
    unit = STREAM_RANGE if share == 100 else BLOCK
    return sum(math.ceil(disk.capacity / unit * share / 100) for disk in facts.disks)


def _thousands(count: int) -> float:
    return count / 1_000


def table(found: Estimate) -> list[tuple[str, str]]:
    """The estimate as rows of label and text for display."""
    if not found.servers:
        return [("note", text) for text in found.notes]
    time = "not known: nothing has been read on this connector yet"
    if found.seconds is not None:
        time = f"{about_time(found.seconds)} for the transfers; then AWS converts the disks"
    return [
        ("moves", f"{counted(found.servers, 'server')}, {counted(found.disks, 'disk')}, {human_bytes(found.capacity)}"),
        ("reads back", f"{human_bytes(found.read_back)} near AWS, to verify"),
        ("time", time),
        *(("makes", text) for text in found.creates),
        *(("limit", text) for text in found.limits),
        ("costs once", _priced(found, monthly=False)),
        ("costs monthly", _priced(found, monthly=True)),
        *(("note", text) for text in found.notes),
    ]


def _priced(found: Estimate, *, monthly: bool) -> str:
    """``up to US$12.30: AMI snapshots US$8.10, …``, the dearest first."""
    end = " per month"
    items = {name.removesuffix(end): cost for name, cost in found.costs.items() if name.endswith(end) == monthly}
    total = sum(items.values())
    if total < CENT:
        return "less than US$0.01"
    dearest = sorted(items.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} US${cost:,.2f}" for name, cost in dearest if cost >= CENT)
    return f"up to US${total:,.2f}" + (f": {parts}" if parts else "")
