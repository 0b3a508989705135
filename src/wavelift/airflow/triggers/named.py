"""A trigger that is only named: what it loads is out of reach where the task runs."""

from __future__ import annotations

from typing import Any

from wavelift.airflow.triggers.wait import WaitTrigger


class NamedTrigger(WaitTrigger):
    """Stands for another trigger, until the triggerer has it.

    A task of a connector defers to what reads the ledger, and loads nothing of it.

    :param classpath: of the other trigger. :param arguments: of its ``__init__``.
    """

    def __init__(self, classpath: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.classpath = classpath
        self.arguments = arguments

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return self.classpath, self.arguments
