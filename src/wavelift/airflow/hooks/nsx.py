"""Airflow connection ``nsx`` → :class:`~wavelift.adapters.nsx.access.NsxAccess`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from wavelift.airflow.hooks.connections import PLACE, connection_of, extra_of
from wavelift.airflow.hooks.rest import rest_place
from wavelift.base.errors import SpecError, WaveliftError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from wavelift.adapters.nsx.access import NsxAccess
    from wavelift.adapters.nsx.vmc import Sddc
    from wavelift.base.rest import RestClient


class NsxHook(BaseHook):
    """Reaches an NSX manager, or the NSX of an SDDC in VMware Cloud on AWS.

    :param nsx_conn_id: Airflow connection of type ``nsx``.
    """

    conn_name_attr = "nsx_conn_id"
    default_conn_name = "nsx_default"
    conn_type = "nsx"
    hook_name = "VMware NSX (wavelift)"

    def __init__(self, nsx_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.nsx_conn_id = nsx_conn_id

    def access(self) -> NsxAccess:
        """How to reach it.

        :raises SpecError: there is no such connection, it is of another type, or a field is missing or invalid.
        """
        return access_of(connection_of(self, self.nsx_conn_id), self.nsx_conn_id)

    def get_conn(self) -> RestClient:
        """A client for :class:`~wavelift.adapters.nsx.segments.Segments`. The caller must close it."""
        from wavelift.adapters.nsx.access import connect

        return connect(self.access())

    def test_connection(self) -> tuple[bool, str]:
        """Text for the *Test* button: what is there, or what failed and how to solve it."""
        from wavelift.adapters.nsx.doctor import test_connection

        try:
            return True, test_connection(self.access())
        except WaveliftError as error:
            return False, str(error)


def access_of(connection: Connection, name: str) -> NsxAccess:
    """Of a connection that is there."""
    from wavelift.adapters.nsx.access import SYSTEM, NsxAccess
    from wavelift.adapters.nsx.vmc import VMC_HOST

    sddc = _sddc(connection, name)
    in_cloud = sddc is not None
    return NsxAccess(
        place=rest_place(connection, name, SYSTEM, usual_host=VMC_HOST if in_cloud else "", needs_user=not in_cloud),
        username=connection.login or "",
        password=connection.password or "",
        sddc=sddc,
    )


def _sddc(connection: Connection, name: str) -> Sddc | None:
    """None: this NSX is not in VMware Cloud."""
    from wavelift.adapters.nsx.vmc import CSP_HOST, Sddc
    from wavelift.base.rest import split_https

    extra = extra_of(connection)
    org, sddc, url = (str(extra.get(field) or "").strip() for field in ("vmc_org", "vmc_sddc", "csp_url"))
    if not org and not sddc:
        return None
    if not org or not sddc:
        raise SpecError(
            f"The connection {name!r} has only one of vmc_org and vmc_sddc",
            next_step=f"Enter both under {PLACE} for an NSX in VMware Cloud, or none",
        )
    host, port, _ = split_https(url or f"https://{CSP_HOST}", "csp_url of the NSX connection")
    return Sddc(org=org, sddc=sddc, csp_host=host, csp_port=port)
