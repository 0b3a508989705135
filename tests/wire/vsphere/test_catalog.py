"""The catalogue's inventory: pages, light properties, tags, and how many calls they cost."""

from __future__ import annotations

import json
import math
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pyVmomi import vim
from tests.vcenters import Take

from wavelift.adapters.vsphere import catalog
from wavelift.adapters.vsphere.inventory import resolve
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.tagging import vm_tags
from wavelift.base.catalog import PAGE_ROWS, CatalogRow
from wavelift.base.errors import LoginError
from wavelift.rules.wave import Selector
from wavelift.simulators.vcenter import VCenterSimulator

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]
REST = "/rest/com/vmware/cis"


class Tagger:
    """A person who makes categories and tags in vCenter."""

    def __init__(self, sim: VCenterSimulator) -> None:
        self._sim = sim
        self._context = ssl.create_default_context(cafile=str(sim.ca_file))
        login = b64encode(f"{sim.username}:{sim.password}".encode()).decode()
        self._session = ""
        self._session = self("POST", "/session", None, {"Authorization": f"Basic {login}"})

    def __call__(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(
            f"https://{self._sim.host}:{self._sim.port}{REST}{path}",
            None if body is None else json.dumps(body).encode(),
            {"vmware-api-session-id": self._session, "Content-Type": "application/json", **(headers or {})},
            method=method,
        )
        with urllib.request.urlopen(request, context=self._context, timeout=60) as answer:
            text = answer.read()
        return json.loads(text)["value"] if text else None

    def tag(self, category: str, name: str, *vms: str) -> None:
        spec = {"name": category, "cardinality": "MULTIPLE", "associable_types": [], "description": ""}
        known = {self("GET", f"/tagging/category/id:{id}")["name"]: id for id in self("GET", "/tagging/category") or []}
        made = known.get(category) or self("POST", "/tagging/category", {"create_spec": spec})
        tag = {"name": name, "category_id": made, "description": ""}
        id = self("POST", "/tagging/tag", {"create_spec": tag})
        for vm in vms:
            where = {"object_id": {"id": vm, "type": "VirtualMachine"}}
            self("POST", f"/tagging/tag-association/id:{id}?~action=attach", where)


def everything(session: VsphereSession, **more: Any) -> dict[str, CatalogRow]:
    return {row.path: row for page in catalog.pages(session, **more) for row in page}


def test_sms_02_a_row_of_the_inventory(session: VsphereSession) -> None:
    rows = everything(session)
    web = rows["/dc1/vm/prod/web01"]
    assert (web.name, web.power, web.template, web.connection_state) == ("web01", "poweredOn", False, "connected")
    assert (web.guest_id, web.cpus, web.memory_mib) == ("ubuntu64Guest", 2, 2048)
    assert web.instance_uuid
    assert web.vm_id.startswith("vm-")
    assert rows["/dc1/vm/prod/gold"].template
    assert {"/dc1/vm/prod/twin", "/dc1/vm/test/twin", "/dc1/vm/prod/sub/off01"} <= rows.keys()
    told = catalog.manager(session)
    assert (told.id, told.type) == (session.about.instance_uuid, "VirtualCenter")
    assert told.name == session.config.host


def test_sms_02_tags_by_the_rest_api(sim: VCenterSimulator, session: VsphereSession) -> None:
    rows = everything(session)
    assert vm_tags(session) == {}
    web, twin = rows["/dc1/vm/prod/web01"].vm_id, rows["/dc1/vm/prod/twin"].vm_id
    tagger = Tagger(sim)
    tagger.tag("env", "prod", web, twin)
    tagger.tag("env", "blue", web)
    tagger.tag("empty", "unused")
    tags = vm_tags(session)
    assert tags == {web: ("env:blue", "env:prod"), twin: ("env:prod",)}
    tagged = everything(session, tags=tags)
    assert tagged["/dc1/vm/prod/web01"].tags == ("env:blue", "env:prod")
    assert tagged["/dc1/vm/test/twin"].tags == ()
    wanted = [Selector(kind="tag", value="env:prod"), Selector(kind="tag", value="env:gone")]
    found, nothing = resolve(session, wanted)
    assert ({server.moref for server in found.servers}, found.errors) == ({web, twin}, ())
    assert "no VM fits tag 'env:gone'" in str(nothing.errors[0])


def test_tags_with_a_login_that_rest_refuses(session: VsphereSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "config", replace(session.config, password="not-the-one"))
    with pytest.raises(LoginError, match="REST API refused") as caught:
        vm_tags(session)
    assert "not-the-one" not in str(caught.value)
    tag, name = resolve(session, [Selector(kind="tag", value="env:prod"), Selector(kind="name", value="web01")])
    assert isinstance(tag.errors[0], LoginError)
    assert len(name.servers) == 1, "only the entry that needs the tags is refused"


def test_a_vm_that_vanishes_is_left_out(session: VsphereSession, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = catalog.vm_refs(session)
    monkeypatch.setattr(catalog, "vm_refs", lambda session: ["vm-4711", *refs])
    assert len(everything(session)) == len(refs)
    assert "vm-4711" not in {row.vm_id for row in everything(session).values()}


def test_calls_and_pages_for_a_thousand_vms(big_sim: VCenterSimulator, config_of: Configure) -> None:
    big_sim.reset_counters()
    with connect(config_of(big_sim, timeout=60)) as session:
        sizes = [len(page) for page in catalog.pages(session)]
        assert session.content.viewManager is not None
    methods: dict[str, int] = big_sim.counters()["methods"]
    assert sizes == [PAGE_ROWS, PAGE_ROWS]
    assert sum(methods.values()) <= math.ceil(1000 / PAGE_ROWS) + 10, methods
    assert big_sim.counters()["paths"]["/sdk"]["bytes"] < 1000 * 4096, "light properties only"


@pytest.fixture
def three_pages(start_vc: Take, monkeypatch: pytest.MonkeyPatch) -> VCenterSimulator:
    """Fifty VMs, and pages of twenty."""
    monkeypatch.setattr(catalog, "PAGE", 20)
    return start_vc([], extra_vms=50)


def test_memory_is_that_of_one_page(three_pages: VCenterSimulator, config_of: Configure) -> None:
    """A generator that had read all would answer the second page without a call."""

    def reads() -> int:
        return int(three_pages.counters()["methods"].get("RetrievePropertiesEx", 0))

    with connect(config_of(three_pages)) as session:
        pages = catalog.pages(session)
        next(pages)
        before = reads()
        assert len(next(pages)) == 20
        assert reads() == before + 1


def test_a_login_that_ends_between_two_pages_is_made_again(three_pages: VCenterSimulator, config_of: Configure) -> None:
    with connect(config_of(three_pages)) as session:
        pages = catalog.pages(session)
        first = next(pages)
        three_pages.expire_sessions()
        seen = {row.vm_id for page in (first, *pages) for row in page}
    assert len(seen) == 50


def test_every_property_that_is_asked_for_exists() -> None:
    known = {info.name for info in vim.VirtualMachine._GetPropertyList()}
    assert {path.split(".")[0] for path in catalog._LIGHT} <= known
