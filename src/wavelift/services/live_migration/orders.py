"""What the control plane signs in a live run: a look, the start, and the end of what has not switched over."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from wavelift.base.run import RunContext
from wavelift.rules.frozen import digest_of
from wavelift.rules.grants import ALL_SERVERS, LOOK_LIFETIME, Grant, sign
from wavelift.rules.live_plans import ResolvedLive
from wavelift.services.common.grant_keys import private_key
from wavelift.services.common.grants import Requesters
from wavelift.services.dataplane.live_messages import CancelOrder, FollowOrder, LiveOrder
from wavelift.services.live_migration.runs import connections_of

ACTING: Final = timedelta(hours=24)
"""So long may the queue take to begin, and to try again."""


def look(key_file: Path, wave: ResolvedLive, ctx: RunContext, *, requesters: Requesters) -> str:
    """The token of pre-flight, near HCX. :raises PermanentError: the private key is missing, or others can read it."""
    hcx = wave.environment.hcx
    whom: dict[str, Any] = {
        "principals": requesters.principals(wave.environment),
        "vcenter_check": wave.environment.vcenter_check,
    }
    grant = _grant(wave, ctx, scope="look", plan=digest_of(wave), vcenter=hcx.connection, queue=hcx.queue, **whom)
    return sign(grant, private_key(key_file), now=ctx.clock.now(), lifetime=LOOK_LIFETIME)


def look_at_sites(key_file: Path, wave: ResolvedLive, ctx: RunContext) -> dict[str, str]:
    """Side → the token of the verification in its vCenter."""
    found = {}
    for side in ("destination", "source"):
        site = getattr(wave.environment, side)
        grant = _grant(
            wave, ctx, scope="look", plan=digest_of(wave), vcenter=site.connection, queue=site.queue, connections=()
        )
        found[side] = sign(grant, private_key(key_file), now=ctx.clock.now(), lifetime=LOOK_LIFETIME)
    return found


def to_start(key_file: Path, order: LiveOrder, wave: ResolvedLive, ctx: RunContext) -> LiveOrder:
    """The order with its grant."""
    return order.model_copy(update={"token": _acting(key_file, order, wave, ctx)})


def to_cancel(
    key_file: Path, order: CancelOrder, wave: ResolvedLive, ctx: RunContext, *, valid: timedelta
) -> CancelOrder:
    """The order with its grant.

    :param valid: of an order that is given in advance: until it may be needed.
    """
    return order.model_copy(update={"token": _acting(key_file, order, wave, ctx, valid=valid)})


def to_follow(key_file: Path, order: FollowOrder, wave: ResolvedLive, ctx: RunContext) -> FollowOrder:
    """The order with its grant, which only lets it look."""
    hcx = wave.environment.hcx
    grant = _grant(wave, ctx, scope="look", plan=order.digest, vcenter=hcx.connection, queue=hcx.queue)
    lifetime = max(order.until - ctx.clock.now(), timedelta()) + ACTING
    return order.model_copy(
        update={"token": sign(grant, private_key(key_file), now=ctx.clock.now(), lifetime=lifetime)}
    )


def _acting(
    key_file: Path,
    order: LiveOrder | CancelOrder,
    wave: ResolvedLive,
    ctx: RunContext,
    *,
    valid: timedelta = timedelta(),
) -> str:
    hcx = wave.environment.hcx
    grant = _grant(
        wave,
        ctx,
        scope="live",
        plan=order.digest,
        vcenter=hcx.connection,
        queue=hcx.queue,
        clear_number=order.clear_number,
    )
    return sign(grant, private_key(key_file), now=ctx.clock.now(), lifetime=ACTING + valid)


def _grant(wave: ResolvedLive, ctx: RunContext, *, queue: str, **fields: Any) -> Grant:
    return Grant(
        user=ctx.requester,
        action="live",
        environment=wave.environment.environment,
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        server=ALL_SERVERS,
        connector=queue,
        **{"connections": connections_of(wave.environment), **fields},
    )
