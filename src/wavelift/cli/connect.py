"""How the command line reaches Airflow: address and login come from the environment, secrets never from argv."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

import typer
from rich.console import Console

from wavelift.airflow.rest import ApiClient, ApiError

DEFAULT_URL = "http://localhost:8080"
PIPE_WIDTH = 200
"""Columns where nobody looks: a table in a pipe or a file is not cut at 80."""


def stdout_console() -> Console:
    """For results: standard output, as wide as the terminal."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def fail(message: str) -> NoReturn:
    """Print one message and leave with status 1."""
    print(message, file=sys.stderr)
    raise typer.Exit(1)


@contextmanager
def api_errors_told() -> Iterator[None]:
    """Also a decorator: an API error becomes one line and status 1."""
    try:
        yield
    except ApiError as error:
        fail(str(error))


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
        return str(answer["access_token"])

    api = ApiClient(url, login)
    return api


def _asked(what: str, *, hide_input: bool = False) -> str:
    if not sys.stdin.isatty():
        raise ApiError("not logged in; set WAVELIFT_USER and WAVELIFT_PASSWORD, or WAVELIFT_TOKEN")
    return str(typer.prompt(what, hide_input=hide_input, err=True))


def local_time(instant: str | None) -> str:
    """An instant of the API in the user's own time, with its offset: ``2026-12-01 10:00+01:00``; nothing for none."""
    return datetime.fromisoformat(instant).astimezone().isoformat(" ", "minutes") if instant else ""


def why_run_failed(api: ApiClient, dag_id: str, run_id: str, state: str, task: str) -> str:
    """What the run's own task, or its admission, said when it failed."""
    for name in (task, "admit"):
        left: dict[str, Any] | None = api.xcom(dag_id, run_id, name, key="wavelift_failure")
        if left:
            return f"run {run_id} of {dag_id} ended as {state}: {left['what']}"
    return f"run {run_id} of {dag_id} ended as {state}; see its log in Airflow"
