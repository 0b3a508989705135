"""Airflow connection ``http`` → a client of the webhook that disconnects a network from its router.

Host and schema are as in Airflow's own HTTP connections; the path may stand in the host. Only HTTPS is spoken: the
login decides over a gateway. A login is sent as Basic, a password alone as a bearer token.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from wavelift.airflow.hooks.connections import PLACE, connection_of
from wavelift.airflow.hooks.rest import rest_place
from wavelift.base.errors import SpecError

if TYPE_CHECKING:
    from wavelift.base.rest import RestClient

SYSTEM = "webhook"


class WebhookHook(BaseHook):
    """Reaches a webhook.

    :param http_conn_id: Airflow connection of type ``http``.
    :param timeout_s: for its answer.
    """

    conn_type = "http"
    hook_name = "HTTP"

    def __init__(self, http_conn_id: str, *, timeout_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.http_conn_id = http_conn_id
        self.timeout_s = timeout_s

    def get_conn(self) -> RestClient:
        """A client. The caller must close it.

        :raises SpecError: there is no such connection, or its address is none of HTTPS.
        """
        from wavelift.base.rest import RestClient, split_https

        connection = connection_of(self, self.http_conn_id)
        host = connection.host or ""
        if (connection.schema or "https") != "https" or host.startswith("http:"):
            raise SpecError(
                f"The connection {self.http_conn_id!r} does not speak HTTPS",
                next_step=f"Enter the schema 'https' under {PLACE}",
            )
        address = host if "://" in host else f"https://{host}"
        name, port, base = split_https(address, f"the host of the connection {self.http_conn_id!r}")
        connection.host, connection.port = name, connection.port or port
        place = rest_place(connection, self.http_conn_id, SYSTEM, needs_user=False)
        login, password = connection.login or "", connection.password or ""
        headers = {}
        if login:
            headers = {"Authorization": f"Basic {base64.b64encode(f'{login}:{password}'.encode()).decode()}"}
        elif password:
            headers = {"Authorization": f"Bearer {password}"}
        return RestClient(replace(place, base=base or "/", timeout_s=self.timeout_s), headers=headers)
