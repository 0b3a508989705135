"""``wavelift jobs``, ``replicate``, ``runs`` and ``wave apply`` against an API of the test's own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.times import zone_of
from wavelift.cli import events, jobs, migrations, replicate, wave
from wavelift.cli.main import app
from wavelift.cli.replicate import RunsWatch

pytestmark = pytest.mark.unit

RUN: dict[str, Any] = {
    "id": "run-0123456789ab",
    "job_id": "job-0123456789ab",
    "wave": "erp",
    "server": "web[01]",
    "type": "OnDemand",
    "state": "Completed",
    "status": "",
    "rule": "",
    "refused_until": None,
    "scheduled_start": None,
    "requested_at": "2026-12-01T10:50:00+00:00",
    "requested_by": "ana",
    "started_at": "2026-12-01T10:50:00+00:00",
    "completed_at": "2026-12-01T11:00:00+00:00",
    "ami_id": "ami-1",
    "ami_state": "available",
    "progress_pct": 100,
    "bytes_done": 0,
    "bytes_total": 0,
    "bytes_read": 3 << 30,
    "bytes_sent": 1 << 20,
    "rate": 5 << 20,
    "duration_s": 600.0,
    "error": "",
    "quarantine": "",
    "cancel_requested": False,
    "dag_id": "erp.replicate",
    "dag_run_id": "on_demand__1",
}
MIGRATION: dict[str, Any] = {
    **dict.fromkeys(("phase", "import_task_id", "image_id", "instance_id", "error"), ""),
    **dict.fromkeys(("progress_pct", "bytes_done", "bytes_total"), 0),
    "id": "mig-0123456789ab",
    "wave": "erp",
    "server": "web[01]",
    "state": "transferring",
    "cancel_requested": False,
    "dag_id": "erp.migrate",
    "dag_run_id": "manual__1",
    "created_at": "2026-12-01T10:50:00+00:00",
    "finished_at": None,
}
JOB: dict[str, Any] = {
    "id": "job-0123456789ab",
    "wave": "erp",
    "server": "web[01]",
    "state": "paused",
    "state_reason": "3 runs failed in a row",
    "seed_at": "2026-12-01T09:00:00+00:00",
    "frequency_hours": 12,
    "next_at": "2026-12-01T21:00:00+00:00",
    "license_type": "auto",
    "description": "shop",
    "keep_amis": None,
    "pause_after_failures": 3,
    "ami": "import",
    "force_register": False,
    "failures": 3,
    "latest_ami_id": "ami-1",
    "current_run": None,
    "first_replication_at": "2026-12-01T09:00:00+00:00",
    "term_ends_at": "2027-03-01T09:00:00+00:00",
    "term_days_left": 90,
    "source": "",
    "identity": "",
    "created_by": "ana",
    "created_at": "2026-12-01T09:00:00+00:00",
    "updated_at": "2026-12-01T09:00:00+00:00",
    "deleted_at": None,
    "dag_id": "erp.replicate",
}
STARTED = {"dag_id": "erp.replicate", "dag_run_id": "on_demand__1", "runs": [{**RUN, "state": "Reserved"}]}
PAGE = {"total": 1, "limit": 50, "offset": 0}
REFUSED = {"detail": "refused: 2 on-demand runs in 24 hours", "rule": "quota", "until": "2026-12-02T09:00:00+00:00"}


class Api:
    """Answers by method and path; remembers what was asked."""

    def __init__(self, answers: dict[str, Any], state: str = "success", xcom: Any = None) -> None:
        self.answers, self.state, self.left = answers, state, xcom
        self.asked: list[tuple[str, Any]] = []
        self.unpaused: list[str] = []
        self.tasks = [{"task_id": "preflight", "map_index": -1, "state": "running", "queue": "dc1"}]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append((f"{method} {path}", body))
        answer = self.answers[f"{method} {path.split('?')[0]}"]
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def unpause(self, dag_id: str) -> None:
        self.unpaused.append(dag_id)

    def wait_for_run(self, dag_id: str, run_id: str, *, every: Callable[[], None] = lambda: None, **_: Any) -> str:
        every()
        return self.state

    def is_paused(self, dag_id: str) -> bool:
        return dag_id not in self.unpaused

    def run_state(self, *_: Any) -> str:
        return "running"

    def task_instances(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return self.tasks

    def xcom(self, *_: Any, **__: Any) -> Any:
        return self.left or {"what": "web[01]: no route"}


Use = Callable[..., Api]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()

    def install(answers: dict[str, Any], state: str = "success", xcom: Any = None) -> Api:
        api = Api(answers, state, xcom)
        for module in (events, jobs, migrations, replicate, wave):
            monkeypatch.setattr(module, "client", lambda: api)
        return api

    return install


@pytest.fixture(autouse=True)
def _zone_again() -> Any:
    yield
    time.tzset()


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_the_audit_trail_is_told_line_by_line(use: Use) -> None:
    event = {"id": 7, "at": "2026-12-01T09:00:00+00:00", "actor": "ana", "action": "replication_job.paused"}
    api = use({"GET /wavelift/events/job-1": {"events": [{**event, "dag_run_id": "", "details": {"to": "paused"}}]}})
    done = call("events", "job-1", "--after", "6")
    assert done.stdout == '7 2026-12-01 10:00 ana: replication_job.paused {"to": "paused"}\nTimes in CET\n'
    assert api.asked[0][0] == "GET /wavelift/events/job-1?limit=200&after=6"


def test_sms_08_the_list_shows_local_times_and_why_a_job_is_paused(use: Use) -> None:
    api = use({"GET /wavelift/jobs": {"jobs": [JOB], **PAGE, "total": 2}})
    done = call("jobs", "list", "--wave", "erp", "--search", "a b")
    assert done.exit_code == 0, done.output
    assert api.asked[0][0] == "GET /wavelift/jobs?wave=erp&search=a+b&limit=50"
    for text in (
        "erp/web[01]",
        "2026-12-01 22:00",
        "Times in CET",
        "every 12 h",
        "ami-1",
        "90 days left",
        "failed in a row",
    ):
        assert text in done.stdout, text
    assert "--offset 1 for more" in done.stdout
    assert json.loads(call("jobs", "list", "--json").stdout)["jobs"][0]["next_at"].endswith("+00:00")


def test_a_job_is_named_by_id_or_by_wave_and_server(use: Use) -> None:
    answers = {"GET /wavelift/jobs": {"jobs": [JOB], **PAGE}, f"GET /wavelift/jobs/{JOB['id']}": JOB}
    use(answers)
    for name in (JOB["id"], "erp/web[01]"):
        done = call("jobs", "show", name)
        assert (done.exit_code, "2027-03-01 10:00" in done.stdout) == (0, True), done.output
    done = call("jobs", "show", "erp/web02")
    assert (done.exit_code, "no replication job for server web02" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("seed", "sent"), [("1796119200", "1796119200"), ("2026-12-01 22:00", "2026-12-01T22:00:00+01:00"), ("now", "now")]
)
def test_sms_03_create_and_update_send_only_what_was_given(use: Use, seed: str, sent: str) -> None:
    """A seed time without offset is of the user's zone: the server knows none, and would refuse it."""
    api = use({"POST /wavelift/jobs": {"jobs": [JOB]}, f"PATCH /wavelift/jobs/{JOB['id']}": JOB})
    done = call("jobs", "create", "erp", "web01", "db01", "--seed", seed, "--every", "12", "--license", "byol")
    assert "next run 2026-12-01 22:00 CET" in done.stdout, done.output
    assert call("jobs", "update", JOB["id"], "--keep-all", "--pause-after", "0").exit_code == 0
    assert "comes twice" in call("jobs", "update", JOB["id"], "--seed", "2026-10-25 02:30").stderr
    assert [body for _, body in api.asked] == [
        {
            "wave": "erp",
            "servers": ["web01", "db01"],
            "seed_time": sent,
            "frequency_hours": 12,
            "license_type": "byol",
        },
        {"pause_after_failures": 0, "keep_amis": None},
    ]
    assert call("jobs", "create", "erp", "web01", "--every", "11").exit_code == 2
    assert "nothing to change" in call("jobs", "update", JOB["id"]).stderr


def test_pause_resume_extend_and_delete(use: Use) -> None:
    deleted = {
        "job": {**JOB, "state": "deleting"},
        "stopped_tasks": [],
        "cut_short": [RUN["id"]],
        "snapshots": ["snap-1"],
        "manifests": [],
        "dag_id": "erp.replicate",
        "dag_run_id": "manual__1",
        "dag_paused": True,
    }
    path = f"/wavelift/jobs/{JOB['id']}"
    answers = {f"POST {path}/{verb}": JOB for verb in ("pause", "resume", "extend")}
    api = use({**answers, f"DELETE {path}": deleted})
    assert "is paused" in call("jobs", "pause", JOB["id"], "--reason", "freeze").stdout
    assert "next run 2026-12-01 22:00 CET" in call("jobs", "resume", JOB["id"]).stdout
    assert "term ends 2027-03-01" in call("jobs", "extend", JOB["id"], "--days", "30").stdout
    assert [body for _, body in api.asked] == [{"reason": "freeze"}, None, {"days": 30}]
    told = call("jobs", "delete", JOB["id"]).stdout
    for text in ("deleting; its AMIs stay", f"{RUN['id']} was cut short", "to go: snap-1", "manual__1", "is paused"):
        assert text in told, text
    assert f"wavelift jobs delete {JOB['id']} --unpause" in told, "the way out"
    done = call("jobs", "delete", JOB["id"], "--unpause")
    assert ("is paused" in done.stdout, api.unpaused) == (False, ["erp.replicate"])
    assert "erp.replicate was paused; it is unpaused now" in done.stderr


def test_inv_1_verify_tells_what_was_read_back_and_fails_on_a_difference(use: Use) -> None:
    path = f"POST /wavelift/jobs/{JOB['id']}/verify"
    started = {"dag_id": "erp.replicate", "dag_run_id": "manual__1", "runs": [RUN["id"]]}
    verified = [{"server": "web[01]", "blocks_checked": 8, "bytes_read_back": 4 << 20}]
    use({path: started}, xcom=verified)
    done = call("verify", JOB["id"])
    assert (done.exit_code, done.stdout) == (
        0,
        f"web[01] {RUN['id']}: 8 blocks compared, 4.0 MiB read back: no difference\n",
    )
    use({f"POST /wavelift/runs/{RUN['id']}/verify": started}, "failed")
    done = call("verify", RUN["id"])
    assert (done.exit_code, "no route" in done.stderr) == (1, True)
    api = use({path: started, f"GET /wavelift/jobs/{JOB['id']}": JOB}, xcom=verified)
    assert call("verify", JOB["id"], "--unpause").exit_code == 0
    assert api.unpaused == ["erp.replicate"]


def test_sms_08_history_has_every_column_and_the_words_of_what_failed(use: Use) -> None:
    path = f"GET /wavelift/jobs/{JOB['id']}/runs"
    refused = {**RUN, "state": "Refused", "status": "in progress", "refused_until": "2026-12-01T12:00:00+00:00"}
    use({path: {"runs": [RUN, refused, {**RUN, "type": "Cutover"}], **PAGE, "total": 3}})
    done = call("jobs", "history", JOB["id"])
    assert done.exit_code == 0, done.output
    for text in (
        "Cutover",
        "(of a cutover)",
        "(on demand)",
        "OnDemand",
        "Completed",
        "2026-12-01 12:00",
        "ami-1",
        "3.0 GiB",
        "1.0 MiB",
        "5.0 MiB/s",
        "10 min",
    ):
        assert text in done.stdout, text
    assert "in progress; not before 2026-12-01 13:00\n" in done.stdout


def test_sms_06_replicate_watches_to_the_end(use: Use) -> None:
    api = use({"POST /wavelift/waves/erp/replications": STARTED, "GET /wavelift/runs": {"runs": [RUN]}})
    done = call("replicate", "erp", "--server", "web[01]", "--unpause")
    assert (done.exit_code, "ami-1" in done.stdout) == (0, True), done.output
    assert (api.asked[0][1], api.unpaused) == ({"servers": ["web[01]"], "priority": "normal"}, ["erp.replicate"])
    assert "erp.replicate was paused; it is unpaused now" in done.stderr
    assert json.loads(call("replicate", "erp", "--json").stdout)["state"] == "success"
    api.asked.clear()
    assert call("replicate", "erp", "--no-wait").exit_code == 0
    assert len(api.asked) == 1


def test_replicate_fails_when_a_server_did(use: Use) -> None:
    failed = {**RUN, "state": "Failed", "error": "no route"}
    use({"POST /wavelift/waves/erp/replications": STARTED, "GET /wavelift/runs": {"runs": [failed]}}, "failed")
    done = call("replicate", "erp")
    assert (done.exit_code, "no route" in done.stdout, "ended as failed" in done.stderr) == (1, True, True), done.output


def test_air_04_a_refusal_is_words_for_people_and_json_for_programs(use: Use) -> None:
    refusal = ApiError(f"POST … gave 409: {REFUSED['detail']}", status=409, answer=REFUSED)
    api = use({"POST /wavelift/waves/erp/replications": refusal})
    done = call("replicate", "erp")
    assert (done.exit_code, "2 on-demand runs" in done.stderr, done.stdout) == (1, True, "")
    done = call("replicate", "erp", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (1, REFUSED)
    assert len(api.asked) == 2, "never asked twice"


def test_a_refusal_names_each_server_and_its_end_once_in_local_time(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    two = {"rule": "quota", "reason": "2 on-demand runs in 24 hours; the limit is 2", "until": "2026-12-02T09:00:01Z"}
    held = {"rule": "paused", "reason": "its job is paused", "until": None}
    answer = {**REFUSED, "refusals": [{"server": "web01", **two}, {"server": "db01", **held}]}
    use({"POST /wavelift/waves/erp/replications": ApiError(REFUSED["detail"], status=409, answer=answer)})
    try:
        assert call("replicate", "erp").stderr == (
            "No run was started:\n"
            "web01: 2 on-demand runs in 24 hours; the limit is 2; not before 2026-12-02 10:01 CET\n"
            "db01: its job is paused\n"
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_run_is_cancelled(use: Use) -> None:
    path = f"POST /wavelift/runs/{RUN['id']}/cancel"
    use({path: {**RUN, "state": "Active", "stopped_tasks": ["server.transfer"]}})
    assert "being cancelled: server.transfer" in call("runs", "cancel", RUN["id"]).stdout
    use({path: {**RUN, "state": "Expired", "stopped_tasks": []}})
    assert "not counted" in call("runs", "cancel", RUN["id"]).stdout


def test_apply_tells_drift_and_a_paused_dag(use: Use) -> None:
    change = {
        "kind": "update",
        "server": "web[01]",
        "job_id": "job-1",
        "fields": {"keep_amis": {"ledger": 2, "spec": 3}},
    }
    answer = {
        "wave": "erp",
        "dry_run": True,
        "changes": [change, {"kind": "missing", "server": "old", "job_id": "job-2", "fields": {}}],
        "unbound": ["/DC0/vm/shop"],
        "clashes": [{"server": "web02", "what": "Two entries select the same VM", "do": "Remove one of them"}],
        "dag_id": "erp.replicate",
        "dag_paused": True,
    }
    api = use({"POST /wavelift/waves/erp/apply": answer})
    done = call("wave", "apply", "erp", "--dry-run", "--unpause")
    for text in (
        "would be changed",
        "keep_amis: 2 → 3",
        "left alone",
        "catalog import",
        "erp.replicate is paused: nothing starts until it is unpaused (`wavelift wave apply erp --unpause`",
        "web02 is left alone",
    ):
        assert text in done.stdout, text
    assert (api.asked[0][1], api.unpaused) == ({"dry_run": True}, []), "a look changes nothing"
    assert "is paused" not in call("wave", "apply", "erp", "--unpause").stdout
    assert api.unpaused == ["erp.replicate"]


def test_live_rows_have_rate_and_what_is_waited_for() -> None:
    active = {**RUN, "state": "Active", "status": "Uploading", "bytes_total": 100 << 20}
    api = Api({})
    before, api.tasks = api.tasks, []
    api.unpause("erp.replicate")
    watch = RunsWatch(cast(ApiClient, api), "erp", "erp.replicate", "on_demand__1")
    api.answers["GET /wavelift/runs"] = {"runs": [{**active, "bytes_done": 20 << 20, "rate": 10 << 20}]}
    [row] = watch.rows()
    assert (row.words, row.bytes, row.speed, row.eta) == ("Uploading", "20.0 MiB of 100.0 MiB", "10.0 MiB/s", "8 s")
    api.answers["GET /wavelift/runs"], api.tasks = {"runs": [{**RUN, "state": "Reserved"}]}, before
    assert [row.words for row in watch.rows()] == ["preflight: running", "Reserved (waits for admission)"]


def test_live_rows_say_what_really_happens() -> None:
    """The ledger says Uploading from the slot to the record."""
    active = {**RUN, "state": "Active", "status": "Uploading", "bytes_total": 100 << 20}
    api = Api({})
    api.unpause("erp.replicate")
    now = 0.0
    watch = RunsWatch(cast(ApiClient, api), "erp", "erp.replicate", "on_demand__1", clock=lambda: now)

    def words(**at: Any) -> list[str]:
        api.answers["GET /wavelift/runs"] = {"runs": [{**active, **at}]}
        api.tasks = [{"task_id": "server.snapshot", "map_index": 0, "state": at["step_state"], "queue": "dc1"}]
        return [row.words for row in watch.rows()]

    local = datetime(2026, 12, 1, 14, 3, 20).astimezone()
    again, zone = local.isoformat(), zone_of(local)
    failed = {"step_try": 1, "step_tries": 3, "retry_reason": "refused", "retry_at": again}
    assert words(step="snapshot", step_state="up_for_retry", **failed) == [
        f"snapshot: failed, tries again at 14:03:20 {zone} (try 2 of 3): refused"
    ]
    assert words(step="snapshot", step_state="running", step_try=2) == ["snapshot (try 2)"]
    assert words(step="snapshot", step_state="queued") == ["snapshot (queued)"]
    now = 40.0
    late, row = words(step="snapshot", step_state="queued")
    assert row == "snapshot (queued)"
    assert late.endswith("(30 s): start one with: airflow celery worker --queues dc1")
    assert words(step_state="running") == ["snapshot (queued)"], "between two steps the last one stays"
    assert words(step="record", step_state="deferred") == ["record (AWS completes the snapshots)"]
    assert words(step="transfer", step_state="running", cancel_requested=True) == ["transfer (is being cancelled)"]


def test_a_retry_shows_in_every_list(use: Use) -> None:
    at = {"step": "snapshot", "step_state": "up_for_retry", "step_try": 1, "step_tries": 3, "retry_reason": "refused"}
    run = {**RUN, "state": "Active", "status": "Snapshot", **at}
    use(
        {
            "GET /wavelift/jobs": {"jobs": [{**JOB, "current_run": run}], **PAGE},
            f"GET /wavelift/jobs/{JOB['id']}": {**JOB, "current_run": run},
            f"GET /wavelift/jobs/{JOB['id']}/runs": {"runs": [run], **PAGE},
            "GET /wavelift/migrations": {"migrations": [{**MIGRATION, **at}], **PAGE},
        }
    )
    for words in (
        ["jobs", "list"],
        ["jobs", "show", JOB["id"]],
        ["jobs", "history", JOB["id"]],
        ["migrations", "list"],
    ):
        told = " ".join(call(*words).stdout.split())
        assert "tries again" in told, words
        assert "Uploading" not in told
        assert "refused" in told or words == ["jobs", "list"]
