"""Airflow's web UI in a real browser: the form of a cutover, and the question that its plan is approved by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.airflow.cutting import Story
from tests.airflow.test_browser import choose, log_in, options, page

pytestmark = [pytest.mark.airflow, pytest.mark.proof, pytest.mark.timeout(900)]

__all__ = ["page"]  # the fixture


def test_a_cutover_is_triggered_from_the_form_and_approved_on_the_page(page: Page, world: Any, tmp_path: Path) -> None:
    story = Story(world, "seen", "seen-a")
    story.seed()
    log_in(page, world)
    page.get_by_role("button", name="Trigger").first.wait_for()
    page.goto(f"{world.airflow.url}/dags/seen.cutover")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    expect(form).to_contain_text("Trigger Dag - seen.cutover")
    assert options(page, "servers") == ["seen-a"]
    assert options(page, "mode")[:3] == ["plan", "prepare", "cutover"]
    choose(page, "mode", "cutover")
    page.screenshot(path=tmp_path / "form.png")
    form.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url(re.compile(r"/dags/seen\.cutover/runs/manual__"))
    run_url = page.url.partition("?")[0]
    run = world.known_run("seen.cutover", run_url.rpartition("/")[2].replace("%3A", ":").replace("%2B", "+"))
    story.asked(run)

    page.goto(f"{run_url}/required_actions")
    expect(page.locator("body")).to_contain_text("Cut servers of seen over")
    page.screenshot(path=tmp_path / "actions.png")
    page.goto(f"{run_url}/tasks/approve/required_actions")
    question = page.locator("body")
    expect(question).to_contain_text("back: Put the old content of seen-a.corp.example A back")
    # Not the first list of the page: its breadcrumbs are one, too.
    expect(question.locator("ol li", has_text="Shut the guest down").first).to_be_visible()
    page.screenshot(path=tmp_path / "question.png")
    page.get_by_role("button", name="Reject").click()
    run.ends("failed")
    assert "admin rejected it" in run.words("approve")
    assert run.outcome("seen-a")["state"] == "ended"
    page.goto(f"{run_url}/tasks/report")
    expect(page.locator("body")).to_contain_text("its source was not touched")
    page.screenshot(path=tmp_path / "report.png")
