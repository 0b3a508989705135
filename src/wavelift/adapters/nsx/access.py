"""How one NSX is reached, and the client that calls it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import Final

from wavelift.adapters.nsx import vmc
from wavelift.adapters.nsx.errors import explain
from wavelift.base.errors import SpecError
from wavelift.base.rest import RestClient, RestPlace
from wavelift.base.run import CancelFlag

SYSTEM: Final = "NSX"


@dataclass(frozen=True, kw_only=True)
class NsxAccess:
    """One NSX.

    :param place: the manager; in VMware Cloud, its API (``vmc.vmware.com``), which tells where the SDDC's NSX is.
    :param username: of the manager. In VMware Cloud: empty, and ``password`` is an API token; or the id of an OAuth
        app, and ``password`` is its secret.
    :param sddc: in VMware Cloud only.
    """

    place: RestPlace
    username: str
    password: str = field(repr=False)
    sddc: vmc.Sddc | None = None

    def __post_init__(self) -> None:
        if self.sddc is not None and self.place.certificate_mode == "thumbprint":
            raise SpecError(
                "certificate_mode 'thumbprint' does not fit VMware Cloud, which has several hosts",
                next_step="Use 'verify', with a CA bundle if a proxy signs TLS anew",
            )
        if self.sddc is None and not self.username:
            raise SpecError("the NSX connection lacks a user", nsx=self.place.place)


def connect(access: NsxAccess, *, cancel: CancelFlag | None = None) -> RestClient:
    """A client of the Policy API; use as ``with connect(access) as client``. On premises nothing is sent yet.

    :raises WaveliftError: VMware Cloud does not answer, refuses the login, or has no such SDDC.
    """
    if access.sddc is None:
        login = base64.b64encode(f"{access.username}:{access.password}".encode()).decode()
        return RestClient(access.place, headers={"Authorization": f"Basic {login}"}, explain=explain, cancel=cancel)
    tokens = vmc.Tokens(access.place, access.sddc, access.username, access.password, cancel=cancel)
    host, port, base = vmc.find_nsx(access.place, access.sddc, tokens.login, cancel=cancel)
    place = replace(access.place, host=host, port=port, base=base)
    return RestClient(place, login=tokens.login, explain=explain, cancel=cancel)
