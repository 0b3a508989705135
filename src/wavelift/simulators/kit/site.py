"""The world that exists now, and its replacement by a new one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wavelift.simulators.kit.gate import Gate
from wavelift.simulators.kit.world import World

Make = Callable[[Path], World[Any]]
"""Makes a world, with the settings of the start, in an empty folder."""


class Site:
    """``world`` must be read inside of ``gate.call()``, else a reset can replace it while it is used."""

    def __init__(self, folder: Path, make: Make) -> None:
        self._folder, self._make = folder, make
        self.gate = Gate()
        self.world = self._fresh()

    def _fresh(self) -> World[Any]:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self._make(self._folder)

    def reset(self) -> None:
        """Replace the world by a new one, as after a restart; only the address and the certificate stay.

        Running calls end first: those that a fault rule holds back, and those that take long, lose their connection.
        Raises TimeoutError if a call or a thread of the old world does not end; the old world then stays, in disorder.
        """
        with self.gate.shut():
            self.world.faults.end()
            self.gate.empty()
            self.world.close()
            self.world = self._fresh()
