"""``tests/unit/ledger/test_seals.py`` on PostgreSQL."""

from __future__ import annotations

import pytest
from tests.unit.ledger.test_seals import *  # noqa: F403

pytestmark = pytest.mark.wire
