"""Seals of the audit trail: what is sealed and what not yet, and every kind of tampering is found and named."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.ledgers import within

from wavelift.base.run import Clock, DagRun
from wavelift.ledger import Ledger, events, seals
from wavelift.ledger.tables import event
from wavelift.ledger.tables_authority import event_seal
from wavelift.rules.seals import EVENTS_A_SEAL, SETTLED, Difference, Kind, Seal

pytestmark = pytest.mark.unit

RUN = DagRun("erp.migrate", "manual__1")


def write(ledger: Ledger, at: datetime, count: int = 1, **details: Any) -> None:
    with ledger.write() as tx:
        for number in range(count):
            subject = events.Subject("migration", f"mig-{number}", RUN)
            events.append(tx, subject, "migration.queued", at=at, actor="ana", details={"n": number, **details})


def seal_all(ledger: Ledger, now: datetime) -> list[Seal]:
    made: list[Seal] = []
    while seal := within(ledger.write(seals.LOCK), seals.seal_next, by="eve", now=now):
        made.append(seal)
    return made


def check(ledger: Ledger, after: int = 0) -> list[Difference]:
    with ledger.read() as tx:
        return [one.difference for one in seals.check_after(tx, after) if one.difference]


def forge(ledger: Ledger, *statements: str) -> None:
    """As somebody who may do anything in the database."""
    with ledger._engine.begin() as raw:
        if raw.dialect.name == "sqlite":
            names = raw.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
            for name in names:
                raw.execute(sa.text(f"DROP TRIGGER {name}"))
        else:
            raw.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            raw.exec_driver_sql(statement)


def test_only_events_of_more_than_ten_minutes_are_sealed(ledger: Ledger, clock: Clock) -> None:
    start = clock.now()
    write(ledger, start)
    write(ledger, start + timedelta(seconds=1))
    assert seal_all(ledger, start + SETTLED - timedelta(seconds=1)) == []
    (seal,) = seal_all(ledger, start + SETTLED)
    assert [id for id, _ in seal.rows] == [1]
    (second,) = seal_all(ledger, start + timedelta(days=1))
    assert (second.first_event_id, second.previous) == (2, seal.digest)
    assert seal_all(ledger, start + timedelta(days=1)) == [], "sealed once"
    assert check(ledger) == []
    with ledger.read() as tx:
        assert seals.extent(tx) == seals.Extent(2, second.digest, 0)


def test_a_young_event_ends_the_group_whatever_comes_after_it(ledger: Ledger, clock: Clock) -> None:
    """A machine whose clock is behind writes after one whose clock is ahead."""
    start = clock.now()
    for minutes in (0, 9, 0):
        write(ledger, start + timedelta(minutes=minutes))
    assert [id for seal in seal_all(ledger, start + SETTLED) for id, _ in seal.rows] == [1]
    assert [id for seal in seal_all(ledger, start + 2 * SETTLED) for id, _ in seal.rows] == [2, 3]


def test_many_events_get_many_seals_and_a_large_one_ends_its_seal(ledger: Ledger, clock: Clock) -> None:
    start = clock.now()
    write(ledger, start, EVENTS_A_SEAL + 1)
    write(ledger, start, text="x" * 600_000)
    write(ledger, start)
    made = seal_all(ledger, start + SETTLED)
    assert [len(seal.rows) for seal in made] == [EVENTS_A_SEAL, 2, 1]
    assert check(ledger) == check(ledger, made[0].last_event_id) == []
    with ledger.read() as tx:
        sealed = list(seals.sealed_after(tx, made[0].last_event_id))
    assert [(one.seal, len(one.lines)) for one in sealed] == [(made[1], 2), (made[2], 1)]


@pytest.mark.parametrize(
    ("forgery", "kind", "id"),
    [
        (["UPDATE event SET actor = 'bob' WHERE id = 3"], Kind.CHANGED, 3),
        (['UPDATE event SET details = \'{"n": 2, "more": 1}\' WHERE id = 3'], Kind.CHANGED, 3),
        (["UPDATE event SET at = '2020-01-01T00:00:00.000000Z' WHERE id = 3"], Kind.CHANGED, 3),
        (["DELETE FROM event WHERE id = 4"], Kind.MISSING, 4),
        (["DELETE FROM event WHERE id IN (1, 2)"], Kind.MISSING, 1),
        (["DELETE FROM event"], Kind.MISSING, 1),
        (["UPDATE event SET id = 99 WHERE id = 5"], Kind.MISSING, 5),
        (["UPDATE event SET action = 'x' WHERE id = 5", "DELETE FROM event WHERE id = 2"], Kind.MISSING, 2),
        (["UPDATE event_seal SET sealed_by = 'bob'"], Kind.SEAL, None),
        (["UPDATE event_seal SET digest = '00' WHERE last_event_id = 6"], Kind.SEAL, None),
        (["UPDATE event_seal SET rows = '[[4, \"00\"]]' WHERE last_event_id = 6"], Kind.CHANGED, 4),
        (["UPDATE event_seal SET rows = '[7, {}]', sealed_at = 'never' WHERE last_event_id = 6"], Kind.SEAL, None),
        (["DELETE FROM event_seal WHERE last_event_id = 3"], Kind.SEAL, None),
        (["DELETE FROM event WHERE id < 4", "DELETE FROM event_seal WHERE last_event_id = 3"], Kind.SEAL, None),
    ],
)
def test_the_first_row_that_differs_is_named(
    ledger: Ledger, clock: Clock, forgery: list[str], kind: Kind, id: int | None
) -> None:
    start = clock.now()
    write(ledger, start, 3)
    seal_all(ledger, start + SETTLED)
    write(ledger, start, 3)
    seal_all(ledger, start + SETTLED)
    assert check(ledger) == []
    forge(ledger, *forgery)
    first = check(ledger)[0]
    assert (first.kind, first.event_id) == (kind, id), first
    assert id is None or f"event {id}" in first.what


def test_a_row_that_is_no_event_any_more_is_told(ledger: Ledger, clock: Clock) -> None:
    if not ledger.url.startswith("sqlite"):
        return  # PostgreSQL refuses such values in any table
    write(ledger, clock.now(), 2)
    seal_all(ledger, clock.now() + SETTLED)
    forge(ledger, "UPDATE event SET details = '{', at = 'never', actor = x'ff' WHERE id = 2")
    assert [(one.kind, one.event_id) for one in check(ledger)] == [(Kind.CHANGED, 2)]


def test_an_event_that_comes_late_with_a_smaller_id_is_noticed_and_a_gap_is_none(ledger: Ledger, clock: Clock) -> None:
    """Its id was given, and its transaction committed more than ten minutes later; one that was rolled back: a gap."""
    start = clock.now()
    write(ledger, start, 2)
    forge(ledger, _inserted(7))
    assert len(seal_all(ledger, start + timedelta(days=365))) == 1
    assert check(ledger) == []
    forge(ledger, _inserted(5))
    (late,) = check(ledger)
    assert (late.kind, late.event_id) == (Kind.ADDED, 5)
    assert seal_all(ledger, start + timedelta(days=365)) == [], "what was sealed is not sealed again"


@pytest.mark.parametrize("id", [0, -1, -(2**31)])
def test_an_event_that_was_put_before_the_first_one_is_noticed(ledger: Ledger, clock: Clock, id: int) -> None:
    """No database gives such an id, and lists show it."""
    start = clock.now()
    write(ledger, start, 2)
    seal_all(ledger, start + timedelta(days=365))
    forge(ledger, _inserted(id))
    (found,) = check(ledger)
    assert (found.kind, found.event_id) == (Kind.ADDED, id)


def _inserted(id: int) -> str:
    return (
        "INSERT INTO event (id, at, actor, action, object_kind, object_id, dag_id, dag_run_id, details)"
        f" VALUES ({id}, '2026-11-22T10:00:00.000000Z', 'ana', 'x', 'y', 'z', '', '', '{{}}')"
    )


def test_a_forger_who_seals_anew_has_other_digests_than_the_exported_ones(ledger: Ledger, clock: Clock) -> None:
    start = clock.now()
    write(ledger, start, 3)
    (honest,) = seal_all(ledger, start + SETTLED)
    forge(ledger, "UPDATE event SET actor = 'bob' WHERE id = 2", "DELETE FROM event_seal")
    (forged,) = seal_all(ledger, datetime.fromisoformat(honest.sealed_at))
    assert check(ledger) == [], "nothing in the database can tell"
    assert forged.digest != honest.digest


def test_those_that_seal_at_once_seal_each_event_once(ledger: Ledger, clock: Clock) -> None:
    start = clock.now()
    write(ledger, start, 3 * EVENTS_A_SEAL)
    failures: list[BaseException] = []

    def sealing() -> None:
        try:
            seal_all(ledger, start + SETTLED)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=sealing) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with ledger.read() as tx:
        listed = [id for one in seals.sealed_after(tx, 0) for id, _ in one.seal.rows]
        assert listed == list(tx.execute(sa.select(event.c.id).order_by(event.c.id)).scalars())
    assert check(ledger) == []


def test_a_kill_while_sealing_leaves_whole_seals_and_the_next_goes_on(ledger: Ledger, clock: Clock) -> None:
    start = clock.now()
    write(ledger, start, 2 * EVENTS_A_SEAL)
    within(ledger.write(seals.LOCK), seals.seal_next, by="eve", now=start + SETTLED)
    with pytest.raises(KeyboardInterrupt), ledger.write(seals.LOCK) as tx:
        assert seals.seal_next(tx, by="eve", now=start + SETTLED)
        raise KeyboardInterrupt
    with ledger.read() as tx:
        assert seals.extent(tx).unsealed == EVENTS_A_SEAL
    assert len(seal_all(ledger, start + SETTLED)) == 1
    assert check(ledger) == []


STORABLE: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(
    details=st.dictionaries(
        STORABLE,
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False) | STORABLE,
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)  # fmt: skip
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_what_is_sealed_and_checked(ledger: Ledger, details: dict[str, Any]) -> None:
    at = datetime.fromisoformat("2026-11-22T10:00:00+00:00")
    write(ledger, at, note=details)
    (seal,) = seal_all(ledger, at + SETTLED)
    assert check(ledger, seal.first_event_id - 1) == []


@pytest.mark.parametrize("statement", ["UPDATE event_seal SET digest = ''", "DELETE FROM event_seal"])
def test_a_seal_cannot_be_rewritten(ledger: Ledger, clock: Clock, statement: str) -> None:
    write(ledger, clock.now())
    seal_all(ledger, clock.now() + SETTLED)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), ledger._engine.begin() as raw:
        raw.exec_driver_sql(statement)
    with ledger.read() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(event_seal)).scalar_one() == 1
