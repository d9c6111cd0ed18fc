"""Whether the whole matrix runs, or a sample of it: ``TAKHIN_TORTURE=full`` asks for the whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

Case = TypeVar("Case")


def is_full() -> bool:
    """Asked of the environment that the process was started with: the tests take the program's variables out of it."""
    started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    return "full" in {os.environ.get("TAKHIN_TORTURE"), os.environ.get("TAKHIN_TEST_TORTURE")} or (
        b"TAKHIN_TORTURE=full" in started_with
    )


def sample(cases: Sequence[Case], every: int) -> list[Case]:
    """All of the cases in the whole matrix; else one of so many, evenly, the first among them."""
    return list(cases) if is_full() else list(cases[::every])
