"""Compares contenders: each run is a separate process, and the CPU of all its children is included.

A benchmark module builds its corpus, names its contenders as commands, and calls :func:`compare`. The last line on
standard output is the result as one JSON object. Our contender is a command too: the same module, called with
``--job``.

CPU-seconds depend on the machine and the day. So only counts and ratios from the same run are judged: ratios to the
peers and to the *floor* (see :mod:`benchmarks.floor`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.corpus import Corpus
from wavelift.base.units import GIB, MIB

RUNS: Final = 3
PEAK: Final = "peak_mib"
Needs = Mapping[str, float]
"""The parts of a path, and how much of each: bytes of the disk (or what else the floor is measured per)."""
_KIB_PER_MIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Wire:
    """Where a contender's bytes go or come from, and how many of them that end must have counted.

    A request that fails silently, or is never made, can't look fast.

    :param counted: bytes so far, as the other end counts them: never as the contender says.
    :param due: how many a run must add; where only the run decides, given the figures that it reported.
    :param name: of the figure.
    """

    counted: Callable[[], int]
    due: int | Callable[[Mapping[str, float]], int]
    name: str = "server_bytes"


@dataclass(frozen=True, slots=True)
class Contender:
    """One tool.

    :param output: file that it makes; removed before each run, its size is reported.
    :param before: called before each run, outside the measurement.
    :param check: called after each run, outside the measurement; raises when the output is wrong. What it returns is
        merged into the run's figures.
    :param wires: how its bytes are counted.
    :param needs: its path, where it is not the benchmark's.
    """

    name: str
    command: Sequence[str]
    output: Path | None = None
    check: Callable[[], Mapping[str, float] | None] | None = None
    before: Callable[[], None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    wires: Sequence[Wire] = ()
    needs: Needs | None = None


@dataclass(frozen=True, slots=True)
class Floor:
    """What a path cannot do without.

    :param contender: reports for each part what one ``unit`` of it costs, CPU-s.
    :param needs: of the benchmark's path: of ours, of the peers that do the same work, and of variants without their
        own.
    :param unit: 1 GiB where ``needs`` are bytes.
    """

    contender: Contender
    needs: Needs
    unit: float = GIB

    def cpu_s(self, costs: Mapping[str, float], needs: Needs | None = None) -> float:
        return sum(costs[part] * amount / self.unit for part, amount in (needs or self.needs).items())


@dataclass(frozen=True, slots=True)
class Measure:
    """One run. ``extra`` are numbers that the process printed as a JSON object on its last line, if it did.

    The peak is at least that of this harness: the kernel hands it down to every child. A job of ours reports its own.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    output_mib: float | None = None
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure should be. The result reports it; it never makes a run fail.

    The figure is a ratio, a count, or memory: what takes a second here takes three elsewhere.
    """

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    def told(self) -> dict[str, Any]:
        low = self.at_least is None or self.value >= self.at_least
        high = self.at_most is None or self.value <= self.at_most
        bounds = {name: bound for name in ("at_least", "at_most") if (bound := getattr(self, name)) is not None}
        return {"limit": self.name, "value": round(self.value, 3), **bounds, "met": low and high}


Limits = Callable[[Mapping[str, Any]], Sequence[Limit]]
"""From a result without limits."""


def run_once(contender: Contender) -> Measure:
    """Run the command once; its CPU, peak memory and output.

    :raises RuntimeError: when it ends with anything but 0.
    """
    if contender.output is not None:
        contender.output.unlink(missing_ok=True)
    if contender.before is not None:
        contender.before()
    begun = [wire.counted() for wire in contender.wires]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(
            contender.command,
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **contender.environment},
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            err.seek(0)
            raise RuntimeError(
                f"{contender.name} ended with {process.returncode}: {err.read()[-2000:].decode(errors='replace')}"
            )
        out.seek(0)
        extra = _last_json(out.read())
    for wire, before in zip(contender.wires, begun, strict=True):
        extra[wire.name] = arrived(contender.name, wire, before, extra)
    if contender.check is not None:
        extra |= contender.check() or {}
    size = contender.output.stat().st_size / MIB if contender.output is not None else None
    return Measure(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / _KIB_PER_MIB, size, extra)


def arrived(name: str, wire: Wire, begun: int, figures: Mapping[str, float]) -> int:
    """What a run added to the other end's count.

    :raises RuntimeError: when it is not what was to be moved.
    """
    count, due = wire.counted() - begun, wire.due(figures) if callable(wire.due) else wire.due
    if count != due:
        raise RuntimeError(f"{name}: the other end counted {count} {wire.name} of {due}")
    return count


def compare(  # noqa: PLR0913 - keywords of one report, most of them optional
    bench: str,
    *,
    ours: Contender,
    peers: Sequence[Contender],
    data_bytes: int,
    params: Mapping[str, Any],
    variants: Sequence[Contender] = (),
    runs: int = RUNS,
    limits: Limits = lambda result: (),
    floor: Floor | None = None,
    cpu: str = "cpu_s",
) -> dict[str, Any]:
    """Run all contenders in turn, ``runs`` times, and print the medians as one JSON object on the last line.

    :param variants: ours doing more or less than the peers do; reported beside ``ours`` under their names.
    :param data_bytes: non-zero bytes moved; what ``cpu_s_per_gib`` and ``mib_s`` refer to.
    :param limits: what is asked of the figures; told as met or not.
    :param floor: one more contender; everybody's CPU is told as a multiple of it.
    :param cpu: the figure that ratios are of, of contenders that report it: without Python's start, for instance.
    """
    contenders = (*([floor.contender] if floor else []), ours, *variants, *peers)
    measures: dict[str, list[Measure]] = {contender.name: [] for contender in contenders}
    for number in range(runs):
        for contender in contenders:
            measure = run_once(contender)
            measures[contender.name].append(measure)
            print(
                f"{bench} run {number + 1}/{runs} {contender.name}: {measure.cpu_s:.2f} CPU-s,"
                f" {measure.wall_s:.2f} s, {measure.peak_mib:.0f} MiB",
                file=sys.stderr,
                flush=True,
            )
    result: dict[str, Any] = {
        "bench": bench,
        "params": {**params, "ours": ours.name, "runs": runs, "data_bytes": data_bytes},
        "ours": summary(measures[ours.name], data_bytes),
        "variants": {variant.name: summary(measures[variant.name], data_bytes) for variant in variants},
        "peers": {peer.name: summary(measures[peer.name], data_bytes) for peer in peers},
    }
    if floor:
        costs = _costs(measures[floor.contender.name])
        result["floor"] = {part: round(cost, 3) for part, cost in costs.items()}
        for contender in (ours, *variants, *peers):
            figures = _figures(result)[contender.name]
            figures |= beside_floor(figures, floor.cpu_s(costs, contender.needs), data_bytes, cpu)
    for one in (result["ours"], *result["variants"].values()):
        one["ratio_to_peer"] = {name: ratio(one, peer, cpu) for name, peer in result["peers"].items()}
    for name, figures in _figures(result).items():
        print(f"{bench}: {in_words(name, figures, cpu)}", file=sys.stderr, flush=True)
    told = [limit.told() for limit in limits(result)]
    if told:
        result["limits"] = told
    for one in told:
        print(f"{bench}: {one['limit']} {'met' if one['met'] else 'NOT MET'}: {one}", file=sys.stderr, flush=True)
    print(json.dumps(result), flush=True)
    return result


def beside_floor(figures: Mapping[str, Any], floor_s: float, data_bytes: int, cpu: str) -> dict[str, float]:
    """What the floor says of a contender's figures."""
    told = {"floor_cpu_s": round(floor_s, 3), "ratio_to_floor": round(figures.get(cpu, figures["cpu_s"]) / floor_s, 3)}
    return {**told, "floor_cpu_s_per_gib": round(floor_s * GIB / data_bytes, 3)} if data_bytes else told


def ratio(one: Mapping[str, Any], other: Mapping[str, Any], cpu: str) -> float:
    """One contender's CPU as a multiple of another's: of the same figure of both."""
    figure = cpu if cpu in one and cpu in other else "cpu_s"
    return round(float(one[figure] / other[figure]), 3)


def in_words(name: str, figures: Mapping[str, Any], cpu: str) -> str:
    """One line of ratios, with the CPU that the floor's is of."""
    words = [f"{figures.get(cpu, figures['cpu_s']):.2f} CPU-s"]
    if "ratio_to_floor" in figures:
        words.append(f"{figures['ratio_to_floor']:.2f} x the floor of {figures['floor_cpu_s']:.2f}")
    words += [f"{value:.2f} x {peer}" for peer, value in figures.get("ratio_to_peer", {}).items()]
    return f"{name}: {', '.join(words)}"


def _costs(measures: Sequence[Measure]) -> dict[str, float]:
    """Of each part that a floor's contender reported, the median."""
    parts = [part for part in measures[0].extra if part != PEAK]
    return {part: statistics.median(measure.extra[part] for measure in measures) for part in parts}


def _figures(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of every contender, by its name."""
    ours = {result["params"]["ours"]: result["ours"]}
    return {**ours, **result["variants"], **result["peers"]}


def summary(measures: Sequence[Measure], data_bytes: int) -> dict[str, Any]:
    """Medians of several runs of one contender."""
    wall = statistics.median(measure.wall_s for measure in measures)
    cpu = statistics.median(measure.cpu_s for measure in measures)
    values = {
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "cpu_s_per_gib": round(cpu * GIB / data_bytes, 3) if data_bytes else None,
        "mib_s": round(data_bytes / MIB / wall, 1),
        "peak_mib": round(statistics.median(measure.peak_mib for measure in measures), 1),
    }
    if (size := measures[-1].output_mib) is not None:
        values["output_mib"] = round(size, 2)
    for key in measures[-1].extra:
        values[key] = round(statistics.median(float(measure.extra[key]) for measure in measures), 3)
    return values


def report_job(**extra: float) -> None:
    """At the end of a job of ours: print what the harness merges into the result."""
    print(json.dumps({PEAK: peak_mib(), **extra}), flush=True)


def peak_mib() -> float:
    """Peak memory of this process so far: called after the imports it is the idle size.

    Of its own memory map; what ``getrusage`` says begins with the parent's.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / _KIB_PER_MIB


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--workdir", type=Path, help="folder for the temporary folder (default: the system's)")
    parser.add_argument("--size-mib", type=int, default=4096, help="virtual size of the corpus")
    parser.add_argument("--data-pct", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    return parser


def corpus_of(options: argparse.Namespace) -> Corpus:
    return Corpus(size=options.size_mib * MIB, data_pct=options.data_pct, seed=options.seed)


def job_command(module: str, *arguments: object) -> list[str]:
    """The command that runs ``module`` as a contender."""
    return [sys.executable, "-m", module, "--job", *(str(argument) for argument in arguments)]


@contextmanager
def workspace(options: argparse.Namespace) -> Iterator[Path]:
    """A temporary folder below ``--workdir``, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="wavelift-bench-", dir=options.workdir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def must_run(*command: object) -> None:
    """Run a command of the preparation or a check; its output only when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def _last_json(output: bytes) -> dict[str, float]:
    lines = output.decode(errors="replace").strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return {}
    value: dict[str, float] = json.loads(lines[-1])
    return value
