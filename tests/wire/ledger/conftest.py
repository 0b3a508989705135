"""The ledger's own tests once more, on PostgreSQL: a database per test, copied from one made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.postgres import Postgres
from tests.unit.ledger.conftest import clock, run

from wavelift.ledger import Ledger

__all__ = ["clock", "run"]


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> str:
    url = postgres.create()
    Ledger.open(url, upgrade=True).close()
    return url


@pytest.fixture
def ledger(postgres: Postgres, template: str) -> Iterator[Ledger]:
    with Ledger.open(postgres.create(template)) as made:
        yield made
