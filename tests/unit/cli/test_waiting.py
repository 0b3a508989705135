"""What a command shows while it waits for a DAG run, and how it bears what happens meanwhile."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
import urllib3
from rich.console import Console
from tests.unit.cli.test_output import is_visible

from wavelift.airflow import rest
from wavelift.airflow.rest import UNDER_WAY, ApiClient, ApiError
from wavelift.base.times import zone_of
from wavelift.base.tries import FAILURE_KEY
from wavelift.cli import connect, wave
from wavelift.cli.watch import GONE_SECONDS, INTERRUPTED, OUTAGE_SECONDS, Waiting, wait
from wavelift.console.answers import RunStarted
from wavelift.rules.conf import MigrateConf

pytestmark = pytest.mark.unit

DAG, RUN = "shop.migrate", "manual__1"
Step = Callable[["Airflow"], None]
REFUSED = urllib3.exceptions.NewConnectionError(
    urllib3.connection.HTTPConnection("airflow"), "Failed: [Errno 111] Connection refused"
)


class Airflow:
    """Airflow's API on the wire. The test's steps change it, one before each look; the clock goes with them."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = iter(steps)
        self.now = 0.0
        self.run: str | None = "running"
        self.paused: bool | None = False
        self.tasks: list[dict[str, Any]] = []
        self.left: dict[str, Any] = {}
        self.found: Any = None
        self.away: Exception | None = None
        self.scheduler = "healthy"
        self.unpaused: list[str] = []
        self.file: dict[str, Any] | None = None
        self.held = 0
        """Runs of the DAG that have not ended."""
        self.answers: dict[str, tuple[int, Any]] = {}
        """Of further paths."""
        self.refuses: tuple[int, Any] | None = None
        """Its answer to everything."""
        self.again = False
        """The next question after the run's state belongs to the same look: nothing is under way."""

    def request(self, method: str, url: str, *, body: str | None = None, **_: Any) -> urllib3.BaseHTTPResponse:
        path = urlsplit(url).path
        if method == "GET" and path.endswith(f"/dagRuns/{RUN}"):
            if not self.again:
                next(self.steps, lambda _: None)(self)
            self.again = False
        if self.away:
            raise self.away
        status, answer = (
            self.refuses or self.answers.get(path) or self._answer(method, path, parse_qs(urlsplit(url).query))
        )
        return urllib3.HTTPResponse(json.dumps(answer).encode(), {}, status)

    def _answer(self, method: str, path: str, asked: dict[str, list[str]]) -> tuple[int, Any]:
        if path.endswith("/taskInstances"):
            assert set(asked["state"]) == set(UNDER_WAY), "a run of 150 servers has 1,350 tasks"
            self.again = not self.tasks and not self.paused
            return 200, {"task_instances": self.tasks, "total_entries": len(self.tasks)}
        if path.endswith(f"/xcomEntries/{FAILURE_KEY}"):
            return (200, {"value": json.dumps(self.left)}) if self.left else (404, {})
        if path.endswith("/xcomEntries/return_value"):
            return (200, {"value": json.dumps(self.found)}) if self.found is not None else (404, {})
        if path.endswith(f"/dagRuns/{RUN}"):
            return (200, {"state": self.run}) if self.run else (404, {"detail": "no such run"})
        if path.endswith("/dagRuns"):
            return 200, {"dag_run_id": RUN, "total_entries": self.held}
        if path == f"/api/v2/dags/{DAG}":
            if method == "PATCH":
                self.paused = False
                self.unpaused.append(DAG)
            elif self.paused is None:
                next(self.steps, lambda _: None)(self)
            return (404, {}) if self.paused is None else (200, {"is_paused": self.paused})
        if path == "/wavelift/waves/shop":
            return (200, self.file) if self.file else (403, {"detail": "You may not read shop.migrate"})
        assert path == "/api/v2/monitor/health", path
        return 200, {"scheduler": {"status": self.scheduler}}


def task(name: str, state: str, **more: Any) -> Step:
    """At the next look this task is under way, alone."""
    found = {"task_id": name, "map_index": -1, "state": state, "queue": "default", "try_number": 1, **more}

    def step(airflow: Airflow) -> None:
        airflow.tasks = [found]

    return step


def after(seconds: float, step: Step = lambda _: None) -> Step:
    def later(airflow: Airflow) -> None:
        airflow.now += seconds
        step(airflow)

    return later


def ends(state: str) -> Step:
    def step(airflow: Airflow) -> None:
        airflow.run, airflow.tasks, airflow.away = state, [], None

    return step


def change(**fields: Any) -> Step:
    return lambda airflow: vars(airflow).update(fields)


class Stand:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.out = io.StringIO()

    def api(self, *steps: Step) -> tuple[ApiClient, Airflow]:
        airflow = Airflow(list(steps))
        client = ApiClient("https://airflow", lambda: "token")
        self.patch.setattr(client, "_pool", airflow)
        clock = SimpleNamespace(monotonic=lambda: airflow.now, sleep=lambda _: None)
        for module in (rest, wave):
            self.patch.setattr(module, "time", clock)
        return client, airflow

    def wait(self, *steps: Step, **more: Any) -> str:
        client, airflow = self.api(*steps)
        out = Console(file=self.out, width=80)
        return wait(client, DAG, RUN, timeout=10_000, out=out, clock=lambda: airflow.now, **more)

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    with monkeypatch.context() as patch:
        yield Stand(patch)


def test_a_pipe_gets_one_line_per_change(stand: Stand) -> None:
    local = datetime(2026, 12, 1, 14, 3, 20).astimezone()
    again, zone = local.isoformat(), zone_of(local)
    failed = {"what": "vCenter refused", "try": 1, "of": 3, "next_try_at": again}
    state = stand.wait(
        change(run="queued"),
        task("admit", "queued"),
        task("admit", "queued"),
        change(run="running", tasks=[]),
        task("preflight", "scheduled", queue="datacenter1"),
        task("preflight", "queued", queue="datacenter1"),
        task("preflight", "running", queue="datacenter1"),
        change(left=failed),
        task("preflight", "up_for_retry", queue="datacenter1"),
        task("preflight", "running", queue="datacenter1", try_number=2),
        ends("success"),
    )
    assert state == "success"
    assert stand.lines == [
        "shop.migrate, run manual__1",
        "the run is queued",
        "admit: queued",
        "preflight on queue datacenter1: queued",
        "preflight: running",
        f"preflight: failed, tries again at 14:03:20 {zone} (try 2 of 3): vCenter refused",
        "preflight: running (try 2)",
    ]


@pytest.mark.parametrize(
    ("step", "scheduler", "words"),
    [
        (
            task("preflight", "queued", queue="datacenter1"),
            "healthy",
            "preflight waits for a worker of the queue datacenter1 (30 s): start one with: "
            "airflow celery worker --queues datacenter1",
        ),
        (task("admit", "queued"), "healthy", "none serves Airflow's default queue, or all are busy"),
        (task("admit", "queued"), "unhealthy", "Airflow's scheduler does not run"),
        (task("admit", "scheduled", pool="default_pool"), "healthy", "pool default_pool is full"),
        (task("admit", "scheduled", pool="default_pool"), "unhealthy", "Airflow's scheduler does not run"),
        (change(run="queued"), "healthy", "max_active_runs"),
        (change(run="queued"), "unhealthy", "Airflow's scheduler does not run"),
        (change(run="running"), "healthy", "nothing of the run has begun for 30 s: the scheduler is busy"),
    ],
)
def test_what_does_not_begin_for_long_is_told_with_what_is_missing(
    stand: Stand, step: Step, scheduler: str, words: str
) -> None:
    stand.wait(change(scheduler=scheduler), step, after(29), after(2), after(10), ends("success"))
    told = [line for line in stand.lines if "(30 s)" in line or "for 30 s" in line]
    assert len(told) == 1, "once, not at every look"
    assert words in told[0]


def test_a_long_wait_gets_few_lines(stand: Stand) -> None:
    looks = [after(1) for _ in range(3600)]
    stand.wait(task("preflight", "queued", queue="dc1"), *looks, ends("success"))
    ages = [line.partition("(")[2].partition(")")[0] for line in stand.lines if "waits for a worker" in line]
    assert ages == [f"{seconds} s" for seconds in (30, 60, 120, 240, 480, 960, 1920)]


def test_a_paused_dag_is_told_at_once_and_waited_for(stand: Stand) -> None:
    steps = [change(paused=True, run="queued"), after(1), after(20, change(paused=False)), task("admit", "running")]
    assert stand.wait(*steps, ends("success")) == "success"
    assert stand.lines[1].startswith("shop.migrate is paused: nothing starts until it is unpaused (")
    assert stand.lines[2:] == ["the run is queued", "admit: running"]


def test_a_restart_of_airflow_is_borne(stand: Stand) -> None:
    steps = [task("admit", "running"), change(away=REFUSED), *(after(30) for _ in range(9)), ends("success")]
    assert stand.wait(*steps) == "success"
    [line] = [line for line in stand.lines if "No answer" in line]
    assert line == "No answer from https://airflow: Failed: [Errno 111] Connection refused; waits up to 5 min for it"


def test_an_airflow_that_stays_away_ends_the_wait(stand: Stand) -> None:
    with pytest.raises(ApiError, match="No answer from https://airflow"):
        stand.wait(task("admit", "running"), change(away=REFUSED), after(OUTAGE_SECONDS), after(1), ends("success"))


def test_outages_are_counted_each_for_itself(stand: Stand) -> None:
    once = [change(away=REFUSED), after(OUTAGE_SECONDS), change(away=None)]
    assert stand.wait(task("admit", "running"), *once, *once, *once, ends("success")) == "success"


def test_a_run_that_was_deleted_is_told(stand: Stand) -> None:
    with pytest.raises(ApiError, match="run manual__1 was deleted in Airflow"):
        stand.wait(task("admit", "running"), change(run=None), after(GONE_SECONDS), after(1))
    assert "shop.migrate, run manual__1 is not there; looks again" in stand.lines


def test_a_right_that_was_taken_away_ends_the_wait_at_once(stand: Stand) -> None:
    client, airflow = stand.api(task("admit", "running"))
    stand.patch.setattr(airflow, "_answer", lambda *_: (403, {"detail": "Forbidden"}))
    with pytest.raises(ApiError, match="lack the right"):
        wait(client, DAG, RUN, timeout=1, out=Console(file=stand.out))


def test_ctrl_c_ends_the_wait_alone(stand: Stand) -> None:
    def interrupt(_: Airflow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as left:
        stand.wait(task("admit", "running"), interrupt, afterwards=["stop web01 alone: wavelift runs cancel run-1"])
    assert left.value.exit_code == INTERRUPTED
    assert stand.lines[-3:] == [
        "no longer waiting; shop.migrate, run manual__1 goes on",
        "look at it, or stop it (mark it as failed): https://airflow/dags/shop.migrate/runs/manual__1",
        "stop web01 alone: wavelift runs cancel run-1",
    ]


def test_a_live_table_is_not_written_over(stand: Stand) -> None:
    shows: list[int] = []
    stand.wait(task("admit", "running"), change(away=REFUSED), after(9), ends("success"), show=lambda: shows.append(1))
    assert len(shows) == 2
    assert [line.partition(":")[0] for line in stand.lines] == ["No answer from https"]


def test_a_terminal_gets_one_place_that_is_redrawn(stand: Stand) -> None:
    client, _ = stand.api(task("admit", "running"), task("preflight", "running"), ends("success"))
    wait(client, DAG, RUN, timeout=9, out=Console(file=stand.out, force_terminal=True, width=80))
    written = stand.out.getvalue()
    assert "admit: running" not in written.splitlines()
    assert "\x1b[2K" in written, "the line is cleared at the end"


def test_many_tasks_at_a_time_are_few_lines(stand: Stand) -> None:
    client, airflow = stand.api()
    for index in range(150):
        one = {
            "task_id": "server.reserve",
            "map_index": index,
            "state": "deferred",
            "rendered_map_index": f"web{index}",
        }
        airflow.tasks.append(one)
    lines = Waiting(client, DAG, RUN).lines()
    assert lines[0] == "server.reserve of web0: waits for a slot"
    assert (len(lines), lines[-1]) == (6, "and 145 more tasks")


def test_names_and_reasons_steer_no_terminal(stand: Stand) -> None:
    odd = "\x1b[2J\nfoo"
    stand.wait(
        change(left={"what": odd}),
        task(odd, "up_for_retry", map_index=3, rendered_map_index=odd),
        task(odd, "queued", queue=odd),
        after(31),
        ends("success"),
    )
    assert is_visible(stand.out.getvalue())
    assert len(stand.lines) == 4


# What the commands build on it


def test_what_a_command_unpauses_is_told(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    client, airflow = stand.api(ends("success"))
    airflow.paused = True
    connect.wake(client, DAG, "")
    connect.wake(client, DAG, "")
    assert airflow.unpaused == [DAG]
    assert capsys.readouterr() == ("", "shop.migrate was paused; it is unpaused now\n")


def test_standard_output_is_for_the_result_alone(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    client, _ = stand.api(task("admit", "running"), ends("success"))
    assert connect.ended(client, RunStarted(dag_id=DAG, dag_run_id=RUN)).state == "success"
    told = capsys.readouterr()
    assert (told.out, told.err.splitlines()) == ("", ["shop.migrate, run manual__1", "admit: running"])


FILE = {"wave": "shop", "dag_id": DAG, "loaded": False, "problem": "", "within_s": 30}


def test_a_valid_file_is_waited_for_until_airflow_has_loaded_it(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    client, airflow = stand.api(after(10), after(10), after(10, change(paused=True)))
    airflow.paused, airflow.file = None, FILE
    wave.await_wave(client, "shop", DAG)
    assert capsys.readouterr().err == (
        "The file of shop is valid; Airflow has not loaded it yet, it does so every 30 s\n"
    )


def test_apply_unpauses_a_dag_that_airflow_loads_only_now(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The replication was added to the file a moment ago."""
    change_ = {"server": "web01", "job_id": "job-1", "kind": "create", "fields": {}}
    applied = {"wave": "shop", "dry_run": False, "changes": [change_], "unbound": [], "clashes": []}
    client, airflow = stand.api(after(10), after(10, change(paused=True)))
    airflow.paused, airflow.file = None, FILE
    airflow.answers["/wavelift/waves/shop/apply"] = 200, {**applied, "dag_id": DAG, "dag_paused": None}
    monkeypatch.setattr(wave, "client", lambda: client)
    wave.apply("shop", awake=True)
    assert airflow.unpaused == [DAG]
    said = capsys.readouterr()
    assert (
        "Airflow has not loaded it yet, it does so every 30 s\nshop.migrate was paused; it is unpaused now" in said.err
    )
    assert "is paused" not in said.out
    assert "nothing runs" not in said.out


def test_tasks_of_servers_that_a_table_shows_are_told_only_when_they_wait_for_long(stand: Stand) -> None:
    client, airflow = stand.api(*(after(0) for _ in range(9)))
    now = {"map_index": 1, "queue": "dc1", "try_number": 1}
    airflow.tasks = [{"task_id": "server.record", "state": "queued", **now}]
    airflow.found = [{"name": "web01"}, {"name": "db01"}]
    waiting = Waiting(client, DAG, RUN, clock=lambda: airflow.now, servers_shown=True)
    assert waiting.lines() == []
    airflow.now += 31
    [line] = waiting.lines()
    assert line.startswith("server.record of db01 waits for a worker of the queue dc1 (30 s)")
    airflow.tasks = [{"task_id": "report", "state": "running", **now, "map_index": -1}]
    assert waiting.lines() == ["report: running"]


@pytest.mark.parametrize("found", [None, "x", [1], [{"name": "web01"}], {"name": "web01"}])
def test_a_server_that_nothing_names_is_told_by_its_place(stand: Stand, found: Any) -> None:
    client, airflow = stand.api(after(0))
    airflow.tasks = [{"task_id": "server.record", "state": "running", "map_index": 1, "queue": "dc1", "try_number": 1}]
    airflow.found = found
    assert Waiting(client, DAG, RUN, clock=lambda: airflow.now).lines() == ["server.record of 1: running"]


def test_a_file_that_airflow_never_loads_is_not_waited_for_for_ever(stand: Stand) -> None:
    client, airflow = stand.api(*(after(30) for _ in range(9)))
    airflow.paused, airflow.file = None, FILE
    with pytest.raises(ApiError, match=r"No wave shop: .*import errors .* DAG processor"):
        wave.await_wave(client, "shop", DAG)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({**FILE, "problem": "waves/shop.yaml:3: servers: must be a list"}, "waves/shop.yaml:3: servers"),
        ({**FILE, "problem": "There is no file shop.yaml in the folder of the waves"}, "no file shop.yaml"),
        (None, "wave validate FILE"),
    ],
)
def test_a_wave_that_airflow_does_not_know_is_told_at_once_with_its_file(stand: Stand, file: Any, words: str) -> None:
    client, airflow = stand.api()
    airflow.paused, airflow.file = None, file
    with pytest.raises(ApiError, match=r"^No wave shop: Airflow has no DAG shop\.migrate\. ") as told:
        wave.await_wave(client, "shop", DAG)
    assert words in str(told.value)


def test_a_login_that_does_not_count_is_not_told_as_a_wave_without_a_dag(stand: Stand) -> None:
    client, airflow = stand.api()
    airflow.refuses = (401, {"detail": "Token Expired"})
    with pytest.raises(ApiError, match="not logged in: "):
        wave.report_of(client, "shop", MigrateConf(mode="plan"))
    airflow.refuses = (503, {"detail": "starting"})
    with pytest.raises(ApiError, match="starting"):
        wave.await_wave(client, "shop", DAG)


def test_a_plan_whose_run_failed_otherwise_says_why(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pre-flight found nothing wrong: without this, the last words were "ready"."""
    client, airflow = stand.api()
    airflow.left = {"what": "the ledger does not answer"}
    ended = connect.EndedRun(client, DAG, RUN, "failed")
    monkeypatch.setattr(wave, "report_of", lambda *_: ({"wave": "shop", "servers": [{"name": "web01"}]}, ended))
    monkeypatch.setattr(wave, "client", lambda: client)
    with pytest.raises(typer.Exit) as left:
        wave.run_mode("shop", "preflight", None, verbose=False, as_json=False)
    assert left.value.exit_code == 1
    assert capsys.readouterr().err == f"run {RUN} of {DAG} ended as failed: the ledger does not answer\n"


def test_a_plan_lets_no_run_go_on_that_a_paused_dag_holds(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    client, airflow = stand.api()
    airflow.paused, airflow.held = True, 1
    with pytest.raises(ApiError, match=r"shop\.migrate is paused; 1 run of it waits and would go on .* web UI"):
        wave.report_of(client, "shop", MigrateConf(mode="plan"))
    assert airflow.unpaused == []
    connect.wake(client, DAG, "no such DAG", asked=True)
    assert airflow.unpaused == [DAG], "the user asked for it"
    assert "it is unpaused now" in capsys.readouterr().err


@pytest.mark.parametrize(("held", "unpaused"), [(0, [DAG]), (1, [DAG]), (2, []), (9, [])])
def test_a_command_whose_run_is_not_the_only_one_waits_for_a_person(
    stand: Stand, capsys: pytest.CaptureFixture[str], held: int, unpaused: list[str]
) -> None:
    client, airflow = stand.api(ends("success"))
    airflow.paused, airflow.held = True, held
    airflow.answers["/wavelift/cleanup"] = 200, {"dag_id": DAG, "dag_run_id": RUN, "dag_paused": True}
    assert connect.run_by(client, "/wavelift/cleanup", {}).state == "success"
    assert airflow.unpaused == unpaused
    assert ("would go on if it were unpaused" in capsys.readouterr().err) is (not unpaused)
