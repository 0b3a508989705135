"""Airflow connection ``vsphere`` → :class:`~wavelift.adapters.vsphere.session.VsphereConfig`."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseHook

from wavelift.airflow import config
from wavelift.airflow.hooks.connections import PLACE, connection_of, extra_of, proxy_of
from wavelift.airflow.provider_info import VSPHERE_CHOICES
from wavelift.base.errors import SpecError, UnsafeTextError, WaveliftError
from wavelift.base.printable import HIDDEN
from wavelift.base.remote_text import host_name
from wavelift.rules.fields import whole_number

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession
    from wavelift.adapters.vsphere.vddk import VddkConfig

log = logging.getLogger(__name__)

HTTPS_PORT: Final = 443
PROXY_PORT: Final = 3128
"""Of a proxy whose address has no port: squid's."""
LAST_PORT: Final = 65_535
LABEL_LONGEST: Final = 63
"""Characters of one label of a host name (RFC 1035)."""
_NUMBERS: Final = ("vddk_connections", "vddk_host_sessions", "vddk_vcenter_sessions")
_WORKER_S: Final = {"vddk_libdir": "nbdkit_folder", "nbdkit": "nbdkit", "vddk_config": "vddk_config"}
"""Former fields of a connection → the options of the worker that took their place."""
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class VsphereHook(BaseHook):
    """Opens sessions to a vCenter. pyVmomi is imported only when a session is opened.

    :param vsphere_conn_id: Airflow connection of type ``vsphere``.
    """

    conn_name_attr = "vsphere_conn_id"
    default_conn_name = "vsphere_default"
    conn_type = "vsphere"
    hook_name = "VMware vCenter (wavelift)"

    def __init__(self, vsphere_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vsphere_conn_id = vsphere_conn_id

    def config(self) -> VsphereConfig:
        """The connection's fields as a session configuration.

        :raises SpecError: if there is no such connection, if it is of another type, if it lacks host or login, or if a
            field has an invalid value. A retry can't help in any of these cases.
        """
        return config_of(connection_of(self, self.vsphere_conn_id), self.vsphere_conn_id)

    def session(self) -> AbstractContextManager[VsphereSession]:
        """A logged-in session. It logs out at the end of the ``with`` block."""
        from wavelift.adapters.vsphere.session import connect

        return connect(self.config())

    def get_conn(self) -> VsphereSession:
        """Like :meth:`session`, but already entered. The caller must close it."""
        return self.session().__enter__()

    def test_connection(self) -> tuple[bool, str]:
        """Text for the *Test* button: version and user, or which step failed and how to solve it."""
        from wavelift.adapters.vsphere.doctor import test_connection

        try:
            return True, test_connection(self.config())
        except WaveliftError as error:
            return False, str(error)


def config_of(connection: Connection, name: str) -> VsphereConfig:
    """:class:`VsphereConfig` of a connection. An empty form field means the default."""
    from wavelift.adapters.vsphere.session import VsphereConfig
    from wavelift.airflow.config import patience_s

    if not connection.host or not connection.login:
        raise SpecError(
            f"The connection {name!r} lacks a {'user' if connection.host else 'host'}",
            next_step=f"Enter host and user under {PLACE}",
        )
    _check_place(connection.host, connection.port, name)
    extra: dict[str, Any] = {
        key: value if key in _NUMBERS else str(value)
        for key, value in extra_of(connection).items()
        if value not in (None, "")
    }
    for field, values in VSPHERE_CHOICES.items():
        if extra.get(field, values[0]) not in values:
            raise SpecError(
                f"{field} of the vsphere connection is {extra[field]!r}",
                connection=name,
                next_step=f"Allowed values: {', '.join(values)}",
            )
    known = {key: extra[key] for key in ("certificate_mode", "thumbprint", "ca_bundle", "esxi_mode") if key in extra}
    try:
        return VsphereConfig(
            host=connection.host,
            port=connection.port or HTTPS_PORT,
            username=connection.login,
            password=connection.password or "",
            dns_suffixes=_listed(extra.get("dns_suffixes", "")),
            esxi_thumbprints=_listed(extra.get("esxi_thumbprints", "")),
            esxi_addresses=_addresses(extra.get("esxi_addresses", "")),
            proxy=proxy_of(extra, extra["proxy"], default_port=PROXY_PORT) if "proxy" in extra else None,
            vddk=_vddk(extra, name),
            patience_s=patience_s(),
            **known,
        )
    except ValueError as error:
        raise SpecError(f"The vsphere connection is invalid: {error}", connection=name) from error


def _check_place(host: str, port: int | None, name: str) -> None:
    """:raises SpecError: nothing can have this host name or port, such as an address copied from a browser."""
    try:
        host_name(host, "the host")
    except UnsafeTextError as error:
        shown = f"{HIDDEN}{host.rpartition('@')[2]}" if "@" in host else host
        raise SpecError(
            f"The connection {name!r} has the host {shown!r}, which is no name of a machine",
            next_step=f"Enter the vCenter's name or address alone under {PLACE}, such as vcenter.example.com",
        ) from error
    if not all(0 < len(label) <= LABEL_LONGEST for label in host.removesuffix(".").split(".")):
        raise SpecError(
            f"The connection {name!r} has the host {host!r}: each part of a name has 1 to {LABEL_LONGEST} characters",
            next_step=f"Correct it under {PLACE}",
        )
    if port is not None and not 0 < port <= LAST_PORT:
        raise SpecError(
            f"The connection {name!r} has the port {port}",
            next_step=f"Enter 1 to {LAST_PORT} under {PLACE}; usual: 443",
        )


def _vddk(extra: dict[str, Any], connection: str) -> VddkConfig | None:
    """The VDDK settings. None if ``[wavelift] nbdkit_plugin`` is not set on this worker, whatever the connection has.

    Paths of libraries, programs and their files come only from the worker's configuration, because anyone who may edit
    the connection in the web UI could otherwise run code on the worker.

    :raises ValueError: a field that should be a number is not one.
    :raises SpecError: :class:`VddkConfig` refuses a value.
    """
    from wavelift.adapters.vsphere.vddk import VddkConfig

    for name, option in _WORKER_S.items():
        if name in extra:
            log.warning(
                "%s of the connection %s is ignored: set [wavelift] %s on the connector", name, connection, option
            )
    fields: dict[str, Any] = {}
    if "vddk_compression" in extra:
        fields["compression"] = extra["vddk_compression"]
    for name in _NUMBERS:
        if name in extra:
            fields[name.removeprefix("vddk_")] = _whole_number(name, extra[name])
    if "vddk_transports" in extra:
        fields["transports"] = tuple(extra["vddk_transports"].split(":"))
    plugin = config.nbdkit_plugin()
    if not plugin:
        # The Test button does not run on the connector. It still reports wrong fields.
        VddkConfig(folder="/", **fields)
        return None
    return VddkConfig(
        plugin=plugin,  # type: ignore[arg-type]  # checked there
        folder=config.nbdkit_folder(),
        nbdkit=config.nbdkit_program(),
        config_file=config.vddk_config(),
        **fields,
    )


def _whole_number(name: str, value: Any) -> int:
    try:
        return whole_number(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _addresses(text: str) -> dict[str, str]:
    """Parse ``esx1.corp=203.0.113.5, esx2.corp=203.0.113.6``.

    :raises ValueError: the text has another form, or names a host twice.
    """
    from wavelift.base.net import is_address

    found: dict[str, str] = {}
    for entry in _listed(text):
        host, equals, address = (part.strip() for part in entry.partition("="))
        if not (equals and _HOST.fullmatch(host) and (is_address(address) or _HOST.fullmatch(address))):
            raise ValueError(f"esxi_addresses has '{entry}', but each entry must be 'host name=address'")
        if host.casefold() in {known.casefold() for known in found}:
            raise ValueError(f"esxi_addresses names '{host}' twice")
        found[host] = address
    return found


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
