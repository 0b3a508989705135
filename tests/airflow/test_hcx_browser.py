"""Airflow's web UI in a real browser: the forms of a live migration and of a network's cutover, and its question."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.airflow.crossing import Crossing
from tests.airflow.test_browser import choose, log_in, options, page
from tests.airflow.world import Run

pytestmark = [pytest.mark.airflow, pytest.mark.proof, pytest.mark.timeout(900)]

__all__ = ["page"]  # the fixture


def opened(page: Page, world: Any, dag: str) -> None:
    page.goto(f"{world.airflow.url}/dags/{dag}")
    page.get_by_role("button", name="Trigger").first.click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Trigger Dag - {dag}")


def triggered(page: Page, world: Any, dag: str) -> tuple[Run, str]:
    """The run, and its page."""
    page.get_by_role("dialog").get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url(re.compile(rf"/dags/{re.escape(dag)}/runs/manual__"))
    url = page.url.partition("?")[0]
    run_id = url.rpartition("/")[2].replace("%3A", ":").replace("%2B", "+")
    return world.known_run(dag, run_id), url


def test_hcx_04_the_form_of_a_live_migration_refuses_what_is_no_time(page: Page, world: Any, tmp_path: Path) -> None:
    Crossing(world, "shown")
    log_in(page, world)
    page.get_by_role("button", name="Trigger").first.wait_for()
    opened(page, world, "shown.live")
    assert options(page, "servers") == ["shown-a"]
    assert options(page, "mode") == ["plan", "migrate", "cancel"]
    choose(page, "mode", "migrate")
    page.locator("#element_window_start").fill("tomorrow")
    page.screenshot(path=tmp_path / "form.png")
    run, _ = triggered(page, world, "shown.live")
    run.ends("failed")
    assert "window_start 'tomorrow' is not a time with an offset" in run.words("admit")


def test_hcx_06_a_network_is_cut_over_from_the_form_and_approved_on_the_page(
    page: Page, world: Any, tmp_path: Path
) -> None:
    story = Crossing(world, "shown")
    story.sites.source.remove_vm("shown-a")
    log_in(page, world)
    page.get_by_role("button", name="Trigger").first.wait_for()
    opened(page, world, "shown.network_cutover")
    assert options(page, "mode") == ["plan", "cutover", "revert", "finish"]
    choose(page, "mode", "revert")
    page.locator("#element_cutover").fill("net-nowhere")
    page.screenshot(path=tmp_path / "form.png")
    run, _ = triggered(page, world, "shown.network_cutover")
    run.ends("failed")
    assert "knows no such network cutover" in run.words("admit")

    opened(page, world, "shown.network_cutover")
    choose(page, "mode", "cutover")
    run, url = triggered(page, world, "shown.network_cutover")
    story.asked(run)
    page.goto(f"{url}/tasks/approve/required_actions")
    question = page.locator("body")
    expect(question).to_contain_text("Cut the network shown over")
    expect(question).to_contain_text(f"Disconnect {story.lan.name} from its router at the source")
    page.screenshot(path=tmp_path / "question.png")
    page.get_by_role("button", name="Approve").click()
    run.ends("success")
    (row,) = story.get("/network_cutovers?network=shown")["cutovers"]
    story.assert_switched(row["id"])
    page.goto(f"{url}/tasks/report")
    expect(page.locator("body")).to_contain_text("switched")
    page.screenshot(path=tmp_path / "report.png")
    story.run(story.post(f"/network_cutovers/{row['id']}/revert")).ends("success")
    story.assert_back(row["id"])
