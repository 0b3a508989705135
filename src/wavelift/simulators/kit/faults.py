"""Fault rules: each matches some calls and makes them fail.

A simulator may subclass :class:`Rule` to add kinds and fields. See ``docs/simulators.md``, "How to add a fault rule".
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Final, Generic, TypeVar

from wavelift.simulators.kit.message import ConnectionCut, Request


@dataclass(slots=True)
class Rule:
    """One rule. ``service``, ``operation`` and ``key`` are shell patterns; ``key`` is matched with a call's target.

    The kit applies rules of the kind ``call`` to calls. If no effect is given, the call fails with status 500. A world
    applies the other kinds, with :meth:`Faults.take`, where it does the work that they are about.
    """

    kinds: ClassVar[tuple[str, ...]] = ("call",)

    kind: str = "call"
    service: str = "*"
    operation: str = "*"
    key: str = "*"
    part: int = 0
    """Match only the piece of this number."""
    skip: int = 0
    """Let this many matches pass first."""
    count: int = -1
    """Apply to this many matches; -1 means to all."""
    probability: float = 1.0
    status: int = 0
    code: str = ""
    message: str = ""
    throttle: bool = False
    """Fail with the service's own throttling error."""
    per_second: float = 0.0
    """Throttle only the calls above this rate."""
    latency: float = 0.0
    """Seconds to wait first; the wait ends early if the rule is dropped. With no other effect given, the call then
    succeeds. A long latency holds calls back for as long as a test needs."""
    cut_request_after: int = -1
    """Close the connection after this many bytes of the request's body."""
    cut_response_after: int = -1
    """Do the work, then close the connection after this many bytes of the answer's body (0: before its headers)."""
    id: int = 0
    matched: int = 0
    applied: int = 0
    allowance: float = 0.0
    refilled: float = 0.0

    def concerns(self, service: str, operation: str, key: str, part: int) -> bool:
        return (
            fnmatchcase(service, self.service)
            and fnmatchcase(operation, self.operation)
            and fnmatchcase(key, self.key)
            and (not self.part or self.part == part)
        )


RuleT = TypeVar("RuleT", bound=Rule)
_BOOKKEEPING: Final = frozenset({"id", "matched", "applied", "allowance", "refilled"})


def make_rule(kind: type[RuleT], values: Mapping[str, Any]) -> RuleT:
    """Raises ValueError for an unknown field or an unknown kind of rule."""
    defaults = kind()
    settable = {field.name: type(getattr(defaults, field.name)) for field in dataclasses.fields(kind)}
    known = set(settable) - _BOOKKEEPING
    if unknown := set(values) - known:
        raise ValueError(f"a rule has no {sorted(unknown)}; it has {sorted(known)}")
    rule = kind(**{name: settable[name](value) for name, value in values.items()})
    if rule.kind not in kind.kinds:
        raise ValueError(f"kind is one of {kind.kinds}, not {rule.kind!r}")
    return rule


class Faults(Generic[RuleT]):
    """The rules in force. ``probability`` draws from one generator with a fixed seed.

    ``failure`` turns a rule that applies to a call of a service into the error that this service would answer with.
    """

    def __init__(self, kind: type[RuleT], failure: Callable[[RuleT, str], Exception], *, seed: int = 1) -> None:
        self._kind, self._failure = kind, failure
        self._lock = threading.Lock()
        self._rules: list[RuleT] = []
        self._dropped: dict[int, threading.Event] = {}
        self._next_id = 1
        self._ended = False
        self._random = random.Random(seed)

    def add(self, values: Mapping[str, Any]) -> int:
        rule = make_rule(self._kind, values)
        with self._lock:
            rule.id, self._next_id = self._next_id, self._next_id + 1
            self._rules.append(rule)
            self._dropped[rule.id] = threading.Event()
        return rule.id

    def clear(self, rule_id: int = 0) -> None:
        """Drop one rule, or all of them. Calls that a latency holds back continue at once."""
        with self._lock:
            self._rules = [rule for rule in self._rules if rule_id and rule.id != rule_id]
            for each in self._dropped.keys() - {rule.id for rule in self._rules}:
                self._dropped.pop(each).set()

    def has(self, rule_id: int) -> bool:
        with self._lock:
            return rule_id in self._dropped

    def end(self) -> None:
        """Before a reset: drop all rules. Calls that a latency holds back are cut."""
        self._ended = True
        self.clear()

    def _hold(self, rule: RuleT) -> None:
        with self._lock:
            dropped = self._dropped.get(rule.id)
        if dropped is not None:
            dropped.wait(rule.latency)
        if self._ended:
            raise ConnectionCut

    def listing(self) -> list[dict[str, Any]]:
        with self._lock:
            return [dataclasses.asdict(rule) for rule in self._rules]

    def take(self, kind: str, *, service: str, operation: str, key: str, part: int = 0) -> list[RuleT]:
        """The rules that apply to this event. Each is counted as applied."""
        hits = []
        with self._lock:
            for rule in self._rules:
                if rule.kind == kind and rule.concerns(service, operation, key, part) and self._due(rule):
                    rule.applied += 1
                    hits.append(rule)
        return hits

    def _due(self, rule: RuleT) -> bool:
        rule.matched += 1
        if rule.matched <= rule.skip or (rule.count >= 0 and rule.applied >= rule.count):
            return False
        if rule.per_second and not _over_rate(rule):
            return False
        return rule.probability >= 1.0 or self._random.random() < rule.probability

    def before(self, request: Request) -> int | None:
        """Apply the rules to a call. Returns how many bytes of the answer's body may be sent; None means all.

        Raises the service's error, or ConnectionCut.
        """
        limit: int | None = None
        rules = self.take(
            "call", service=request.service, operation=request.operation, key=request.target, part=request.part
        )
        for rule in rules:
            if rule.latency:
                self._hold(rule)
            if rule.cut_request_after == 0:
                raise ConnectionCut
            if rule.cut_request_after > 0:
                request.body.cut_after = rule.cut_request_after
            elif rule.cut_response_after >= 0:
                limit = rule.cut_response_after
            elif rule.status or rule.code or rule.throttle or rule.per_second or not rule.latency:
                raise self._failure(rule, request.service)
        return limit


def _over_rate(rule: Rule) -> bool:
    now = time.monotonic()
    if not rule.refilled:
        rule.allowance = max(1.0, rule.per_second)
    else:
        rule.allowance = min(max(1.0, rule.per_second), rule.allowance + (now - rule.refilled) * rule.per_second)
    rule.refilled = now
    if rule.allowance >= 1.0:
        rule.allowance -= 1.0
        return False
    return True
