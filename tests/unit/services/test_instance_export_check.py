"""What the check of an export says before anything is made; its rules have tests of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.export_world import ACCOUNT, ExportWorld
from tests.ledgers import fresh_ledger
from tests.unit.rules import export_samples as samples

from wavelift.adapters.aws.export_bucket import ExportBuckets
from wavelift.adapters.aws.export_instance import ExportInstances
from wavelift.base.errors import PermanentError
from wavelift.services.instance_export import check

pytestmark = pytest.mark.unit
LSILOGIC = 60
"""Disks: four controllers of fifteen."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ExportWorld]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        yield ExportWorld(ledger)


def told(world: ExportWorld, monkeypatch: pytest.MonkeyPatch, disks: int, **conf: Any) -> int:
    """Disks of the plan."""
    first = samples.volume()
    more = [
        samples.volume(volume_id=f"vol-{number}", device=f"/dev/x{number}", boot=False) for number in range(1, disks)
    ]
    facts = samples.instance(volumes=(first, *more), account=ACCOUNT, caller=ACCOUNT)
    monkeypatch.setattr(ExportInstances, "facts", lambda self, id, now: facts)
    monkeypatch.setattr(ExportBuckets, "facts", lambda self, name: samples.bucket())
    run = f"disks-{disks}-{conf}"
    world.admit(run, mode="check", **conf)
    access: Any = None  # nobody is asked
    _, found = check.check(world.ledger, access, world.place, world.ctx(run))
    assert found.plan is not None
    return len(found.plan.instance.volumes)


def test_more_disks_than_a_controller_takes_are_refused_before_a_snapshot_is_taken(
    world: ExportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(world, monkeypatch, LSILOGIC) == LSILOGIC
    with pytest.raises(PermanentError, match="lsilogic takes 60 disks, and this one has 61"):
        told(world, monkeypatch, LSILOGIC + 1)
    assert told(world, monkeypatch, LSILOGIC + 1, controller="sata") == LSILOGIC + 1
