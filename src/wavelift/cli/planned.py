"""What the commands of runs with a plan share: the plan, people's answers, and steps that a person confirms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from wavelift.airflow.rest import ApiClient
from wavelift.cli.connect import EndedRun
from wavelift.cli.local_time import typed_time
from wavelift.cli.output import print_json, say
from wavelift.console.cutover_answers import CutoverAnswered, StepConfirmed

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Id of the DAG run that asks.")]
StepName = Annotated[str, typer.Argument(metavar="STEP", help="Name of the step, as `show` prints it.")]


def window(begin: str, end: str) -> dict[str, str]:
    """A window as a person typed it, for the REST API."""
    given = {"window_start": begin, "window_end": end}
    return {name: typed_time(text).isoformat() if text else "" for name, text in given.items()}


def tell_plan(run: EndedRun, task: str, report: Any, *, as_json: bool) -> None:
    """The plan that a task made. :param report: of it, for programs."""
    if as_json:
        print_json(report)
        return
    for line in str(run.xcom(task, "words") or "").splitlines():
        say(line)


def answer_run(api: ApiClient, path: str, answer: Literal["approve", "reject"], asks: Mapping[str, str]) -> None:
    """Approve or reject what a run asks. :param asks: id of a task that asks → what; any other asks for its plan."""
    given = CutoverAnswered.model_validate(api.call("POST", path, {"answer": answer}))
    did = {"approve": "approved", "reject": "rejected"}[given.answer]
    what = asks.get(given.task_id, "the plan")
    say(f"{given.dag_id}, run {given.dag_run_id}: {given.answered_by} {did} {what}")


def confirm_step(api: ApiClient, path: str, said: Mapping[str, str]) -> None:
    """Give a person's word for a step."""
    row = StepConfirmed.model_validate(api.call("POST", path, said))
    did = "undone" if row.state == "undoing" else "done"
    say(f"{row.cutover}: '{row.name}' is confirmed as {did}")
