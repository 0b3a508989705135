"""Catalogue of 5,000 VMs, and of 500 for comparison: read from the vCenter simulator by page, merged into SQLite.

The benchmark imports into an empty ledger and then imports the same again. ``calls`` is what the simulator counted for
one reading. ``added_mib`` shows that memory does not grow with the number of VMs. The seconds are of little value,
because the simulator is not a vCenter. There is neither floor nor peer, because no disk is transferred and no public
tool does this. The limits are numbers of calls, and the cost of ten times as many VMs relative to the small catalogue.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks import harness

VMS: Final = 5000
ONE_PAGE: Final = 500


def job(access: str, folder: str) -> None:
    from tests.contexts import run_context

    from wavelift.adapters.vsphere.session import VsphereConfig, connect
    from wavelift.base.catalog import CatalogIndex, CatalogRow
    from wavelift.base.run import CancelFlag, DagRun, SystemClock
    from wavelift.ledger import Ledger
    from wavelift.services.dataplane.catalog import read_catalog
    from wavelift.services.housekeeping.catalog import begin_import, merge_import

    told = json.loads(Path(access).read_text())
    config = VsphereConfig(**told["config"])
    database = Path(folder) / f"{told['vms']}-{time.time_ns()}.db"
    clock = SystemClock()
    with Ledger.open(f"sqlite:///{database}") as ledger, connect(config) as session:
        idle, begun = harness.peak_mib(), time.monotonic()
        seconds: list[float] = []
        for number in range(2):
            run = DagRun("server_catalog", f"run-{number}")
            ticket = begin_import(
                ledger,
                {"connection": "vc"},
                run_context(run, requester="bench", clock=clock),
                connector="default",
            )
            pages = Path(folder) / f"{database.stem}-{number}"
            pages.mkdir()

            # A file per page stands in for its XCom.
            def hand_over(page: int, rows: list[CatalogRow], into: Path = pages) -> None:
                (into / str(page)).write_text(json.dumps([row.dump() for row in rows]))

            def taken(page: int, out_of: Path = pages) -> list[CatalogRow]:
                return [CatalogRow.load(row) for row in json.loads((out_of / str(page)).read_text())]

            index: CatalogIndex = read_catalog(session, hand_over, cancel=CancelFlag())
            summary = merge_import(ledger, ticket, index, taken, run=run, clock=clock)
            assert (summary.servers, summary.new) == (told["vms"], told["vms"] if number == 0 else 0), summary
            seconds.append(time.monotonic() - begun)
            begun = time.monotonic()
        harness.report_job(
            first_import_s=seconds[0],
            second_import_s=seconds[1],
            pages=index.pages,
            largest_page_kib=max(path.stat().st_size for path in pages.iterdir()) / 1024,
            added_mib=harness.peak_mib() - idle,
        )


def _calls(sim: Any, config: dict[str, Any]) -> int:
    """SOAP calls of one reading with its login, as the simulator counts them."""
    from wavelift.adapters.vsphere import catalog as adapter
    from wavelift.adapters.vsphere.session import VsphereConfig, connect

    sim.reset_counters()
    with connect(VsphereConfig(**config)) as session:
        for _page in adapter.pages(session):
            pass
    return sum(int(count) for count in sim.counters()["methods"].values())


def main() -> None:
    from wavelift.simulators import vcenter

    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    with harness.workspace(options) as folder, ExitStack() as stack:
        commands: dict[int, list[str]] = {}
        calls: dict[str, int] = {}
        for vms in (VMS, ONE_PAGE):
            sim = stack.enter_context(vcenter.start(folder / f"vcenter-{vms}", [], extra_vms=vms))
            config = {
                "host": sim.host,
                "port": sim.port,
                "username": sim.username,
                "password": sim.password,
                "ca_bundle": str(sim.ca_file),
            }
            access = folder / f"access-{vms}.json"
            access.write_text(json.dumps({"vms": vms, "config": config}))
            commands[vms] = harness.job_command("benchmarks.catalog_5000", access, folder)
            calls[f"calls_{vms}"] = _calls(sim, config)
        harness.compare(
            "catalog_5000",
            ours=harness.Contender("wavelift", commands[VMS]),
            peers=[],
            variants=[harness.Contender(f"{ONE_PAGE} VMs", commands[ONE_PAGE])],
            data_bytes=0,
            params={"vms": VMS, **calls},
            runs=options.runs,
            limits=_limits,
        )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    many, few = result["ours"], result["variants"][f"{ONE_PAGE} VMs"]
    times = VMS / ONE_PAGE
    return [
        harness.Limit("calls of a reading beyond one a page", _beyond_pages(result, VMS, many), at_most=10),
        harness.Limit("the same of few VMs", _beyond_pages(result, ONE_PAGE, few), at_most=10),
        harness.Limit(f"CPU / {ONE_PAGE} VMs'", many["cpu_s"] / few["cpu_s"], at_most=times),
        harness.Limit(f"MiB added / {ONE_PAGE} VMs'", many["added_mib"] / few["added_mib"], at_most=times / 2),
    ]


def _beyond_pages(result: Mapping[str, Any], vms: int, figures: Mapping[str, Any]) -> float:
    return float(result["params"][f"calls_{vms}"] - figures["pages"])


if __name__ == "__main__":
    main()
