"""A spec is text: whatever tag it has, nothing of it runs or is imported, and the error names file and line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.specs.document import Document

GOOD: Final = "wave: shop\nsource:\n  connection: vc\nservers:\n  - web01\n"
TAGS: Final = (
    "!!python/object/apply:os.system",
    "!!python/object/new:subprocess.Popen",
    "!!python/object:wavelift_never_imported.Thing",
    "!!python/module:wavelift_never_imported",
    "!!python/name:wavelift_never_imported.thing",
    "!!python/tuple",
    "!!binary",
    "!include",
    "!Ref",
    "!!map:x",
    "!<tag:yaml.org,2002:python/object/apply:os.system>",
)
VALUES: Final = ("{canary}", "[touch {canary}]", "{{args: [[touch, {canary}]]}}", "'touch {canary}'", "")
PLACES: Final = (
    "wave: {node}\n",
    "{node}: x\n",
    "a:\n  - b\n  - {node}\n",
    "a: {{b: {node}}}\n",
    "&x {node}\n",
    "a: &x {node}\nb: *x\n",
    "a:\n  <<: {node}\n",
)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a module whose import leaves a trace, and of the file that a command would make."""
    folder = tmp_path_factory.mktemp("canary")
    (folder / "wavelift_never_imported.py").write_text("raise SystemExit('imported')\n")
    return folder


@given(
    tag=st.one_of(
        st.sampled_from(TAGS),
        st.from_regex(r"!{1,2}python/(object|object/apply|object/new|module|name):[a-z_.]{1,20}", fullmatch=True),
    ),
    value=st.sampled_from(VALUES),
    place=st.sampled_from(PLACES),
    before=st.integers(0, 3),
)
def test_no_tag_runs_or_imports_anything(watched: Path, tag: str, value: str, place: str, before: int) -> None:
    canary = watched / "made"
    node = f"{tag} {value.format(canary=canary)}".strip()
    text = "# a comment\n" * before + place.format(node=node)
    known = set(sys.modules)
    called: list[str] = []
    sys.path.insert(0, str(watched))
    _watch(called)
    try:
        issues = [str(issue) for issue in Document(Path("waves/shop.yaml"), text).issues]
    finally:
        _listening.clear()
        sys.path.remove(str(watched))
    assert not canary.exists()
    assert called == []
    assert not {name for name in set(sys.modules) - known if name.startswith(("wavelift_never", "subprocess"))}
    assert issues
    for issue in issues:
        assert issue.startswith("waves/shop.yaml:")
        line = int(issue.split(":")[1])
        assert line <= text.count("\n") + 1
        assert line > before or "top level" in issue, "of the whole file"


_listening: list[list[str]] = []
_EVENTS: Final = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "import", "exec", "compile")


def _watch(called: list[str]) -> None:
    """Python tells of every process, import and execution while somebody listens. A hook can't be taken away."""
    if not _hooked:
        sys.addaudithook(_heard)
        _hooked.append(True)
    _listening.append(called)


_hooked: list[bool] = []


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and (event.startswith(_EVENTS[:5]) or (event in _EVENTS and "never_imported" in str(arguments))):
        _listening[-1].append(event)


def test_what_the_watch_hears() -> None:
    """Or the proof above proves nothing."""
    import subprocess

    called: list[str] = []
    _watch(called)
    try:
        subprocess.run(["true"], check=True)
    finally:
        _listening.clear()
    assert any(event.startswith("subprocess.Popen") for event in called)


def test_without_a_tag_the_same_file_is_read() -> None:
    document = Document(Path("waves/shop.yaml"), GOOD)
    assert document.issues == []
    assert document.value is not None
    assert document.value["servers"] == ["web01"]
