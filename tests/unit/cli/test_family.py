"""What the commands of every family share: asking before what can't be undone, rows of one run, and their end."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, cast

import pytest
import typer

from wavelift.airflow.rest import ApiClient
from wavelift.cli.connect import EndedRun
from wavelift.cli.family import Family, RowsWatch, RunRows, leave, require_yes, tell_result, tell_run
from wavelift.cli.watch import Row
from wavelift.console.answers import Answer, Page, RunStarted

pytestmark = pytest.mark.unit
QUESTION = "Cancel exp-1? What it wrote is removed."
RUN = RunStarted(dag_id="instance_export.prod", dag_run_id="on_demand__1")


class Thing(Answer):
    id: str
    state: str


class Things(Page):
    things: list[Thing]


def show(rows: Sequence[Thing]) -> None:
    for row in rows:
        print(f"{row.id}: {row.state}")


THINGS = Family("/wavelift/things", "things", Things, Thing, show, words="things", first="`wavelift thing start`")


class Api:
    """Two rows of a run that has ended as ``state``, and no task under way."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.rows = [{"id": "exp-2", "state": "active"}, {"id": "exp-1", "state": "failed"}]
        self.total = 2

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append(f"{method} {path}")
        return {"total": self.total, "limit": 2, "offset": 0, "things": self.rows}

    def task_instances(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{"task_id": "verify", "map_index": -1, "state": "running"}]

    def xcom(self, *_: Any, **__: Any) -> Any:
        return {"what": "the bucket is gone"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rows_of(api: Api) -> RunRows[Thing]:
    return RunRows(cast(ApiClient, api), THINGS, RUN, {"environment": "prod"})


@pytest.mark.parametrize(("typed", "goes"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_is_asked_before_what_cannot_be_undone(
    typed: str, goes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    if goes:
        require_yes(QUESTION, yes=False)
    else:
        with pytest.raises(typer.Exit) as left:
            require_yes(QUESTION, yes=False)
        assert left.value.exit_code == 1
    said = capsys.readouterr()
    assert (QUESTION in said.err, "Nothing was changed" in said.err, said.out.strip()) == (True, not goes, "")


def test_nobody_is_asked_with_yes_and_a_program_is_told_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    require_yes(QUESTION, yes=True)
    assert capsys.readouterr().err == ""
    with pytest.raises(typer.Exit):
        require_yes(QUESTION, yes=False)
    assert "--yes" in capsys.readouterr().err


def test_the_rows_of_a_run_are_asked_by_its_id_and_come_in_one_order() -> None:
    api = Api()
    assert [row["id"] for row in rows_of(api).answers()] == ["exp-1", "exp-2"]
    assert api.asked == ["GET /wavelift/things?environment=prod&dag_run_id=on_demand__1&limit=500"]


def test_a_watch_shows_the_run_as_a_whole_and_each_row() -> None:
    watch = RowsWatch(rows_of(Api()), lambda row: Row(row.id, row.state))
    assert [(row.server, row.phase) for row in watch.rows()] == [
        ("", "verify: running"),
        ("exp-1", "failed"),
        ("exp-2", "active"),
    ]


def test_a_list_says_how_to_see_the_rest_and_why_it_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    api = Api()
    api.total = 9
    THINGS.list_rows(cast(ApiClient, api), {"state": "failed", "limit": 2}, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 9; raise --limit to see more"
    THINGS.list_rows(cast(ApiClient, api), {"limit": 2}, as_json=False, more=None)
    assert "raise" not in capsys.readouterr().out
    api.rows = []
    THINGS.list_rows(cast(ApiClient, api), {"state": "failed", "limit": 2}, as_json=False)
    assert capsys.readouterr().out == "No things match --state failed. Without these options all are listed\n"


def test_a_run_that_did_not_get_through_ends_with_status_1_after_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    api = cast(ApiClient, Api())
    done = EndedRun(api, RUN.dag_id, RUN.dag_run_id, "success")
    tell_result(THINGS, {}, Api().rows, done, as_json=False)
    assert capsys.readouterr().out == "exp-2: active\nexp-1: failed\n"
    failed = EndedRun(api, RUN.dag_id, RUN.dag_run_id, "failed")
    with pytest.raises(typer.Exit) as left:
        tell_result(THINGS, {"mode": "export"}, Api().rows, failed, as_json=True)
    said = capsys.readouterr()
    assert left.value.exit_code == 1
    assert "the bucket is gone" in said.err
    assert '"state": "failed"' in said.out


def test_with_json_standard_output_has_the_answer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    tell_run(RUN, ["exp-1 i-1"], made_before=True)
    leave({"mode": "export"}, ["`wavelift export list` shows it"], as_json=True)
    said = capsys.readouterr()
    assert said.out == '{\n  "mode": "export"\n}\n'
    for words in ("made before", "exp-1 i-1", "`wavelift export list` shows it"):
        assert words in said.err
