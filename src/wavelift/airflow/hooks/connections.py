"""Airflow connections as the hooks take them: by a plain id, and of the right type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

from airflow.sdk.exceptions import (
    AirflowNotFoundException,
    AirflowRuntimeError,
    AirflowSecretsBackendAccessDenied,
    ErrorType,
)
from airflow.sdk.log import mask_secret

from wavelift.base.errors import DeniedConnectionError, NoConnectionError, SpecError, UnreachableError
from wavelift.base.tunnel import Proxy
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
    :raises UnreachableError: Airflow did not say whether there is one.
    """
    check_id(conn_id)
    try:
        connection = hook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        if (trouble := _no_answer(conn_id)) is not None:
            raise UnreachableError(
                f"Airflow did not answer for the connection {conn_id!r}",
                detail=trouble,
                next_step="Look at Airflow's api-server, if this lasts",
            ) from error
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


def _no_answer(conn_id: str) -> str | None:
    """Why Airflow could not look the connection up; None if it did, and there is none.

    Airflow says "isn't defined", too, when its api-server is away. So the task asks again, and reads the answer itself.
    """
    try:
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS
    except ImportError:  # in no task: Airflow's database was asked
        return None
    from airflow.sdk.execution_time.comms import ErrorResponse, GetConnection

    try:
        answer = SUPERVISOR_COMMS.send(GetConnection(conn_id=conn_id))
    except AirflowRuntimeError as error:
        answer = error.error
    except Exception as error:  # of the line to the supervisor, which has no error of its own
        return type(error).__name__
    if not isinstance(answer, ErrorResponse):
        return "it answers again"
    if answer.error is ErrorType.CONNECTION_NOT_FOUND:
        return None
    said = (answer.detail or {}).get("status_code") or (answer.detail or {}).get("exception_type") or answer.error.value
    return str(said)


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


def proxy_of(extra: Mapping[str, Any], url: str, *, default_port: int) -> str:
    """The proxy's URL with its login, from ``url`` and the fields ``proxy_user`` and ``proxy_password``. Airflow hides
    the latter in answers and logs by its name; a password in the URL only in logs, from here on.

    :raises SpecError: it is no URL of a proxy, or there is a password without a user.
    """
    user, password = str(extra.get("proxy_user") or ""), str(extra.get("proxy_password") or "")
    if password and not user:
        raise SpecError("proxy_password is set, but proxy_user is empty", next_step=f"Enter both under {PLACE}")
    proxy = Proxy.parse(url, default_port=default_port).logged_in(user, password)
    if proxy.password:
        mask_secret(proxy.password)
        mask_secret(quote(proxy.password, safe=""))
        mask_secret(proxy.headers["Proxy-Authorization"].rpartition(" ")[2])
    return proxy.login_url


def check_type(connection: Connection, hook: type[NamedHook] | NamedHook) -> None:
    """:raises SpecError: the connection is of another type. Its login and password belong to another system."""
    if connection.conn_type != hook.conn_type:
        raise SpecError(
            f"The connection {connection.conn_id!r} is of type {connection.conn_type!r}, not {hook.conn_type!r}",
            next_step=f"Name a connection of type {hook.hook_name}, or correct the type of this one under {PLACE}",
        )
