"""How the tiers developed: a sample a minute for a day, one in ten minutes for a week, in constant memory.

The samples are written to a small file now and then, so that a restart leaves no gap but its own. Losing it loses
nothing else.
"""

from __future__ import annotations

import json
import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MINUTE, DAY = 60.0, 86400.0
_COARSE_SECONDS = 10 * MINUTE
_FINE_KEPT = int(DAY / MINUTE)
_COARSE_KEPT = int(7 * DAY / _COARSE_SECONDS)
FILE = "trend.json"


class Sample(NamedTuple):
    """``at`` is seconds since the epoch; rates are bytes a second since the sample before.

    Bytes of tiers are -1 while they are not counted yet.
    """

    at: float
    hot: int = 0
    warm: int = 0
    cold: int = 0
    archived: int = 0
    hot_bytes: int = -1
    warm_bytes: int = -1
    cold_bytes: int = -1
    local_bytes: int = 0
    archived_bytes: int = 0
    free_bytes: int = 0
    upload_rate: float = 0.0
    download_rate: float = 0.0


class Trend:
    def __init__(self) -> None:
        self._fine: deque[Sample] = deque(maxlen=_FINE_KEPT)
        self._coarse: deque[Sample] = deque(maxlen=_COARSE_KEPT)

    def add(self, sample: Sample) -> None:
        """A sample that is not later than the last one replaces what was known of that time: the clock was set back."""
        for kept in (self._fine, self._coarse):
            while kept and kept[-1].at >= sample.at:
                kept.pop()
        self._fine.append(sample)
        if not self._coarse or sample.at - self._coarse[-1].at >= _COARSE_SECONDS:
            self._coarse.append(sample)

    def since(self, moment: float) -> list[Sample]:
        """In order; fine ones where they reach back so far, or as far as any do."""
        has_earlier = bool(self._fine and self._coarse) and self._coarse[0].at < self._fine[0].at
        if not has_earlier or moment >= self._fine[0].at:
            return [sample for sample in self._fine if sample.at >= moment]
        coarse = [sample for sample in self._coarse if sample.at >= moment]
        return [*coarse, *(sample for sample in [self._fine[-1]] if sample.at > coarse[-1].at)]

    def save(self, directory: Path) -> None:
        """Blocking. Raises nothing: a full disk costs the history, and nothing else."""
        temporary = directory / f"{FILE}.tmp"
        with suppress(OSError):
            temporary.write_text(json.dumps({"fine": list(self._fine), "coarse": list(self._coarse)}))
            os.replace(temporary, directory / FILE)  # noqa: PTH105 - atomic, unlike a copy

    def load(self, directory: Path) -> None:
        """Blocking. What cannot be read, as of a later release, is left out."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads((directory / FILE).read_text())
            fine = [_read(values) for values in kept["fine"]]
            coarse = [_read(values) for values in kept["coarse"]]
            self._fine.extend(fine)
            self._coarse.extend(coarse)


def _read(values: list[float]) -> Sample:
    if len(values) != len(Sample._fields) or not all(isinstance(value, int | float) for value in values):
        raise ValueError("not a sample")
    return Sample._make(values)
