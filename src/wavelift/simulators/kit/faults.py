"""Faults on order: rules that match calls and spoil them."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.kit.message import ConnectionCut, Request

THROTTLED: Final = {
    "s3": ("SlowDown", "Please reduce your request rate.", 503),
    "ec2": ("RequestLimitExceeded", "Request limit exceeded.", 503),
    "ebs": ("RequestThrottledException", "ACCOUNT_THROTTLED", 400),
}
THROTTLED_ELSE: Final = ("Throttling", "Rate exceeded", 400)
BROKEN: Final = {
    "s3": ("InternalError", "We encountered an internal error. Please try again.", 500),
    "ebs": ("InternalServerException", "An internal error has occurred.", 500),
}
BROKEN_ELSE: Final = ("InternalError", "An internal error has occurred", 500)
KINDS: Final = ("call", "flip", "import")


@dataclass(slots=True)
class Rule:
    """One order. ``service``, ``operation`` and ``key`` are shell patterns; ``key`` is bucket/key or a resource's id.

    ``call`` rules fail the calls that match; without any effect given they answer 500. ``flip`` rules change one byte
    of an object that CompleteMultipartUpload has just made. ``import`` rules decide how an ImportImage task ends.
    """

    kind: str = "call"
    service: str = "*"
    operation: str = "*"
    key: str = "*"
    part: int = 0
    """Only this part number of UploadPart."""
    skip: int = 0
    """So many matches pass first."""
    count: int = -1
    """So many matches are spoilt; -1 means all of them."""
    probability: float = 1.0
    status: int = 0
    code: str = ""
    message: str = ""
    reason: str = ""
    """EBS direct's ``Reason`` beside the code."""
    throttle: bool = False
    """The service's own throttling error."""
    per_second: float = 0.0
    """Throttle only what comes faster than this."""
    latency: float = 0.0
    """Seconds before anything else, at most until the rule is dropped; a rule with nothing but latency lets the call
    pass. A long one holds calls back for as long as a test wants."""
    cut_request_after: int = -1
    """Close the connection when so many bytes of the body were read."""
    cut_response_after: int = -1
    """Do what was asked, then close the connection after so many bytes of the answer's body (0: not even a header)."""
    outcome: str = "deleted"
    """Of an import: ``deleted``, or ``stuck`` in its phase until cancelled."""
    phase: str = "converting"
    """Of an import: where that happens."""
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


_DEFAULTS: Final = Rule()
_SETTABLE: Final[dict[str, type]] = {f.name: type(getattr(_DEFAULTS, f.name)) for f in dataclasses.fields(Rule)}
_OWN: Final = frozenset({"id", "matched", "applied", "allowance", "refilled"})


def make_rule(values: Mapping[str, Any]) -> Rule:
    """Raises ValueError for an unknown field or kind."""
    unknown = set(values) - (set(_SETTABLE) - _OWN)
    if unknown:
        raise ValueError(f"a rule has no {sorted(unknown)}; it has {sorted(set(_SETTABLE) - _OWN)}")
    rule = Rule(**{name: _SETTABLE[name](value) for name, value in values.items()})
    if rule.kind not in KINDS:
        raise ValueError(f"kind is one of {KINDS}, not {rule.kind!r}")
    if rule.kind == "import":
        rule.operation = rule.phase
    return rule


class Faults:
    """The rules in force. Draws by ``probability`` come from one seeded generator."""

    def __init__(self, seed: int = 1) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._dropped: dict[int, threading.Event] = {}
        self._next_id = 1
        self._random = random.Random(seed)

    def add(self, values: Mapping[str, Any]) -> int:
        rule = make_rule(values)
        with self._lock:
            rule.id, self._next_id = self._next_id, self._next_id + 1
            self._rules.append(rule)
            self._dropped[rule.id] = threading.Event()
        return rule.id

    def clear(self, rule_id: int = 0) -> None:
        """Drop one rule, or all of them; calls that a latency holds back go on at once."""
        with self._lock:
            self._rules = [rule for rule in self._rules if rule_id and rule.id != rule_id]
            for each in self._dropped.keys() - {rule.id for rule in self._rules}:
                self._dropped.pop(each).set()

    def _hold(self, rule: Rule) -> None:
        with self._lock:
            dropped = self._dropped.get(rule.id)
        if dropped is not None:
            dropped.wait(rule.latency)

    def listing(self) -> list[dict[str, Any]]:
        with self._lock:
            return [dataclasses.asdict(rule) for rule in self._rules]

    def take(self, kind: str, *, service: str, operation: str, key: str, part: int = 0) -> list[Rule]:
        """The rules that apply to this very call; their counts go down."""
        hits = []
        with self._lock:
            for rule in self._rules:
                if rule.kind == kind and rule.concerns(service, operation, key, part) and self._due(rule):
                    rule.applied += 1
                    hits.append(rule)
        return hits

    def _due(self, rule: Rule) -> bool:
        rule.matched += 1
        if rule.matched <= rule.skip or (rule.count >= 0 and rule.applied >= rule.count):
            return False
        if rule.per_second and not _over_rate(rule):
            return False
        return rule.probability >= 1.0 or self._random.random() < rule.probability

    def before(self, request: Request) -> int | None:
        """Spoil a call; how many bytes of the answer may leave, None for all. Raises AwsError or ConnectionCut."""
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
                raise failure(rule, request.service)
        return limit


def failure(rule: Rule, service: str) -> AwsError:
    if rule.throttle or rule.per_second or rule.status in {429, 503}:
        code, message, status = THROTTLED.get(service, THROTTLED_ELSE)
    else:
        code, message, status = BROKEN.get(service, BROKEN_ELSE)
    extra = {}
    if code == "RequestThrottledException" and not rule.code:
        extra = {"Reason": message}
    if rule.reason:
        extra = {"Reason": rule.reason}
    return AwsError(rule.code or code, rule.message or message, rule.status or status, extra)


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
