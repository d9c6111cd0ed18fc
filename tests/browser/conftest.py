"""A real browser on a real daemon. `make test-browser` says where the browser and axe are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from takhin_tiered.config import Settings
from tests.support import WARM, Broker, Daemon, daemon, directory_settings

CHROMIUM = os.environ.get("TAKHIN_TEST_CHROMIUM", "/usr/bin/chromium")
# A browser on a busy machine takes its time.
expect.set_options(timeout=20_000)
ADMIN, READ = "admin-token-0123456789", "reading-token-0123456789"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox"])
        yield started
        started.close()


class Watched:
    """A browser's context that notes what goes wrong, and every request."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.context, self.address = context, address
        self.requests: list[str] = []
        self.problems: list[str] = []
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("weberror", lambda error: self.problems.append(str(error.error)))
        context.on("console", lambda message: self._note(message.type, message.text))

    def _note(self, kind: str, text: str) -> None:
        # A refusal is an answer; a blocked script, style or connection is a fault of the page.
        if kind == "error" and "the server responded with a status of" not in text:
            self.problems.append(text)

    def open(self, path: str) -> Page:
        page = self.context.new_page()
        page.goto(self.address + path)
        return page

    def require_clean(self) -> None:
        assert self.problems == []
        assert self.requests
        assert [url for url in self.requests if not url.startswith(f"{self.address}/")] == []


@contextmanager
def watched(browser: Browser, address: str, **how: Any) -> Iterator[Watched]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
    context.set_default_timeout(20_000)
    seen = Watched(context, address)
    try:
        yield seen
        seen.require_clean()
    finally:
        context.close()


class Scene:
    """A daemon that has archived: ``orders`` with cold, warm and hot segments, ``payments`` with a hole."""

    def __init__(self, root: Path, **changes: Any) -> None:
        (root / "data").mkdir(parents=True)
        self.broker = Broker(root / "data")
        self.store = root / "store"
        self.cold = self.broker.segments("orders-0", 6)
        self.warm = self.broker.segments("orders-1", 3, age_hours=WARM)
        self.payments = self.broker.segments("payments-0", 3)
        self.settings: Settings = directory_settings(self.broker, self.store, **changes)
        self.log = root / "log"

    @contextmanager
    def running(self) -> Iterator[Daemon]:
        with daemon(self.settings, self.log) as running:
            running.wait_serving()
            running.wait_logged("cycle ended")
            yield running


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scene, Daemon]]:
    """One for the tests that change nothing of it."""
    made = Scene(tmp_path_factory.mktemp("scene"))
    with made.running() as running:
        yield made, running
