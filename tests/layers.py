"""Which tests stay together when several processes run them, and what each layer costs.

pytest-xdist gives a *group* to one process: a file, whose tests share simulators, or all that use the one Airflow. The
costly groups begin first, so that no process is left alone with one at the end. CPU is that of each process and of
everything that it started, read where one file ends and the next begins.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parent
LAYERS: Final = ("airflow", "e2e", "wire", "unit")
"""The order in which they begin: the longest waits first."""
TICKS: Final = os.sysconf("SC_CLK_TCK")
COST: Final = "layer_cost"
COSTLIEST: Final = 25
"""Files that the table names."""
SHORT_RUN_S: Final = 300.0
"""CPU-seconds of a run that names none."""


def layer_of(path: Path) -> str:
    """``unit``, ``wire``, ``airflow`` or ``e2e``: the folder below tests/."""
    return path.relative_to(ROOT).parts[0]


def group_of(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0] if mark.args else mark.kwargs["name"]) if mark else ""


def arrange(items: list[pytest.Item]) -> None:
    """Give every test a group, and put the groups in the order in which they should begin."""
    for item in items:
        if not group_of(item):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(ROOT).with_suffix("").as_posix()))
    first: dict[str, tuple[bool, int, int]] = {}
    for place, item in enumerate(items):
        shared = "/" not in group_of(item)  # the one Airflow: the longest of all
        first.setdefault(group_of(item), (not shared, LAYERS.index(layer_of(item.path)), place))
    items.sort(key=lambda item: first[group_of(item)])


# --- cost ---------------------------------------------------------------------------------------------------------


@dataclass
class _Cost:
    tests: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Meter:
    """In the process that runs tests: notes with the last test of each file what its tests cost."""

    def __init__(self) -> None:
        self._cpu = tree_cpu_s(os.getpid())
        self._last = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        self._last = nextitem is None or nextitem.path != item.path

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if report.when == "teardown" and self._last:
            now = tree_cpu_s(os.getpid())
            report.user_properties.append((COST, now - self._cpu))
            self._cpu = now
        return report


class Table:
    """In the process that reports: adds up what the layers cost, and prints it before pytest's own summary."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._costs: dict[str, _Cost] = defaultdict(_Cost)
        self._files: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0]
        cost = self._costs[layer_of(ROOT.parent / file)]
        cost.wall_s += report.duration
        cost.tests += report.when == "teardown"
        for name, value in report.user_properties:
            if name == COST and report.when == "teardown":
                cost.cpu_s += float(str(value))
                self._files[file] += float(str(value))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("what each layer cost")
        row = "{:<10}{:>8}{:>12}{:>16}".format
        terminalreporter.line(row("layer", "tests", "minutes", "CPU-minutes"))
        total = _Cost()
        for layer in (name for name in reversed(LAYERS) if name in self._costs):
            cost = self._costs[layer]
            total.tests, total.cpu_s = total.tests + cost.tests, total.cpu_s + cost.cpu_s
            terminalreporter.line(row(layer, cost.tests, f"{cost.wall_s / 60:.1f}", f"{cost.cpu_s / 60:.1f}"))
        wall = time.monotonic() - self._began
        terminalreporter.line(row("all", total.tests, f"{wall / 60:.1f}", f"{total.cpu_s / 60:.1f}"))
        terminalreporter.line("A layer's minutes are its tests' added up: layers run beside each other.")
        costly = sorted(self._files.items(), key=lambda one: -one[1])[:COSTLIEST]
        for file, cpu_s in costly if total.cpu_s > SHORT_RUN_S else ():
            terminalreporter.line(f"{cpu_s:8.1f} CPU-seconds  {file}")


def tree_cpu_s(root: int) -> float:
    """CPU seconds of a process and all below it, those that ended and were waited for included."""
    children: dict[int, list[int]] = defaultdict(list)
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        pid = int(entry.name)
        children[int(fields[1])].append(pid)
        ticks[pid] = sum(int(field) for field in fields[11:15])
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        total += ticks.get(pid, 0)
        todo += children[pid]
    return total / TICKS


def register(config: pytest.Config) -> None:
    """:class:`Meter` where tests run, :class:`Table` where the results are told: without xdist that is one process."""
    worker = hasattr(config, "workerinput")
    distributed = not worker and getattr(config.option, "dist", "no") != "no"
    if not distributed:
        config.pluginmanager.register(Meter(), "wavelift-meter")
    if not worker:
        config.pluginmanager.register(Table(), "wavelift-table")
