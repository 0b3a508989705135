"""One process of ``test_replication_processes``: asks for a run of one server again and again, at the same instant as
the others, and prints what became of each request; once for each line of standard input, which is the round's name.

Ways: ``reserve`` as our REST does, ``admit`` as a DAG run from Airflow's own trigger does.
"""

from __future__ import annotations

import sys

from tests.contexts import run_context

from wavelift.base.errors import RefusedError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger
from wavelift.services.replication.admission import Asked, admit_runs, reserve_runs


def ask(ledger: Ledger, way: str, run: DagRun) -> str:
    ctx = run_context(run, requester="ana")
    if way == "reserve":
        try:
            reserve_runs(ledger, "erp", ["web01"], ctx)
        except RefusedError as error:
            return f"{error.where['rule']} {error.where.get('until', '')}"
    admission = admit_runs(ledger, "erp", Asked(servers=["web01"]), ctx)
    if admission.granted:
        return f"granted {admission.granted[0].id}"
    until = admission.refused[0].until
    return f"{admission.refused[0].rule} {until.isoformat() if until else ''}"


def main(url: str, way: str, name: str, requests: int) -> None:
    while True:
        ledger = Ledger.open(url)
        print("ready", flush=True)
        called = sys.stdin.readline().strip()
        if not called:
            return
        for number in range(requests):
            print(ask(ledger, way, DagRun("erp.replicate", f"{called}-{name}-{number}")), flush=True)
        ledger.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
