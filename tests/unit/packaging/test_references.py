"""What the files of the repository refer to is in the repository: pages, requirement ids, invariants, commits."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.unit
ROOT: Final = Path(__file__).parents[3]
SKIPPED: Final = {"requirements.lock", "LICENSE", "tests/unit/packaging/test_references.py"}
OUTSIDE: Final = re.compile(
    r"(?<![\w/])facts/|\bin the facts\b|(?<!\w)\(facts\)|\bfacts \d"
    r"|\bDESIGN\b|\bblueprint\b|\bREQUIREMENTS\.md\b|\bseed documents?\b|\bshared/(?:facts|seeds)\b"
)
"""Words for pages that only the authors had."""
REQUIREMENT: Final = re.compile(r"\b(?:AIR|AMP|HCX|RHV|SMS|VIE)-\d\d\b")
INVARIANT: Final = re.compile(r"\binvariants? (\d+)\b|\btest_inv_(\d+)_", re.IGNORECASE)


def texts() -> Iterator[tuple[str, str]]:
    """Every text file under version control; in an unpacked archive, every text file of its folders."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        command = [git, "-C", str(ROOT), "ls-files", "-z"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    else:
        folders = ("benchmarks", "dags", "docker", "docs", "operators", "plugins", "scripts", "sensors", "src", "tests")
        found = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
        names = [str(path.relative_to(ROOT)) for path in [*found, *ROOT.glob("*.*")]]
    for name in names:
        path = ROOT / name
        if name and name not in SKIPPED and path.is_file() and not path.is_symlink():
            try:
                yield name, path.read_text()
            except UnicodeDecodeError:
                continue


def test_no_file_refers_to_a_page_outside_the_repository() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if OUTSIDE.search(line)
    ]
    assert not found, "say here what the reader needs, or point to docs/:\n" + "\n".join(found)


@pytest.mark.parametrize("line", ["(facts 2)", "see facts/aws.md", "as in the facts", "(facts)", "by facts 3, HCX"])
def test_the_check_finds_what_it_looks_for(line: str) -> None:
    assert OUTSIDE.search(f"only those are asked for their words {line}.")
    assert not OUTSIDE.search("artifacts 2, AWS facts, guest(facts), (artifacts), `facts.disks`")


def test_docs_give_the_meaning_of_every_requirement_that_is_cited() -> None:
    page = (ROOT / "docs" / "requirements.md").read_text().split("## What each id means", 1)[1]
    meant = set(re.findall(r"^\| ([A-Z]{3}-\d\d)", page, re.MULTILINE)) | spans(page)
    cited = {one for _, text in texts() for one in REQUIREMENT.findall(text)}
    assert cited <= meant, sorted(cited - meant)


def spans(page: str) -> set[str]:
    """``HCX-01 to HCX-08``: all of them."""
    return {
        f"{letters}-{number:02}"
        for letters, first, last in re.findall(r"\b([A-Z]{3})-(\d\d) to \1-(\d\d)\b", page)
        for number in range(int(first), int(last) + 1)
    }


def test_docs_have_every_invariant_that_is_cited() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text().split("## Invariants", 1)[1].split("\n## ", 1)[0]
    kept = set(re.findall(r"^(\d+)\. ", page, re.MULTILINE))
    assert kept == {str(number) for number in range(1, 14)}
    cited = {one or other for _, text in texts() for one, other in INVARIANT.findall(text)}
    assert cited <= kept, sorted(cited - kept)


def test_the_commits_that_docs_name_exist() -> None:
    git = shutil.which("git")
    named = set(re.findall(r"`([0-9a-f]{7})`", (ROOT / "docs" / "contributing.md").read_text()))
    assert len(named) >= 5
    if not git or not (ROOT / ".git").exists():
        pytest.skip("no history here")
    depth = subprocess.run(
        [git, "-C", str(ROOT), "rev-parse", "--is-shallow-repository"], capture_output=True, text=True
    )
    if depth.stdout.strip() == "true":
        pytest.skip("the history is cut off")
    for one in named:
        done = subprocess.run([git, "-C", str(ROOT), "cat-file", "-e", f"{one}^{{commit}}"], capture_output=True)
        assert done.returncode == 0, f"no commit {one}"
