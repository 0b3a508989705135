"""Waiting for VM Import tasks: one describe call per connection, region and interval for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from airflow.triggers.base import BaseTrigger, TriggerEvent

from wavelift.airflow.triggers.poller import Fetch, SharedPoller, settled


class AwsWaitTrigger(BaseTrigger):
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
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.poll_seconds = poll_seconds
        self.verify = verify
        self.botocore_config = botocore_config

    def settings(self) -> dict[str, Any]:
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

        from wavelift.airflow.hooks.vm_import import VmImportHook

        connection = await BaseHook.aget_connection(self.aws_conn_id)
        hook = VmImportHook.from_connection(
            connection, self.region_name, verify=self.verify, botocore_config=self.botocore_config
        )
        return await asyncio.to_thread(hook.access)

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


class ImportWatchTrigger(AwsWaitTrigger):
    """Wakes its task when an import has ended.

    :param import_task_id: ``import-ami-…``.
    """

    def __init__(self, *, import_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.import_task_id = import_task_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        kind = type(self)
        return (f"{kind.__module__}.{kind.__qualname__}", {"import_task_id": self.import_task_id, **self.settings()})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        began = time.monotonic()
        try:
            access = await self.access()
            poller = SharedPoller.of(self.poller_key("imports"), _finished_imports(access), self.poll_seconds)
            status = await poller.watch(self.import_task_id)
        except Exception as error:
            await settled(began)
            yield TriggerEvent({"error": str(error), "import_task_id": self.import_task_id})
            return
        await settled(began)
        yield TriggerEvent({"status": status, "import_task_id": self.import_task_id})


class ImportImageTrigger(ImportWatchTrigger):
    """The same for the import's owner: cancels it when a person kills the task."""

    async def on_kill(self) -> None:
        from wavelift.adapters.aws.vmimport import VmImport

        imports = VmImport(await self.access())
        await asyncio.to_thread(imports.cancel, self.import_task_id, "wavelift: the task was stopped by a person")


def _finished_imports(access: Any) -> Fetch:
    from wavelift.adapters.aws.vmimport import VmImport

    imports = VmImport(access)

    def fetch(ids: Sequence[str]) -> Mapping[str, Any]:
        found = imports.describe(ids)
        ended = {id: status.status for id, status in found.items() if status.finished}
        # AWS forgets tasks in time: an id that it does not know never ends by itself.
        return {**ended, **{id: "unknown" for id in ids if id not in found}}

    return fetch


class ImportSlotTrigger(AwsWaitTrigger):
    """Wakes its task when fewer than ``below`` imports are active in the account (invariant 8).

    It looks one interval after it began: the task has just looked itself.
    """

    def __init__(self, *, below: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.below = below

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return ("wavelift.airflow.triggers.imports.ImportSlotTrigger", {"below": self.below, **self.settings()})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        began = time.monotonic()
        try:
            await asyncio.sleep(self.poll_seconds)
            access = await self.access()
            key = (*self.poller_key("import places"), self.below)
            await SharedPoller.of(key, _free_places(access, self.below), self.poll_seconds).watch(uuid4().hex)
        except Exception as error:
            await settled(began)
            yield TriggerEvent({"error": str(error)})
            return
        await settled(began)
        yield TriggerEvent({"free": True})


def _free_places(access: Any, below: int) -> Fetch:
    from wavelift.adapters.aws.vmimport import VmImport

    imports = VmImport(access)

    def fetch(waiters: Sequence[str]) -> Mapping[str, Any]:
        # AWS decides who gets the place; waking more than there are places only costs tasks.
        return dict.fromkeys(waiters[: max(0, below - imports.count_active())], True)

    return fetch
