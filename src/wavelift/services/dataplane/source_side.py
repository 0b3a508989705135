"""What routes a network at the source: a segment of NSX, something behind a webhook, or a class of another package
(HCX-08).

A package installs a class under the entry point ``wavelift.network_steps``; its name is the ``by`` in a network's file.
It is made with the network's name, gateway and prefix and the ``arguments`` of the file, and is a
:class:`RouterOfSource`. YAML names no code. A person (the default) has no class here: see
:mod:`wavelift.services.dataplane.network_act`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, Literal, Protocol

from wavelift.adapters.nsx.errors import NotRealisedError
from wavelift.adapters.nsx.segments import Segment, Segments
from wavelift.base.errors import NotFoundError, PermanentError, WaveliftError
from wavelift.base.installed import NETWORK_STEPS, installed
from wavelift.base.printable import printable
from wavelift.base.rest import Answer, Ask, RestClient, UnreadableError
from wavelift.rules.network import NetworkSpec
from wavelift.rules.network_cutover import CONNECTIVITY, OFF, ON
from wavelift.services.dataplane.steps.step import Outcome, Settled, State, Waiting

WORDS: Final = {ON: "connected", OFF: "disconnected"}
"""As a webhook and an installed class say it."""
LOOK_AGAIN: Final = "look again"
"""The wait of what only another look can tell."""


class RouterOfSource(Protocol):
    """What a package installs under ``wavelift.network_steps``. Every call may be repeated."""

    def read(self) -> Literal["connected", "disconnected"]:
        """Whether the network is connected to its router now."""

    def disconnect(self) -> None:
        """Take the network from its router, unless it is so already."""

    def connect(self) -> None:
        """The undo."""


class Side(ABC):
    """One side's connection of the network to its router. A state is a dict with :data:`CONNECTIVITY`."""

    @abstractmethod
    def read(self) -> State:
        """:raises NotFoundError: there is no such network."""

    @abstractmethod
    def write(self, to: State) -> None:
        """Ask for it."""

    def settled(self, to: State) -> Outcome:
        """Whether it is in force."""
        return Settled()

    def is_off(self) -> bool:
        """Whether it is disconnected for certain: by what is wanted there, and by what is in force."""
        now = self.read()
        return bool(now[CONNECTIVITY] == OFF) and isinstance(self.settled(now), Settled)


class NsxSide(Side):
    """A segment of NSX or VMware Cloud, at either site."""

    def __init__(self, client: RestClient, path: str) -> None:
        self._segments, self._path = Segments(client), path

    def read(self) -> State:
        return state_of(self._segments.read(self._path))

    def write(self, to: State) -> None:
        self._segments.set_connectivity(self._path, ON if to[CONNECTIVITY] == ON else OFF)

    def settled(self, to: State) -> Outcome:
        found = self._segments.look(self._path)
        if found.done(ON if to[CONNECTIVITY] == ON else OFF):
            return Settled()
        if found.realisation.failed:
            raise NotRealisedError(
                f"NSX could not realise the segment's connectivity {to[CONNECTIVITY]}: {found}",
                next_step="Look at the segment's alarms in NSX, then clear the task",
                segment=self._path,
            )
        return Waiting(f"until NSX has realised connectivity {to[CONNECTIVITY]} ({found})", LOOK_AGAIN)


def state_of(segment: Segment) -> State:
    """What a cutover may change of a segment, and what must not be changed by anybody meanwhile."""
    return {
        "segment": segment.path,
        CONNECTIVITY: segment.connectivity or "unknown",
        "tier": segment.tier or "",
        "gateways": list(segment.gateways),
    }


class WebhookSide(Side):
    """Something that a webhook drives: ``GET`` tells the state, ``POST`` changes it, both with ``{"state": …}``."""

    def __init__(self, client: RestClient, network: NetworkSpec, cutover: str = "") -> None:
        self._client, self._network, self._cutover = client, network, cutover

    def read(self) -> State:
        about = {"network": self._network.network, "prefix": self._network.destination.prefix}
        return {CONNECTIVITY: self._said(self._client.send(Ask("GET", "", query=about))), "by": "webhook"}

    def write(self, to: State) -> None:
        body = {
            "cutover": self._cutover,
            "network": self._network.network,
            "source_network": self._network.source.network,
            "prefix": self._network.destination.prefix,
            "gateway": self._network.destination.gateway,
            "state": WORDS[to[CONNECTIVITY]],
        }
        said = self._said(self._client.send(Ask("POST", "", body=body, again=True)))
        if said != to[CONNECTIVITY]:
            raise WaveliftError(
                f"The webhook was asked for '{WORDS[to[CONNECTIVITY]]}' and answers '{WORDS[said]}'",
                next_step="Look at what it drives; the retry asks again",
                network=self._network.network,
            )

    def _said(self, answer: Answer) -> str:
        """:raises UnreadableError: the answer does not say it."""
        word = answer.object().get("state")
        found = next((state for state, known in WORDS.items() if known == word), None)
        if found is None:
            raise UnreadableError(
                f"the webhook's answer has no 'state' of {' or '.join(WORDS.values())}, but {printable(str(word), 60)}",
                next_step="Correct the webhook: docs/network-cutover.md says what it answers",
                network=self._network.network,
            )
        return found


class InstalledSide(Side):
    """A class of another package."""

    def __init__(self, network: NetworkSpec) -> None:
        self._kind = network.source.disconnect.by
        found = installed(NETWORK_STEPS).get(self._kind)
        if found is None:
            raise PermanentError(
                f"No package on this worker has a network step '{self._kind}'",
                next_step="Install it on the workers of this queue",
                network=network.network,
            )
        about = {"network": network.source.network, "prefix": network.destination.prefix}
        make: Any = found.load()
        self._router: RouterOfSource = make(
            gateway=network.destination.gateway, arguments=dict(network.source.disconnect.arguments), **about
        )

    def read(self) -> State:
        word = self._router.read()
        found = next((state for state, known in WORDS.items() if known == word), None)
        if found is None:
            raise PermanentError(
                f"The network step '{self._kind}' says '{printable(str(word), 60)}'",
                next_step=f"Its 'read' must return {' or '.join(WORDS.values())}",
            )
        return {CONNECTIVITY: found, "by": self._kind}

    def write(self, to: State) -> None:
        if to[CONNECTIVITY] == ON:
            self._router.connect()
        else:
            self._router.disconnect()


def source_side(
    network: NetworkSpec, *, nsx: RestClient | None, webhook: RestClient | None, cutover: str = ""
) -> Side | None:
    """How the source is read, and changed unless a person does. None: nothing can read it.

    :raises NotFoundError: the way that the file names has no connection here.
    """
    by = network.source.disconnect.by
    if by == "webhook":
        return WebhookSide(_there(webhook, network), network, cutover)
    if by not in ("person", "nsx", "vmc"):
        return InstalledSide(network)
    if network.source.segment is None:
        return None
    return NsxSide(_there(nsx, network), network.source.segment)


def _there(client: RestClient | None, network: NetworkSpec) -> RestClient:
    if client is None:
        raise NotFoundError(
            "The source network can't be reached: its connection is not there",
            next_step="Correct the network's file or its environment's",
            network=network.network,
        )
    return client
