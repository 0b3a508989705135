"""What a simulator implements: a world, which holds all state from the start, or a reset, to the next reset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.counters import Counters
from wavelift.simulators.kit.evidence import Evidence
from wavelift.simulators.kit.faults import Faults, Rule
from wavelift.simulators.kit.message import Request, Response
from wavelift.simulators.kit.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)
Routes = Mapping[tuple[str, str], Callable[[dict[str, Any]], Any]]
"""Calls of the control endpoint: (method, name) → a function of the call's values, whose result is sent as JSON."""


class Refusal(Exception):
    """An error that a call is answered with. Each simulator subclasses it and writes it in its own protocol."""


class World(ABC, Generic[SettingsT]):
    """All state of one simulator. A reset discards it and makes another, so nothing in it can survive a reset.

    Everything that a world writes lies below ``folder``.
    """

    rules: ClassVar[type[Rule]] = Rule
    """The fault rules that it knows."""
    evidence_kinds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path, settings: SettingsT) -> None:
        self.folder, self.settings = folder, settings
        self.clock, self.counters = Clock(), Counters()
        self.evidence = Evidence(folder / "evidence", self.evidence_kinds)
        self.faults: Faults[Any] = Faults(self.rules, self.failure)

    @abstractmethod
    def identify(self, request: Request) -> None:
        """Set the request's service, operation, target and part. Raises Refusal."""

    @abstractmethod
    def handle(self, request: Request) -> Response:
        """Answer an identified request. Raises Refusal."""

    @abstractmethod
    def failure(self, rule: Rule, service: str) -> Refusal:
        """The error that ``service`` answers with because of a fault rule. A plain ``Rule()`` is an internal error."""

    @abstractmethod
    def render(self, error: Refusal, request: Request) -> Response:
        """The error, in the protocol of the request."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What exists now: equal before and after a test that cleans up."""

    def headers(self, request: Request) -> dict[str, str]:
        """Headers of every answer."""
        return {"Server": "simulator"}

    def hello(self) -> dict[str, Any]:
        """What the readiness line says beside the address."""
        return {}

    def routes(self) -> Routes:
        """Further calls of the control endpoint."""
        return {}

    def close(self) -> None:
        """End all threads of this world and wait for them. Raises TimeoutError if one does not end."""
