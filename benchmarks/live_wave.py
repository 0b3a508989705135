"""The cost of a wave that HCX migrates: CPU of a real Airflow per server, from the trigger of ``<wave>.live`` to its
report, and the calls that the simulated HCX got. The CPU of the simulators is not counted.

HCX switches the servers over one after the other; each is verified in both vCenters afterwards.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks import harness
from benchmarks.live_follow import QUERY, two_sites, wave_of
from benchmarks.wave_overhead import ROOT, run
from wavelift.cli.local_airflow import LocalAirflow
from wavelift.cli.simulators import Stage

SERVERS: Final = 50
POLL_S: Final = 5


def lay_out(dags: Path, environment: dict[str, Any], wave: dict[str, Any]) -> None:
    for folder in ("waves", "environments", "networks"):
        (dags / folder).mkdir(parents=True)
    # Nobody but Airflow's own user asks here.
    (dags / "environments" / "sites.yaml").write_text(yaml.safe_dump({**environment, "vcenter_check": "off"}))
    (dags / "waves" / "sites.yaml").write_text(yaml.safe_dump(wave, sort_keys=False))
    shutil.copy(ROOT / "dags" / "waves.py", dags)


def measure(folder: Path, servers: int, sync_s: float) -> dict[str, Any]:
    with two_sites(folder, servers, base_sync_seconds=sync_s, switchover_seconds=0.5) as (source, sites):
        lay_out(folder / "dags", *wave_of(sites, servers))
        settings = {
            **Stage(vcenter=source, sites=sites).connections(),
            "AIRFLOW__WAVELIFT__POLL_SECONDS": str(POLL_S),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'home' / 'airflow.db'}?timeout=60",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        with LocalAirflow(folder / "home", folder / "dags", settings) as airflow:
            airflow.migrate()
            airflow.start()
            airflow.wait_for_dag("sites.live")
            sites.hcx.reset_counters()
            found = run(airflow, "sites.live", servers, {"mode": "migrate"})
            calls = {name: told["calls"] for name, told in sites.hcx.counters().items()}
            return {**found, "queries": calls.get(QUERY, 0), "calls": sum(calls.values())}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--sync-seconds", type=float, default=60.0, help="of the simulated replication")
    options = parser.parse_args()
    with harness.workspace(options) as folder:
        found = measure(folder, options.servers, options.sync_seconds)
    params = {"servers": options.servers, "sync_s": options.sync_seconds, "poll_s": POLL_S}
    print(json.dumps({"bench": "live_wave", "params": params, **found}), flush=True)


if __name__ == "__main__":
    main()
