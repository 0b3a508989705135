"""The admit task of a migrate run: which parts of the conf it uses, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN
from tests.unit.rules.conftest import resolved

from wavelift.base.errors import NotFoundError, SpecError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, waves
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.admit import RunRequest
from wavelift.services.dataplane.messages import Admitted
from wavelift.services.migration.admit import admit

__all__ = ["resolved"]

pytestmark = pytest.mark.unit

RUN = DagRun("erp.migrate", "r1")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return fresh_ledger(tmp_path / "ledger.db")


@pytest.fixture
def asked(ledger: Ledger, resolved: Callable[..., ResolvedWave]) -> Callable[..., Admitted]:
    """What admission says to a conf, for a wave of the servers a and b."""

    def ask(**conf: Any) -> Admitted:
        request = RunRequest("erp", conf)
        return admit(ledger, request, lambda _: resolved("a", "b"), run_context(RUN, requester="ana"), rights=OPEN)

    return ask


def test_cleanup_looks_at_the_whole_wave_whatever_the_form_says(asked: Callable[..., Admitted]) -> None:
    found = asked(mode="cleanup", servers=["a"], launch="running", migrations=["mig-0"])
    assert [plan.server for plan in found.wave.servers] == ["a", "b"]
    assert {plan.launch for plan in found.wave.servers} == {"none"}
    assert (found.mode, found.dry_run, found.migrations) == ("cleanup", True, ())


def test_a_launch_uses_the_migrations_alone(asked: Callable[..., Admitted]) -> None:
    with pytest.raises(NotFoundError, match="no such migration"):
        asked(mode="launch", servers=["nobody"], launch="none", migrations=["mig-0"])


def test_a_plan_has_the_chosen_servers_but_launches_as_the_spec_says(asked: Callable[..., Admitted]) -> None:
    found = asked(mode="plan", servers=["b"], launch="running", dry_run=False, migrations=["mig-0"])
    assert [(plan.server, plan.launch) for plan in found.wave.servers] == [("b", "none")]
    assert found.migrations == ()


def test_an_empty_choice_is_refused(asked: Callable[..., Admitted]) -> None:
    with pytest.raises(SpecError, match="no server an empty list"):
        asked(servers=[])


def test_a_run_in_flight_continues_whatever_its_conf_says(ledger: Ledger, asked: Callable[..., Admitted]) -> None:
    """It was admitted once: a task that is cleared after an upgrade does not read the conf again."""
    first = asked(servers=["a"])
    assert asked(servers="a", bogus=1, mode="teleport") == first
    assert within(ledger.read(), waves.get, RUN).mode == "migrate"


def test_a_number_as_note_is_kept_as_text(ledger: Ledger, asked: Callable[..., Admitted]) -> None:
    asked(note=4711)
    assert within(ledger.read(), waves.get, RUN).note == "4711"
