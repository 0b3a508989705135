"""Waiting deferred: a trigger only reads; the task that it wakes looks again, decides and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from wavelift.operators.control._plane import ControlOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from wavelift.services.common.slots import InQueue

SLOT_POLL_SECONDS: Final = 5.0
"""A freed transfer slot is not left idle for longer."""


class WaitingOperator(ControlOperator):
    """An operator whose ``work`` may end in :meth:`wait_for`, and is then called anew when the trigger fires."""

    def wait_for(self, trigger: BaseTrigger) -> NoReturn:
        self.defer(trigger=trigger, method_name="execute_complete")
        raise AssertionError("defer does not return")

    def wait_for_slot(self, queued: InQueue, *, soon: bool = False) -> NoReturn:
        """Until a request for the slot would be granted; ``soon``: look every few seconds."""
        from wavelift.airflow import config
        from wavelift.airflow.triggers.slots import SlotTrigger

        self.log.info("waits: %s", queued.words)
        request, poll = queued.request, config.poll_seconds()
        self.wait_for(
            SlotTrigger(
                kind=request.kind.value,
                scope=request.scope,
                holder=request.holder,
                limit=request.limit,
                poll_seconds=min(SLOT_POLL_SECONDS, poll) if soon else poll,
            )
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Woken: look again and go on from what is there."""
        if "error" in event:
            self.log.warning("the wait failed and begins anew: %s", event["error"])
        return dict(self.execute(context))
