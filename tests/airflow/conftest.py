"""Two places to run a DAG in, each with a vCenter and an AWS of its own: ``lab``, in this process, and ``world``, a
running Airflow on PostgreSQL, for what needs a scheduler, a triggerer or an api-server.

Each test has waves and servers of its own. What a test's waves left outside is looked at after every test; at the end
both simulators must hold what they held at first and the results that the ledger names, and no process of Airflow may
be left. Runs of ``world`` that need nothing from their test begin with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.airflow import sites
from tests.airflow.aside import Players, is_aside
from tests.airflow.exporting import NEAR, OUT, lay_out_exports
from tests.airflow.fleet import LAB_WAVES, OTHER_VCENTER, SLOW, WAVES, lay_out_more, simulators
from tests.airflow.inprocess import Lab, airflow_here
from tests.airflow.outside import Outside
from tests.airflow.waves import BUCKET
from tests.airflow.world import World
from tests.ledgers import within
from tests.postgres import Postgres

from wavelift.cli.local_airflow import LocalAirflow
from wavelift.ledger import Ledger
from wavelift.ledger.slots import standing
from wavelift.services.common import grant_keys
from wavelift.services.common.grant_keys import KeyFiles

SLOTS: Final = 2
"""Transfers per connector here: two make a queue of four servers."""
GROUPS: Final = {"world": "airflow", "lab": "inprocess", "pair": "airflow"}
"""Fixture → xdist group: there is one of each, and no two Airflows run at once."""
LAST: Final = (
    "test_browser",
    "test_hcx_browser",
    "test_export_browser",
    "test_imports",
    "test_kill",
    "test_restart",
    "test_two_schedulers",
)
"""What a page is waited for in, what slows every import down, and what breaks the running Airflow: in this order,
after all the rest."""
EARLY: Final = ("late", "full", "broken")
"""Waves whose runs begin with ``world``, if one of :data:`EARLY_FOR` is to run."""
EARLY_FOR: Final = {
    "test_wave",
    "test_console",
    "test_specs",
    "test_browser",
    "test_export_browser",
    "test_export_commands",
}
TEST_SECONDS: Final = 1800
"""A run that takes seconds on idle cores takes minutes beside four others."""
MAIN: Final = threading.main_thread().name
HCX_FOR: Final = {"test_hcx_world", "test_hcx_browser"}
"""What the two sites and their HCX manager run for."""
LEFT_SECONDS: Final = 120
"""A cancelled import needs a moment to be gone."""


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "home").mkdir()
    with ExitStack() as stack:
        stage = stack.enter_context(simulators(folder, LAB_WAVES, slow={}))
        lay_out_exports(folder / "dags", stage, OUT)
        home = folder / "home"
        grant_keys.keygen(
            KeyFiles(home / "wavelift" / "grants" / "private.pem", home / "wavelift" / "grants" / "public")
        )
        ledger_url = f"sqlite:///{home / 'wavelift' / 'wavelift.db'}"
        made = Lab(stage=stage, dags=folder / "dags", ledger_url=ledger_url, home=home)
        stack.callback(made.ledger.close)
        made.settings = {
            **stage.connections(),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(made.dags),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__WAVELIFT__POLL_SECONDS": "0.2",
            # No process has to end before a deferred task may be woken.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "0",
            "WAVELIFT_LAB": f"{folder}:{BUCKET}",
        }
        stack.enter_context(airflow_here(made))
        yield made
        made.assert_nothing_is_left(set(LAB_WAVES))


@pytest.fixture(scope="session")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: Postgres
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("airflow")
    with ExitStack() as stack:
        stage = stack.enter_context(simulators(folder, WAVES, slow=SLOW))
        lay_out_more(folder / "dags", stage)
        lay_out_exports(folder / "dags", stage, OUT, NEAR)
        crossing = None
        if HCX_FOR & {item.path.stem for item in request.session.items}:
            crossing = sites.start(stack, folder)
            crossing.lay_out(folder / "dags")
        ledger_url = postgres.create()
        Ledger.open(ledger_url, upgrade=True).close()
        connections = stage.connections()
        settings = {
            **connections,
            **(crossing.connections() if crossing else {}),
            "AIRFLOW_CONN_AWS_NARROW": connections["AIRFLOW_CONN_AWS_DEMO"],
            f"AIRFLOW_CONN_{OTHER_VCENTER.upper()}": connections["AIRFLOW_CONN_VSPHERE_DEMO"],
            "AIRFLOW__WAVELIFT__POLL_SECONDS": "1",
            "AIRFLOW__WAVELIFT__TRANSFERS_PER_CONNECTOR": str(SLOTS),
            "AIRFLOW__WAVELIFT__LEDGER_URL": ledger_url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.create().replace("://", "+psycopg2://", 1),
            # How late Airflow hears of a process's end, and how soon a killed task is told: 1 s here, 5 by default.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # Every look at the folder costs more than a second of a core, and there are minutes of them.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
            # "guest" may trigger every DAG, and no environment lists him.
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,op:op,viewer:viewer,guest:op",
            # Exports that the tests make slow hold a place each.
            "AIRFLOW__CORE__PARALLELISM": "16",
            "PYTHONDONTWRITEBYTECODE": "",  # or every task compiles all of wavelift anew
        }
        airflow = stack.enter_context(LocalAirflow(folder / "home", folder / "dags", settings))
        airflow.migrate()
        airflow.start()
        made = World(stage=stage, dags=folder / "dags", ledger_url=ledger_url, airflow=airflow, sites=crossing)
        stack.callback(made.ledger.close)
        if EARLY_FOR & {item.path.stem for item in request.session.items}:
            made.early = {wave: made.trigger(wave) for wave in EARLY}
        yield made
        for run in list(made.active):
            run.wait()
        made.assert_nothing_is_left(set(WAVES))
        if crossing:
            crossing.alarm.check()
    assert not airflow.processes(), "processes of this Airflow outlived it"


@pytest.fixture(scope="session")
def players(request: pytest.FixtureRequest, world: World) -> Iterator[Players]:
    made = Players(request.session.items, world)
    yield made
    made.close()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not is_aside(pyfuncitem):
        return None
    players: Players = pyfuncitem._request.getfixturevalue("players")
    players.end_of(pyfuncitem)
    return True


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test whose waves left anything outside; a run that it left running is its fault too."""
    if "world" in request.fixturenames:
        world: World = request.getfixturevalue("world")
        players: Players = request.getfixturevalue("players")
        yield from _nothing_left_in(world, players, request.node.nodeid if is_aside(request.node) else MAIN)
    elif "lab" in request.fixturenames:
        lab: Lab = request.getfixturevalue("lab")
        yield
        _soon_gone(lab, set(LAB_WAVES))
        assert not lab.vcenter.state()["sessions"], "a session is still signed in"
        assert not within(lab.ledger.read(), standing), "a slot is still held"
    else:
        yield


def _nothing_left_in(world: World, players: Players, player: str) -> Iterator[None]:
    before = {run.run_id for run in world.active} if player == MAIN else set()
    yield
    mine = [run for run in list(world.active) if run.player == player and run.run_id not in before]
    for run in mine:  # its test failed: the next ones shall not wait for it
        run.stop()
    assert not mine, f"was still running: {[run.describe() for run in mine]}"
    _soon_gone(world, set(WAVES) - {run.wave for run in list(world.active)} - players.waves())
    if not world.active and not players.waiting:
        assert not world.vcenter.state()["sessions"], "a session is still signed in"
        assert not within(world.ledger.read(), standing), "a slot is still held"


def _soon_gone(outside: Outside, waves: set[str]) -> None:
    deadline = time.monotonic() + LEFT_SECONDS
    while left := outside.leftovers(waves):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One group for each kind of Airflow; in each, :data:`LAST` comes last."""
    here = Path(__file__).parent
    places = [place for place, item in enumerate(items) if item.path.parent == here]
    for place, item in zip(places, sorted((items[place] for place in places), key=_order), strict=True):
        items[place] = item
        for fixture in GROUPS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(GROUPS[fixture]))
            item.add_marker(pytest.mark.timeout(TEST_SECONDS), append=False)


def _order(item: pytest.Item) -> int:
    return LAST.index(item.path.stem) + 1 if item.path.stem in LAST else 0
