"""A step that a person does: something wavelift has no way to, such as a router that it does not manage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from wavelift.services.dataplane.steps.poll import answered
from wavelift.services.dataplane.steps.step import Outcome, Settled, State, Step, Waiting

Answer = Literal["", "done", "undone"]


class Person(Step):
    """Waits until somebody says that it is done; its undo, that it is undone.

    A state is the last answer. A step that nobody did needs no undo.

    :param key: unique within the cutover. :param what: what to do. :param undo_what: how to undo it.
    :param last_answer: reads the last answer to this step, by its name. Steps never open the ledger.
    """

    kind = "person"

    def __init__(self, *, key: str, what: str, undo_what: str, last_answer: Callable[[str], Answer]) -> None:
        self._key, self._what, self._undo_what, self._last_answer = key, what, undo_what, last_answer

    @property
    def name(self) -> str:
        return f"person:{self._key}"

    @property
    def words(self) -> str:
        return self._what

    @property
    def undo_words(self) -> str:
        return self._undo_what

    def read(self) -> State:
        return "done" if self._last_answer(self.name) == "done" else "open"

    def wanted(self, before: State) -> State:
        return "done"

    def ready(self, now: State, to: State) -> Outcome | None:
        asked = self._what if to == "done" else self._undo_what
        return Waiting(f"until somebody confirms: {asked}", answered(self.name))

    def change(self, now: State, to: State) -> str:
        raise AssertionError("only a person changes this")

    def settled(self, to: State, receipt: str = "") -> Outcome:
        return Settled()
