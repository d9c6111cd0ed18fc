"""What a click does: restore and archive, login and logout; with a dialog, by the keyboard, and without scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from takhin_tiered.dashboard.places import OF_A_SESSION
from tests.browser.conftest import ADMIN, READ, Scene, watched
from tests.browser.test_views import faults
from tests.support import WARM, Broker, Bucket, daemon, store_settings


def state_of(scene: Scene, path: str) -> bool:
    """Whether it stands on the disk."""
    return scene.broker.on_disk(path) != []


def test_restore_and_archive_by_a_dialog(browser: Browser, tmp_path: Path) -> None:
    made = Scene(tmp_path)
    with made.running() as running, watched(browser, running.api) as seen:
        page = seen.open("/dashboard/segments?state=archived&topic=orders")
        page.locator("tbody a").first.click()
        page.get_by_role("link", name="Restore…").click()
        dialog = page.get_by_role("dialog", name="Restore this segment?")
        expect(dialog).to_contain_text("It costs")
        dialog.get_by_role("link", name="Cancel").click()
        expect(dialog).to_be_hidden()
        assert not state_of(made, made.cold[0])
        page.get_by_role("link", name="Restore…").click()
        dialog.get_by_label("Keep it on the disk for, in hours").fill("3")
        dialog.get_by_role("button", name="Restore").click()
        expect(page.locator("[data-action] .tag")).to_have_text("done")
        assert made.broker.is_whole(made.cold[0])
        expect(page.locator("main")).to_contain_text("for 3 h more, by the dashboard")
        page.get_by_role("link", name="Archive…").click()
        page.get_by_role("dialog").get_by_role("button", name="Archive").click()
        expect(page.locator("[data-action] .tag")).to_have_count(2)
        expect(page.locator("[data-action] .tag").first).to_have_text("done")
        assert not state_of(made, made.cold[0])
        page.goto(f"{seen.address}/dashboard/transfers")
        expect(page.locator("[data-action]")).to_have_count(2)


def test_the_same_by_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    made = Scene(tmp_path)
    with made.running() as running, watched(browser, running.api) as seen:
        page = seen.open(f"/dashboard/segments/{made.cold[2]}")
        page.get_by_role("link", name="Restore…").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        # The first field has the focus; Enter sends the form.
        page.keyboard.press("Enter")
        expect(page.locator("[data-action] .tag")).to_have_text("done")
        assert made.broker.is_whole(made.cold[2])


def test_the_same_without_scripts(browser: Browser, tmp_path: Path) -> None:
    made = Scene(tmp_path)
    with made.running() as running, watched(browser, running.api, java_script_enabled=False) as seen:
        page = seen.open(f"/dashboard/segments/{made.cold[0]}")
        page.get_by_role("link", name="Restore…").click()
        page.wait_for_url("**/dashboard/do/restore**")
        page.get_by_role("button", name="Restore").click()
        expect(page.locator("[data-action] .tag")).to_have_text("done")
        assert made.broker.is_whole(made.cold[0])
        page.goto(f"{seen.address}/dashboard/segments/{made.warm[0]}")
        page.get_by_role("link", name="Archive…").click()
        page.get_by_role("button", name="Archive").click()
        expect(page.locator("[data-action] .tag")).to_have_text("done")
        assert not state_of(made, made.warm[0])


def test_a_restore_from_an_archive_class_is_requested_and_waited_for(
    browser: Browser, tmp_path: Path, bucket: Bucket
) -> None:
    (tmp_path / "data").mkdir()
    made = Broker(tmp_path / "data")
    path, copied = made.segments("audit-0", 1, size=300_000)[0], made.segments("orders-0", 1, age_hours=WARM)[0]
    overrides = {"audit": {"s3.class.cold": "GLACIER"}, "orders": {"archive.mode": "copy"}}
    settings = store_settings(made, bucket, warm_copy=True, topics_overrides=overrides)
    with daemon(settings, tmp_path / "log") as running:
        running.wait_serving()
        running.wait_logged("cycle ended")
        with watched(browser, running.api) as seen:
            page = seen.open(f"/dashboard/segments/{path}")
            page.get_by_role("link", name="Restore…").click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text("it may be in GLACIER: then it is requested first")
            dialog.get_by_role("button", name="Restore").click()
            expect(page.locator("[data-action] .tag")).to_have_text("requested")
            expect(page.locator("[data-action]")).to_contain_text("expected by")
            page.goto(f"{seen.address}/dashboard/segments/{copied}")
            page.get_by_role("link", name="Archive…").click()
            expect(dialog).to_contain_text("It is in the archive already: nothing is uploaded.")
            expect(dialog).to_contain_text("The mode of this topic keeps the local files.")


@pytest.mark.parametrize("scripts", [True, False])
def test_login_and_logout(browser: Browser, tmp_path: Path, scripts: bool) -> None:
    made = with_tokens(tmp_path)
    with made.running() as running, watched(browser, running.api, java_script_enabled=scripts) as seen:
        page = seen.open("/dashboard/topics?sort=size")
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        log_in(page, "a-wrong-token-0123456789")
        expect(page.get_by_role("alert")).to_contain_text("not known")
        log_in(page, ADMIN)
        expect(page.get_by_role("heading", level=1)).to_have_text("Topics")
        assert page.url.endswith("?sort=size")
        assert page.evaluate("document.cookie") == "" if scripts else True
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.goto(f"{seen.address}/dashboard/topics")
        expect(page.get_by_label("Token")).to_be_visible()


def test_a_reader_sees_no_buttons(browser: Browser, tmp_path: Path) -> None:
    made = with_tokens(tmp_path)
    with made.running() as running, watched(browser, running.api) as seen:
        page = seen.open("/")
        log_in(page, READ)
        expect(page.get_by_text("read only")).to_be_visible()
        page.goto(f"{seen.address}/dashboard/segments/{made.cold[0]}")
        expect(page.get_by_role("heading", name="Facts")).to_be_visible()
        assert page.get_by_role("link", name="Restore…").count() == 0


def test_of_many_pages_of_one_session_the_oldest_is_paused_until_somebody_goes_on(
    browser: Browser, tmp_path: Path
) -> None:
    made = with_tokens(tmp_path)
    with made.running() as running, watched(browser, running.api) as seen:
        first = seen.open("/dashboard/transfers")
        log_in(first, READ)
        pages = [first, *(seen.open("/dashboard/transfers") for _ in range(OF_A_SESSION - 1))]
        for page in pages:
            expect(page.locator("[data-connection]")).to_have_text("live")
            expect(page.get_by_role("button", name="Go live here")).to_be_hidden()
        pages.append(seen.open("/"))
        for page in pages[1:]:
            expect(page.locator("[data-connection]")).to_have_text("live")
        expect(first.locator("[data-connection]")).to_have_text(re.compile("paused"))
        assert faults(first) == []
        # Another session has its own.
        with watched(browser, running.api) as other:
            page = other.open("/")
            log_in(page, ADMIN)
            expect(page.locator("[data-connection]")).to_have_text("live")
        first.get_by_role("button", name="Go live here").click()
        expect(first.locator("[data-connection]")).to_have_text("live")
        expect(pages[1].locator("[data-connection]")).to_have_text(re.compile("paused"))
        expect(pages[2].locator("[data-connection]")).to_have_text("live")


def with_tokens(tmp_path: Path) -> Scene:
    file = tmp_path / "tokens"
    file.write_text(f"admin {ADMIN} ops\nread {READ} wall\n")
    file.chmod(0o600)
    return Scene(tmp_path / "scene", api_tokens_file=file)


def log_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
