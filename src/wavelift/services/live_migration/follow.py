"""Following what HCX moves. People read how far it is; nothing decides by it but the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from wavelift.base.printable import printable
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import live_migrations
from wavelift.ledger.database import Ledger
from wavelift.rules.flow import SlotKind
from wavelift.rules.live import LiveState
from wavelift.services.common.slots import give_back
from wavelift.services.dataplane.live_messages import Followed, FollowedOne, FollowOrder
from wavelift.services.live_migration.runs import hcx_has_window, of_run

OF_ONE_VM: Final = (SlotKind.HCX_MANAGER, SlotKind.HCX_MESH)
"""Slots that are free once HCX has ended with the VM, whatever the others of its run do."""
GROUPED: Final = 100
"""Percent, once it is over."""


@dataclass(frozen=True, slots=True)
class Following:
    """What to follow.

    :param migrations: server → id in HCX. :param until: then the time is over. :param near: the queue follows them.
    """

    manager: str
    migrations: Mapping[str, str]
    until: datetime
    near: bool

    def order(self) -> FollowOrder:
        return FollowOrder(manager=self.manager, migrations=self.migrations, until=self.until)


def following(ledger: Ledger, ctx: RunContext) -> Following:
    """What of this run HCX moves, and by when each must be there: ``max_hours`` from its start on, or from the moment
    that HCX may switch over."""
    wave, found = of_run(ledger, ctx)
    moving = [each for each in found if each.state is LiveState.MOVING and each.migration_id]
    times = [datetime.fromisoformat(each.times[LiveState.MOVING]) for each in moving if each.times]
    began = min(times, default=ctx.clock.now())
    if wave.window is not None and hcx_has_window(wave):
        began = max(began, wave.window.start)
    return Following(
        wave.environment.hcx.connection,
        {each.server: each.migration_id for each in moving},
        began + timedelta(hours=wave.max_hours),
        near=wave.environment.hcx.reach == "connector",
    )


def note(ledger: Ledger, progress: Mapping[str, Mapping[str, Any]], *, clock: Clock) -> None:
    """Write how far migrations are.

    :param progress: id in HCX → what :meth:`wavelift.adapters.hcx.phases.Progress.told` says.
    """
    with ledger.write() as tx:
        found = live_migrations.moving_as(tx, progress.keys())
        for each in found:
            now, sizes = progress[each.migration_id], {}
            for name in ("bytes_done", "bytes_total"):
                if now.get(name) is not None:
                    sizes[name] = int(now[name])
            percent = GROUPED if now.get("over") else now.get("percent")
            live_migrations.progress(
                tx,
                each,
                percent=each.percent if percent is None else min(max(int(percent), 0), GROUPED),
                phase=printable(str(now.get("words") or "")),
                at=clock.now(),
                **sizes,
            )


def free(ledger: Ledger, progress: Mapping[str, Mapping[str, Any]], *, clock: Clock) -> None:
    """Give back the slots of migrations that are over: others wait for them, and the run may go on for days."""
    over = [id for id, now in progress.items() if now.get("over")]
    with ledger.read() as tx:
        found = live_migrations.moving_as(tx, over)
    for each in found:
        give_back(ledger, each.run_key, kinds=OF_ONE_VM, reason="HCX has ended with it", clock=clock)


def followed(to: Following, progress: Mapping[str, Mapping[str, Any]], now: datetime) -> Followed:
    """What the follow task returns at its end, of what the trigger saw last."""
    servers = []
    for server, id in to.migrations.items():
        seen = progress.get(id, {})
        servers.append(
            FollowedOne(
                server=server,
                migration_id=id,
                phase=str(seen.get("phase") or ""),
                percent=seen.get("percent"),
                words=str(seen.get("words") or "HCX does not list it"),
                error="; ".join(str(each) for each in seen.get("errors") or ()),
                word=str(seen.get("state") or ""),
            )
        )
    return Followed(servers=tuple(servers), at=now)
