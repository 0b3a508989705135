"""20 waves on one account's limit, with restarts, on SQLite and PostgreSQL (AMP-04, SMS-10, invariant 8).

Each wave is a thread with servers that go through reserve, transfer, release, import and end. It opens the ledger anew
for every step, as each task of Airflow does, and after half of them it forgets everything but what the ledger has.
"""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.contexts import run_context
from tests.depth import depth
from tests.ledgers import within
from tests.postgres import Postgres

from wavelift.base.run import DagRun
from wavelift.ledger import Ledger
from wavelift.ledger.events import list_events
from wavelift.ledger.slots import standing
from wavelift.rules.flows import OF_TRANSFER, SlotKind
from wavelift.services.common.slots import Granted, SlotRequest, give_back, look, request_slots

pytestmark = [pytest.mark.wire, pytest.mark.sampled]

WAVES = 20
SERVERS = depth(2, 6)
ACCOUNT, CONNECTORS = "111122223333", ("dc1", "dc2")
LIMITS = {
    SlotKind.ACCOUNT: 5,
    SlotKind.DATASTORE: 3,
    SlotKind.NFC_HOST: 2,
    SlotKind.TRANSFER: 2,
    SlotKind.IMPORT: 3,
}
STEPS = ("reserve", "release", "import", "end")


class Wave:
    """One wave's servers, and at which step each is."""

    def __init__(self, url: str, number: int) -> None:
        self.url = url
        self.chance = random.Random(number)
        self.run = DagRun(f"w{number}.migrate", "r")
        self.at = {f"{self.run.dag_id}/r/s{server}": 0 for server in range(SERVERS)}

    def work(self, until: int) -> None:
        """Until all servers have come to this step."""
        idle = 0
        while any(step < until for step in self.at.values()):
            holder = self.chance.choice([holder for holder, step in self.at.items() if step < until])
            with Ledger.open(self.url) as ledger:
                idle = 0 if self._advance(ledger, holder) else idle + 1
            assert idle < 20_000, (holder, self.at)

    def _advance(self, ledger: Ledger, holder: str) -> bool:
        ctx, step = run_context(self.run), STEPS[self.at[holder]]
        if step in ("reserve", "import"):
            if look(ledger, [holder])[holder] is not None:
                return False
            if not isinstance(request_slots(ledger, self._wants(holder, step), ctx), Granted):
                return False
        else:
            kinds = OF_TRANSFER if step == "release" else tuple(SlotKind)
            give_back(ledger, holder, kinds=kinds, clock=ctx.clock)
        self.at[holder] += 1
        return True

    def _wants(self, holder: str, step: str) -> list[SlotRequest]:
        mine = random.Random(holder)
        connector = mine.choice(CONNECTORS)
        places = {SlotKind.ACCOUNT: ACCOUNT}
        if step == "import":
            places |= {SlotKind.IMPORT: f"{ACCOUNT}/eu-west-1"}
        else:
            stores = {SlotKind.DATASTORE: f"vc/datastore-{mine.randrange(3)}", SlotKind.TRANSFER: connector}
            places |= {**stores, SlotKind.NFC_HOST: f"vc/host-{mine.randrange(3)}"}
        return [SlotRequest(kind, scope, holder, LIMITS[kind]) for kind, scope in places.items()]


def _most(ledger: Ledger) -> Counter[tuple[str, str]]:
    """The most slots of each place that were granted at once, by the audit trail."""
    now: Counter[tuple[str, str]] = Counter()
    most: Counter[tuple[str, str]] = Counter()
    for event in within(ledger.read(), list_events, object_kind="slot", limit=100_000):
        place = (event.details["kind"], event.details["scope"])
        now[place] += {"slot.granted": 1, "slot.released": -1, "slot.put_back": -1}.get(event.action, 0)
        most[place] = max(most[place], now[place])
    return most


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.proof)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        found = f"sqlite:///{tmp_path / 'wavelift.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        found = server.create()
    Ledger.open(found, upgrade=True).close()
    return found


def test_inv_8_20_waves_share_one_account_and_all_get_through(url: str) -> None:
    waves = [Wave(url, number) for number in range(WAVES)]

    def together(until: int) -> None:
        with ThreadPoolExecutor(WAVES) as pool:
            list(pool.map(lambda wave: wave.work(until), waves))

    half = waves[: WAVES // 2]
    with ThreadPoolExecutor(len(half)) as pool:  # as many as the account lets through come past their transfer
        begun = [pool.submit(_begin, wave) for wave in half]
        assert 1 <= sum(each.result() for each in begun) <= LIMITS[SlotKind.ACCOUNT]
    with Ledger.open(url) as ledger:
        before = [(each.holder, each.kind, each.granted_at, each.id) for each in within(ledger.read(), standing)]
    for wave in waves:  # every process ends; what the ledger has is what there is
        wave.chance = random.Random(wave.run.dag_id)
    with Ledger.open(url) as ledger:
        after = [(each.holder, each.kind, each.granted_at, each.id) for each in within(ledger.read(), standing)]
    assert after == before
    together(len(STEPS))
    with Ledger.open(url) as ledger:
        assert within(ledger.read(), standing) == ()
        most = _most(ledger)
    assert most[(SlotKind.ACCOUNT, ACCOUNT)] == LIMITS[SlotKind.ACCOUNT], "less would mean that they never met"
    assert all(number <= LIMITS[SlotKind(kind)] for (kind, _), number in most.items())


def _begin(wave: Wave) -> int:
    """Each server asks once, and gives its transfer back if it got one; how many did."""
    through = 0
    for holder in wave.at:
        with Ledger.open(wave.url) as ledger:
            for _ in range(len(STEPS[:2])):
                through += wave._advance(ledger, holder) and wave.at[holder] == len(STEPS[:2])
    return through
