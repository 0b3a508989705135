"""Airflow connection ``hcx`` → :class:`~wavelift.adapters.hcx.transport.HcxAccess`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from wavelift.airflow.hooks.connections import check_id, check_type, connection_of
from wavelift.airflow.hooks.rest import rest_place
from wavelift.base.errors import WaveliftError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from wavelift.adapters.hcx.transport import HcxAccess
    from wavelift.base.rest import RestClient


class HcxHook(BaseHook):
    """Reaches an HCX manager.

    :param hcx_conn_id: Airflow connection of type ``hcx``.
    """

    conn_name_attr = "hcx_conn_id"
    default_conn_name = "hcx_default"
    conn_type = "hcx"
    hook_name = "VMware HCX (wavelift)"

    def __init__(self, hcx_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hcx_conn_id = hcx_conn_id

    def access(self) -> HcxAccess:
        """How to reach the manager.

        :raises SpecError: there is no such connection, it is of another type, or a field is missing or invalid.
        """
        return access_of(connection_of(self, self.hcx_conn_id), self.hcx_conn_id)

    def get_conn(self) -> RestClient:
        """A client for :mod:`wavelift.adapters.hcx`. The caller must close it."""
        return self.access().client()

    def test_connection(self) -> tuple[bool, str]:
        """Text for the *Test* button: version, user and paired sites, or what failed and how to solve it."""
        from wavelift.adapters.hcx.doctor import test_connection

        try:
            access = self.access()
            # A person waits for the answer.
            return True, test_connection(replace(access, place=replace(access.place, patience_s=0.0)))
        except WaveliftError as error:
            return False, str(error)


def access_of(connection: Connection, name: str) -> HcxAccess:
    """Of a connection that is there."""
    from wavelift.adapters.hcx.transport import SYSTEM, HcxAccess

    return HcxAccess(
        place=rest_place(connection, name, SYSTEM),
        username=connection.login or "",
        password=connection.password or "",
    )


async def aaccess(conn_id: str) -> HcxAccess:
    """For triggers, which must not wait in the event loop.

    :raises SpecError: as :meth:`HcxHook.access`.
    """
    import asyncio

    from airflow.sdk.exceptions import AirflowNotFoundException

    check_id(conn_id)
    try:
        connection = await BaseHook.aget_connection(conn_id)
    except AirflowNotFoundException:
        # The hook asks again, and says what it is.
        return await asyncio.to_thread(HcxHook(conn_id).access)
    check_type(connection, HcxHook)
    return await asyncio.to_thread(access_of, connection, conn_id)
