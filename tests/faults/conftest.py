"""Fixtures of the fault tests."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator

import pytest

from takhin_tiered.store.s3 import Deadlines
from tests.faults.proxy import Proxy, proxy
from tests.support import Bucket

SHORT = Deadlines(connect=1.0, read=0.5, base=8.0)
SAMPLE = 10


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every fault is tried by `make torture`, and every tenth in the everyday run."""
    if os.environ.get("TAKHIN_TEST_TORTURE") == "full":
        return
    of_stores = [item for item in items if item.path.name == "test_store_faults.py"]
    left_out = {item for number, item in enumerate(of_stores) if number % SAMPLE != 3}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
async def between(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """A proxy before the bucket's server. Deadlines are short, and retries follow one another at once."""
    monkeypatch.setattr(
        "takhin_tiered.store.s3.Deadlines",
        functools.partial(Deadlines, connect=SHORT.connect, read=SHORT.read, base=SHORT.base),
    )
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    async with proxy(bucket.endpoint) as running:
        yield running
