"""Servers that get through: every shape of disk, lease and guest, proven against what the snapshot froze."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.wire.services.conftest import Stage

pytestmark = pytest.mark.wire


@pytest.mark.parametrize("server", ["web01", "db01", "off01", "mute01", "empty01", "pair01"])
def test_amp_06_a_server_gets_through(stage: Stage, server: str) -> None:
    done = stage.journey(server).run()
    assert done.error is None
    assert set(done.tries.values()) == {1}
    stage.assert_imports_equal_source(done)
