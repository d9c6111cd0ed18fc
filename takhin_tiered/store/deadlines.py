"""How long a request to a store may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. A whole operation may take ``base`` and its bytes at ``slowest`` bytes a second."""

    connect: float = 5.0
    read: float = 30.0
    base: float = 90.0
    slowest: float = 1 << 20

    def operation(self, size: int) -> float:
        return self.base + size / self.slowest
