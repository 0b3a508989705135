"""Tells people of events through Airflow's notifiers, as ``[wavelift] notifiers`` says (AIR-03).

Each event is told once: the ledger's table ``notification`` is claimed first. A notifier that fails is logged, and
never fails the work that it was to tell of.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, ValidationError

from wavelift.airflow import config
from wavelift.base.domain import Instant, Message
from wavelift.base.errors import SpecError
from wavelift.base.printable import printable, without_login
from wavelift.base.settings import SECTION

if TYPE_CHECKING:
    from airflow.sdk import BaseNotifier

    from wavelift.ledger import Ledger

log = logging.getLogger(__name__)

SETTING: Final = f"[{SECTION}] notifiers"


class Kind(StrEnum):
    """What people are told of."""

    FAILURE = "failure"
    """A run of a wave failed."""
    SUCCESS = "success"
    NEARLY_LATE = "nearly_late"
    """80 % of the time until the deadline is over."""
    LATE = "late"
    FENCE = "fence"
    """The source of a cutover is on, or connected, though the instance serves; or it could not be looked at."""
    NOBODY_SERVES = "nobody_serves"
    """A cutover is open, and perhaps neither source nor instance serves: its run is over, or it takes too long."""
    PERSON = "person"
    """A step of a cutover, or of its way back, waits for a person."""
    NOBODY_ROUTES = "nobody_routes"
    """A run of a network's cutover ended, and perhaps neither side routes the network."""


class Notice(Message):
    """One event. Notifiers have its fields in their templates: ``{{ wavelift.title }}``.

    :param subject: what the event is about, and which time: with ``kind`` it is told once.
    :param title: one line. :param text: a few lines of plain text.
    """

    kind: Kind
    subject: str
    title: str
    text: str
    at: Instant
    wave: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class Notifier(Message):
    """One entry of the setting."""

    path: str = Field(alias="class", min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    kinds: tuple[Kind, ...] = tuple(Kind)

    def make(self, place: str) -> BaseNotifier:
        """The notifier. :raises SpecError: there is no such class, or it takes other arguments."""
        from airflow.sdk import BaseNotifier

        module, _, name = self.path.rpartition(".")
        try:
            kind = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise SpecError(
                f"{SETTING}: {place} names the class '{self.path}', which cannot be imported",
                next_step="Correct the path, and install the provider package that has the class",
                reason=type(error).__name__,
            ) from None
        if not (isinstance(kind, type) and issubclass(kind, BaseNotifier)):
            raise SpecError(f"{SETTING}: {place} names '{self.path}', which is no notifier of Airflow")
        try:
            return kind(**self.arguments)
        except Exception as error:  # a class of somebody else, and its text may quote a secret argument
            told = str(error) if isinstance(error, TypeError) else type(error).__name__
            raise SpecError(f"{SETTING}: {place}: '{self.path}' does not take these arguments: {told}") from None


def configured() -> tuple[Notifier, ...]:
    """What the setting says.

    :raises SpecError: it cannot be read. The error quotes no argument, which may be a secret.
    """
    text = config.notifiers()
    if not text:
        return ()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SpecError(f"{SETTING} is no JSON: {error}", next_step="It is a list of objects with 'class'") from None
    if not isinstance(found, list):
        raise SpecError(f"{SETTING} is no list", next_step='Write [{"class": "…", "arguments": {…}}]')
    return tuple(_entry(place, one) for place, one in enumerate(found, 1))


def check() -> None:
    """:raises SpecError: the setting cannot be read, or one of its notifiers cannot be made."""
    for place, one in enumerate(configured(), 1):
        one.make(f"entry {place}")


def _entry(place: int, value: Any) -> Notifier:
    try:
        return Notifier.load(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the entry'}: {one['msg']}" for one in found)
        raise SpecError(f"{SETTING}: entry {place}: {told}") from None


def notify(ledger: Ledger, notice: Notice, context: Mapping[str, Any] | None = None) -> bool:
    """Tell of an event, from a task or a callback of a DAG. Returns whether this call told.

    :param context: of Airflow, for notifiers whose templates need it.
    """
    if not _claimed(ledger, notice):
        return False
    for place, one in _of(notice):
        with _borne(one):
            one.make(place)(_context(notice, context))
    return True


async def notify_async(ledger: Ledger, notice: Notice, context: Mapping[str, Any] | None = None) -> bool:
    """The same, from the triggerer, whose loop must not be blocked."""
    from airflow.sdk import BaseNotifier

    if not await asyncio.to_thread(_claimed, ledger, notice):
        return False
    for place, one in _of(notice):
        with _borne(one):
            made = one.make(place)
            made.context = _context(notice, context)
            if type(made).async_notify is BaseNotifier.async_notify:
                await asyncio.to_thread(made, made.context)
            else:
                await made
    return True


def _claimed(ledger: Ledger, notice: Notice) -> bool:
    from wavelift.ledger import notifications

    with ledger.write(notifications.LOCK) as tx:
        said = {"title": notice.title, "wave": notice.wave, **notice.details}
        return notifications.claim(tx, notice.kind.value, notice.subject, at=notice.at, details=said)


def _of(notice: Notice) -> list[tuple[str, Notifier]]:
    try:
        return [(f"entry {place}", one) for place, one in enumerate(configured(), 1) if notice.kind in one.kinds]
    except SpecError as error:
        log.error("nobody is told that %s: %s", notice.title, error)
        return []


def _context(notice: Notice, context: Mapping[str, Any] | None) -> Any:
    return {**(context or {}), "wavelift": notice.dump()}


@contextmanager
def _borne(one: Notifier) -> Iterator[None]:
    """What it was to tell of goes on."""
    try:
        yield
    except Exception as error:
        told = printable(without_login(str(error)), 500)
        log.error("the notifier %s failed: %s: %s", one.path, type(error).__name__, told)
