"""Simulated vCenters that tests take one after the other: the processes stay, their worlds do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wavelift.simulators.vcenter import SimulatorError, SimVm, VCenterSimulator, start

__test__ = False

Take = Callable[..., VCenterSimulator]


class Processes:
    """As many as the neediest test takes at a time. Each taking is a reset, with options of its own, but for tests that
    share a world: who takes one by its name is told of nothing, and leaves it as it was found."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free: list[VCenterSimulator] = []
        self._worlds: dict[int, str] = {}
        self._started = 0

    @contextmanager
    def lend(self) -> Iterator[Take]:
        """``take(vms, world=name, **options)`` for one test; what it took comes back at its end."""
        taken: list[VCenterSimulator] = []

        def take(vms: Sequence[SimVm], *, world: str = "", **options: Any) -> VCenterSimulator:
            holding = [vc for vc in self._free if world and self._worlds[vc.pid] == world]
            if holding:
                self._free.remove(holding[0])
                taken.append(holding[0])
            elif self._free:
                taken.append(self._reset(self._free.pop(0), vms, options))
            else:
                taken.append(start(self._folder / f"state{self._started}", vms, **options))
                self._started += 1
            self._worlds[taken[-1].pid] = world
            return taken[-1]

        try:
            yield take
        finally:
            for each in taken:
                self._take_back(each)

    def _reset(self, vc: VCenterSimulator, vms: Sequence[SimVm], options: dict[str, Any]) -> VCenterSimulator:
        try:
            vc.reset(vms, **options)
        except SimulatorError:
            _close(vc)  # it could not hold what was wanted, and is ending
            raise
        return vc

    def spoil(self, vc: VCenterSimulator) -> None:
        """Its world was left in disorder, and is nobody's any more."""
        self._worlds[vc.pid] = ""

    def _take_back(self, vc: VCenterSimulator) -> None:
        if vc.alive():
            self._free.append(vc)
        else:  # it crashed on order
            _close(vc)

    def close(self) -> None:
        while self._free:
            _close(self._free.pop())


def _close(vc: VCenterSimulator) -> None:
    """Nothing of it may be left but its log."""
    vc.close()
    assert [path.name for path in vc.ca_file.parent.iterdir()] == ["vcenter.log"]
