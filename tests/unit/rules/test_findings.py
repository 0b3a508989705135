"""How findings are told in few words: once each, whom they are about, and who is ready."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.domain import Finding, Severity
from wavelift.base.units import about_time
from wavelift.rules.findings import WHOLE_WAVE, about, grouped, stopped, verdict

pytestmark = pytest.mark.unit
E, W, N = Severity.ERROR, Severity.WARNING, Severity.INFO


def finding(subject: str, severity: Severity = N, what: str = "the disk is an RDM") -> Finding:
    return Finding(severity=severity, code="x.y", subject=subject, what=what, why="so", next_action="Do nothing")


def test_findings_that_say_the_same_are_told_once_with_all_servers() -> None:
    found = [finding("b"), finding("a/SCSI 0:1"), finding("a"), finding("c", E, "no"), finding("d", W)]
    assert [(one.severity, servers) for one, servers in grouped(found)] == [
        (E, ("c",)),
        (W, ("d",)),
        (N, ("a", "b")),
    ]


def test_whom_it_is_about() -> None:
    assert about([WHOLE_WAVE]) == "whole wave"
    assert about(["web01", "db01"]) == "web01, db01"
    assert about([f"s{n}" for n in range(150)]) == "s0, s1, s2, s3 and 146 more"


@pytest.mark.parametrize(
    ("findings", "servers", "said"),
    [
        ([], ["a"], "0 errors: ready"),
        ([("a", N)], ["a"], "0 errors: ready"),
        ([("a", W)], ["a"], "0 errors, 1 warning: ready"),
        ([("a", W), ("b/disk", W)], ["a", "b"], "0 errors, 1 warning: ready"),
        ([("a", E)], ["a"], "1 error: not ready"),
        ([("*/connection x", E)], [], "1 error: not ready"),
        ([("*/role x", E), ("a", W)], ["a", "b"], "1 error, 1 warning: not ready"),
        ([("c/disk", E)], ["a", "b", "c"], "1 error: a, b ready; c not ready"),
        ([("gone", E)], ["a", "b"], "1 error: a, b ready; gone not ready"),
        ([], [], "0 errors: no server found"),
    ],
)
def test_the_last_line(findings: list[tuple[str, Severity]], servers: list[str], said: str) -> None:
    assert verdict([finding(*one) for one in findings], servers) == said


NAMES = st.sampled_from(["a", "b", "c", "d"])
SUBJECTS = st.one_of(NAMES, NAMES.map(lambda name: f"{name}/SCSI 0:0"), st.just("*/role r"))
FOUND = st.lists(st.builds(finding, SUBJECTS, st.sampled_from([E, W, N]), st.sampled_from(["one", "two"])))


@given(FOUND, st.lists(NAMES, unique=True))
def test_the_last_line_says_of_each_server_what_stops_it(found: list[Finding], servers: list[str]) -> None:
    line = verdict(found, servers)
    counts, _, who = line.partition(": ")
    assert int(counts.split()[0]) == len({(one.what) for one in found if one.severity is E})
    assert re.fullmatch(r"(1 error|\d+ errors)(, (1 warning|\d+ warnings))?", counts)
    assert not counts.startswith("1 errors")
    ready = {name for name in servers if not stopped(found, name)}
    if any(one.severity is E for one in found):
        first, _, second = who.partition(" ready; ")
        assert set(first.split(", ")) == ready if second else (not ready and who == "not ready")
    else:
        assert who == ("ready" if servers else "no server found")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (5, "less than 1 min"),
        (70, "about 1 min"),
        (2400, "about 40 min"),
        (2500, "about 40 min"),
        (9000, "about 2.5 h"),
        (40 * 3600, "about 40 h"),
        (72 * 3600, "about 3 days"),
    ],
)
def test_an_estimated_time_is_round(seconds: float, said: str) -> None:
    assert about_time(seconds) == said


def test_the_estimate_s_units_are_there_for_any_size(facts: Any, plan: Any) -> None:
    from wavelift.rules.estimate import estimate, table

    for _, text in table(estimate([(plan(), facts())])):
        assert not re.search(r"\(s\)|\d{5,}|\d\.\d{3,}", text), text
