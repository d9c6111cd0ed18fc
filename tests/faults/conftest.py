"""Fixtures of the fault tests."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

import pytest

from takhin_tiered.store.s3 import Deadlines
from tests.faults.proxy import Proxy, proxy
from tests.support import Bucket

SHORT = Deadlines(connect=1.0, read=0.5, base=2.5)


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
