from __future__ import annotations
from typing import Any
import pytest
pytestmark = pytest.mark.airflow

def test_full(world: Any) -> None:
    import time
    t=time.time()
    run = world.trigger("full")
    state = run.wait()
    print(run.describe(), time.time()-t, flush=True)
    print(run.report())
    for row in run.rows(): print(row["task_id"], row["map_index"], row["rendered_map_index"], row["start_date"], row["duration"])
    assert state == "success"
    breakpoint_file = world.dags.parent / "hold"
