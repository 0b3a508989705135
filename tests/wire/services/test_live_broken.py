"""Live migrations where HCX or an XCom says what nobody expects: no machine moves, or ends, that was not meant."""

from __future__ import annotations

import pytest
from tests.live_journey import Live, a_wave
from tests.wire.simulators_hcx.conftest import Sites, running, sites

from wavelift.adapters.hcx.mobility import Mobility
from wavelift.base.errors import PermanentError
from wavelift.services.dataplane import hcx_migrate
from wavelift.services.dataplane.hcx_migrate import cancel, migration_orders, start

pytestmark = pytest.mark.wire

__all__ = ["running", "sites"]


@pytest.fixture
def live(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setattr(hcx_migrate, "LOOK_SECONDS", 0.01)
    return Live(sites)


@pytest.mark.parametrize("listed", [True, False])
def test_a_group_that_an_earlier_order_made_for_more_servers_is_not_started(live: Live, listed: bool) -> None:
    """Its task died before the start, one server was cancelled, and the run was cleared."""
    live.world.hcx.settings(drafts_listed=listed)
    order = live.order(a_wave("app01", "app02"))
    with live.hcx() as hcx:
        Mobility(hcx).make_group(order.group_name, migration_orders(order))
        less = order.model_copy(update={"tasks": order.tasks[:1], "dropped": ("app02",)})
        with pytest.raises(PermanentError, match="group"):
            start(less, hcx=hcx, ctx=live.ctx())
    assert live.world.hcx.migrations() == []


def test_a_migration_of_another_machine_is_never_cancelled(live: Live) -> None:
    """Its id came by XCom, as that of one of ours."""
    strangers = live.started(live.order(a_wave("app02"), group_name="theirs"))
    order = live.order(a_wave("app01"))
    ours = live.started(order)
    (stranger,) = strangers.servers
    asked = live.to_cancel(order, ours)
    (one,) = asked.servers
    asked = asked.model_copy(update={"servers": (one.model_copy(update={"migration_id": stranger.migration_id}),)})
    with live.hcx() as hcx, pytest.raises(PermanentError, match="another machine"):
        cancel(asked, hcx=hcx, ctx=live.ctx())
    assert {each["vm"]: each["phase"] for each in live.world.hcx.migrations()}["app02"] != "CANCELLED"
    ended = {one.server: one.phase for one in live.until_over(strangers).servers}
    assert ended == {"app02": "complete"}
