"""Named points between the steps of a verb, at which a test may stop the process or cause a fault.

In production nothing is hooked in, and `reached` does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

hook: Callable[[str], None] | None = None


def reached(point: str) -> None:
    if hook is not None:
        hook(point)
