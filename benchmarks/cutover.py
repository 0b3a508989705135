"""Downtime of a demo server, by step, and how near the forecast of its plan was: ten cutovers on a real Airflow.

The server writes, is cut over, and comes back, again and again, in the demo's simulators. The first cutovers are not
judged: a forecast needs some to be made of (``--warm``). The error of a run is that of the plan's P50 against what was
measured, as a share of what was measured. Apart from it, ``within_p90`` tells in how many runs the P90 was kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.harness import Limit
from wavelift.cli.demo import lay_out_dags
from wavelift.cli.demo_cutover import CutoverAct, Journey, lay_out
from wavelift.cli.local_airflow import LocalAirflow
from wavelift.cli.simulators import stage
from wavelift.rules.forecast import P90, quantile

RUNS: Final = 10
WARM: Final = 3
MOST_ERROR: Final = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--warm", type=int, default=WARM, help="cutovers before those that are judged")
    chosen = parser.parse_args()
    out = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="wavelift-bench-") as name:
        folder = Path(name)
        with stage(folder) as running:
            lay_out_dags(folder / "dags", running)
            lay_out(folder / "dags", running)
            settings = {**running.connections(), "AIRFLOW__WAVELIFT__POLL_SECONDS": "1"}
            with LocalAirflow(folder / "airflow", folder / "dags", settings) as airflow:
                airflow.migrate()
                airflow.start()
                act = CutoverAct(out, running, airflow)
                act.seed()
                journeys = [_journey(act, number) for number in range(chosen.warm + chosen.runs)]
    print(json.dumps(told(journeys[chosen.warm :])), flush=True)


def _journey(act: CutoverAct, number: int) -> Journey:
    began = time.monotonic()
    found = act.journey()
    if not found.proven:
        raise RuntimeError(f"cutover {number} was not proven: {found.answers} {found.states} {found.verdict}")
    usual, slow = found.forecast_s
    words = f"cutover {number}: {found.actual_s:.1f} s; forecast {usual:.1f} s, P90 {slow:.1f} s"
    print(f"{words}; {time.monotonic() - began:.0f} s in all", file=sys.stderr, flush=True)
    return found


def told(journeys: Sequence[Journey]) -> dict[str, Any]:
    """The figures, seconds; shares of 1 for errors."""
    actual = [one.actual_s for one in journeys]
    errors = [abs(one.forecast_s[0] - one.actual_s) / one.actual_s for one in journeys]
    kept = sum(one.actual_s <= one.forecast_s[1] for one in journeys)
    steps: dict[str, list[float]] = {}
    for one in journeys:
        for words, seconds in one.steps:
            steps.setdefault(words, []).append(seconds)
    error = quantile(errors, P90)
    slowest = quantile(actual, P90)
    return {
        "bench": "cutover",
        "runs": len(journeys),
        "downtime_s": {"median": round(statistics.median(actual), 1), "p90": round(slowest, 1)},
        "steps_s": {words: round(statistics.median(found), 1) for words, found in steps.items()},
        "error_p90": round(error, 3),
        "error_median": round(statistics.median(errors), 3),
        "p90_error": round(abs(statistics.median(one.forecast_s[1] for one in journeys) - slowest) / slowest, 3),
        "within_p90": kept,
        "each": [
            {
                "actual_s": round(one.actual_s, 1),
                "p50_s": round(one.forecast_s[0], 1),
                "p90_s": round(one.forecast_s[1], 1),
            }
            for one in journeys
        ],
        "limits": [Limit("error_p90", error, at_most=MOST_ERROR).told()],
    }


if __name__ == "__main__":
    main()
