"""``tests/unit/ledger/test_records.py`` on PostgreSQL."""

from __future__ import annotations

import pytest
from tests.unit.ledger.test_records import *  # noqa: F403

pytestmark = pytest.mark.wire
