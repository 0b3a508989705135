"""Airflow connections as the hooks take them: by a plain id, and of the right type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSecretsBackendAccessDenied

from wavelift.base.errors import DeniedConnectionError, NoConnectionError, SpecError
from wavelift.rules.fields import CONNECTION_PATTERN

if TYPE_CHECKING:
    from airflow.sdk import Connection


PLACE: Final = "Admin → Connections"
"""Of Airflow's web UI."""


class NamedHook(Protocol):
    """A hook with the type of its connections, as Airflow stores it and as its form shows it."""

    conn_type: str
    hook_name: str

    def get_connection(self, conn_id: str) -> Connection: ...


def connection_of(hook: NamedHook, conn_id: str) -> Connection:
    """The connection ``conn_id``.

    :raises SpecError: the id leads to another connection, there is none, it is of another type, or this task may not
        have it. A retry can't help.
    """
    check_id(conn_id)
    try:
        connection = hook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise NoConnectionError(
            f"Airflow has no connection {conn_id!r}",
            next_step=f"Make it under {PLACE} (type {hook.hook_name}), or name another one in the spec",
        ) from error
    except AirflowSecretsBackendAccessDenied as error:
        raise DeniedConnectionError(
            f"Airflow refuses the connection {conn_id!r} to this task",
            next_step=f"Give it to the team of this DAG under {PLACE}, or name another one in the spec",
        ) from error
    check_type(connection, hook)
    return connection


def check_id(conn_id: str) -> None:
    """:raises SpecError: Airflow would look up another connection: it puts the id into the path of a request."""
    if not re.fullmatch(CONNECTION_PATTERN, conn_id):
        raise SpecError(
            f"'{conn_id}' is not the id of a connection",
            next_step="Use letters, digits, '_', '-', '.' and ':'; other characters can lead to another connection",
        )


def extra_of(connection: Connection) -> dict[str, Any]:
    """The extra fields.

    :raises SpecError: they are no JSON object.
    """
    extra = connection.extra_dejson
    if not isinstance(extra, dict):
        raise SpecError(
            f"The extra fields of the connection {connection.conn_id!r} are no JSON object",
            next_step=f"Correct them under {PLACE}",
        )
    return extra


def check_type(connection: Connection, hook: type[NamedHook] | NamedHook) -> None:
    """:raises SpecError: the connection is of another type. Its login and password belong to another system."""
    if connection.conn_type != hook.conn_type:
        raise SpecError(
            f"The connection {connection.conn_id!r} is of type {connection.conn_type!r}, not {hook.conn_type!r}",
            next_step=f"Name a connection of type {hook.hook_name}, or correct the type of this one under {PLACE}",
        )
