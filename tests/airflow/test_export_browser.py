"""Airflow's web UI in a real browser: an instance is exported from the form of ``instance_export.<environment>``."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from tests.airflow.outward import BUCKET, DAG, ENVIRONMENT, PREFIX, exporting
from tests.airflow.test_browser import choose, log_in, options, page
from tests.airflow.test_hcx_browser import opened, triggered

pytestmark = [pytest.mark.airflow, pytest.mark.proof, pytest.mark.timeout(900)]

__all__ = ["page"]  # the fixture


def test_amp_10_an_instance_is_exported_from_the_form_and_the_report_names_its_object(
    page: Page, world: Any, tmp_path: Path
) -> None:
    with exporting(world) as outward:
        world.api.unpause(DAG)
        log_in(page, world)
        page.get_by_role("button", name="Trigger").first.wait_for()

        # The bucket of the region.
        opened(page, world, DAG)
        assert options(page, "mode") == ["export", "check", "setup"]
        choose(page, "mode", "setup")
        run, url = triggered(page, world, DAG)
        run.ends("success")
        assert BUCKET in world.aws.state()["buckets"]

        # What no instance is called is refused before anything is made.
        opened(page, world, DAG)
        page.locator("#element_instance").fill("web01")
        run, _ = triggered(page, world, DAG)
        run.ends("failed")
        assert "'web01' is not the id of an instance" in run.words("admit")

        opened(page, world, DAG)
        assert options(page, "method") == ["auto", "instance", "image", "direct"]
        assert options(page, "target") == ["vmware", "citrix", "microsoft"]
        page.locator("#element_instance").fill(outward.instance)
        page.locator("#element_prefix").fill("shown/")
        page.locator("label:has(input[name=element_may_reboot]) [data-part=control]").click()
        page.locator("#element_note").fill("for the people in hall B")
        page.screenshot(path=tmp_path / "form.png")
        run, url = triggered(page, world, DAG)
        run.ends("success")
        (row,) = outward.get(f"/exports?environment={ENVIRONMENT}&dag_run_id={quote(run.run_id)}")["exports"]
        assert (row["state"], row["instance_id"], row["requested_by"]) == ("completed", outward.instance, "admin")
        assert (row["may_reboot"], row["prefix"], row["note"]) == (True, f"{PREFIX}shown/", "for the people in hall B")
        assert row["location"].startswith(f"s3://{BUCKET}/{PREFIX}shown/export-i-")
        page.goto(f"{url}/tasks/report")
        expect(page.locator("body")).to_contain_text(f"{row['instance_id']} completed {row['location']}")
        page.screenshot(path=tmp_path / "report.png")
