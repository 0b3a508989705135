"""Names and choices of an export: bucket, prefix, formats of each method."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.errors import SpecError
from wavelift.base.regions import partitions
from wavelift.rules.environment import Bucket
from wavelift.rules.export_facts import METHODS, ExportFormat, ExportMethod, ExportTarget, MethodChoice
from wavelift.rules.export_plan import (
    BUCKET_MAX,
    FORMATS,
    PREFIX_MAX,
    bucket_name,
    bucket_problem,
    default_format,
    format_problem,
    joined_prefix,
    verify_level,
)

pytestmark = pytest.mark.unit
REGIONS = sorted(region for partition in partitions() for region in partition.regions)
TARGETS: tuple[ExportTarget, ...] = get_args(ExportTarget)
WRITTEN: tuple[ExportFormat, ...] = get_args(ExportFormat)
TEXTS = st.text(st.sampled_from("ab9/._-!*'() äé\n\\?#%~"), max_size=20)


def test_amp_10_the_bucket_is_called_as_the_original_document_says() -> None:
    assert bucket_name("acme", "eu-central-1") == "export-to-s3-acme-eu-central-1"


@pytest.mark.parametrize("name", ["", "Acme", "a.b", "-a", "a-", "a_b", "a b", "ä", "a\n", "a/b", "x" * 38])
def test_a_name_that_makes_no_bucket_name_is_refused_in_one_line(name: str) -> None:
    words = bucket_problem(name, "eu-central-1")
    assert words
    assert "\n" not in words
    assert "37" in words, "how long it may be is told"


@given(st.text(st.sampled_from("abz09-"), min_size=1, max_size=70), st.sampled_from(REGIONS))
def test_whatever_is_allowed_makes_a_valid_bucket_name(name: str, region: str) -> None:
    whole = bucket_name(name, region)
    valid = re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,35}[a-z0-9])?", name) is not None and len(whole) <= BUCKET_MAX
    assert (bucket_problem(name, region) == "") is valid
    if valid:
        check = next(each for each in Bucket.__metadata__ if hasattr(each, "func"))  # type: ignore[attr-defined]
        assert check.func(whole) == whole


@given(TEXTS, TEXTS)
def test_a_prefix_leads_nowhere_else(environment: str, own: str) -> None:
    try:
        joined = joined_prefix(environment, own)
    except SpecError:
        return
    assert joined == environment + own, "AWS takes it as it stands"
    assert not joined.startswith("/")
    assert ".." not in joined
    assert "//" not in joined
    assert re.fullmatch(r"[A-Za-z0-9!_.*'()/-]*", joined)


@pytest.mark.parametrize(
    "prefix", ["/a", "../a", "a/../b", "a..b", "a//b", "./a", "a/./b", "a b", "a\n", "ä", "a\\b", "a?", "x" * 513]
)
def test_a_prefix_that_is_none_is_refused_in_one_line(prefix: str) -> None:
    with pytest.raises(SpecError, match=r"is not an S3 prefix|is too long") as refused:
        joined_prefix("", prefix)
    assert refused.value.next_step
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 800


def test_a_prefix_is_taken_as_it_stands() -> None:
    assert joined_prefix("", None) == ""
    assert joined_prefix("prod/", "erp/") == "prod/erp/"
    assert joined_prefix("prod", "erp") == "proderp"
    assert joined_prefix("a" * 500, "b" * 12) == "a" * 500 + "b" * 12
    with pytest.raises(SpecError, match=f"at most {PREFIX_MAX} characters"):
        joined_prefix("a" * 500, "b" * 13)
    with pytest.raises(SpecError, match="no '/' first or twice"):
        joined_prefix("prod/", "/erp")


@pytest.mark.parametrize(
    ("choice", "target", "asked", "words"),
    [
        ("auto", "vmware", None, ""),
        ("auto", "microsoft", None, ""),
        ("auto", "vmware", "raw", ""),
        ("instance", "vmware", "vmdk", ""),
        ("image", "vmware", None, ""),
        ("image", "citrix", "raw", ""),
        ("auto", "citrix", "ova", "no method writes ova for target citrix; allowed: vhd, raw"),
        ("instance", "vmware", "vhd", "method instance writes no vhd for target vmware; allowed: ova, vmdk"),
        ("instance", "microsoft", "vmdk", "method instance writes no vmdk for target microsoft; allowed: vhd"),
        ("image", "vmware", "ova", "method image writes no ova for target vmware; allowed: vmdk, raw"),
        ("direct", "vmware", "vmdk", "method direct writes no vmdk for target vmware; allowed: ova"),
        ("direct", "citrix", None, "method direct writes nothing for target citrix; allowed: instance, image"),
    ],
)
def test_vie_01_what_fits_no_method_is_told_in_one_line(
    choice: MethodChoice, target: ExportTarget, asked: ExportFormat | None, words: str
) -> None:
    assert format_problem(choice, target, asked) == words


@given(st.sampled_from(TARGETS), st.sampled_from([None, *WRITTEN]))
def test_auto_writes_what_one_of_the_methods_does(target: ExportTarget, asked: ExportFormat | None) -> None:
    wanted = asked or default_format("auto", target)
    assert (format_problem("auto", target, asked) == "") is any(wanted in FORMATS[method][target] for method in METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_default_of_a_method_is_one_that_it_writes(method: ExportMethod, target: ExportTarget) -> None:
    written = default_format(method, target)
    assert written is None or written in FORMATS[method][target]
    assert (written is None) is (method == "direct" and target != "vmware")


def test_the_default_is_an_ova_for_vmware_and_a_vhd_for_the_others() -> None:
    assert [default_format("auto", target) for target in TARGETS] == ["ova", "vhd", "vhd"]
    assert default_format("image", "vmware") == "vmdk"


@pytest.mark.parametrize("text", ["full", "sample:1", "sample:2.5", "sample:100"])
def test_what_is_compared_of_an_ova(text: str) -> None:
    assert verify_level(text) == text


@pytest.mark.parametrize("text", ["off", "", "sample", "sample:0", "sample:101", "Full"])
def test_an_export_is_always_verified(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: full, sample:<pct>"):
        verify_level(text)
