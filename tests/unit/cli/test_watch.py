"""The live table: what a person sees of a run, from what Airflow's REST API says."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console

from wavelift.airflow.rest import ApiClient
from wavelift.base.rates import RateMeter, TransferProgress
from wavelift.base.run import Progress
from wavelift.base.tries import FailedTry
from wavelift.cli.watch import Row, Watch, live_view, shown, table

pytestmark = pytest.mark.unit
MIB = 1 << 20


class FakeApi:
    """What Airflow would answer; the test moves it on."""

    def __init__(self) -> None:
        self.servers: list[dict[str, Any]] | None = None
        self.states: dict[tuple[str, int], str | None] = {("admit", -1): "running"}
        self.moved: dict[tuple[str, int], dict[str, int]] = {}
        self.meters: dict[tuple[str, int], RateMeter] = {}
        self.now = 0.0
        self.left = FailedTry()
        self.asked_why = 0
        self.silent: float | None = None
        """When the last heartbeat was; None: they go on."""

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return [{"task_id": task, "map_index": index, "state": state} for (task, index), state in self.states.items()]

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        return self.servers

    def failed_try(self, dag_id: str, run_id: str, task_id: str, *, map_index: int) -> FailedTry:
        self.asked_why += 1
        return self.left

    def progress(self, dag_id: str, run_id: str, task_id: str, *, map_index: int) -> TransferProgress | None:
        """As the task's heartbeat writes it."""
        moved = self.moved.get((task_id, map_index))
        if not moved:
            return None
        beat = self.now if self.silent is None else self.silent
        meter = self.meters.setdefault((task_id, map_index), RateMeter())
        disks = {disk: Progress("", disk, "export", done, 0) for disk, done in moved.items()}
        stored = TransferProgress.stored(disks, meter.rate(beat, sum(moved.values())))
        return TransferProgress.load(stored, age=self.now - beat)

    def find(self, **sizes: list[int]) -> None:
        self.servers = [
            {"name": name, "bytes": sum(disks), "task": "preflight", "place": place}
            for place, (name, disks) in enumerate(sizes.items())
        ]

    def set(self, index: int, **states: str | None) -> None:
        for task, state in states.items():
            self.states[f"server.{task}", index] = state


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def watch(api: FakeApi) -> Watch:
    return Watch(cast(ApiClient, api), "demo.migrate", "run", clock=lambda: api.now)


def test_before_the_servers_are_known_the_wave_s_own_step_shows(api: FakeApi, watch: Watch) -> None:
    assert watch.rows() == [Row("", "admit")]
    api.states["admit", -1] = "success"
    assert watch.rows() == [Row("", "preflight", "queued")]


def test_the_phase_is_the_first_task_that_is_not_through(api: FakeApi, watch: Watch) -> None:
    api.find(web01=[MIB], db01=[MIB], win01=[MIB])
    api.set(0, reserve="deferred")
    api.set(1, reserve="success", snapshot="failed", export="upstream_failed")
    through = dict.fromkeys(("reserve", "snapshot", "export", "verify", "import_image", "launch"), "success")
    api.set(2, **through, compare="skipped")
    assert [row.words for row in watch.rows()] == ["reserve (waits for a slot)", "snapshot (failed)", "done"]


def test_bytes_are_of_all_disks_and_rate_and_eta_of_the_last_seconds(api: FakeApi, watch: Watch) -> None:
    api.find(db01=[300 * MIB, 100 * MIB])
    api.set(0, reserve="success", snapshot="success", export="running")
    api.moved["server.export", 0] = {"SCSI 0:0": 0}
    assert watch.rows()[0].bytes == "0 B of 400.0 MiB"  # the disk that has not begun counts too
    for now, done in ((10, 10 * MIB), (20, 20 * MIB), (30, 220 * MIB)):
        api.now, api.moved["server.export", 0] = now, {"SCSI 0:0": done - 10 * MIB, "SCSI 1:0": 10 * MIB}
        [row] = watch.rows()
    assert (row.bytes, row.speed, row.eta) == ("220.0 MiB of 400.0 MiB", "20.0 MiB/s", "9 s")


def test_a_transfer_that_falls_silent_has_no_rate_after_ten_seconds(api: FakeApi, watch: Watch) -> None:
    api.find(web01=[400 * MIB])
    api.set(0, reserve="success", snapshot="success", export="running")
    for now, done in ((0, 0), (10, 100 * MIB)):
        api.now, api.moved["server.export", 0] = now, {"d": done}
        watch.rows()
    api.now, api.moved["server.export", 0] = 12, {"d": 120 * MIB}
    assert [(row.speed, row.eta) for row in watch.rows()] == [("10.0 MiB/s", "28 s")]
    api.now, api.silent = 23, 12.0
    assert [(row.bytes, row.speed, row.eta) for row in watch.rows()] == [("120.0 MiB of 400.0 MiB", "", "")]


def test_a_new_try_s_rate_is_not_negative(api: FakeApi, watch: Watch) -> None:
    api.find(web01=[400 * MIB])
    api.set(0, reserve="success", snapshot="success", export="running")
    for now, done in ((0, 0), (10, 200 * MIB), (12, 0), (14, 20 * MIB)):
        api.now, api.moved["server.export", 0] = now, {"d": done}
        [row] = watch.rows()
    assert row.speed == "10.0 MiB/s"


def test_a_log_gets_a_line_per_change_and_no_control_characters(api: FakeApi, watch: Watch) -> None:
    text = io.StringIO()
    with shown(watch, Console(file=text, width=80)) as show:
        show()
        api.find(web01=[400 * MIB])
        api.set(0, reserve="success", snapshot="success", export="running")
        for tick in range(12):
            api.now = tick / 2
            api.moved["server.export", 0] = {"d": tick * 10 * MIB}
            show()
        api.set(0, export="success", verify="queued")
        show()
        api.set(0, verify="running")
        show()
    lines = text.getvalue().splitlines()
    assert len(lines) == 5  # admit, export at 0, 2 and 4 s, verify: not one per look, and nothing of the queue
    assert " ".join(lines[2].split()) == "2 s web01 export 40.0 MiB of 400.0 MiB 20.0 MiB/s ETA 18 s"
    assert "\x1b" not in text.getvalue()


def test_the_table_fits_eighty_columns(api: FakeApi) -> None:
    text = io.StringIO()
    rows = [
        Row("production-db01", "export", "", 500 << 30, 600 << 30, 80 * MIB),
        Row("web01", "import_image", failed=FailedTry(what="why", number=1, of=4)),
    ]
    Console(file=text, width=80).print(table(rows, "demo.migrate"))
    assert "500.0 GiB of 600.0 GiB  80.0 MiB/s  21 min" in text.getvalue()
    assert "…" not in text.getvalue()


def test_a_retry_is_told_with_its_reason_which_is_asked_for_once(api: FakeApi, watch: Watch) -> None:
    api.find(web01=[MIB])
    api.set(0, reserve="success", snapshot="up_for_retry")
    assert [row.words for row in watch.rows()] == ["snapshot: failed, tries again"]
    api.left = FailedTry(what="vCenter refused", number=1, of=4)
    for _ in range(3):
        [row] = watch.rows()
        assert row.words == "snapshot: failed, tries again (try 2 of 4): vCenter refused"
    assert api.asked_why == 2, "again, while nothing was left; never after"


def test_a_reason_is_told_below_the_table() -> None:
    text = io.StringIO()
    rows = [
        Row("", "preflight: running"),
        Row("web01", "snapshot", failed=FailedTry(what="long words " * 20, number=1, of=4)),
    ]
    Console(file=text, width=80).print(live_view(rows, "shop.replicate"))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert "preflight: running" in lines
    assert any(line.startswith("web01: long words") for line in lines)
