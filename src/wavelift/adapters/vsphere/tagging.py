"""vSphere tags, by vCenter's REST API: pyvmomi has no call for them.

``/rest`` is there from vSphere 6.5 to 8; an older vCenter, or one without that API, has no tags for us. One session,
made and ended here, under the TLS policy and proxy of the SOAP session.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import quote

from wavelift.adapters.vsphere.faults import TEXT_LONGEST
from wavelift.adapters.vsphere.session import OVERRIDE, VsphereSession
from wavelift.base.errors import LoginError, MissingPrivilegeError, NotFoundError, UnreachableError, WaveliftError
from wavelift.base.net import CUTS, explained_tls_error, https_connection, unreachable
from wavelift.base.printable import printable
from wavelift.base.remote_text import header_value

SESSION: Final = "/rest/com/vmware/cis/session"
TAGS: Final = "/rest/com/vmware/cis/tagging/tag"
CATEGORIES: Final = "/rest/com/vmware/cis/tagging/category"
ATTACHED: Final = "/rest/com/vmware/cis/tagging/tag-association?~action=list-attached-objects-on-tags"
SESSION_HEADER: Final = "vmware-api-session-id"
TAGS_A_CALL: Final = 100
"""Tags per question for their objects; each may have thousands."""
NAMES_LONGEST: Final = 2 * TEXT_LONGEST + 1
"""Characters of a category and its tag."""
ANSWER_LIMIT: Final = 64 << 20
"""Bytes; 100 tags on 5,000 VMs each are some 30 MB."""


def vm_tags(session: VsphereSession) -> dict[str, tuple[str, ...]]:
    """VM's moref → its tags as ``category:tag``, sorted. Calls grow with the number of tags in use, not of VMs.

    :raises NotFoundError: this vCenter has no tag API. :raises MissingPrivilegeError: the account may not read tags.
    :raises LoginError: REST refuses the login that SOAP accepted.
    """
    try:
        return _vm_tags(session)
    except (AttributeError, KeyError, TypeError) as error:  # JSON of another shape
        raise UnreachableError(
            f"vCenter's REST API answers in another form than vSphere's ({type(error).__name__})",
            next_step="Select servers by name or folder",
            vcenter=session.config.place,
        ) from error


def _vm_tags(session: VsphereSession) -> dict[str, tuple[str, ...]]:
    with _client(session) as client:
        tagged = dict(_attached(client, client.get(TAGS) or []))
        names: dict[str, str] = {}
        categories: dict[str, str] = {}
        for tag in tagged:
            found = client.get(f"{TAGS}/id:{_part(tag)}")
            category = str(found.get("category_id", ""))
            if category not in categories:
                categories[category] = str(client.get(f"{CATEGORIES}/id:{_part(category)}").get("name", ""))
            names[tag] = printable(f"{categories[category]}:{found.get('name', '')}", NAMES_LONGEST)
    by_vm: dict[str, set[str]] = {}
    for tag, vms in tagged.items():
        for vm in vms:
            by_vm.setdefault(vm, set()).add(names[tag])
    return {vm: tuple(sorted(its)) for vm, its in by_vm.items()}


def _part(id: str) -> str:
    """One part of a path. JSON may hold lone surrogates, which have no UTF-8."""
    return quote(id, safe="", errors="replace")


def _attached(client: _Rest, tags: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Tags that hang on VMs, each with these VMs' morefs."""
    for start in range(0, len(tags), TAGS_A_CALL):
        for one in client.post(ATTACHED, {"tag_ids": tags[start : start + TAGS_A_CALL]}) or []:
            vms = [str(item["id"]) for item in one.get("object_ids") or [] if item.get("type") == "VirtualMachine"]
            if vms:
                yield str(one["tag_id"]), vms


@contextmanager
def _client(session: VsphereSession) -> Iterator[_Rest]:
    client = _Rest(session)
    try:
        client.sign_in()
        yield client
    finally:
        client.close()


class _Rest:
    """One connection, one session; reads only, so a cut call is sent once more."""

    def __init__(self, session: VsphereSession) -> None:
        self._config = session.config
        config = session.config
        self._connection = https_connection(
            config.host, config.port, session.context, timeout=config.timeout, proxy=config.http_proxy
        )
        self._session_id = ""

    def sign_in(self) -> None:
        login = base64.b64encode(f"{self._config.username}:{self._config.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "vmware-use-header-authn": "true"}
        id = str(self._call("POST", SESSION, None, headers))
        self._session_id = header_value(id, "the id of a session of vCenter's REST API")

    def get(self, path: str) -> Any:
        return self._call("GET", path, None, {SESSION_HEADER: self._session_id})

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._call("POST", path, body, {SESSION_HEADER: self._session_id})

    def close(self) -> None:
        """End the session; what fails is left to vCenter's own time-out."""
        if self._session_id:
            try:
                self._send("DELETE", SESSION, None, {SESSION_HEADER: self._session_id})
            except (OSError, HTTPException):
                pass
        self._connection.close()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Any:
        config = self._config
        try:
            try:
                status, data = self._send(method, path, body, headers)
            except CUTS:
                status, data = self._send(method, path, body, headers)
        except ssl.SSLError as error:
            raise explained_tls_error(
                error, config.host, config.port, timeout=config.timeout, proxy=config.http_proxy, override=OVERRIDE
            ) from error
        except (OSError, HTTPException) as error:
            raise unreachable(error, config.host, config.port) from error
        if status != 200:
            raise self._refusal(status, path)
        try:
            return json.loads(data)["value"] if data else None
        except (ValueError, KeyError, TypeError) as error:
            raise self._refusal(404, path) from error

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        content = {"Content-Type": "application/json"} if body is not None else {}
        try:
            self._connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {"Accept": "application/json", **content, **headers},
            )
            answer = self._connection.getresponse()
            return answer.status, answer.read(ANSWER_LIMIT)
        except (OSError, HTTPException):
            self._connection.close()  # the next request opens it anew
            raise

    def _refusal(self, status: int, path: str) -> WaveliftError:
        place = {"vcenter": self._config.place, "path": path.split("?")[0]}
        if status == 401:
            return LoginError(
                "vCenter's REST API refused the login", next_step="Check the account of the connection", **place
            )
        if status == 403:
            return MissingPrivilegeError(
                "the vCenter account may not read tags", next_step="Give it read rights on the root object", **place
            )
        if status < 500:
            return NotFoundError(
                "this vCenter has no tag API of vSphere 6.5 to 8", next_step="Select servers by name or folder", **place
            )
        return UnreachableError(f"vCenter's REST API answered {status}", next_step="Try again", **place)
