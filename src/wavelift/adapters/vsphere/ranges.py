"""Ranges of one datastore file over HTTPS: one GET each, over pooled connections, straight into the caller's buffers.

There are two ways: through vCenter with the session's cookie, or to the ESXi host that runs the VM with a ticket, which
is valid for one request. This is the only layer that retries a range.
"""

from __future__ import annotations

import itertools
import logging
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final, Literal
from urllib.parse import quote, urlencode

from pyVmomi import vim

from wavelift.adapters.vsphere.session import OVERRIDE, VsphereSession
from wavelift.base.errors import UnreachableError, WaveliftError
from wavelift.base.net import CUTS, PROXY_FIELDS, explained_tls_error, https_connection
from wavelift.base.patience import RetryPolicy
from wavelift.base.remote_text import request_head
from wavelift.base.run import CancelFlag
from wavelift.base.tunnel import ProxyAway, ProxyRefused, proxy_error
from wavelift.base.wire import Head, Line, WireError

log = logging.getLogger(__name__)

Via = Literal["vcenter", "host"]

CONNECT_TIMEOUT_S: Final = 15.0
READ_TIMEOUT_S: Final = 60.0
"""Between two pieces of a range; a busy datastore takes seconds, not minutes."""

PAUSES: Final = RetryPolicy(base_s=0.5)

DOUBTFUL_S: Final = 8.0
"""A host agent that restarts says 500 for some seconds, but so it does of a file that was locked: then the next try of
the run must find another way to read the disk."""

TRANSIENT: Final = frozenset({429, 500, 502, 503, 504})
"""Worth another attempt while a disk is read; other refusals stand."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


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

    @property
    def stands(self) -> bool:
        """No other attempt and no new login helps."""
        return self.status not in TRANSIENT and self.status != 401


class Ranges:
    """Ranges of one file; safe to share between threads."""

    def __init__(
        self, session: VsphereSession, file: RemoteFile, context: ssl.SSLContext, *, cancel: CancelFlag, **where: object
    ) -> None:
        self.file = file
        self._session = session
        self._stop = cancel.child()
        self._where = where
        self._context = context
        self._lock = threading.Lock()
        self._idle: list[Line] = []
        self._busy: set[Line] = set()
        self._closed = False

    def close(self) -> None:
        """Close idle connections; one that is under way closes when it ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def interrupt(self) -> None:
        """Make whatever waits for bytes, or for its next attempt, raise Cancelled, and what comes after it as well; a
        connection that is being made ends with its own time-out. From any thread."""
        self._stop.set("the transfer was interrupted")
        with self._lock:
            for line in self._busy:
                line.cut()

    def read_into(self, offset: int, buffer: memoryview, *, patience_s: float | None = None) -> None:
        """Fill the whole ``buffer`` from ``offset`` on, by one range.

        :param patience_s: for what passes by itself; the connection's unless given.
        :raises RangeRefusedError: a refusal that stands. :raises UnreachableError: no attempt went through.
        :raises TlsError: the certificate is refused. :raises Cancelled: between two attempts.
        """
        view = buffer.cast("B")
        patience = self._session.config.patience_s if patience_s is None else patience_s
        signed_in = False
        began: float | None = None
        for failures in itertools.count(1):
            self._stop.check()
            generation = self._session.generation
            try:
                self._once(offset, view)
                return
            except (RangeRefusedError, UnreachableError) as error:
                status = error.status if isinstance(error, RangeRefusedError) else None
                if status == 401 and not signed_in:  # an account that lacks a right would get 401 for ever
                    signed_in = True
                    self._renew(generation)
                    continue
                began = began or time.monotonic()
                lasted = time.monotonic() - began
                borne = min(patience, DOUBTFUL_S) if status == 500 else patience
                if (status is not None and status not in TRANSIENT) or lasted >= borne:
                    raise
                log.debug("trying the range again: %s", error.what)
            self._stop.wait(PAUSES.pause(failures))

    def _renew(self, generation: int) -> None:
        """A host's 401 is about the ticket, which is a new one each time anyway."""
        if self.file.via == "vcenter":
            self._session.renew(generation)

    def _once(self, offset: int, view: memoryview) -> None:
        with closing(self.ask(offset, len(view))) as asked:
            asked.read_into(view)

    def ask(self, offset: int, length: int) -> AskedRange:
        """A range that is on its way from now on; asked for once, and a failure is the caller's business.

        :raises UnreachableError: there is no connection. :raises TlsError: the certificate is refused.
        :raises Cancelled: by the task's wish or :meth:`interrupt`.
        """
        self._stop.check()
        head = self._request(offset, offset + length - 1, self._cookie())
        with self._explained(offset):
            line = self._line()
            try:
                line.ask(head)
            except BaseException:
                self._drop(line)
                raise
        return AskedRange(self, line, offset, length)

    def _request(self, offset: int, last: int, cookie: str) -> bytes:
        headers = {
            "Host": self._place,
            "Range": f"bytes={offset}-{last}",
            "Cookie": cookie,
            "Accept-Encoding": "identity",
            "User-Agent": "wavelift",
        }
        return request_head("GET", self.file.path, headers)

    def _line(self) -> Line:
        """An idle connection, or a new one."""
        while (line := self._idle_line()) is not None:
            if not line.dropped():
                return line
            self._drop(line)
        config = self._session.config
        connection = https_connection(
            self.file.host,
            self.file.port,
            self._context,
            timeout=min(CONNECT_TIMEOUT_S, config.timeout),
            proxy=config.http_proxy,
            address=self._address,
        )
        connection.connect()
        connection.sock.settimeout(READ_TIMEOUT_S)
        line = Line(connection.sock)
        self._use(line)
        return line

    def _idle_line(self) -> Line | None:
        with self._lock:
            line = self._idle.pop() if self._idle else None
        if line is not None:
            self._use(line)
        return line

    def _use(self, line: Line) -> None:
        with self._lock:
            if not self._stop.is_set():
                self._busy.add(line)
                return
        line.close()
        self._stop.check()

    def _keep(self, line: Line, fit: bool) -> None:
        with self._lock:
            self._busy.discard(line)
            if fit and not self._closed:
                self._idle.append(line)
            else:
                line.close()

    def _drop(self, line: Line) -> None:
        """What is left of its body must not be taken for the next answer."""
        self._keep(line, fit=False)

    @property
    def _address(self) -> str:
        return self._session.config.esxi_address(self.file.host) if self.file.via == "host" else ""

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

    def _check(self, answer: Head, offset: int, last: int) -> None:
        if answer.status != 206:
            words = "ignores the range" if answer.status == 200 else f"answers {answer.status} {answer.reason}"
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

    @contextmanager
    def _explained(self, offset: int) -> Iterator[None]:
        """The network's errors as ours."""
        try:
            yield
        except (OSError, HTTPException) as error:
            self._stop.check()  # the error is its echo
            if not isinstance(error, ssl.SSLError) or isinstance(error, CUTS):
                raise self._unreachable(error, offset) from error
            raise explained_tls_error(
                error,
                self.file.host,
                self.file.port,
                timeout=CONNECT_TIMEOUT_S,
                proxy=self._session.config.http_proxy,
                override=OVERRIDE if self.file.via == "vcenter" else "esxi_mode of the vSphere connection",
                address=self._address,
            ) from error

    def _unreachable(self, error: BaseException, offset: int) -> WaveliftError:
        if isinstance(error, ProxyRefused | ProxyAway):
            return proxy_error(error, where=PROXY_FIELDS, **self._where, offset=offset)
        return UnreachableError(
            f"a range of the disk's file could not be read from {self._place}: {error}",
            next_step="Check the network between the connector and that host (443)",
            **self._where,
            offset=offset,
        )


class AskedRange:
    """A range under way, read front to back by one thread."""

    def __init__(self, ranges: Ranges, line: Line, offset: int, length: int) -> None:
        self._ranges = ranges
        self._line: Line | None = line
        self._first = offset
        self._next = offset
        self._end = offset + length

    def read_into(self, view: memoryview) -> None:
        """Fill ``view`` with the bytes that come next.

        :raises RangeRefusedError: no such range is given. :raises UnreachableError: it was cut.
        :raises Cancelled: by the task's wish or :meth:`Ranges.interrupt`.
        """
        line = self._line
        assert line is not None
        self._ranges._stop.check()
        with self._ranges._explained(self._next):
            try:
                if self._next == self._first:
                    self._ranges._check(line.answer(), self._first, self._end - 1)
                if (done := line.read_into(view)) < len(view):
                    raise WireError(f"the body ended after {done} of {len(view)} bytes")
                self._next += len(view)
                if self._next == self._end:
                    fit = line.finished()
                    self._line = None
                    self._ranges._keep(line, fit)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Give up what was not read. Idempotent."""
        line, self._line = self._line, None
        if line is not None:
            self._ranges._drop(line)
