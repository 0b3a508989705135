"""What the routes get: the ledger, and Airflow's REST API as the caller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from fastapi import Depends, Request

from wavelift.airflow import config
from wavelift.airflow.rest import ApiClient
from wavelift.ledger import Ledger


def _ledger() -> Iterator[Ledger]:
    with Ledger.open(config.ledger_url()) as ledger:
        yield ledger


def _airflow(request: Request) -> ApiClient:
    """Airflow's REST API as the caller."""
    header = request.headers.get("authorization", "")
    token = header.removeprefix("Bearer ") if header else request.cookies.get(COOKIE_NAME_JWT_TOKEN, "")
    return ApiClient(config.api_url(), lambda: token)


LedgerDep = Annotated[Ledger, Depends(_ledger)]
AirflowDep = Annotated[ApiClient, Depends(_airflow)]
