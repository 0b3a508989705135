"""What tests of all layers share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from tests import depth, layers
from tests.connect_proxy import ConnectProxy
from tests.postgres import Postgres, find_binaries, running

depth.register()  # before any test module asks for a number of examples


def pytest_collection_finish() -> None:
    """What was imported stays: to look through it again and again for garbage took a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    layers.register(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    layers.arrange(items)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; ``make test`` installs the binaries. Without them its tests are skipped, and say so."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL under /usr/lib/postgresql: `make test` installs it")
    with running(binaries) as server:
        yield server


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    running = ConnectProxy()
    yield running
    running.close()
