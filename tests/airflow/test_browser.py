"""Airflow's web UI in a real browser: the trigger form, and what a wave's run tells."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]
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
PAGE_MS: Final = 240_000
"""A page of Airflow takes seconds on a busy machine, the first one more."""
RUN_MS: Final = 900_000


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


def log_in(page: Page, world: Any) -> None:
    page.goto(f"{world.airflow.url}/dags/full.migrate")
    page.locator("input[name=username]").fill("admin")
    page.locator("input[name=password]").fill(world.airflow.password)
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


def test_air_05_a_wave_is_triggered_from_the_form_in_the_browser(page: Page, world: Any, tmp_path: Path) -> None:
    log_in(page, world)
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    expect(form).to_contain_text("Trigger Dag - full.migrate")

    # What the form offers: several servers, launch or image only, a note.
    expect(form).to_contain_text("If none is chosen: every server of the wave.")
    assert options(page, "servers") == ["full-web", "full-win"]
    assert options(page, "launch") == ["as set in the wave's file", "image only", "launch an instance"]
    choose(page, "servers", "full-win", "full-web")
    expect(field(page, "servers")).to_contain_text("full-win")
    field(page, "servers").get_by_label("Remove full-web").click()
    choose(page, "launch", "image only")
    choose(page, "mode", "preflight")
    page.locator("#element_note").fill("looked at before the wave")
    page.screenshot(path=tmp_path / "form.png")
    form.get_by_role("button", name="Trigger", exact=True).click()

    # The run that this made.
    page.wait_for_url(re.compile(r"/dags/full\.migrate/runs/manual__"))
    run_url = page.url.partition("?")[0]
    header = page.get_by_role("heading", name=re.compile("^manual__")).locator("xpath=..")
    expect(header).to_contain_text("Success", timeout=RUN_MS)
    page.screenshot(path=tmp_path / "run.png")

    # What it found: the chosen server, and no other.
    page.goto(f"{run_url}/tasks/preflight")
    log = page.locator("body")
    expect(log).to_contain_text("full-win: Hard disk 1 has 12.0 MiB")
    expect(log).not_to_contain_text("full-web:")
    page.screenshot(path=tmp_path / "preflight.png")


def test_air_05_a_run_tells_every_server_s_end_by_name(page: Page, world: Any, tmp_path: Path) -> None:
    full = world.early["full"].ends("success")
    web = full.outcome("full-web")
    log_in(page, world)
    page.get_by_role("button", name="Trigger").first.wait_for()

    run_url = f"{world.airflow.url}/dags/full.migrate/runs/{full.run_id}"
    page.goto(f"{run_url}/tasks/report")
    expect(page.locator("body")).to_contain_text(f"completed  {web['image_id']} {web['instance_id']}")
    page.goto(f"{run_url}/tasks/server.import_image/mapped/{full.index('full-web')}/details")
    expect(page.get_by_role("heading", name="server.import_image [full-web]")).to_be_visible()
    expect(page.get_by_role("link", name="AMI")).to_have_attribute("href", re.compile(web["image_id"]))
    page.screenshot(path=tmp_path / "links.png")


@contextmanager
def wiki() -> Iterator[str]:
    """A site of somebody else on this machine; served for real, since Chromium asks where a page came from."""

    class Wiki(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<p>Wiki</p>")

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing to the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Wiki) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_page_of_a_sibling_site_can_not_write_with_the_login_cookie(page: Page, world: Any) -> None:
    """Another port is another origin of the same site: the browser adds the cookie."""
    log_in(page, world)
    page.get_by_role("button", name="Trigger").first.wait_for()
    target = f"{world.airflow.url}/wavelift/migrations/mig-nowhere/cancel"
    post = "url => fetch(url, {method: 'POST', mode: 'no-cors', credentials: 'include'}).then(() => null)"
    with page.expect_response(target) as own:
        page.evaluate(post, target)
    assert own.value.status == 404, "Airflow's own page comes as far as the ledger"

    with wiki() as place:
        page.goto(place)
        with page.expect_response(target) as sibling:
            page.evaluate(post, target)
    assert sibling.value.status == 403, "401 would be the answer without the cookie"
