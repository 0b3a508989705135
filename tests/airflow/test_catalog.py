"""The server catalogue and connectors in a real Airflow: REST and command line, DAG, XCom pages, ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim
from tests.ledgers import within
from typer.testing import CliRunner

from wavelift.adapters.vsphere.properties import read_one
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.run import CancelFlag, SystemClock
from wavelift.cli.main import app
from wavelift.ledger import CatalogState, catalog
from wavelift.ledger.catalog import ServerFilter
from wavelift.ledger.events import list_events

pytestmark = pytest.mark.airflow

CONNECTION = "vsphere_demo"


@pytest.fixture
def cli(world: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``cli(*words)``: a command of the operator, its output."""
    login = {"URL": world.api.url, "USER": "op", "PASSWORD": world.airflow.password_of("op")}
    for name, value in login.items():
        monkeypatch.setenv(f"WAVELIFT_{name}", value)

    def call(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == code, done.output
        return str(done.output if code else done.stdout)  # what it waits for is on standard error

    return call


@pytest.fixture
def vcenter(world: Any) -> Iterator[VsphereSession]:
    """A person who changes the inventory."""
    sim = world.vcenter
    config = VsphereConfig(
        host=sim.host, port=sim.port, username=sim.username, password=sim.password, ca_bundle=str(sim.ca_file)
    )
    with connect(config) as session:
        yield session


def find(session: VsphereSession, path: str) -> Any:
    """The managed object at an inventory path."""
    found = session.content.searchIndex.FindByInventoryPath(path.lstrip("/"))
    assert found is not None, path
    return found


def done(session: VsphereSession, task: Any) -> None:
    wait_for_task(session, task, timeout=30, cancel=CancelFlag(), what="a test's change")


def change_inventory(session: VsphereSession) -> None:
    """Add one VM, rename one, remove one."""
    first = find(session, "/dc1/vm/catalog/catalog-a")
    done(session, first.Rename_Task("catalog-renamed"))
    done(session, find(session, "/dc1/vm/catalog/catalog-b").Destroy_Task())
    pool = read_one(session, vim.VirtualMachine, first._moId, ["resourcePool"])["resourcePool"]
    spec = vim.vm.ConfigSpec(
        name="catalog-new",
        guestId="debian12_64Guest",
        numCPUs=3,
        memoryMB=64,
        files=vim.vm.FileInfo(vmPathName="[datastore1]"),
    )
    done(session, find(session, "/dc1/vm/catalog").CreateVM_Task(spec, pool))


def names(world: Any, **which: Any) -> set[str]:
    page = within(world.ledger.read(), catalog.list_servers, ServerFilter(search="/catalog/", **which), limit=500)
    return {entry.server.name for entry in page.items}


def test_sms_02_import_import_again_and_clear(world: Any, cli: Any, vcenter: VsphereSession) -> None:
    world.airflow.wait_for_dag("server_catalog")
    first = json.loads(cli("catalog", "import", "--connection", CONNECTION, "--json"))
    everything = len(world.vcenter.state()["vms"])
    assert (first["servers"], first["new"], first["changed"], first["gone"]) == (everything, everything, 0, 0)
    assert names(world) == {"catalog-a", "catalog-b"}

    change_inventory(vcenter)
    told = cli("catalog", "import", "--connection", CONNECTION)
    assert told.splitlines()[0] == f"{CONNECTION}: {everything} servers; 1 new, 1 changed, 1 gone"
    assert names(world) == {"catalog-renamed", "catalog-new"}
    assert names(world, gone=True) == {"catalog-b"}

    shown = json.loads(cli("catalog", "list", "--search", "CATALOG-NEW", "--json"))
    (row,) = shown["servers"]
    assert (row["type"], row["cpus"], row["path"]) == ("VIRTUAL_MACHINE", 3, "/dc1/vm/catalog/catalog-new")
    assert (row["manager_type"], row["job"]) == ("VirtualCenter", None)
    (known,) = shown["catalogs"]
    assert (known["connection"], known["state"], known["connector"]) == (CONNECTION, "AVAILABLE", "default")
    assert "1 to 5 of" in cli("catalog", "list", "--limit", "5")
    assert "catalog-b" in cli("catalog", "list", "--gone")

    assert cli("catalog", "clear", "--connection", CONNECTION).startswith(
        f"{CONNECTION}: {everything + 1} servers forgotten;"
    )
    assert names(world, gone=None) == set()
    assert (
        within(world.ledger.read(), catalog.get_catalog, CONNECTION, clock=SystemClock()).state is CatalogState.DELETED
    )
    actors = {event.action: event.actor for event in within(world.ledger.read(), list_events, object_kind="catalog")}
    assert actors["catalog.import_started"] == actors["catalog.cleared"] == "op"


def test_trouble_an_import_that_fails_says_why_and_gives_the_state_back(world: Any, cli: Any) -> None:
    world.airflow.wait_for_dag("server_catalog")
    told = cli("catalog", "import", "--connection", "no_such_connection", code=1)
    assert "ended as failed" in told
    known = within(world.ledger.read(), catalog.get_catalog, "no_such_connection", clock=SystemClock())
    assert known.state is CatalogState.NOT_IMPORTED
    assert known.error
    assert "not registered" in cli("catalog", "import", code=1), "neither a connection nor a registered connector"
    assert "no wave names connector mars" in cli("catalog", "import", "--connector", "mars", code=1)


def test_sms_01_a_connector_s_life(world: Any, cli: Any) -> None:
    name = "full"  # the queue that this wave names
    aws = ("--aws", "aws_demo", "--region", "eu-central-1")
    cli("connectors", "register", name, "--connection", CONNECTION, *aws, "--description", "hall A")
    assert "never checked" in cli("connectors", "list")
    world.airflow.wait_for_dag(f"connector_health.{name}")
    health = json.loads(cli("connectors", "check", name, "--json"))
    found = {check["name"]: check["ok"] for check in health["checks"]}
    assert all(found.values()), health
    assert {"vcenter", "clock:vcenter", "host:127.0.0.11", "host:127.0.0.12", "aws:sts", "aws:s3"} <= found.keys()
    (row,) = json.loads(cli("connectors", "list", "--json"))["connectors"]
    assert (row["healthy"], row["maintenance"], row["registered_by"]) == (True, False, "op")
    assert 0 <= row["health_age_s"] < 120
    watch = world.api.call("GET", f"/api/v2/dags/connector_health.{name}")
    assert not watch["is_paused"]
    assert watch["next_dagrun_run_after"], "from now on it is tried every hour"
    assert "in maintenance" in cli("connectors", "maintenance", name, "--reason", "upgrade")
    assert "maintenance: upgrade" in cli("connectors", "list")
    assert "in service" in cli("connectors", "maintenance", name, "--off")
    assert "no longer registered" in cli("connectors", "disassociate", name)
    assert "No connector is registered" in cli("connectors", "disassociate", name, code=1)


def test_a_viewer_reads_and_changes_nothing(world: Any) -> None:
    viewer = world.airflow.client("viewer")
    for path in ("/catalogs", "/catalog", "/connectors"):
        assert viewer.request("GET", f"/wavelift{path}")[0] == 200, path
    connector = {"name": "full", "connection": CONNECTION}
    for path, body in (
        ("/catalog/import", {"connection": CONNECTION}),
        ("/catalog/clear", {"connection": CONNECTION}),
        ("/connectors", connector),
        ("/connectors/full/maintenance", {"on": True}),
        ("/connectors/full/check", None),
        ("/connectors/full/disassociate", None),
    ):
        assert viewer.request("POST", f"/wavelift{path}", body)[0] == 403, path
    assert world.airflow.client("op").request("POST", "/wavelift/connectors", {**connector, "name": "a b/c"})[0] == 422
