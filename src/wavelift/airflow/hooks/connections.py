"""Airflow connections as the hooks take them: by a plain id, and of the right type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowNotFoundException

from wavelift.base.errors import SpecError
from wavelift.rules.fields import CONNECTION_PATTERN

if TYPE_CHECKING:
    from airflow.sdk import BaseHook, Connection


class NoConnectionError(SpecError):
    """Airflow has no connection of this id."""


def connection_of(hook: BaseHook, conn_id: str, conn_type: str) -> Connection:
    """The connection ``conn_id``.

    :raises SpecError: the id leads to another connection, there is none, or it is of another type. A retry can't help.
    """
    check_id(conn_id)
    try:
        connection = hook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise NoConnectionError(
            f"Airflow has no connection {conn_id!r}",
            next_step=f"Create it under Admin, Connections (type {conn_type}), or use another connection",
        ) from error
    check_type(connection, conn_type)
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
            next_step="Correct them under Admin, Connections",
        )
    return extra


def check_type(connection: Connection, conn_type: str) -> None:
    """:raises SpecError: the connection is of another type. Its login and password belong to another system."""
    if connection.conn_type != conn_type:
        raise SpecError(
            f"The connection {connection.conn_id!r} is of type {connection.conn_type!r}, not {conn_type!r}",
            next_step=f"Use a connection of type {conn_type}, or correct its type under Admin, Connections",
        )
