"""A triggerer that follows 100 migrations of HCX, of two runs, for ten intervals of two seconds: calls, CPU and memory.

``ours`` is the triggers of two tasks in one event loop, as a triggerer runs them. The peer asks for each migration by
itself (the same client, in threads). The simulated HCX counts ``calls_per_interval``; every replication goes on for all
the while. The limits are the number of calls, and the CPU relative to the peer's.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import harness
from wavelift.base.run import DagRun, MemoryCheckpoints, RunContext
from wavelift.base.units import MIB
from wavelift.cli.simulated_sites import EXTENDED, NETWORK, Sites, on_network, start_sites
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.hcx_wave import HcxWave
from wavelift.rules.live_plans import resolve_live
from wavelift.simulators.vcenter import SimDisk, SimVm
from wavelift.simulators.vcenter import start as start_vcenter

MIGRATIONS: Final = 100
RUNS: Final = 2
INTERVAL_S: Final = 2.0
INTERVALS: Final = 10
CONNECTION: Final = "hcx_demo"
PEER: Final = "one call each"
QUERY: Final = "hcx.Query"


def ours(ids: list[str]) -> None:
    from wavelift.airflow.triggers.hcx import HcxFollowTrigger

    share = len(ids) // RUNS
    triggers = [
        HcxFollowTrigger(
            hcx_conn_id=CONNECTION, migration_ids=ids[at : at + share], poll_seconds=INTERVAL_S, within_seconds=3600.0
        )
        for at in range(0, len(ids), share)
    ]

    async def watch() -> None:
        async def wait(trigger: HcxFollowTrigger) -> object:
            return (await anext(trigger.run())).payload

        tasks = [asyncio.create_task(wait(trigger)) for trigger in triggers]
        await asyncio.sleep(INTERVAL_S * INTERVALS)
        ended = [task.result() for task in tasks if task.done()]
        assert not ended, f"{len(ended)} triggers fired, the first with {ended[0]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    _measured(watch)


def each_its_own(ids: list[str]) -> None:
    from wavelift.adapters.hcx.mobility import query_many
    from wavelift.airflow.hooks.hcx import HcxHook

    async def watch() -> None:
        with HcxHook(CONNECTION).get_conn() as client:

            async def one(id: str) -> None:
                while True:
                    await asyncio.to_thread(query_many, client, [id])
                    await asyncio.sleep(INTERVAL_S)

            tasks = [asyncio.create_task(one(id)) for id in ids]
            await asyncio.sleep(INTERVAL_S * INTERVALS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    _measured(watch)


def _measured(watch: Any) -> None:
    idle, before = harness.peak_mib(), sum(os.times()[:2])
    asyncio.run(watch())
    spent = sum(os.times()[:2]) - before
    per_query = 1000 * spent / INTERVALS / MIGRATIONS
    harness.report_job(watching_cpu_s=spent, cpu_ms_per_vm_and_interval=per_query, added_mib=harness.peak_mib() - idle)


def job(who: str, order: str) -> None:
    told = json.loads(Path(order).read_text())
    os.environ |= told["connections"]
    (ours if who == "ours" else each_its_own)(told["ids"])


def servers(count: int) -> list[SimVm]:
    """Running servers on the network that is extended."""
    vms = [
        SimVm(f"app{number:03}", [SimDisk(capacity=MIB)], folder="shop", ip=f"192.0.2.{10 + number}")
        for number in range(count)
    ]
    return on_network(vms, segment=True)


@contextmanager
def two_sites(folder: Path, count: int, **settings: float) -> Iterator[tuple[Any, Sites]]:
    """The source's vCenter, and the rest. :param settings: of the simulated HCX."""
    with ExitStack() as stack:
        source = stack.enter_context(start_vcenter(folder / "vcenter", servers(count)))
        sites = start_sites(stack, folder, source, hcx=True, nsx=True)
        sites.hcx.settings(**settings)
        yield source, sites


def wave_of(sites: Sites, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contents of the files of the environment and of a wave of so many servers."""
    files = sites.files("sites", users=("admin",))
    environment, wave = files["environments/sites.yaml"], files["waves/sites.yaml"]
    target = {"networks": {NETWORK: EXTENDED}}
    return environment, {**wave, "target": target, "servers": [vm.name for vm in servers(count)], "approve": "none"}


def started(sites: Sites, connections: Mapping[str, str]) -> list[str]:
    """Ids of the migrations of one group, as a run starts it."""
    os.environ |= connections
    from wavelift.airflow.hooks.hcx import HcxHook
    from wavelift.airflow.hooks.vsphere import VsphereHook
    from wavelift.services.dataplane.hcx_migrate import start
    from wavelift.services.dataplane.hcx_preflight import preflight
    from wavelift.services.dataplane.live_messages import LiveOrder

    environment, wave = wave_of(sites, MIGRATIONS)
    resolved = resolve_live(HcxWave.load(wave), HcxEnvironment.load(environment))
    nobody: Any = None  # no other run is asked about
    run = DagRun("sites.live", "bench")
    ctx = RunContext(run, "*", checkpoints=MemoryCheckpoints(), requester="bench", liveness=nobody)
    with (
        HcxHook(CONNECTION).get_conn() as hcx,
        VsphereHook("vsphere_demo").session() as source,
        VsphereHook("vsphere_demo_destination").session() as destination,
    ):
        report = preflight(resolved, hcx=hcx, source=source, destination=destination, ctx=ctx)
        order = LiveOrder(wave="sites", manager=report.manager, group_name="wavelift-bench", tasks=report.tasks)
        return [one.migration_id for one in start(order, hcx=hcx, ctx=ctx).servers]


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    with (
        harness.workspace(options) as folder,
        two_sites(folder, MIGRATIONS, base_sync_seconds=36_000.0) as (source, sites),
    ):
        from wavelift.cli.simulators import Stage

        connections = Stage(vcenter=source, sites=sites).connections()
        order = folder / "order.json"
        order.touch(mode=0o600)
        order.write_text(json.dumps({"ids": started(sites, connections), "connections": connections}))

        def contender(name: str, who: str) -> harness.Contender:
            return harness.Contender(
                name,
                harness.job_command("benchmarks.live_follow", who, order),
                before=sites.hcx.reset_counters,
                check=lambda: {"calls_per_interval": _calls(sites.hcx) / INTERVALS},
            )

        harness.compare(
            "live_follow",
            ours=contender("ours", "ours"),
            peers=[contender(PEER, "each")],
            data_bytes=0,
            params={"migrations": MIGRATIONS, "runs_of_a_dag": RUNS, "interval_s": INTERVAL_S, "intervals": INTERVALS},
            runs=options.runs,
            limits=_limits,
            cpu="watching_cpu_s",
        )


def _calls(hcx: Any) -> int:
    return int(hcx.counters().get(QUERY, {}).get("calls", 0))


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    ours = result["ours"]
    return [
        # Two tasks that begin a moment apart need one query more.
        harness.Limit("queries per interval and manager", ours["calls_per_interval"], at_most=1 + 2 / INTERVALS),
        harness.Limit(f"CPU / {PEER}", ours["ratio_to_peer"][PEER], at_most=1),
    ]


if __name__ == "__main__":
    main()
