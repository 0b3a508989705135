"""What triggers share: one event, not too soon; and AWS by the name of its connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

MARGIN_SECONDS: Final = 1.0


def settle_seconds() -> float:
    """How long after a deferral its event must not be fired.

    The end of the process that deferred reaches the executor up to ``[workers] min_heartbeat_interval`` (5 s) late. A
    task that was resumed before that is taken for one that ended without saying so, and loses a try.
    """
    from airflow.sdk.configuration import conf

    return float(conf.getfloat("workers", "min_heartbeat_interval", fallback=5.0)) + MARGIN_SECONDS


class WaitTrigger(BaseTrigger):
    """Waits for one thing. Its task looks at the world again when woken: the event says little."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated

    async def wait(self) -> dict[str, Any]:
        """Return the event's payload once the task should wake. What it raises becomes ``{"error": …}``."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """All arguments of ``__init__``; one that is left out is lost on the way to the triggerer."""
        raise NotImplementedError

    def serialize(self) -> tuple[str, dict[str, Any]]:
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", self.fields()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        settled = time.monotonic() + settle_seconds()
        try:
            payload = await self.wait()
        except Exception as error:
            payload = {"error": str(error) or type(error).__name__}
        await asyncio.sleep(max(0.0, settled - time.monotonic()))
        yield TriggerEvent(payload)


class AwsWaitTrigger(WaitTrigger):
    """What AWS waits share: the connection by name (never its secret) and all its settings."""

    def __init__(
        self,
        *,
        aws_conn_id: str,
        region_name: str | None,
        poll_seconds: float,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.poll_seconds = poll_seconds
        self.verify = verify
        self.botocore_config = botocore_config

    def fields(self) -> dict[str, Any]:
        return {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "poll_seconds": self.poll_seconds,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }

    async def access(self) -> Any:
        """An :class:`~wavelift.adapters.aws.access.AwsAccess`, built off the event loop."""
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        from wavelift.airflow.hooks.vm_import import VmImportHook

        settings: dict[str, Any] = {"verify": self.verify, "botocore_config": self.botocore_config}
        try:
            connection = await BaseHook.aget_connection(self.aws_conn_id)
        except AirflowNotFoundException:
            # The hook knows which connection may be missing, and what to say of another.
            return await asyncio.to_thread(VmImportHook.of(self.aws_conn_id, self.region_name, **settings).access)
        return await asyncio.to_thread(VmImportHook.from_connection(connection, self.region_name, **settings).access)

    def poller_key(self, purpose: str) -> tuple[object, ...]:
        """Everything that separates callers."""
        return (
            purpose,
            self.aws_conn_id,
            self.region_name,
            self.poll_seconds,
            str(self.verify),
            repr(self.botocore_config),
        )
