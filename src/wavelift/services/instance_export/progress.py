"""How far exports are, for people. It decides nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from wavelift.base.run import Clock
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport


def note(ledger: Ledger, known: InstanceExport, phase: str, percent: int, clock: Clock) -> None:
    """Store the phase, without an event: there would be thousands."""
    if (known.phase, known.percent) == (phase, percent):
        return
    with ledger.write() as tx:
        exports.record_progress(tx, known.id, phase=phase, percent=percent, clock=clock)


def note_tasks(ledger: Ledger, running: Mapping[str, tuple[str, int]], clock: Clock) -> None:
    """Store what AWS says of running export tasks. Those of others are ignored.

    :param running: task id → phase and per cent.
    """
    tasks: Collection[str] = list(running)
    with ledger.read() as tx:
        known = exports.with_tasks(tx, tasks)
    for each in known:
        note(ledger, each, *running[each.task_id], clock)
