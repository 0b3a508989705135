"""How the command line reaches Airflow: address and login come from the environment, secrets never from argv."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from wavelift.airflow.rest import ApiClient, ApiError

DEFAULT_URL = "http://localhost:8080"


def fail(message: str) -> NoReturn:
    """Print one message and leave with status 1."""
    print(message, file=sys.stderr)
    raise typer.Exit(1)


def client() -> ApiClient:
    """The user's client: ``WAVELIFT_URL``, and ``WAVELIFT_TOKEN`` or ``WAVELIFT_USER`` and ``WAVELIFT_PASSWORD``."""
    url = os.environ.get("WAVELIFT_URL") or os.environ.get("AIRFLOW__API__BASE_URL") or DEFAULT_URL

    def login() -> str:
        token = os.environ.get("WAVELIFT_TOKEN")
        if token:
            return token
        user = os.environ.get("WAVELIFT_USER") or typer.prompt("Airflow user", err=True)
        password = os.environ.get("WAVELIFT_PASSWORD") or typer.prompt("Password", hide_input=True, err=True)
        status, answer = api.raw("POST", "/auth/token", {"username": user, "password": password})
        if status not in (200, 201):
            raise ApiError(f"Airflow refused the login of {user} ({status})", status=status)
        return str(answer["access_token"])

    api = ApiClient(url, login)
    return api
