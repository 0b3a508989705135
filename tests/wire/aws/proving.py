"""What every undoable step must hold, whatever it changes: repeats, lost answers, and changes by somebody else."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import pytest

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs_snapshot import NewSnapshot, complete_snapshot, start_snapshot
from wavelift.adapters.aws.ec2 import Ec2, ImageRequest
from wavelift.base.units import GIB
from wavelift.services.dataplane.steps.poll import poll
from wavelift.services.dataplane.steps.step import (
    ChangedElsewhere,
    Outcome,
    Settled,
    State,
    Step,
    apply,
    look,
    undo,
    verify,
)
from wavelift.simulators.aws import AwsSimulator

READS: Final = re.compile(r"[\w-]+\.(Describe|Get|List|Search|GET )")
LONGEST_S: Final = 20.0


def settle(access: AwsAccess, call: Callable[[str], Outcome]) -> Settled:
    """Call again until it is settled, waiting as a trigger does."""
    ends, receipt = time.monotonic() + LONGEST_S, ""
    while True:
        outcome = call(receipt)
        if isinstance(outcome, Settled):
            return outcome
        receipt = outcome.receipt
        while not poll(access, [outcome.wait])[outcome.wait]:
            assert time.monotonic() < ends, outcome
            time.sleep(0.02)


def until(access: AwsAccess, wait: str) -> None:
    """Poll, as a trigger does, until a wait is over."""
    ends = time.monotonic() + LONGEST_S
    while not poll(access, [wait])[wait]:
        assert time.monotonic() < ends, wait
        time.sleep(0.02)


def bare_image(access: AwsAccess, disks: int = 1) -> str:
    """An image of empty disks."""
    made = [
        start_snapshot(access, NewSnapshot(capacity=GIB, token=uuid.uuid4().hex, tags={})).snapshot_id
        for _ in range(disks)
    ]
    for one in made:
        complete_snapshot(access, one, blocks=0, linear=hashlib.sha256().digest())
    return Ec2(access).register(ImageRequest(f"wavelift-{uuid.uuid4().hex}", made, "uefi")).image_id


@dataclass
class Proof:
    """:ivar make: another object for the step: each try is another process.
    :ivar meddle: somebody else changes the place. :ivar write: pattern of the operation that changes it.
    :ivar unwrite: of the one that changes it back, if that is another."""

    aws: AwsSimulator
    access: AwsAccess
    make: Callable[[], Step]
    meddle: Callable[[], object]
    write: str
    unwrite: str = ""

    def run(self) -> State:
        """All of it; the state before."""
        before = json.loads(json.dumps(look(self.make())))
        self.round_trip(before)
        self.lost_answers(before)
        self.somebody_else(before)
        return before

    def round_trip(self, before: State) -> None:
        for _ in range(2):
            self.applied(before)
            assert self.make().same(self.make().read(), self.make().wanted(before))
        for _ in range(2):
            self.undone(before)
            assert self.make().same(self.make().read(), before)

    def applied(self, before: State) -> Settled:
        made = settle(self.access, lambda receipt: apply(self.make(), before, receipt))
        assert settle(self.access, lambda receipt: verify(self.make(), before, receipt)) == Settled()
        return made

    def undone(self, before: State) -> Settled:
        made = settle(self.access, lambda receipt: undo(self.make(), before, receipt))
        with pytest.raises(ChangedElsewhere):
            verify(self.make(), before)
        return made

    def lost_answers(self, before: State) -> None:
        """AWS did it, and the answer never came: the next call of boto3, and the next try, find it done."""
        for call, operation in ((self.applied, self.write), (self.undone, self.unwrite or self.write)):
            rule = self.aws.rule(operation=operation, cut_response_after=0, count=1)
            call(before)
            assert [one["applied"] for one in self.aws.rules() if one["id"] == rule] == [1]
            self.aws.clear_rules()

    def somebody_else(self, before: State) -> None:
        settle(self.access, lambda receipt: apply(self.make(), before, receipt))
        self.meddle()
        found, written = self.make().read(), self.writes()
        for call in (apply, undo, verify):
            with pytest.raises(ChangedElsewhere) as raised:
                partial(call, self.make(), before)()
            assert (raised.value.before, raised.value.now) == (before, found)
        assert self.writes() == written
        assert self.make().read() == found

    def writes(self) -> int:
        return sum(row.get("calls", 0) for name, row in self.aws.counters().items() if not READS.match(name))
