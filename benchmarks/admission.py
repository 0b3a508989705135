"""Admission of 500 replication jobs in one request, on SQLite and, if Debian's binaries exist, on PostgreSQL.

``admit_s``: the first task of one scheduled DAG run for which all 500 servers are due. ``reserve_s``: the REST API
reserves an on-demand run of all servers. ``take_up_s``: the DAG run that uses these reservations. Each runs on a fresh
copy of a ledger whose jobs have no runs yet. ``slots_s``: each server asks for its slots of account, datastore and
connector by itself, as its task does; few get them. ``*_cpu_s`` are CPU seconds, ``*_statements`` the SQL statements of
each. There is neither floor nor peer, because no disk is transferred and no public tool does this. The limits are
numbers of statements per server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from benchmarks import harness

JOBS: Final = 500
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
DAY: Final = timedelta(hours=24)
SCHEDULED: Final = "scheduled"
ASKED: Final = "asked"
NAMES: Final = tuple(f"server{number:04}" for number in range(JOBS))


STATEMENTS: Final = 2.1
"""For each server, all else of a request included."""


class Statements:
    """How many a process has sent to a database."""

    def __init__(self) -> None:
        from sqlalchemy import Engine, event

        self.count = 0
        event.listen(Engine, "before_cursor_execute", self._one)

    def _one(self, *_: object) -> None:
        self.count += 1


class At:
    """A clock that stands where it is put."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


def fill(url: str) -> None:
    """The jobs."""
    from wavelift.ledger import Ledger
    from wavelift.rules.wave_replication import ReplicationPlan
    from wavelift.services.replication.jobs import JobOrder, create_jobs

    clock = At(START)
    plan = ReplicationPlan(seed_time=START.isoformat(), pause_after_failures=0)
    with Ledger.open(url, upgrade=True) as ledger:
        orders = [JobOrder(server=name, plan=plan) for name in NAMES]
        for wave in (SCHEDULED, ASKED):
            create_jobs(ledger, wave, orders, by="bench", clock=clock)


def job(url: str) -> None:
    """:param url: of the ledger, or ``@`` and the file that names it."""
    from tests.contexts import run_context

    from wavelift.base.run import DagRun
    from wavelift.ledger import Ledger
    from wavelift.rules.flows import SlotKind
    from wavelift.services.common.slots import SlotRequest, win_slots
    from wavelift.services.replication.admission import Asked, admit_runs, reserve_runs

    def wants(name: str) -> list[SlotRequest]:
        holder, number = f"{SCHEDULED}.replicate/a/{name}", NAMES.index(name)
        return [
            SlotRequest(SlotKind.ACCOUNT, "111122223333", holder, 50),
            SlotRequest(SlotKind.DATASTORE, f"vc.lab:443/datastore-{number % 40}", holder, 15),
            SlotRequest(SlotKind.TRANSFER, f"dc{number % 4}", holder, 4),
        ]

    clock = At(START + DAY)
    scheduled, asked = DagRun(f"{SCHEDULED}.replicate", "a"), DagRun(f"{ASKED}.replicate", "b")
    timetable, request = (run_context(run, requester="bench", clock=clock) for run in (scheduled, asked))
    with Ledger.open(Path(url[1:]).read_text() if url.startswith("@") else url) as ledger:
        idle, statements = harness.peak_mib(), Statements()
        took: dict[str, float] = {}

        def timed(name: str, call: Callable[[], Sized]) -> None:
            began, before, cpu = time.monotonic(), statements.count, time.process_time()
            found = len(call())
            took.update({f"{name}_s": time.monotonic() - began, f"{name}_statements": statements.count - before})
            took[f"{name}_cpu_s"] = time.process_time() - cpu
            assert found == JOBS, f"{name}: {found} of {JOBS}"

        timed("admit", lambda: admit_runs(ledger, SCHEDULED, Asked(clock.moment), timetable).granted)
        timed("reserve", lambda: reserve_runs(ledger, ASKED, NAMES, request))
        timed("take_up", lambda: admit_runs(ledger, ASKED, Asked(), request).granted)
        timed("slots", lambda: [win_slots(ledger, wants(name), timetable) for name in NAMES])
    harness.report_job(**took, added_mib=harness.peak_mib() - idle)


@contextmanager
def postgres() -> Iterator[Any]:
    """A server of our own, or None."""
    from tests.postgres import find_binaries, running

    binaries = find_binaries()
    if binaries is None:
        yield None
    else:
        with running(binaries) as server:
            yield server


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    with harness.workspace(options) as folder, ExitStack() as stack:
        contenders = [_on_sqlite(folder)]
        server = stack.enter_context(postgres())
        if server is not None:
            contenders.append(_on_postgres(folder, server))
        harness.compare(
            "admission",
            ours=contenders[0],
            variants=contenders[1:],
            peers=[],
            data_bytes=0,
            params={"jobs": JOBS},
            runs=options.runs,
            limits=_limits,
        )


def _on_sqlite(folder: Path) -> harness.Contender:
    full, used = folder / "full.db", folder / "used.db"
    fill(f"sqlite:///{full}")

    def fresh() -> None:
        for tail in ("-wal", "-shm"):
            Path(f"{used}{tail}").unlink(missing_ok=True)
        used.write_bytes(full.read_bytes())

    command = harness.job_command("benchmarks.admission", f"sqlite:///{used}")
    return harness.Contender("sqlite", command, before=fresh)


def _on_postgres(folder: Path, server: Any) -> harness.Contender:
    full, address = server.create(), folder / "postgres.url"
    fill(full)
    command = harness.job_command("benchmarks.admission", f"@{address}")
    return harness.Contender("postgresql", command, before=lambda: _write(address, server.create(full)))


def _write(address: Path, url: str) -> None:
    address.write_text(url)


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    ways = {"sqlite": result["ours"], **result["variants"]}
    return [
        harness.Limit(f"{name}: {figure} / server", way[figure] / JOBS, at_most=STATEMENTS)
        for name, way in ways.items()
        for figure in ("admit_statements", "reserve_statements", "take_up_statements")
    ]


if __name__ == "__main__":
    main()
