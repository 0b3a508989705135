"""A seed that is killed (``kill -9``) after 70 % of its blocks are acknowledged and continues on the same machine.

``ours`` is the second try: the whole run as the connector's task does it, against the simulators, over TLS on both
sides. ``blocks_sent_twice`` is what the AWS simulator counted. ``workers`` is the number of puts in flight; each of
them may have reached AWS before its answer reached the journal. ``whole`` is the same run without a kill, for
comparison. There is no peer, because no public tool resumes an upload into a snapshot. There is no floor, because this
benchmark checks a count, not speed: ``seed_ebs`` compares the same path with its floor. ``server_bytes`` are the bytes
of the measured try.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import harness
from benchmarks.lab import SERVER, Lab, lab
from wavelift.adapters.aws.ebs_write import PUTS_IN_FLIGHT
from wavelift.base.units import BLOCK

KILL_AT: Final = 0.7
DEADLINE_S: Final = 600


class Killed:
    """Does the first try of each run, and looks at what the second one made of it."""

    def __init__(self, at: Lab, order: Path, blocks: int, expected: str) -> None:
        self._at = at
        self.order = order
        self._blocks = blocks
        self._expected = expected
        self._runs = 0
        self.twice: list[int] = []

    def fresh(self) -> None:
        """Another run of the same order: nothing is left of the last one."""
        self._runs += 1
        told = json.loads(self.order.read_text())
        told["run_key"] = f"bench/{self.order.stem}-{self._runs}/{SERVER}"
        self.order.write_text(json.dumps(told))
        Path(told["checkpoints"]).unlink(missing_ok=True)

    def kill_one(self) -> None:
        """The first try."""
        self.fresh()
        begun = self._at.puts()
        command = harness.job_command("benchmarks.order", self.order)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_S
        while self._at.puts() - begun < KILL_AT * self._blocks:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the first try ended before it was killed")
            time.sleep(0.01)
        process.kill()
        process.wait()

    def check(self) -> dict[str, float]:
        disk = self._at.disk_of(self.order)
        assert disk.content_digest == self._expected, "the disk is another one"
        rows = self._at.stage.aws.state()["snapshots"]
        (row,) = [row for row in rows if row["id"] == disk.lineage.snapshot_id]
        assert row["own_blocks"] == self._blocks, f"{row['own_blocks']} of {self._blocks} blocks"
        self.twice.append(row["sent_twice"])
        self._at.delete(disk)
        return {"blocks_sent_twice": row["sent_twice"]}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.set_defaults(size_mib=2048)
    options = parser.parse_args()
    corpus = harness.corpus_of(options)
    with harness.workspace(options) as folder:
        raw = folder / "disk.raw"
        data = corpus.make(raw)
        with lab(folder, raw) as at:
            at.serve_ranges()
            one = at.replica.begin()
            expected = at.frozen(one).content_digest()
            killed = Killed(at, at.order(one), data // BLOCK, expected)
            whole = Killed(at, at.order(one), data // BLOCK, expected)

            def contender(name: str, which: Killed, before: Any) -> harness.Contender:
                command = harness.job_command("benchmarks.order", which.order)
                return harness.Contender(name, command, check=which.check, before=before, wires=[at.wire()])

            harness.compare(
                "resume",
                ours=contender("second try", killed, killed.kill_one),
                variants=[contender("whole", whole, whole.fresh)],
                peers=[],
                data_bytes=data,
                params={
                    **corpus.params,
                    "blocks": data // BLOCK,
                    "killed_at": KILL_AT,
                    "workers": PUTS_IN_FLIGHT,
                },
                runs=options.runs,
                limits=lambda result: [
                    harness.Limit("blocks sent twice, the worst run", max(killed.twice), at_most=PUTS_IN_FLIGHT)
                ],
            )
            at.replica.end(one, None)


if __name__ == "__main__":
    main()
