"""How long the first view of the dashboard takes, and how large it is: the page, and what it loads."""

from __future__ import annotations

import re
import time
import urllib.request

from benchmarks.measure import require

_LOADED = re.compile(rb'(?:src|href)="(/dashboard/assets/[^"]+|/dashboard/history\.json[^"]*)"')
_HISTORY = "/dashboard/history.json?hours=24"


def first_view(address: str) -> tuple[float, int]:
    """Seconds until the last byte, one request after the other, and all bytes; each asset once, as a browser does."""
    started = time.perf_counter()
    page = _get(address + "/")
    parts = dict.fromkeys([*(found.decode() for found in _LOADED.findall(page)), _HISTORY])
    sizes = [len(_get(address + part)) for part in parts]
    require(len(sizes) > 4, "the page loads less than it should")
    return time.perf_counter() - started, len(page) + sum(sizes)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        require(answer.status == 200, f"{url}: {answer.status}")
        data: bytes = answer.read()
    return data
