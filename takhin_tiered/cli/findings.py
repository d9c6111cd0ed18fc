"""What an operator's check found: ok, a warning or a failure, in a line that says what to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from takhin_tiered.cli.output import print_rows

Level = Literal["ok", "warning", "FAILED"]
Result = TypeVar("Result")

CHECK_SECONDS = 6.0
"""So long one check may take: whatever hangs, the others are told."""
_STYLES = {"ok": "green", "warning": "warning", "FAILED": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    name: str
    text: str
    advice: str = ""

    def print(self) -> None:
        text = self.text + (f". {self.advice}" if self.advice else "")
        print_rows([(self.level, self.name, text)], (8, 17), style=_STYLES[self.level])


async def run_check(name: str, advice: str, findings: AsyncIterator[Finding]) -> list[Finding]:
    """All that come in time; ``advice`` is for a check that hangs."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            async for finding in findings:
                found.append(finding)  # noqa: PERF401 - what came before a timeout counts
    except Exception as error:  # noqa: BLE001 - one check's fault must not hide what the others find
        if not isinstance(error, TimeoutError):
            text = f"{type(error).__name__}: {error}"
            return [*found, Finding("FAILED", name, f"the check itself failed: {text}", "Please report it")]
        found.append(Finding("FAILED", name, f"no answer within {CHECK_SECONDS:g} s", advice))
    return found


async def run_abandonable(function: Callable[[], Result]) -> Result:
    """A blocking call in a thread that nobody waits for: a file system that hangs would never let go of it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - it goes to whoever waits
            _tell(loop, future.set_exception, error, future)
        else:
            _tell(loop, future.set_result, result, future)

    threading.Thread(target=run, daemon=True).start()
    return await future


def _tell(
    loop: asyncio.AbstractEventLoop, how: Callable[..., None], what: object, future: asyncio.Future[Result]
) -> None:
    def tell() -> None:
        if not future.done():
            how(what)

    if not loop.is_closed():
        loop.call_soon_threadsafe(tell)


def failures(findings: Iterable[Finding]) -> int:
    return sum(finding.level == "FAILED" for finding in findings)
