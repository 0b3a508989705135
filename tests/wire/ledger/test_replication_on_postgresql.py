"""``tests/unit/services/test_replication.py`` on PostgreSQL."""

from __future__ import annotations

import pytest
from tests.contexts import HandClock
from tests.unit.services.test_replication import *  # noqa: F403
from tests.unit.services.test_replication import Desk

from wavelift.ledger import Ledger

pytestmark = pytest.mark.wire


@pytest.fixture  # type: ignore[no-redef]
def desk(ledger: Ledger, clock: HandClock) -> Desk:
    return Desk(ledger, clock)
