"""How the command line reaches Airflow: address and login come from the environment, secrets never from argv."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

import typer
from pydantic import ValidationError
from rich.console import Console

from wavelift.airflow.rest import NOT_LOGGED_IN, ApiClient, ApiError
from wavelift.base.tries import FAILURE_KEY
from wavelift.cli.output import in_own_zone, visible
from wavelift.cli.watch import tell, wait
from wavelift.console.answers import RunStarted
from wavelift.rules.flows import ADMIT

DEFAULT_URL: Final = "http://localhost:8080"
RUN_SECONDS: Final = 1800.0
"""A pre-flight of 150 servers or an import of 5,000 takes minutes. After half an hour no worker serves the queue."""


def fail(message: str) -> NoReturn:
    """Print one message and leave with status 1."""
    print(visible(in_own_zone(message)), file=sys.stderr)
    raise typer.Exit(1)


@contextmanager
def api_errors_told() -> Iterator[None]:
    """Also a decorator: an API error becomes one line and status 1."""
    try:
        yield
    except ApiError as error:
        fail(str(error))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        fail(f"The server's answer has another form than this version of wavelift reads: {place}: {first['msg']}")


def client() -> ApiClient:
    """The user's client: ``WAVELIFT_URL``, and ``WAVELIFT_TOKEN`` or ``WAVELIFT_USER`` and ``WAVELIFT_PASSWORD``."""
    url = os.environ.get("WAVELIFT_URL") or os.environ.get("AIRFLOW__API__BASE_URL") or DEFAULT_URL

    def login() -> str:
        token = os.environ.get("WAVELIFT_TOKEN")
        if token:
            return token
        user = os.environ.get("WAVELIFT_USER") or _asked("Airflow user")
        password = os.environ.get("WAVELIFT_PASSWORD") or _asked("Password", hide_input=True)
        status, answer = api.raw("POST", "/auth/token", {"username": user, "password": password})
        if status not in (200, 201):
            raise ApiError(
                f"Airflow refused the login of {user} ({status}); check WAVELIFT_USER and WAVELIFT_PASSWORD",
                status=status,
            )
        if not isinstance(answer, dict) or not answer.get("access_token"):
            raise ApiError(f"{url} answers the login without a token: is it the address of Airflow (WAVELIFT_URL)?")
        return str(answer["access_token"])

    api = ApiClient(url, login)
    return api


def _asked(what: str, *, hide_input: bool = False) -> str:
    if not sys.stdin.isatty():
        raise ApiError(NOT_LOGGED_IN)
    return str(typer.prompt(what, hide_input=hide_input, err=True))


def query(path: str, asked: Mapping[str, Any]) -> str:
    """``path`` with those values that were given."""
    given = {key: "true" if value is True else value for key, value in asked.items() if value}
    return f"{path}?{urlencode(given)}"


# DAG runs


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A DAG run that a command has waited for."""

    api: ApiClient
    dag_id: str
    dag_run_id: str
    state: str

    def xcom(self, task: str, key: str = "return_value") -> Any:
        return self.api.xcom(self.dag_id, self.dag_run_id, task, key=key)

    def result(self, task: str, *, explained_by: str = "") -> Any:
        """What a task returned. When the run failed or the task returned nothing, the command ends with status 1.

        :param explained_by: the task that says why, when it is another one.
        """
        found = self.xcom(task)
        if self.state != "success" or not found:
            fail(self.why_failed(explained_by or task))
        return found

    def require_success(self, task: str) -> None:
        """The command ends with status 1 when the run did not get through. :param task: says why."""
        if self.state != "success":
            fail(self.why_failed(task))

    def why_failed(self, task: str) -> str:
        """What the task, or the run's admission, said when it failed."""
        ended = f"run {self.dag_run_id} of {self.dag_id} ended as {self.state}"
        for name in (task, ADMIT):
            left = self.xcom(name, FAILURE_KEY)
            if isinstance(left, dict) and left.get("what"):
                return f"{ended}: {left['what']}"
        return f"{ended}; see its log in Airflow"


def run_by(api: ApiClient, path: str, body: Any = None) -> EndedRun:
    """Start a run by a route of the REST API, and wait for its end. A DAG that is paused is unpaused, and that is told.

    For DAGs whose schedule does nothing that the caller did not ask for; never for ``<wave>.replicate``.
    """
    run = RunStarted.model_validate(api.call("POST", path, body))
    if run.dag_paused:
        if (others := api.held_runs(run.dag_id) - 1) > 0:
            tell_user(_held(run.dag_id, others))
        else:
            unpause(api, run.dag_id)
    return ended(api, run)


def ended(api: ApiClient, run: RunStarted, *, timeout: float = RUN_SECONDS) -> EndedRun:
    """Wait for a run's end, and tell on standard error what it waits for.

    :raises ApiError: after ``timeout`` seconds.
    """
    state = wait(api, run.dag_id, run.dag_run_id, timeout=timeout)
    return EndedRun(api, run.dag_id, run.dag_run_id, state)


def wake(api: ApiClient, dag_id: str, missing: str, *, asked: bool = False) -> None:
    """Unpause a DAG, if it is paused, and tell it: Airflow pauses every new one.

    :param asked: the user asked for it, with all that follows. Else nothing may go on that he did not ask for.
    :raises ApiError: ``missing``, when Airflow does not know the DAG; other runs of it would go on.
    """
    paused = api.is_paused(dag_id)
    if paused is None:
        raise ApiError(missing)
    if paused:
        if not asked and (others := api.held_runs(dag_id)):
            raise ApiError(_held(dag_id, others))
        unpause(api, dag_id)


def _held(dag_id: str, others: int) -> str:
    """A plan must not let a migration go on that somebody stopped by pausing its DAG."""
    runs = "1 run of it waits and would" if others == 1 else f"{others} runs of it wait and would"
    return (
        f"{dag_id} is paused; {runs} go on if it were unpaused. Unpause it with its switch in the web UI, or mark "
        "what shall not go on as failed there"
    )


def unpause(api: ApiClient, dag_id: str) -> None:
    """Never silently: whoever paused it may have had a reason."""
    api.unpause(dag_id)
    tell_user(f"{dag_id} was paused; it is unpaused now")


def tell_user(words: str) -> None:
    """One line on standard error: with ``--json``, standard output is for the result alone."""
    tell(Console(stderr=True), words)
