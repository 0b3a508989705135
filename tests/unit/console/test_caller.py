"""The caller's roles: of FAB, of the simple auth manager, or none; remembered at each use of a route."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from tests.ledgers import within
from tests.unit.console.test_replication_routes import ENVIRONMENT, Desk, desk

from wavelift.base.errors import UnreachableError
from wavelift.console.caller import remember_roles, roles_of
from wavelift.ledger import groups

__all__ = ["desk"]

pytestmark = pytest.mark.unit


class Broken:
    """A user whose roles lie in a database that is away."""

    @property
    def roles(self) -> Any:
        raise RuntimeError("DetachedInstanceError")


@pytest.mark.parametrize(
    ("user", "roles"),
    [
        (SimpleAuthManagerUser(username="ana", role="op"), {"role/op"}),
        (SimpleAuthManagerUser(username="ana", role=None), set()),
        (SimpleNamespace(roles=[SimpleNamespace(name="Op"), SimpleNamespace(name="ERP")]), {"role/Op", "role/ERP"}),
        (SimpleNamespace(roles=["Op"]), {"role/Op"}),
        (SimpleNamespace(roles=None), set()),
        (SimpleNamespace(), set()),
        (Broken(), None),
    ],
)
def test_roles_are_groups(user: Any, roles: set[str] | None) -> None:
    assert roles_of(user) == roles


def test_a_role_that_is_listed_is_a_right_and_is_remembered_for_tasks(desk: Desk) -> None:
    desk.specs.environment = ENVIRONMENT.replace("user:ana", "group:role/op")
    desk.refused("POST", "/jobs", 403, {"wave": "erp", "servers": ["web01"]})
    desk.doubles[get_user] = lambda: SimpleAuthManagerUser(username="ana", role="op")
    me = desk.get("/me")
    assert (me["name"], me["roles"]) == ("ana", ["role/op"])
    assert [each["actions"] for each in me["environments"]] == [["migrate", "cut_over", "administer"]]
    assert set(within(desk.ledger.read(), groups.seen, "ana")) == {"role/op"}
    assert desk.job("web01")
    nobody_can_tell = Broken()
    nobody_can_tell.get_name = lambda: "ana"  # type: ignore[attr-defined]
    remember_roles(nobody_can_tell, desk.ledger)  # type: ignore[arg-type]
    assert set(within(desk.ledger.read(), groups.seen, "ana")) == {"role/op"}, (
        "what could not be read takes nothing away"
    )
    desk.doubles[get_user] = lambda: SimpleAuthManagerUser(username="ana", role="viewer")
    desk.refused("POST", "/jobs", 403, {"wave": "erp", "servers": ["db01"]})
    assert set(within(desk.ledger.read(), groups.seen, "ana")) == {"role/viewer"}


def test_a_ledger_that_takes_no_roles_refuses_no_reading(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise UnreachableError("database is locked")

    monkeypatch.setattr(groups, "remember", away)
    assert desk.get("/environments")["environments"][0]["name"] == "lab"
