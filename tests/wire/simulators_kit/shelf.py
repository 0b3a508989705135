"""A tiny simulator on the kit: a shelf of jars. Run as a program, as every simulator is."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from wavelift.simulators.kit import faults, main, settings
from wavelift.simulators.kit.invented import Word
from wavelift.simulators.kit.message import Request, Response
from wavelift.simulators.kit.world import Refusal, World

__test__ = False

FULL = Word("the shelf is full", other="no room")


@dataclass(slots=True)
class Settings(settings.Settings):
    room: int = 3


@dataclass(slots=True)
class Rule(faults.Rule):
    kinds: ClassVar[tuple[str, ...]] = ("call", "spill")


@dataclass
class ShelfError(Refusal):
    status: int
    text: str


@dataclass(frozen=True)
class Spilt:
    jar: str
    path: str


class Shelf(World[Settings]):
    rules = Rule
    evidence_kinds = ("spilt",)

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.jars: dict[str, float] = {}

    def identify(self, request: Request) -> None:
        request.service, request.operation = "shelf", f"{request.method.title()}Jar"
        request.target = request.path.removeprefix("/jars/")

    def handle(self, request: Request) -> Response:
        """PUT /jars/<name> stores a jar, GET shows when it was stored, by the simulator's clock."""
        name, file = request.target, self.folder / request.target
        if request.method == "PUT":
            if len(self.jars) >= self.settings.room:
                raise ShelfError(409, FULL.said(other_words=self.settings.other_words))
            file.write_bytes(request.body.content)
            self.jars[name] = self.clock.now()
            for _ in self.faults.take("spill", service="shelf", operation=request.operation, key=name):
                kept = self.evidence.keep_file(file, "spilt", name)
                self.evidence.keep("spilt", Spilt(name, str(kept)))
                file.unlink()
        if name not in self.jars:
            raise ShelfError(404, f"no jar {name}")
        return Response(200, {"Content-Type": "application/json"}, json.dumps({"stored": self.jars[name]}).encode())

    def failure(self, rule: faults.Rule, service: str) -> ShelfError:
        return ShelfError(rule.status or 500, rule.message or "broken")

    def render(self, error: Refusal, request: Request) -> Response:
        assert isinstance(error, ShelfError)
        return Response(error.status, {"Content-Type": "text/plain"}, error.text.encode())

    def state(self) -> dict[str, Any]:
        return {"jars": sorted(self.jars)}


if __name__ == "__main__":
    sys.exit(main.run(main.parser("shelf", "A shelf of jars").parse_args(), Settings(), Shelf))
