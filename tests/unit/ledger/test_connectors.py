"""The registry of connectors (SMS-01, AMP-05)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.ledgers import within

from wavelift.base.catalog import ConnectorHealth, HealthCheck
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.ledger import Connector, Ledger, connectors, servers
from wavelift.ledger.events import list_events

pytestmark = pytest.mark.unit


def register(ledger: Ledger, clock: Any, name: str = "dc1", **changes: str) -> Connector:
    values = {"connection": "vc", "aws_conn_id": "aws", "region": "eu-central-1", "description": "hall A"} | changes
    said = connectors.Registration(**values)
    return within(ledger.write(connectors.lock_name(name)), connectors.register, name, said, by="ana", clock=clock)


def actions(ledger: Ledger) -> list[tuple[str, str]]:
    return [(event.action, event.actor) for event in within(ledger.read(), list_events, object_kind="connector")]


def test_sms_01_register_list_and_change(ledger: Ledger, clock: Any) -> None:
    first = register(ledger, clock)
    assert (first.name, first.connection, first.region, first.registered_by) == ("dc1", "vc", "eu-central-1", "ana")
    assert (first.maintenance, first.health, first.checked_at) == (False, None, None)
    assert register(ledger, clock) == first
    register(ledger, clock, "dc0")
    changed = register(ledger, clock, region="eu-west-1")
    assert (changed.region, changed.registered_at) == ("eu-west-1", first.registered_at)
    assert [one.name for one in within(ledger.read(), connectors.list_connectors)] == ["dc0", "dc1"]
    assert [action for action, _ in actions(ledger)] == [
        *("connector.registered", "connector.registered", "connector.changed"),
    ]


def test_sms_01_health_is_kept_with_its_time(ledger: Ledger, clock: Any) -> None:
    register(ledger, clock)
    check = HealthCheck(name="vcenter", ok=False, what="no answer", next_step="look")
    health = ConnectorHealth(connector="dc1", checked_at=datetime(2026, 11, 22, tzinfo=UTC), checks=(check,))
    known = within(
        ledger.write(connectors.lock_name(health.connector)), connectors.record_health, health, by="run", clock=clock
    )
    assert known is not None
    assert ConnectorHealth.load(known.health) == health
    assert not health.ok
    assert known.checked_at is not None
    assert (
        within(
            ledger.write(connectors.lock_name(health.model_copy(update={"connector": "x"}).connector)),
            connectors.record_health,
            health.model_copy(update={"connector": "x"}),
            by="r",
            clock=clock,
        )
        is None
    )


def test_amp_05_maintenance_is_seen_by_who_begins_something(ledger: Ledger, clock: Any) -> None:
    register(ledger, clock)

    def why(name: str) -> str | None:
        with ledger.read() as tx:
            return connectors.in_maintenance(tx, name)

    assert why("dc1") is None
    for _ in range(2):
        within(
            ledger.write(connectors.lock_name("dc1")),
            connectors.set_maintenance,
            "dc1",
            on=True,
            reason="upgrade",
            by="ben",
            clock=clock,
        )
    assert (why("dc1"), why("unregistered")) == ("upgrade", None)
    within(
        ledger.write(connectors.lock_name("dc1")), connectors.set_maintenance, "dc1", on=False, by="ben", clock=clock
    )
    assert why("dc1") is None
    assert actions(ledger)[1:] == [("connector.maintenance_on", "ben"), ("connector.maintenance_off", "ben")]
    with pytest.raises(NotFoundError):
        within(
            ledger.write(connectors.lock_name("nobody")),
            connectors.set_maintenance,
            "nobody",
            on=True,
            by="ben",
            clock=clock,
        )


def test_sms_01_disassociated_only_when_unused(ledger: Ledger, clock: Any) -> None:
    register(ledger, clock)
    users = ["2 migrations are under way"]
    with pytest.raises(PermanentError, match="in use: 2 migrations"):
        within(
            ledger.write(connectors.lock_name("dc1"), servers.LOCK),
            connectors.disassociate,
            "dc1",
            used_by=lambda tx, name: users,
            by="ana",
            clock=clock,
        )
    assert within(ledger.read(), connectors.find, "dc1") is not None
    users.clear()
    within(
        ledger.write(connectors.lock_name("dc1"), servers.LOCK),
        connectors.disassociate,
        "dc1",
        used_by=lambda tx, name: users,
        by="ana",
        clock=clock,
    )
    assert within(ledger.read(), connectors.find, "dc1") is None
    assert actions(ledger)[-1] == ("connector.disassociated", "ana")
    with pytest.raises(NotFoundError):
        within(
            ledger.write(connectors.lock_name("dc1"), servers.LOCK),
            connectors.disassociate,
            "dc1",
            used_by=lambda tx, name: [],
            by="ana",
            clock=clock,
        )
