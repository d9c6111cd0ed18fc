"""Samples, series, results: what is measured, and how a command is run for it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LAUNCH = Path(__file__).with_name("launch.py")
OURS = "ours"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: seconds, CPU seconds of the process and its children, bytes of the largest of them at its peak."""

    wall: float
    cpu: float
    peak: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is not a run of a process. ``target`` and ``beside`` are words for the table."""

    name: str
    unit: str
    values: tuple[float, ...]
    target: str = ""
    beside: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(slots=True)
class Result:
    """One scenario: the work, how it was verified, and a series of samples for each contestant, in order.

    ``measured``: when, on which commit, with which server.
    """

    scenario: str
    work: str
    verified: str
    series: dict[str, list[Sample]] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    measured: str = ""

    def add(self, contestant: str, sample: Sample) -> None:
        self.series.setdefault(contestant, []).append(sample)


class Failed(Exception):
    """A command failed, or a result is not what it has to be."""


def run(command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> Sample:
    """Run a command to its end; its output goes to ``log``. `Failed` unless its status is 0."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(_LAUNCH), str(log), *command],
        env=dict(os.environ if env is None else env),
        stdout=subprocess.PIPE,
        check=True,
    )
    answer = json.loads(done.stdout)
    if answer["code"]:
        raise Failed(f"{' '.join(command)} ended with {answer['code']}:\n{tail(log)}")
    return Sample(answer["wall"], answer["cpu"], answer["peak"])


def tail(log: Path, size: int = 2000) -> str:
    return log.read_text(errors="replace")[-size:] if log.exists() else ""


def require(condition: object, words: str) -> None:
    if not condition:
        raise Failed(words)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
