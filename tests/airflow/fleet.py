"""The waves of the running Airflow, and of runs in this process; each test has servers of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tests.airflow.waves import (
    BUCKET,
    KIB,
    MIB,
    OFF,
    RUNNING,
    Vm,
    WaveOf,
    environment_text,
    lay_out,
    machines,
    wave_text,
)

from wavelift.cli.simulators import Stage
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import SimDisk, SimVm
from wavelift.simulators.vcenter import start as start_vcenter

DAILY: Final = {"replication": {"frequency_hours": 24}}
DEAF: Final = {"kind": "http", "port": 9, "status": 299, "within_minutes": 0.1}
"""No instance of the simulator listens anywhere. Behind a proxy a connection alone may succeed."""
MOVED: Final = {
    **DAILY,
    "cutover": {"approval": "none", "downtime_minutes": 10_000},
}
WAVES: Final[dict[str, WaveOf]] = {
    "full": WaveOf((Vm("full-web", entry=RUNNING), Vm("full-win", power="poweredOff", entry=OFF))),
    "broken": WaveOf((Vm("broken-a"), Vm("broken-b"))),
    "late": WaveOf((Vm("late-a"),), {"deadline_minutes": 1}),
    "fragile": WaveOf((Vm("fragile-a"),)),
    "halted": WaveOf((Vm("halted-a"), Vm("halted-b"))),
    "queued": WaveOf(tuple(Vm(f"queued-{one}") for one in "abcd")),
    "cleared": WaveOf((Vm("cleared-a"), Vm("cleared-b", (4,)))),
    "limited": WaveOf(tuple(Vm(f"limited-{one}", (4,)) for one in "abc"), {"environment": "narrow"}),
    "killed": WaveOf((Vm("killed-a", (72,), full=True),)),
    "orphan": WaveOf((Vm("orphan-a"),)),
    "paused": WaveOf((Vm("paused-a"), Vm("paused-b"))),
    "clocked": WaveOf((Vm("clocked-a", (4,)),), DAILY),
    "asked": WaveOf((Vm("asked-a", (4,)), Vm("asked-b", (4,))), DAILY),
    "sample": WaveOf((Vm("sample-a", (4,)), Vm("sample-b", (4,))), DAILY),
    "edited": WaveOf((Vm("edited-a", (4,)),)),
    "shifted": WaveOf((Vm("shifted-a", (4,), ip="10.20.1.77"),), {**DAILY, "environment": "net"}),
    "finished": WaveOf((Vm("finished-a", (4,), ip="10.20.1.88"),), {**DAILY, "environment": "net"}),
    "seen": WaveOf((Vm("seen-a", (4,)),), {**DAILY, "environment": "net"}),
    "failing": WaveOf(
        (Vm("failing-a", (4,), entry={"cutover": {"checks": [DEAF]}}), Vm("failing-b", (4,))),
        {**DAILY, "environment": "net"},
    ),
}
"""Of the running Airflow."""
OUTBOUND: Final = {
    "outbound": WaveOf((Vm("outbound-a", (12, 6), entry=RUNNING),), {"environment": "out"}),
}
"""Of the proof that exports what was migrated. Its file and environment are laid out by ``test_export_world.py``."""
DNS_ZONE: Final = "corp.example"
TTL: Final = 300
"""Of the records that point to the sources, in seconds."""
CUTOVERS: Final[dict[str, dict[str, Any]]] = {
    "shifted": {"downtime_minutes": 10_000},
    "finished": {"address": "keep"},
    "seen": {"downtime_minutes": 10_000},
    "failing": {"downtime_minutes": 10_000, "approval": "none"},
}
"""Wave → what its ``cutover:`` section says beside its records."""
BY_HAND: Final = {"person": {"ask": "Move 10.20.1.88 to the VPC", "undo": "Move 10.20.1.88 back"}}
LAB_WAVES: Final[dict[str, WaveOf]] = {
    "full": WaveOf(
        (Vm("full-web", entry=RUNNING), Vm("full-db", (12, 10)), Vm("full-win", power="poweredOff", entry=OFF))
    ),
    "broken": WaveOf((Vm("broken-a", (4,)), Vm("broken-b", (4,)))),
    "flipped": WaveOf((Vm("flipped-a", (4, 6)), Vm("flipped-b", (4,)))),
    "modes": WaveOf((Vm("modes-a", (4,)),)),
    "cut": WaveOf((Vm("cut-a", (8,), full=True),)),
    "changed": WaveOf((Vm("changed-a", (4, 4)),)),
    "sampled": WaveOf((Vm("sampled-a", (4,), entry={"verify": "sample:50"}),)),
    "copies": WaveOf((Vm("copies-a"),), DAILY),
    "aged": WaveOf((Vm("aged-a", (8,), entry={"change_tracking": "enable"}),), DAILY),
    "anew": WaveOf((Vm("anew-a", (4,), entry=RUNNING), Vm("anew-b", (4, 6)))),
    "resent": WaveOf(tuple(Vm(f"resent-{one}", (4,)) for one in ("reserve", "preflight", "admit")), DAILY),
    "kept": WaveOf(tuple(Vm(f"kept-{one}", (4,)) for one in ("record", "token", "seed", "key")), DAILY),
    "alone": WaveOf((Vm("alone-a", (4,)),), DAILY),
    "placed": WaveOf((Vm("placed-a", (4, 6)),), DAILY),
    "seeds": WaveOf((Vm("seeds-a", full=True),), DAILY),
    "switched": WaveOf(
        (
            Vm("switched-a", (4,)),
            Vm("switched-b", (4,), entry={"cutover": {"shutdown": {"timeout_minutes": 0.1, "then": "abort"}}}),
            Vm("switched-c", (4,)),
        ),
        {**DAILY, "cutover": {"approval": "none", "downtime_minutes": 10_000, "ami": "register", "on_failure": "stop"}},
    ),
    "gated": WaveOf((Vm("gated-a", (4,)), Vm("gated-b", (4,)), Vm("gated-c", (4,), entry=OFF))),
    "shut": WaveOf((Vm("shut-a", (4,), entry=OFF),)),
    "granted": WaveOf((Vm("granted-a", (4,)), Vm("granted-b", (4,)), Vm("granted-c", (4,)))),
    "forbidden": WaveOf((Vm("forbidden-a", (4,)),)),
    "dated": WaveOf(tuple(Vm(f"dated-{one}", (4,)) for one in "abc"), DAILY),
    "revoked": WaveOf((Vm("revoked-a", (4,)),)),
    "holding": WaveOf((Vm("holding-a", (4,)),)),
    "moved": WaveOf((Vm("moved-a", (4,)), Vm("moved-b", (4,))), MOVED),
    "called": WaveOf((Vm("called-a", (4,)), Vm("called-b", (4,)))),
    "tried": WaveOf(
        (
            Vm("tried-a", (4,), entry={"cutover": {"tier": "data"}}),
            Vm("tried-b", (4,), entry={"cutover": {"tier": "web"}}),
        ),
        {**DAILY, "cutover": {"tiers": ["data", "web"], "test_hours": 2}},
    ),
}
"""Of runs in this process."""
TOOLS_VM: Final = "tools-vm"
OTHER_VCENTER: Final = "vsphere_other"
"""A connection that no wave names."""
CATALOG_VMS: Final = ("catalog-a", "catalog-b")
"""What the catalogue's test renames and removes."""
SLOW: Final = {
    "late-a": (75 * KIB, 1),
    "fragile-a": (40 * KIB, 1),
    "halted-a": (24 * KIB, 0),
    "halted-b": (24 * KIB, 0),
    "queued-a": (80 * KIB, 1),
    "queued-b": (80 * KIB, 1),
    "queued-c": (80 * KIB, 1),
    "queued-d": (80 * KIB, 1),
    "cleared-a": (24 * KIB, 1),
    "killed-a": (3 * MIB, 1),
    "orphan-a": (24 * KIB, 1),
    "paused-a": (24 * KIB, 1),
}
"""Bytes per second of the lease's answers, and for how many of them (0: all). Slow enough for a busy machine: what a
test does in mid-export must not come too late. Most of these exports are cut, so it costs no time."""
UNSUPPORTED: Final = "ClientError: Unsupported kernel version 5.99"
BAD_WAVE: Final = """\
wave: bad
source: {connection: vsphere_demo}
environment: lab
servers:
  - name: one
    lanch: running
retries: 1
"""


def _others() -> list[SimVm]:
    """Servers of no wave."""
    found = [SimVm(TOOLS_VM, [SimDisk(capacity=MIB)], folder="tools", guest_id="debian12_64Guest")]
    found += [SimVm(name, [SimDisk(capacity=MIB)], folder="catalog", power="poweredOff") for name in CATALOG_VMS]
    return found


@contextmanager
def simulators(
    folder: Path, waves: dict[str, WaveOf], *, slow: dict[str, Any], later: Mapping[str, WaveOf] = MappingProxyType({})
) -> Iterator[Stage]:
    """Both simulators with the servers of the waves, and ``folder/dags``.

    :param later: waves whose servers are there, and whose files a test lays out.

    Faults are rules that hit one server of one test each, from the start: none has to be taken away while others run.
    """
    with start_aws(folder / "aws", tls=True, evidence=True) as aws:
        network = aws.bootstrap(bucket=BUCKET, role=True)
        servers = [*_others(), *machines(folder / "disks", {**waves, **later})]
        with start_vcenter(folder / "vcenter", servers, evidence=True, lease_timeout=10) as vcenter:
            stage = Stage(vcenter, aws, network)
            lay_out(folder / "dags", stage, waves)
            shutil.copy(Path(__file__).parent / "lab_tools.py", folder / "dags")
            for vm, (rate, times) in slow.items():
                vcenter.rule(kind="nfc", action="slow", vm=vm, rate=rate, times=times)
            aws.rule(kind="import", key="*broken-b*", outcome="deleted", message=UNSUPPORTED, count=1)
            yield stage


def lay_out_more(dags: Path, stage: Stage) -> None:
    """What only the running Airflow meets: an account with few places, and a broken file."""
    few = {"aws_conn_id": "aws_narrow", "limits": {"imports_per_region": 2}}
    narrow = environment_text(stage, "narrow", ["limited"], **few)
    (dags / "environments" / "narrow.yaml").write_text(narrow)
    (dags / "waves" / "bad.yaml").write_text(BAD_WAVE)
    _lay_out_cutovers(dags, stage)
    stage.aws.rule(kind="import", key="*cleared-b*", outcome="stuck", count=1)


def _lay_out_cutovers(dags: Path, stage: Stage) -> None:
    """A zone whose records point to the sources, an environment that lists it, and the waves that switch them."""
    dns = stage.aws.client("route53")
    zone = dns.create_hosted_zone(Name=DNS_ZONE, CallerReference="world")["HostedZone"]["Id"].rpartition("/")[2]
    allowed = environment_text(stage, "net", CUTOVERS, network={"hosted_zones": [zone]})
    (dags / "environments" / "net.yaml").write_text(allowed)
    for wave, settings in CUTOVERS.items():
        shape, entries = WAVES[wave], []
        for vm in shape.servers:
            name = f"{vm.name}.{DNS_ZONE}"
            value = {"ResourceRecords": [{"Value": vm.ip or "192.0.2.9"}]}
            record = {"Name": name, "Type": "A", "TTL": TTL, **value}
            changes = [{"Action": "CREATE", "ResourceRecordSet": record}]
            dns.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})
            steps = [{"dns": {"zone": zone, "name": name}}, *([BY_HAND] if settings.get("address") else [])]
            entries.append({"name": vm.name, "cutover": {"steps": steps, **vm.entry.get("cutover", {})}})
        text = wave_text(wave, shape, servers=entries, cutover={"ami": "register", **settings})
        (dags / "waves" / f"{wave}.yaml").write_text(text)
