"""Fixtures of the fault tests."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from takhin_tiered.store.deadlines import Deadlines
from takhin_tiered.vault import claim, releases, replicas
from tests.faults.proxy import Proxy, proxy
from tests.faults.truth import TALLY
from tests.support import Broker, Bucket

SHORT = Deadlines(connect=1.0, read=0.5, base=8.0)
SAMPLE = 10
WORDS = {
    "test_kill_matrix.py": "kills at a named point, in a state of the segments",
    "test_random_kills.py": "runs of a live broker whose daemon is killed at random (300 times each in the full run)",
    "test_interleavings.py": "searches for an order of events that loses something",
    "test_store_faults.py": "faults of the store",
    "test_disk_faults.py": "faults of the disk",
    "test_encoding_faults.py": "faults while segments are encoded and decoded",
    "test_swapped_paths.py": "paths swapped beneath a verb",
    "test_late_bytes.py": "changes that come late",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every fault is tried by `make torture`, and every tenth in the everyday run."""
    if os.environ.get("TAKHIN_TEST_TORTURE") == "full":
        return
    of_stores = [item for item in items if item.path.name == "test_store_faults.py"]
    left_out = {item for number, item in enumerate(of_stores) if number % SAMPLE != 3}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def broker(broker: Broker) -> Broker:
    """Each of its segments has all of the files that there are."""
    broker.transactional = True
    return broker


@pytest.fixture
def nothing_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a killed replica sent arrives after it."""
    for module in (releases, replicas):
        monkeypatch.setattr(module, "LATE_AFTER", 0.0)


@pytest.fixture
def fast_replicas(nothing_late: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that do not wait for what cannot come here."""
    monkeypatch.setattr(claim, "SETTLES_IN", 0.01)


@pytest.fixture(autouse=True)
def tallied(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """What this test looked for and did not find, for the summary."""
    looked_for, lost = TALLY.looked_for, TALLY.lost
    yield
    record_property("looked_for", TALLY.looked_for - looked_for)
    record_property("lost", TALLY.lost - lost)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was tried, and how many bytes were lost."""
    reports = [
        report
        for outcome in ("passed", "failed", "error", "")
        for report in terminalreporter.stats.get(outcome, ())
        if "tests/faults/" in report.nodeid
    ]
    tried: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for report in reports:
        name = report.nodeid.partition("::")[0].rpartition("/")[2]
        tried[name] += report.when == "call"
        failed[name] += report.failed
    if not tried:
        return
    terminalreporter.section("never lose a byte")
    for name, words in WORDS.items():
        if tried[name]:
            terminalreporter.write_line(f"{tried[name]:6} {words}, {failed[name]} failed")
    noted = Counter[str]()
    for report in reports:
        noted.update({key: value for key, value in report.user_properties if report.when == "teardown"})
    terminalreporter.write_line(f"bytes looked for: {noted['looked_for']}; bytes lost: {noted['lost']}")


@pytest.fixture
async def between(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """A proxy before the bucket's server. Deadlines are short, and retries follow one another at once."""
    monkeypatch.setattr(
        "takhin_tiered.store.Deadlines",
        functools.partial(Deadlines, connect=SHORT.connect, read=SHORT.read, base=SHORT.base),
    )
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    async with proxy(bucket.endpoint) as running:
        yield running
