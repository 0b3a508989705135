"""Segments: read, connect and disconnect, rename, delete (HCX-06, HCX-07; facts 7).

A change is a PATCH of what is meant only. What was read is sent back unchanged beside it, because no source says
whether NSX drops what a PATCH leaves out. ``type`` is read only and never sent. Nothing is ever forced.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wavelift.adapters.nsx import guesses
from wavelift.adapters.nsx.errors import NotRealisedError, StaleRevisionError
from wavelift.base.errors import PermanentError, SpecError, WaveliftError
from wavelift.base.printable import printable
from wavelift.base.rest import Ask, RestClient, UnreadableError, segment
from wavelift.base.run import CancelFlag

Connectivity = Literal["ON", "OFF"]

POLICY: Final = "/policy/api/v1"
PAGE_SIZE: Final = 100
MOST_PAGES: Final = 1000
PAUSE_S: Final = 2.0
TEXT_LONGEST: Final = 250
_PATH: Final = re.compile(r"/infra(/tier-1s/[^/]+)?/segments/[^/]+")
_PARENT: Final = re.compile(r"/infra(/tier-1s/[^/]+)?")


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as NSX shows it. None: it does not say."""

    path: str
    name: str
    type: str | None
    """ROUTED, DISCONNECTED, ROUTED_AND_EXTENDED or EXTENDED: what is in force."""
    connectivity: str | None
    """ON or OFF: what is wanted."""
    tier: str | None
    """Path of its gateway."""
    gateways: tuple[str, ...]
    """``10.1.2.1/24``."""
    revision: int | None
    vlan: bool
    body: Mapping[str, Any] = field(repr=False, hash=False)
    """Everything, for the record of what was before."""

    @property
    def routed(self) -> bool:
        """Whether its gateway routes it: known to, by both signs."""
        return self.type in guesses.ROUTED_TYPES and self.connectivity == "ON"

    @property
    def unrouted(self) -> bool:
        """Whether its gateway does not route it: known not to, by both signs."""
        return self.type in guesses.UNROUTED_TYPES and self.connectivity == "OFF"

    def is_now(self, wanted: Connectivity) -> bool:
        return self.routed if wanted == "ON" else self.unrouted

    @property
    def prefixes(self) -> tuple[str, ...]:
        """``10.1.2.0/24``."""
        return tuple(str(ipaddress.ip_interface(each).network) for each in self.gateways)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Segment:
        """:raises UnreadableError: it is none."""
        path = body.get("path")
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise UnreadableError("the answer is no segment of NSX", next_step="Check host and base path")
        advanced = body.get("advanced_config")
        revision = body.get("_revision")
        return cls(
            path=path,
            name=printable(body.get("display_name") or path.rpartition("/")[2], TEXT_LONGEST),
            type=_text(body.get("type")),
            connectivity=_text(advanced.get("connectivity")) if isinstance(advanced, dict) else None,
            tier=_text(body.get("connectivity_path")) or _tier_of(path),
            gateways=tuple(_gateways(body.get("subnets"))),
            revision=revision if isinstance(revision, int) else None,
            vlan=bool(body.get("vlan_ids")),
            body=dict(body),
        )


@dataclass(frozen=True, slots=True)
class Realisation:
    """What ``/state`` says."""

    word: str
    failure: str = ""

    @property
    def done(self) -> bool:
        return self.word.lower() in guesses.REALISED

    @property
    def failed(self) -> bool:
        return self.word.lower() in guesses.FAILED


@dataclass(frozen=True, slots=True)
class Look:
    """One read-back."""

    segment: Segment
    realisation: Realisation

    def done(self, wanted: Connectivity) -> bool:
        return self.segment.is_now(wanted) and self.realisation.done

    def __str__(self) -> str:
        found = self.segment
        failure = f" ({self.realisation.failure})" if self.realisation.failure else ""
        return f"type {found.type}, connectivity {found.connectivity}, state {self.realisation.word}{failure}"


@dataclass(frozen=True, slots=True)
class Port:
    """Something attached to a segment: a VM's card, mostly."""

    id: str
    name: str


class Segments:
    """The segments of one NSX. Paths are policy paths: ``/infra/segments/ID`` (flexible) or
    ``/infra/tier-1s/GATEWAY/segments/ID`` (fixed)."""

    def __init__(self, client: RestClient) -> None:
        self._client = client

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> Segment:
        """:raises NotFoundError: there is none."""
        return Segment.parse(self._client.send(Ask("GET", _url(path)), segment=path).object())

    def find(self, path: str) -> Segment | None:
        """None: there is none."""
        answer = self._client.send(Ask("GET", _url(path), accept=frozenset({404})), segment=path)
        return Segment.parse(answer.object()) if answer.ok else None

    def state(self, path: str) -> Realisation:
        found = self._client.send(Ask("GET", f"{_url(path)}/state"), segment=path).object()
        return Realisation(
            printable(found.get("state") or "unknown", TEXT_LONGEST),
            printable(found.get("failure_message") or "", TEXT_LONGEST),
        )

    def look(self, path: str) -> Look:
        """The state is asked first: a type that is read after a success is not older than it."""
        state = self.state(path)
        return Look(self.read(path), state)

    def ports(self, path: str) -> tuple[Port, ...]:
        """What is attached. A port lingers after its VM has gone."""
        rows = self._pages(f"{_url(path)}/ports", segment=path)
        return tuple(
            Port(printable(row.get("id") or "", TEXT_LONGEST), printable(row.get("display_name") or "", TEXT_LONGEST))
            for row in rows
        )

    def tiers(self) -> tuple[str, ...]:
        """Paths of the tier-1 gateways."""
        found = (row.get("path") for row in self._pages(f"{POLICY}/infra/tier-1s"))
        return tuple(path for path in found if isinstance(path, str) and _PARENT.fullmatch(path))

    def list(self, parent: str | None = None) -> tuple[Segment, ...]:
        """Those below ``/infra`` or one gateway; all of both kinds for None.

        :raises SpecError: ``parent`` is neither.
        """
        parents = [parent] if parent is not None else ["/infra", *self.tiers()]
        found: dict[str, Segment] = {}
        for each in parents:
            if not _PARENT.fullmatch(each):
                raise SpecError(f"'{each}' is not the path of a gateway", next_step="Write /infra/tier-1s/NAME")
            for row in self._pages(f"{POLICY}{_quoted(each)}/segments", parent=each):
                one = Segment.parse(row)
                found[one.path] = one
        return tuple(found.values())

    def of_prefix(self, prefix: str) -> tuple[Segment, ...]:
        """All segments whose addresses overlap with ``prefix``, such as ``10.1.2.0/24``: routed or not."""
        wanted = ipaddress.ip_network(prefix, strict=False)
        return tuple(
            one
            for one in self.list()
            if any(net.version == wanted.version and net.overlaps(wanted) for net in map(_network, one.prefixes))
        )

    # --- changing -------------------------------------------------------------------------------------------------

    def set_connectivity(self, path: str, wanted: Connectivity, *, revision: int | None = None) -> Segment:
        """Ask for ``wanted``, unless it is in force already. Then look until it is realised: :meth:`wait_for`.

        :param revision: the segment must be unchanged since it was read with this one. It is compared here:
            that NSX checks one in a PATCH is not documented.
        :return: the segment as it was before.
        :raises StaleRevisionError: it is not. :raises PermanentError: the segment has no gateway, or is one of a VLAN.
        """
        before = self.read(path)
        self._refuse_other(before, revision)
        if before.is_now(wanted):
            return before
        _refuse_unroutable(before)
        body = _unchanged(before)
        body["advanced_config"] = {**(before.body.get("advanced_config") or {}), "connectivity": wanted}
        self._client.send(Ask("PATCH", _url(path), body=body, again=True), segment=path)
        return before

    def wait_for(
        self, path: str, wanted: Connectivity, *, timeout_s: float, pause_s: float = PAUSE_S, cancel: CancelFlag
    ) -> Look:
        """Look until ``wanted`` is in force by type and state, for at most ``timeout_s`` seconds.

        :raises NotRealisedError: NSX says that it failed, or the time is over. :raises Cancelled: meanwhile.
        """
        give_up = time.monotonic() + timeout_s
        while True:
            cancel.check()
            found = self.look(path)
            if found.done(wanted):
                return found
            if found.realisation.failed or time.monotonic() >= give_up:
                why = "failed" if found.realisation.failed else f"did not end within {timeout_s:g} s"
                raise NotRealisedError(
                    f"switching connectivity {wanted} {why}: {found}",
                    next_step="Look at the segment's alarms in NSX, then try again",
                    segment=path,
                )
            cancel.wait(pause_s)

    def rename(self, path: str, name: str) -> None:
        """Give it another display name. Id and path stay, and so does the rest."""
        before = self.read(path)
        if before.body.get("display_name") == name:
            return
        body = _unchanged(before) | {"display_name": name}
        if "advanced_config" in before.body:
            body["advanced_config"] = before.body["advanced_config"]
        self._client.send(Ask("PATCH", _url(path), body=body, again=True), segment=path)

    def delete(self, path: str) -> None:
        """Delete it, never by force. Done, too, when there is none.

        :raises StillAttachedError: something is attached. :raises PendingDeleteError: its deletion has begun already.
        """
        self._client.send(Ask("DELETE", _url(path), accept=frozenset({404}), again=True), segment=path)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _refuse_other(self, found: Segment, revision: int | None) -> None:
        if revision is not None and found.revision != revision:
            raise StaleRevisionError(
                f"somebody else changed the segment: its revision was {revision} and is {found.revision}",
                next_step="Look what was changed, then begin anew",
                segment=found.path,
            )

    def _pages(self, path: str, **where: object) -> Iterator[dict[str, Any]]:
        query = {"page_size": str(PAGE_SIZE)}
        for _ in range(MOST_PAGES):
            found = self._client.send(Ask("GET", path, query), **where).object()
            rows = found.get("results")
            yield from (row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()
            cursor = found.get("cursor")
            if not isinstance(cursor, str) or not cursor:
                return
            query = {"page_size": str(PAGE_SIZE), "cursor": cursor}
        raise WaveliftError(f"NSX's list has more than {MOST_PAGES} pages", next_step="Report this", **where)


def _unchanged(found: Segment) -> dict[str, Any]:
    return {key: found.body[key] for key in guesses.SENT_BACK if key in found.body}


def _refuse_unroutable(found: Segment) -> None:
    why = "it is a segment of a VLAN" if found.vlan else "" if found.tier else "it has no gateway"
    if why:
        raise PermanentError(
            f"the segment can't be connected or disconnected: {why}",
            next_step="Disconnect it where it is routed, and name that way in the network's spec",
            segment=found.path,
        )


def check_path(path: str) -> str:
    """:raises SpecError: it is no policy path of a segment."""
    if not _PATH.fullmatch(path):
        raise SpecError(
            f"'{path}' is not the policy path of a segment",
            next_step="Write /infra/segments/ID, or /infra/tier-1s/GATEWAY/segments/ID",
        )
    return path


def _url(path: str) -> str:
    return f"{POLICY}{_quoted(check_path(path))}"


def _quoted(path: str) -> str:
    return "".join(f"/{segment(part)}" for part in path.removeprefix("/").split("/"))


def _tier_of(path: str) -> str | None:
    parent = path.rpartition("/segments/")[0]
    return parent if parent != "/infra" else None


def _gateways(subnets: Any) -> Iterator[str]:
    for each in subnets if isinstance(subnets, list) else ():
        try:
            yield str(ipaddress.ip_interface(str(each["gateway_address"])))
        except (KeyError, TypeError, ValueError):
            continue


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def _text(value: Any) -> str | None:
    return printable(value, TEXT_LONGEST) if isinstance(value, str) and value else None
