"""The trigger that waits for earlier tiers: it reads the ledger, and now and then lets one look at Airflow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from airflow.serialization.serialized_objects import BaseSerialization
from tests.contexts import HandClock
from tests.unit.services.test_cutover_move import Wave
from tests.unit.services.test_replication import Desk, clock, desk, made_once

from wavelift.airflow import config
from wavelift.airflow.triggers import tiers, wait
from wavelift.airflow.triggers.tiers import RECHECK_SECONDS, TierLine, TierTrigger
from wavelift.base.run import SystemClock
from wavelift.services.cutover import moving

__all__ = ["clock", "desk", "made_once"]

pytestmark = pytest.mark.airflow


def test_it_survives_the_database() -> None:
    classpath, fields = TierTrigger(cutover="cut-1", poll_seconds=5.0).serialize()
    assert classpath == "wavelift.airflow.triggers.tiers.TierTrigger"
    stored = BaseSerialization.deserialize(BaseSerialization.serialize(fields))
    assert vars(TierTrigger(**stored))["cutover"] == "cut-1"


def test_who_may_go_is_woken_and_one_looks_now_and_then(
    desk: Desk, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "ledger_url", lambda: f"sqlite:///{tmp_path / 'wavelift.db'}")
    wave = Wave(desk, clock, db01=0, web01=1, web02=1)
    wave.reserve("db01")
    ids = [wave.of(name).id for name in ("web01", "web02")]
    now = [0.0]
    line = TierLine(clock=lambda: now[0])
    assert line(ids) == {}
    now[0] = RECHECK_SECONDS
    assert len(line(ids)) == 1, "one asks Airflow, however many wait"
    assert line(ids) == {}
    moving.note(desk.ledger, wave.ctx("db01"), {"checked": SystemClock().now()})
    assert line(ids) == dict.fromkeys(ids, True)
    assert line(["cut-gone"]) == {"cut-gone": True}, "who is not in the ledger must ask again"
    assert RECHECK_SECONDS >= 60, "a task each time: not more often"


def test_its_event_says_only_to_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "TierLine", lambda: lambda ids: dict.fromkeys(ids, True))
    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.0)

    async def first() -> Any:
        return await anext(aiter(TierTrigger(cutover="cut-1", poll_seconds=0.05).run()))

    assert asyncio.run(first()).payload == {"turn": True}
