"""VMware Cloud on AWS: a token for a refresh token, and where an SDDC's NSX is (facts 7.1)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from wavelift.adapters.nsx import guesses
from wavelift.base.errors import LoginError, WaveliftError
from wavelift.base.remote_text import header_value
from wavelift.base.rest import Answer, Ask, Login, RestClient, RestPlace, UnreadableError, refused, segment, split_https
from wavelift.base.run import CancelFlag

VMC_HOST: Final = "vmc.vmware.com"
CSP_HOST: Final = "console.cloud.vmware.com"
CSP: Final = "/csp/gateway/am/api/auth"
TOKEN_HEADER: Final = "csp-auth-token"


@dataclass(frozen=True, kw_only=True)
class Sddc:
    """One SDDC. :param csp: where tokens are given, ``host`` and ``port`` of it."""

    org: str
    sddc: str
    csp_host: str = CSP_HOST
    csp_port: int = 443


class Tokens:
    """Gives an access token for what the connection holds."""

    def __init__(
        self, place: RestPlace, sddc: Sddc, client_id: str, secret: str, *, cancel: CancelFlag | None = None
    ) -> None:
        self._place = replace(place, system="VMware Cloud", host=sddc.csp_host, port=sddc.csp_port, base="")
        self._client_id, self._secret, self._cancel = client_id, secret, cancel

    def login(self, _: RestClient) -> Mapping[str, str]:
        """:raises LoginError: VMware Cloud refuses the token, or the app's id and secret."""
        with RestClient(self._place, explain=_explain, cancel=self._cancel) as csp:
            found = csp.send(self._ask()).object().get("access_token")
        if not isinstance(found, str) or not found:
            raise UnreadableError("VMware Cloud gave no access token", next_step="Check the address for tokens (CSP)")
        return {TOKEN_HEADER: header_value(found, "the access token of VMware Cloud")}

    def _ask(self) -> Ask:
        if not self._client_id:
            form = {guesses.TOKEN_FIELD: self._secret}
            return Ask("POST", f"{CSP}/api-tokens/authorize", form=form, again=True, signed=False)
        login = base64.b64encode(f"{self._client_id}:{self._secret}".encode()).decode()
        return Ask(
            "POST",
            f"{CSP}/authorize",
            form={"grant_type": "client_credentials"},
            headers={"Authorization": f"Basic {login}"},
            again=True,
            signed=False,
        )


def _explain(answer: Answer, where: Mapping[str, object]) -> WaveliftError:
    if answer.status in {400, 401, 403}:
        return LoginError(
            f"VMware Cloud refused the API token, or the app's id and secret ({answer.status})",
            next_step="Make a new token in the console, with the role of an NSX cloud administrator of this SDDC, and "
            "enter it as the password of the connection",
            **where,
        )
    return refused(answer, where)


def find_nsx(place: RestPlace, sddc: Sddc, login: Login, *, cancel: CancelFlag | None = None) -> tuple[str, int, str]:
    """Host, port and base path of the SDDC's NSX behind the reverse proxy.

    :raises NotFoundError: the organisation has no such SDDC.
    :raises UnreadableError: the answer names none, or a host that is not VMware's.
    """
    path = f"/vmc/api/orgs/{segment(sddc.org)}/sddcs/{segment(sddc.sddc)}"
    where = {"org": sddc.org, "sddc": sddc.sddc}
    with RestClient(replace(place, system="VMware Cloud"), login=login, cancel=cancel) as client:
        found = client.send(Ask("GET", path), **where).object().get("resource_config")
    url = found.get("nsx_api_public_endpoint_url") if isinstance(found, dict) else None
    if not isinstance(url, str) or not url:
        raise UnreadableError(
            "VMware Cloud does not say where the SDDC's NSX is", next_step="Look whether the SDDC is ready", **where
        )
    host, port, base = split_https(url, "the NSX address that VMware Cloud tells")
    if not host.lower().endswith(guesses.NSX_DOMAIN) and (host, port) != (place.host, place.port):
        raise UnreadableError(
            f"VMware Cloud names '{host}' as the SDDC's NSX, which is not one of *{guesses.NSX_DOMAIN}",
            next_step="No token was sent there. Find out who answers for VMware Cloud",
            **where,
        )
    return host, port, base
