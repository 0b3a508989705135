"""Base classes of the triggers. Each trigger fires one event, but not too early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

MARGIN_SECONDS: Final = 1.0


def settle_seconds() -> float:
    """How long a trigger must wait after the deferral before it fires its event.

    The executor notices the end of the process that deferred up to ``[workers] min_heartbeat_interval`` (5 s) late. If
    the task is resumed before that, Airflow treats it as a task that ended unexpectedly, and it loses a try.
    """
    from airflow.sdk.configuration import conf

    return float(conf.getfloat("workers", "min_heartbeat_interval", fallback=5.0)) + MARGIN_SECONDS


class WaitTrigger(BaseTrigger):
    """Waits for one condition. The event carries little data: the resumed task checks the state again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated

    async def wait(self) -> dict[str, Any]:
        """Return the payload of the event when the task should resume. An exception becomes ``{"error": …}``."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """All arguments of ``__init__``. An argument that is missing here does not reach the triggerer."""
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
    """Base of the triggers that wait for AWS. It passes the name of the connection, never its secret, and settings."""

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
        """An :class:`~wavelift.adapters.aws.access.AwsAccess`, built outside the event loop."""
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        from wavelift.airflow.hooks.connections import check_id
        from wavelift.airflow.hooks.vm_import import VmImportHook

        if self.aws_conn_id:
            check_id(self.aws_conn_id)
        settings: dict[str, Any] = {"verify": self.verify, "botocore_config": self.botocore_config}
        try:
            connection = await BaseHook.aget_connection(self.aws_conn_id)
        except AirflowNotFoundException:
            # The hook decides whether this connection may be missing, and raises the error if not.
            return await asyncio.to_thread(VmImportHook.of(self.aws_conn_id, self.region_name, **settings).access)
        return await asyncio.to_thread(VmImportHook.from_connection(connection, self.region_name, **settings).access)

    def poller_key(self, purpose: str) -> tuple[object, ...]:
        """The key of the shared poller. It contains everything in which callers can differ."""
        return (
            purpose,
            self.aws_conn_id,
            self.region_name,
            self.poll_seconds,
            str(self.verify),
            repr(self.botocore_config),
        )
