"""What HCX is told: validate, start, and end migrations; and how far they are."""

from __future__ import annotations

from wavelift.base.rest import RestClient
from wavelift.base.run import RunContext
from wavelift.services.dataplane.live_messages import (
    Cancelled,
    CancelOrder,
    Followed,
    FollowOrder,
    LiveOrder,
    Started,
    Validated,
)


def validate(order: LiveOrder, *, hcx: RestClient, ctx: RunContext) -> Validated:
    """Let HCX validate the migrations. An error stops all; warnings do unless the order accepts them."""
    raise NotImplementedError


def start(order: LiveOrder, *, hcx: RestClient, ctx: RunContext) -> Started:
    """Make the mobility group of the order's name and start it; one that is there already is the same one."""
    raise NotImplementedError


def follow(order: FollowOrder, *, hcx: RestClient, ctx: RunContext) -> Followed | None:
    """Look once. None: HCX has not ended with all of them, and there is time left."""
    raise NotImplementedError


def cancel(order: CancelOrder, *, hcx: RestClient, ctx: RunContext) -> Cancelled:
    """End what has not begun to switch over. One without ids is looked for by its group's name and its entity."""
    raise NotImplementedError
