"""What stays up after ``make demo``: the web UI in a real browser, and the command line, over a wave that is done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGE_MS: Final = 60_000
"""A page of Airflow takes seconds on a busy machine, the first one more."""
RUN_MS: Final = 180_000


Wavelift = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1400, "height": 1100}
        )
        browser.set_default_timeout(PAGE_MS)
        expect.set_options(timeout=PAGE_MS)
        yield browser.pages[0]
        browser.close()


def log_in(page: Page, url: str, user: str, password: str) -> None:
    page.goto(f"{url}/dags/demo.migrate")
    page.locator("input[name=username]").fill(user)
    page.locator("input[name=password]").fill(password)
    page.get_by_role("button", name="Sign in").click()


def field(page: Page, name: str) -> Locator:
    """One field of the trigger form, by the param's name."""
    return page.locator(f"#element_{name}")


def choose(page: Page, name: str, *values: str) -> None:
    for value in values:
        field(page, name).get_by_role("combobox").click()
        page.get_by_role("option", name=value, exact=True).click()


def options(page: Page, name: str) -> list[str]:
    field(page, name).get_by_role("combobox").click()
    texts = page.get_by_role("option").all_inner_texts()
    page.get_by_text("Trigger Dag - ").click()  # Escape would close the form
    return texts


def test_air_05_a_wave_is_triggered_from_the_form_in_the_browser(page: Page, staying_demo: Any, tmp_path: Path) -> None:
    log_in(page, staying_demo.url, "admin", staying_demo.password)
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    expect(form).to_contain_text("Trigger Dag - demo.migrate")

    # What the form offers: several servers, launch or image only, a note.
    expect(form).to_contain_text("None chosen: every server of the wave.")
    assert options(page, "servers") == ["web01", "db01", "win01"]
    assert options(page, "launch") == ["as the wave's file says", "image only", "launch an instance"]
    choose(page, "servers", "db01", "web01")
    expect(field(page, "servers")).to_contain_text("db01")
    field(page, "servers").get_by_label("Remove web01").click()
    choose(page, "launch", "image only")
    choose(page, "mode", "preflight")
    page.locator("#element_note").fill("looked at before the wave")
    page.screenshot(path=tmp_path / "form.png")
    form.get_by_role("button", name="Trigger", exact=True).click()

    # The run that this made.
    page.wait_for_url(re.compile(r"/dags/demo\.migrate/runs/manual__"))
    run_url = page.url.partition("?")[0]
    header = page.get_by_role("heading", name=re.compile("^manual__")).locator("xpath=..")
    expect(header).to_contain_text("Success", timeout=RUN_MS)
    page.screenshot(path=tmp_path / "run.png")

    # What it found: the chosen server, and no other.
    page.goto(f"{run_url}/tasks/preflight")
    log = page.locator("body")
    expect(log).to_contain_text("db01/SCSI 1:0: Hard disk 2 has 268435456 bytes")
    expect(log).not_to_contain_text("web01:")
    page.screenshot(path=tmp_path / "preflight.png")


def test_air_05_the_demo_s_run_tells_every_server_s_end_by_name(
    page: Page, staying_demo: Any, wavelift: Wavelift, tmp_path: Path
) -> None:
    [web01] = [
        one
        for one in json.loads(wavelift("migrations", "list", "--json").stdout)["migrations"]
        if one["server"] == "web01"
    ]
    run_url = f"{staying_demo.url}/dags/demo.migrate/runs/{web01['dag_run_id']}"
    log_in(page, staying_demo.url, "admin", staying_demo.password)
    page.get_by_role("button", name="Trigger").first.wait_for()

    page.goto(f"{run_url}/tasks/report")
    expect(page.locator("body")).to_contain_text(f"completed  {web01['image_id']} {web01['instance_id']}")
    page.goto(f"{run_url}/tasks/server.import_image/mapped/0/details")
    expect(page.get_by_role("heading", name="server.import_image [web01]")).to_be_visible()
    expect(page.get_by_role("link", name="AMI")).to_have_attribute("href", re.compile(web01["image_id"]))
    page.screenshot(path=tmp_path / "links.png")


@pytest.fixture
def wavelift(staying_demo: Any) -> Wavelift:
    """Run the command line as ``admin`` (or with other variables) against the demo's Airflow."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "wavelift"), *arguments],
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith(("WAVELIFT_", "AIRFLOW"))},
                "WAVELIFT_URL": staying_demo.url,
                "WAVELIFT_USER": "admin",
                "WAVELIFT_PASSWORD": staying_demo.password,
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def test_amp_07_the_list_has_ids_states_progress_and_results(wavelift: Wavelift) -> None:
    listed = wavelift("migrations", "list")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(wavelift("migrations", "list", "--json", "--wave", "demo").stdout)["migrations"]
    assert {row["server"]: row["state"] for row in rows} == dict.fromkeys(("web01", "db01", "win01"), "completed")
    for row in rows:
        assert row["progress_pct"] == 100
        assert bool(row["instance_id"]) == (row["server"] != "db01")
        for value in (row["id"], f"demo/{row['server']}", row["image_id"], row["instance_id"]):
            assert value in listed.stdout, "cut short"
    shown = json.loads(wavelift("migrations", "show", rows[0]["id"]).stdout)
    assert shown["image_id"] == rows[0]["image_id"]
    assert json.loads(wavelift("migrations", "list", "--json", "--state", "failed").stdout)["total"] == 0


def test_preflight_and_plan_print_findings_and_what_would_be_made(wavelift: Wavelift) -> None:
    checked = wavelift("preflight", "demo")
    assert checked.returncode == 0, checked.stderr
    assert "the instance will run beside its running source" in checked.stdout
    assert "web01/SCSI 0:0" in checked.stdout

    planned = wavelift("wave", "plan", "demo", "--server", "db01")
    assert planned.returncode == 0, planned.stderr
    assert "Plan (nothing was created)" in planned.stdout
    assert "2 disk object(s)" in planned.stdout
    assert "web01" not in planned.stdout

    report = json.loads(wavelift("wave", "plan", "demo", "--json").stdout)
    assert [server["name"] for server in report["servers"]] == ["web01", "db01", "win01"]
    assert {finding["severity"] for finding in report["findings"]} <= {"warning", "info"}


def test_cleanup_finds_nothing_after_a_wave_that_went_well(wavelift: Wavelift) -> None:
    swept = wavelift("cleanup", "demo", "--dry-run")
    assert (swept.returncode, swept.stdout) == (0, "Nothing of ours is left around demo\n")


def test_verify_reads_an_image_back_again(wavelift: Wavelift) -> None:
    rows = json.loads(wavelift("migrations", "list", "--json").stdout)["migrations"]
    [db01] = [row["id"] for row in rows if row["server"] == "db01"]
    again = wavelift("verify", db01)
    assert again.returncode == 0, again.stderr
    boot, data = again.stdout.splitlines()
    assert re.match(r"db01 disk 0 \(snap-\w+\): 640 blocks compared, changed by the conversion: \d+\+\d+", boot)
    assert data.endswith("512 blocks compared, changed by the conversion: nothing")


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["migrations", "list"], {"WAVELIFT_PASSWORD": "wrong"}, "Airflow refused the login of admin (401)"),
        (["migrations", "list"], {"WAVELIFT_PASSWORD": ""}, "set WAVELIFT_USER and WAVELIFT_PASSWORD"),
        (["migrations", "list"], {"WAVELIFT_TOKEN": "stale"}, "not logged in (403)"),
        (["migrations", "list"], {"WAVELIFT_URL": "http://127.0.0.1:9"}, "No answer from http://127.0.0.1:9"),
        (["migrations", "list", "--state", "odd"], {}, "state: Input should be 'queued', 'transferring'"),
        (["migrations", "show", "mig-0"], {}, "The ledger knows no such migration"),
        (["migrations", "cancel", "mig-0"], {}, "The ledger knows no such migration"),
        (["migrations", "launch", "mig-0"], {}, "The ledger knows no such migration"),
        (["verify", "mig-0"], {}, "The ledger knows no such migration"),
        (["preflight", "nowave"], {}, "No wave nowave: Airflow has no DAG nowave.migrate"),
        (["wave", "plan", "nowave"], {}, "No wave nowave: Airflow has no DAG nowave.migrate"),
        (["cleanup", "nowave"], {}, "No wave nowave: Airflow has no DAG nowave.migrate"),
        (["preflight", "demo", "--server", "web9"], {}, "The wave has no server 'web9'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_goes_wrong_is_one_line_and_status_1(
    wavelift: Wavelift, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    done = wavelift(*arguments, **variables)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert words in line
