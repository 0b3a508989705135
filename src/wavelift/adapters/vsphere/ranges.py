"""Ranges of one datastore file over HTTPS: one GET each, over pooled connections, straight into the caller's buffer.

Two ways lead there: through vCenter under the session's cookie, or to the ESXi host that runs the VM under a ticket,
which is good for one request. This is the only layer that repeats a range.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

import urllib3
from pyVmomi import vim
from urllib3.exceptions import HTTPError

from wavelift.adapters.vsphere.session import OVERRIDE, VsphereSession
from wavelift.base.errors import UnreachableError, WaveliftError
from wavelift.base.net import CUTS, explained_tls_error
from wavelift.base.run import CancelFlag

Via = Literal["vcenter", "host"]

CONNECT_TIMEOUT_S: Final = 15.0
READ_TIMEOUT_S: Final = 60.0
"""Between two pieces of a range; a busy datastore takes seconds, not minutes."""

ATTEMPTS: Final = 5
"""Of one range: the pauses between them add up to 7.5 s, longer than a host agent's restart of a connection takes."""

PAUSE_S: Final = 0.5
"""Before the second attempt; doubled each time."""

POOL_SIZE: Final = 16
"""Connections kept; more workers than these are served all the same."""

PIECE: Final = 256 * 1024
"""Bytes per read from the connection."""

TRANSIENT: Final = frozenset({429, 500, 502, 503, 504})
"""Worth another attempt while a disk is read; other refusals stand."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a datastore and how to reach it."""

    via: Via
    host: str
    port: int
    path: str
    """``/folder/…?dsName=…``."""
    size: int
    """Bytes; what every answer's Content-Range must say."""


def folder_path(file: str, *, datacenter: str = "") -> str:
    """``[ds] web01/web01-flat.vmdk`` → its path and query below ``/folder``.

    :param datacenter: inventory path without the root; only vCenter's own server wants it.
    """
    datastore, _, name = file.removeprefix("[").partition("] ")
    query = ({"dcPath": datacenter} if datacenter else {}) | {"dsName": datastore}
    return f"/folder/{quote(name)}?{urlencode(query, quote_via=quote)}"


class RangeRefusedError(WaveliftError):
    """The server does not give the range: ``status`` is its answer, 0 when the answer is not one to the question."""

    @property
    def status(self) -> int:
        return int(str(self.where.get("status", 0)))


class Ranges:
    """Ranges of one file; safe to share between threads."""

    def __init__(
        self, session: VsphereSession, file: RemoteFile, context: ssl.SSLContext, *, cancel: CancelFlag, **where: object
    ) -> None:
        self.file = file
        self._session = session
        self._cancel = cancel
        self._where = where
        self._tickets = threading.Lock()
        settings: dict[str, Any] = {
            "maxsize": POOL_SIZE,
            "ssl_context": context,
            # urllib3 compares names itself where the context doesn't, which a pinned certificate need not stand.
            "assert_hostname": None if context.check_hostname else False,
        }
        proxy = session.config.http_proxy
        self._pool = (
            urllib3.ProxyManager(proxy.url, proxy_headers=proxy.headers, **settings)
            if proxy
            else urllib3.PoolManager(**settings)
        )

    def close(self) -> None:
        """Close idle connections; one that is under way closes when it ends."""
        self._pool.clear()

    def read_into(self, offset: int, buffer: memoryview, *, attempts: int = ATTEMPTS) -> None:
        """Fill the whole ``buffer`` from ``offset`` on, by one range.

        :raises RangeRefusedError: a refusal that stands. :raises UnreachableError: no attempt went through.
        :raises TlsError: the certificate is refused. :raises Cancelled: between two attempts.
        """
        view = buffer.cast("B")
        signed_in = False
        for left in range(attempts - 1, -1, -1):
            self._cancel.check()
            generation = self._session.generation
            try:
                self._once(offset, view)
                return
            except RangeRefusedError as error:
                if not left or not self._worth_another(error.status, signed_in):
                    raise
                if error.status == 401:
                    signed_in = True
                    self._renew(generation)
                    continue
            except UnreachableError:
                if not left:
                    raise
            self._cancel.wait(PAUSE_S * 2 ** (attempts - 1 - left))

    @staticmethod
    def _worth_another(status: int, signed_in: bool) -> bool:
        """A new login is tried once: an account that lacks a right would get 401 for ever."""
        return status in TRANSIENT or (status == 401 and not signed_in)

    def _renew(self, generation: int) -> None:
        """A host's 401 is about the ticket, which is a new one each time anyway."""
        if self.file.via == "vcenter":
            self._session.renew(generation)

    def _once(self, offset: int, view: memoryview) -> None:
        last = offset + len(view) - 1
        headers = {"Range": f"bytes={offset}-{last}", "Accept-Encoding": "identity", "Cookie": self._cookie()}
        with self._explained(offset):
            answer = self._pool.urlopen(
                "GET",
                f"https://{self._place}{self.file.path}",
                headers=headers,
                timeout=urllib3.Timeout(
                    connect=min(CONNECT_TIMEOUT_S, self._session.config.timeout), read=READ_TIMEOUT_S
                ),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                self._check(answer, offset, last)
                self._fill(answer, view)
                answer.release_conn()
            except BaseException:
                answer.close()  # what is left of the body must not be taken for the next answer
                raise

    @property
    def _place(self) -> str:
        host = self.file.host
        return f"[{host}]:{self.file.port}" if ":" in host else f"{host}:{self.file.port}"

    def _cookie(self) -> str:
        """The session's, or a new ticket's: vCenter's session is none of a host's business."""
        if self.file.via == "vcenter":
            return self._session.cookie
        spec = vim.SessionManager.HttpServiceRequestSpec(method="httpGet", url=f"https://{self._place}{self.file.path}")
        manager = self._session.content.sessionManager
        ticket = self._session.read(lambda: manager.AcquireGenericServiceTicket(spec), **self._where)
        return f"vmware_cgi_ticket={ticket.id}"

    def _check(self, answer: urllib3.BaseHTTPResponse, offset: int, last: int) -> None:
        if answer.status != 206:
            words = "ignores the range" if answer.status == 200 else f"answers {answer.status} {answer.reason or ''}"
            raise self._refused(f"{self._place} {words.strip()}", offset, answer.status)
        told = answer.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(told.strip())
        if match is None or tuple(map(int, match.groups())) != (offset, last, self.file.size):
            wanted = f"bytes {offset}-{last}/{self.file.size}"
            raise self._refused(f"{self._place} sends '{told}' where '{wanted}' was asked for", offset, 0)

    def _refused(self, what: str, offset: int, status: int) -> RangeRefusedError:
        return RangeRefusedError(
            f"the disk's file cannot be read by ranges: {what}",
            next_step="The run can read the disk through the export lease instead",
            **self._where,
            offset=offset,
            status=status,
        )

    def _fill(self, answer: urllib3.BaseHTTPResponse, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = answer.readinto(view[done : done + PIECE])
            if not count:
                raise ConnectionError(f"the body ended after {done} of {len(view)} bytes")
            done += count

    @contextmanager
    def _explained(self, offset: int) -> Iterator[None]:
        """The network's and urllib3's errors as ours."""
        try:
            yield
        except urllib3.exceptions.SSLError as error:
            cause = error.args[0] if error.args else None
            if not isinstance(cause, ssl.SSLError) or isinstance(cause, CUTS):
                raise self._unreachable(error, offset) from error
            raise explained_tls_error(
                cause,
                self.file.host,
                self.file.port,
                timeout=CONNECT_TIMEOUT_S,
                proxy=self._session.config.http_proxy,
                override=OVERRIDE if self.file.via == "vcenter" else "esxi_mode of the vSphere connection",
            ) from error
        except (HTTPError, OSError) as error:
            raise self._unreachable(error, offset) from error

    def _unreachable(self, error: BaseException, offset: int) -> UnreachableError:
        return UnreachableError(
            f"a range of the disk's file could not be read from {self._place}: {error}",
            next_step="Check the network between the connector and that host (443)",
            **self._where,
            offset=offset,
        )
