"""Each view in Chromium: it tells what there is, axe finds no fault, and nothing is loaded from elsewhere."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from takhin_tiered.trend import Sample, Trend
from tests.browser.conftest import Scene, watched
from tests.support import Daemon, daemon, wait_until

AXE = Path(os.environ.get("TAKHIN_TEST_AXE", "/nonexistent"))
VIEWS = {
    "/": "Overview",
    "/?hours=168": "Overview",
    "/dashboard/topics": "Topics",
    "/dashboard/topics?find=nothing": "Topics",
    "/dashboard/topics/orders": "orders",
    "/dashboard/topics/orders/0": "orders-0",
    "/dashboard/segments": "Segments",
    "/dashboard/segments?state=archived": "Segments",
    "/dashboard/segments?tier=warm&topic=orders": "Segments",
    "/dashboard/segments/orders-0/00000000000000000000.log": "orders-0 / 0",
    "/dashboard/do/restore?path=orders-0/00000000000000000000.log": "Restore",
    "/dashboard/transfers": "Transfers",
    "/dashboard/plan": "Plan",
    "/dashboard/plan?action=keep": "Plan",
    "/dashboard/records": "Records",
    "/dashboard/records?topic=orders&partition=0": "Records",
    "/dashboard/records?topic=orders&partition=0&offset=99999999": "Records",
    "/dashboard/cost": "Cost",
    "/dashboard/problems": "Problems",
    "/dashboard/nowhere": "This is not there",
}


def faults(page: Page) -> list[str]:
    """What axe finds that is serious or critical. Run from outside of the page, whose policy allows no other script."""
    session = page.context.new_cdp_session(page)
    tree = session.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
    world = session.send("Page.createIsolatedWorld", {"frameId": tree, "worldName": "axe"})["executionContextId"]

    def run(expression: str) -> Any:
        asked = {"expression": expression, "contextId": world, "awaitPromise": True, "returnByValue": True}
        answer = session.send("Runtime.evaluate", asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    run(AXE.read_text() + "; null")
    found = json.loads(
        run("axe.run(document).then((found) => JSON.stringify([found.violations, found.passes.length]))")
    )
    violations, passes = found
    assert passes > 5, "axe looked at something"
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:200]}"
        for each in violations
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_any_view(browser: Browser, scene: tuple[Scene, Daemon], scheme: str) -> None:
    _, running = scene
    with watched(browser, running.api, color_scheme=scheme) as seen:
        found: dict[str, list[str]] = {}
        for path, heading in VIEWS.items():
            page = seen.open(path)
            expect(page.get_by_role("heading", level=1)).to_have_text(heading)
            found[path] = faults(page)
            page.close()
        assert {path: each for path, each in found.items() if each} == {}


@pytest.mark.timeout(400)
def test_no_view_is_wider_than_a_narrow_screen(browser: Browser, scene: tuple[Scene, Daemon]) -> None:
    _, running = scene
    with watched(browser, running.api, viewport={"width": 360, "height": 700}) as seen:
        widths = {}
        for path in VIEWS:
            page = seen.open(path)
            widths[path] = page.evaluate("document.documentElement.scrollWidth")
            page.close()
        assert {path: width for path, width in widths.items() if width > 360} == {}


def test_the_overview_tells_the_tiers_and_follows_them(browser: Browser, tmp_path: Path) -> None:
    made = Scene(tmp_path, archive_interval_minutes=60)
    trend, now = Trend(), time.time()
    made.settings.state_dir.mkdir()
    for minute in range(120):
        trend.add(Sample(now - 7200 + 60 * minute, 3, 4, 5, 6, 7, 8, 9, minute * 1000, minute * 5000, 10**9))
    trend.save(made.settings.state_dir)
    with made.running() as running, watched(browser, running.api) as seen:
        page = seen.open("/")
        row = page.get_by_role("row", name="cold")
        expect(row.get_by_role("cell").first).to_have_text("9")
        expect(page.locator("[data-live=archived]")).to_have_text("9")
        expect(page.locator("[data-connection]")).to_have_text("live")
        assert page.locator(".chart canvas").count() == 3
        drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((x) => x)"
        assert all(canvas.evaluate(drawn) for canvas in page.locator(".chart canvas").all())
        page.get_by_text("As a table").click()
        expect(page.get_by_role("region", name="History as a table")).to_be_visible()
        # What changes while the page is open shows without loading it again.
        answer = running.request("POST", "/api/v1/tiered/restore", json={"segment_path": made.cold[0]})
        assert answer.status_code == 200
        expect(page.locator("[data-live=archived]")).to_have_text("8")
        page.get_by_role("link", name="Week").click()
        expect(page.get_by_role("link", name="Week")).to_have_attribute("aria-current", "true")


def test_a_topic_shows_its_offsets_its_hole_and_its_heat(browser: Browser, tmp_path: Path) -> None:
    made = Scene(tmp_path)
    for file in (made.broker.root / "payments-0").glob(f"{made.payments[1].split('/')[1][:20]}.*"):
        file.unlink()
    with made.running() as running, watched(browser, running.api) as seen:
        for _ in range(30):
            asked = {"topic": "orders", "partition": "0", "offset": "0", "max_records": "1"}
            assert running.request("GET", "/api/v1/tiered/records", params=asked).status_code == 200
        page = seen.open("/dashboard/topics")
        page.get_by_role("link", name="payments").click()
        row = page.get_by_role("row", name="payments-0")
        expect(row.locator("strong.problem")).to_have_text("1")
        page.get_by_role("link", name="payments-0").click()
        first = int(made.payments[1].split("/")[1][:20])
        expect(page.locator("dd.problem")).to_contain_text(f"{first}\u2013")
        page.goto(f"{seen.address}/dashboard/topics/orders")
        strip = page.get_by_role("img", name="orders-0:")
        expect(strip).to_have_attribute("aria-label", re.compile("reads an hour"))
        assert strip.locator("rect.heat-4").count() == 1
        assert strip.locator("rect.place-archived").count() == 1
        assert strip.locator("rect.place-local").count() == 1


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_a_hole_is_drawn_and_not_by_its_colour_alone(browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    made = Scene(tmp_path)
    for file in (made.broker.root / "payments-0").glob(f"{made.payments[1].split('/')[1][:20]}.*"):
        file.unlink()
    how = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with made.running() as running, watched(browser, running.api, **how) as seen:
        for path in ("/dashboard/topics/payments", "/dashboard/topics/payments/0"):
            page = seen.open(path)
            strip = page.get_by_role("img", name="payments-0:")
            expect(strip).to_have_attribute("aria-label", re.compile("1 hole$"))
            # A gap in the bars, with a cross in it.
            [gap] = [rect.bounding_box() for rect in strip.locator(".hole rect").all()]
            bars = [rect.bounding_box() for rect in strip.locator("rect[class^=place]").all()]
            assert gap is not None
            assert gap["width"] >= 5
            assert len(bars) >= 2
            for bar in bars:
                assert bar is not None
                assert bar["x"] + bar["width"] < gap["x"] + 0.5 or bar["x"] > gap["x"] + gap["width"] - 0.5
            assert strip.locator(".hole line").count() == 2
            assert strip.locator(".hole line").first.evaluate("line => getComputedStyle(line).stroke") != "none"
            expect(page.get_by_text("hole: offsets that are nowhere")).to_be_visible()
            assert faults(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.close()


def test_transfers_show_their_progress_and_speed(browser: Browser, tmp_path: Path) -> None:
    """With an upload that is held back, and the daemon stopped in the midst of it, with the page open."""
    made = Scene(tmp_path, throttle_upload_mbps=0.01, archive_concurrency=2)
    with daemon(made.settings, made.log) as running, watched(browser, running.wait_serving()) as seen:
        page = seen.open("/dashboard/transfers")
        table = page.get_by_role("region", name="Running now").get_by_role("table")
        row = table.locator("tbody tr").first
        expect(row).to_contain_text("archive")
        expect(row).to_contain_text("-0/0000000000")
        expect(row.locator("td").nth(3)).to_contain_text(" of ")
        expect(page.locator("[data-live=running]")).not_to_have_text("0")
        expect(page.locator("[data-live=queued]")).not_to_have_text("0")
        expect(page.locator("[data-live=upload]")).not_to_have_text("0 B/s")
        assert faults(page) == []
        assert running.stop() == 0
        expect(page.locator("[data-connection]")).to_have_text("not live")
        # The browser asks again for the stream of a daemon that is gone.
        seen.problems.clear()


def test_records_are_shown_safely(browser: Browser, tmp_path: Path) -> None:
    made = Scene(tmp_path)
    with made.running() as running, watched(browser, running.api) as seen:
        page = seen.open("/dashboard/records")
        page.get_by_label("Topic").fill("orders")
        page.get_by_role("button", name="Read").click()
        expect(page.locator("tbody tr")).to_have_count(50)
        page.get_by_role("link", name="Next →").click()
        expect(page.locator("tbody th").first).to_have_text("50")
        page.locator("tbody summary").first.click()
        expect(page.locator("tbody details[open] pre").first).to_contain_text('"order"')


def test_the_plan_gives_its_reasons(browser: Browser, tmp_path: Path) -> None:
    made = Scene(tmp_path, auto_archive_enabled=False)
    with made.running() as running, watched(browser, running.api) as seen:
        page = seen.open("/dashboard/plan")
        page.get_by_role("row", name="manual").get_by_role("link").click()
        expect(page.get_by_role("region", name="Steps").locator("tbody tr").first).to_contain_text(
            "cold, but automatic archiving is off"
        )
        page.get_by_role("link", name="Plan again").click()
        expect(page.get_by_text("as of just now")).to_be_visible()


def test_what_is_wrong_is_told_with_what_to_do(browser: Browser, tmp_path: Path) -> None:
    """The store goes down: a banner on each page, a count in the navigation, advice, and the error of an action."""
    made = Scene(tmp_path)
    with made.running() as running, watched(browser, running.api) as seen:
        page = seen.open("/dashboard/problems")
        expect(page.get_by_role("heading", name="No problem is known")).to_be_visible()
        page.goto(f"{seen.address}/dashboard/segments/{made.cold[0]}")
        made.store.rename(made.store.with_name("gone"))
        page.get_by_role("link", name="Restore…").click()
        page.get_by_role("dialog").wait_for()
        force = page.get_by_label("Restore all the same")
        if force.count():
            force.check()
        page.get_by_role("button", name="Restore", exact=True).click()
        expect(page.locator("[data-action] .tag")).to_have_text("failed")
        wait_until(lambda: running.request("GET", "/readyz").status_code == 503, what="the outage")
        expect(page.locator("[data-problems]")).to_be_visible(timeout=30_000)
        page.get_by_role("link", name="Problems").click()
        expect(page.get_by_text("the store is down").first).to_be_visible()
        expect(page.get_by_text("the daemon tries again by itself").first).to_be_visible()
        expect(page.get_by_role("status")).to_contain_text("The store does not answer")
        assert faults(page) == []
        made.store.with_name("gone").rename(made.store)


def test_the_pages_work_without_scripts(browser: Browser, scene: tuple[Scene, Daemon]) -> None:
    _, running = scene
    with watched(browser, running.api, java_script_enabled=False) as seen:
        for path, heading in VIEWS.items():
            page = seen.open(path)
            expect(page.get_by_role("heading", level=1)).to_have_text(heading)
            page.close()


def test_slash_leads_to_the_search_and_escape_out_of_the_dialog(browser: Browser, scene: tuple[Scene, Daemon]) -> None:
    made, running = scene
    with watched(browser, running.api) as seen:
        page = seen.open("/dashboard/segments")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("/")
        expect(page.get_by_label("Topic")).to_be_focused()
        page.goto(f"{seen.address}/dashboard/segments/{made.cold[1]}")
        link = page.get_by_role("link", name="Restore…")
        link.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
        assert faults(page) == []
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(link).to_be_focused()
