"""The audit trail of 100,000 events: sealed, exported to a file, verified in the ledger and by the file alone.

Server and command line run in one process, and the application is called without a network; so ``*_cpu_s`` are of
both. ``added_mib`` shows that memory does not grow with the number of events: the small trail has a tenth of them.
There is neither floor nor peer, because no disk is transferred. The limits are ratios between the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from benchmarks import harness
from benchmarks.admission import postgres

EVENTS: Final = 100_000
FEW: Final = EVENTS // 10
BATCH: Final = 5000
LONG_AGO: Final = datetime(2026, 1, 1, tzinfo=UTC)


def fill(url: str, count: int) -> None:
    """Events like a migration's. Many in one statement: how they are written is not measured here."""
    from wavelift.ledger import Ledger
    from wavelift.ledger.tables import event

    run = {"dag_id": "erp-frankfurt.migrate", "dag_run_id": "manual__2026-01-01T00:00:00+00:00"}
    about = {**run, "actor": " ".join(run.values()), "action": "migration.transferring", "object_kind": "migration"}
    moved = {"from": "queued", "to": "transferring", "progress": 0.5}
    with Ledger.open(url, upgrade=True) as ledger:
        for batch in range(0, count, BATCH):
            rows = [
                {
                    **about,
                    "object_id": f"mig-{number:012x}",
                    "at": LONG_AGO + timedelta(seconds=number),
                    "details": {"server": f"server{number:06}", **moved},
                }
                for number in range(batch, batch + BATCH)
            ]
            with ledger.write() as tx:
                tx.execute(event.insert(), rows)


class Admin:
    def get_name(self) -> str:
        return "admin"

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return lambda **_: True


def job(url: str, count: str, folder: str) -> None:
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi.testclient import TestClient

    from wavelift.cli import events, exported
    from wavelift.console import audit_right, deps
    from wavelift.console.api import create_app
    from wavelift.ledger import Ledger
    from wavelift.rules.seals import SealedFile

    async def admin(request: Any) -> str:
        return "admin"

    vars(audit_right)["get_auth_manager"] = Admin
    app = create_app(admin)
    with Ledger.open(Path(url[1:]).read_text() if url.startswith("@") else url) as ledger:
        app.dependency_overrides = {get_user: Admin, deps._ledger: lambda: ledger}
        client = TestClient(app)

        class Api:
            def call(self, method: str, path: str, body: Any = None) -> Any:
                answer = client.request(method, path.removeprefix("/wavelift"), json=body)
                assert answer.status_code == 200, answer.text
                return answer.json()

        api: Any = Api()
        vars(events)["client"] = lambda: api
        api.call("GET", "/wavelift/audit/verify")
        idle = harness.peak_mib()
        took: dict[str, float] = {}

        def timed(name: str, call: Callable[[], Any]) -> Any:
            began, cpu = time.monotonic(), time.process_time()
            found = call()
            took.update({f"{name}_s": time.monotonic() - began, f"{name}_cpu_s": time.process_time() - cpu})
            return found

        def seal() -> None:
            while api.call("POST", "/wavelift/audit/seal")["more"]:
                pass

        file = Path(folder) / f"{time.time_ns()}.jsonl"
        timed("seal", seal)
        done: SealedFile = timed("export", lambda: exported.to_file(api, str(file)))
        checked, difference = timed("verify", lambda: events._check_ledger(exported.SealedFiles(with_digests=False)))
        kept = exported.SealedFiles(with_digests=False)
        timed("verify_file", lambda: exported.read_file(str(file), kept))
        assert difference is None
        assert {done.events, checked["events"], kept.file.events} == {int(count)}
        harness.report_job(
            **took, file_mib=file.stat().st_size / 2**20, seals=done.seals, added_mib=harness.peak_mib() - idle
        )
        file.unlink()


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    with harness.workspace(options) as folder, ExitStack() as stack:
        contenders = [_on_sqlite(folder, count) for count in (EVENTS, FEW)]
        server = stack.enter_context(postgres())
        if server is not None:
            contenders.append(_on_postgres(folder, server))
        harness.compare(
            "audit_trail",
            ours=contenders[0],
            variants=contenders[1:],
            peers=[],
            data_bytes=0,
            params={"events": EVENTS},
            runs=options.runs,
            limits=_limits,
        )


def _on_sqlite(folder: Path, count: int) -> harness.Contender:
    full, used = folder / f"full-{count}.db", folder / f"used-{count}.db"
    fill(f"sqlite:///{full}", count)

    def fresh() -> None:
        for tail in ("-wal", "-shm"):
            Path(f"{used}{tail}").unlink(missing_ok=True)
        used.write_bytes(full.read_bytes())

    command = harness.job_command("benchmarks.audit_trail", f"sqlite:///{used}", count, folder)
    return harness.Contender("sqlite" if count == EVENTS else f"{count} events", command, before=fresh)


def _on_postgres(folder: Path, server: Any) -> harness.Contender:
    full, address = server.create(), folder / "postgres.url"
    fill(full, EVENTS)
    command = harness.job_command("benchmarks.audit_trail", f"@{address}", EVENTS, folder)

    def fresh() -> None:
        address.write_text(server.create(full))

    return harness.Contender("postgresql", command, before=fresh)


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    many, few = result["ours"], result["variants"][f"{FEW} events"]
    cpu = [sum(each[f"{name}_cpu_s"] for name in ("seal", "export", "verify", "verify_file")) for each in (many, few)]
    return [
        harness.Limit("CPU / a tenth's", cpu[0] / cpu[1], at_most=15),
        harness.Limit("MiB added beyond a tenth's", many["added_mib"] - few["added_mib"], at_most=16),
    ]


if __name__ == "__main__":
    main()
