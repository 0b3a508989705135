"""Airflow connections of systems with a REST API (HCX, NSX) → :class:`~wavelift.base.rest.RestPlace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wavelift.airflow.config import patience_s
from wavelift.airflow.hooks.connections import PLACE, extra_of, proxy_of
from wavelift.base.errors import SpecError, UnsafeTextError
from wavelift.base.printable import HIDDEN
from wavelift.base.rest import CERTIFICATE_MODES, HTTPS_PORT, RestPlace

if TYPE_CHECKING:
    from airflow.sdk import Connection

PROXY_PORT: Final = 3128
"""Of a proxy whose address has no port: squid's."""
LAST_PORT: Final = 65_535
_TLS: Final = ("certificate_mode", "thumbprint", "ca_bundle")


def rest_place(
    connection: Connection, name: str, system: str, *, usual_host: str = "", needs_user: bool = True
) -> RestPlace:
    """Host, TLS policy and proxy of a connection. An empty form field means the default.

    :param system: as errors name it, such as ``HCX``.
    :param usual_host: of a connection without one. :param needs_user: False if a token may be all that it holds.
    :raises SpecError: host or user is missing, or a field has an invalid value. A retry can't help.
    """
    host = connection.host or usual_host
    if not host or (needs_user and not connection.login):
        raise SpecError(
            f"The connection {name!r} lacks a {'user' if host else 'host'}",
            next_step=f"Enter host and user under {PLACE}",
        )
    if connection.port is not None and not 0 < connection.port <= LAST_PORT:
        raise SpecError(
            f"The connection {name!r} has the port {connection.port}",
            next_step=f"Enter 1 to {LAST_PORT} under {PLACE}; usual: {HTTPS_PORT}",
        )
    extra = {key: str(value) for key, value in extra_of(connection).items() if value not in (None, "")}
    mode = extra.get("certificate_mode", CERTIFICATE_MODES[0])
    if mode not in CERTIFICATE_MODES:
        raise SpecError(
            f"certificate_mode of the {system} connection is {mode!r}",
            connection=name,
            next_step=f"Allowed values: {', '.join(CERTIFICATE_MODES)}",
        )
    known: dict[str, Any] = {key: extra[key] for key in _TLS if key in extra}
    try:
        return RestPlace(
            system=system,
            host=host,
            port=connection.port or HTTPS_PORT,
            proxy=proxy_of(extra, extra["proxy"], default_port=PROXY_PORT) if "proxy" in extra else None,
            patience_s=patience_s(),
            **known,
        )
    except UnsafeTextError as error:
        shown = f"{HIDDEN}{host.rpartition('@')[2]}" if "@" in host else host
        raise SpecError(
            f"The connection {name!r} has the host {shown!r}, which is no name of a machine",
            next_step=f"Enter the name or address alone under {PLACE}, such as {system.lower()}.example.com",
        ) from error
