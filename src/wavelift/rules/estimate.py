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
from wavelift.base.units import BLOCK, MIB, human_bytes
from wavelift.rules.fields import parse_verify
from wavelift.rules.limits import LIMITS, Limit
from wavelift.rules.plans import ServerPlan

GB: Final = 10**9
PART: Final = 8 * MIB
"""The usual part size of an upload. Large disks have larger parts, and so fewer of them."""
STREAM_RANGE: Final = 8 * MIB
"""Bytes per request that the estimate assumes for a full read-back. An interrupted stream needs more requests."""
DAYS_IN_STAGING: Final = 1.0
DAYS_IN_MONTH: Final = 30.0
BLOCKS_PER_LIST: Final = 1_000


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
    transfer_rounds: int = 0
    import_rounds: int = 0
    """How many rounds the slots of the limit need to process all servers."""
    creates: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    costs: dict[str, float] = {}
    """Item → US dollars (upper bound)."""
    notes: tuple[str, ...] = ()


def estimate(servers: Sequence[tuple[ServerPlan, ServerFacts]], *, limits: Mapping[str, Limit] = LIMITS) -> Estimate:
    """The estimate for all these servers together."""
    if not servers:
        return Estimate(notes=("no server to migrate",))
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
        transfer_rounds=transfer_rounds,
        import_rounds=import_rounds,
        creates=_creates(servers),
        limits=(
            f"{transfers.value} transfers at once per connector ({transfers.source}): {transfer_rounds} round(s)",
            f"{imports.value} imports at once per region ({imports.source}): {import_rounds} round(s)",
        ),
        costs=_costs(servers, disks),
        notes=(
            f"prices: {prices().region}, {prices().date}; {prices().source}",
            "upper bounds: every block counts as data, without compression; instances and traffic are not included",
        ),
    )


def _rounds(counts: Mapping[str, int], places: int) -> list[int]:
    return [math.ceil(count / places) for count in counts.values()]


def _creates(servers: Sequence[tuple[ServerPlan, ServerFacts]]) -> tuple[str, ...]:
    disks = sum(len(facts.disks) for _, facts in servers)
    targets = sorted({f"s3://{plan.target.bucket}/{plan.target.prefix}" for plan, _ in servers})
    started = Counter(plan.instance_type or "" for plan, _ in servers if plan.launch == "running")
    instances = ", ".join(f"{count} {kind}" for kind, count in sorted(started.items()))
    return (
        f"{len(servers)} vSphere snapshot(s), removed after the transfer",
        f"{disks} disk object(s), removed after the import, and {disks} manifest(s) in {', '.join(targets)}",
        f"{len(servers)} import task(s), {len(servers)} AMI(s), {disks} EBS snapshot(s)",
        f"{sum(started.values())} instance(s): {instances}" if started else "no instance",
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
    return [
        ("servers", str(found.servers)),
        ("disks", f"{found.disks}, {human_bytes(found.capacity)}"),
        ("vSphere snapshots", str(found.snapshots)),
        ("read back by verify", human_bytes(found.read_back)),
        *(("creates", text) for text in found.creates),
        *(("limit", text) for text in found.limits),
        *((f"cost: {name}", f"up to ${value:,.4f}") for name, value in found.costs.items()),
        *(("note", text) for text in found.notes),
    ]
