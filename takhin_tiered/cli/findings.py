"""The result of a check: ok, a warning or a failure, in one line with advice."""

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
"""Time limit of one check, so that a hung one does not hide the others."""
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
    """All findings that arrive in time; ``advice`` is printed if the check hangs."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            async for finding in findings:
                found.append(finding)  # noqa: PERF401 - findings before a timeout count
    except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the findings of the others
        if not isinstance(error, TimeoutError):
            text = f"{type(error).__name__}: {error}"
            return [*found, Finding("FAILED", name, f"the check itself failed: {text}", "Please report it")]
        found.append(Finding("FAILED", name, f"no answer within {CHECK_SECONDS:g} s", advice))
    return found


async def run_abandonable(function: Callable[[], Result]) -> Result:
    """Run a blocking call in a daemon thread: a call into a hung file system cannot be cancelled, only abandoned."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            _resolve(loop, future.set_exception, error, future)
        else:
            _resolve(loop, future.set_result, result, future)

    threading.Thread(target=run, daemon=True).start()
    return await future


def _resolve(
    loop: asyncio.AbstractEventLoop, setter: Callable[..., None], value: object, future: asyncio.Future[Result]
) -> None:
    def resolve() -> None:
        if not future.done():
            setter(value)

    if not loop.is_closed():
        loop.call_soon_threadsafe(resolve)


def failures(findings: Iterable[Finding]) -> int:
    return sum(finding.level == "FAILED" for finding in findings)
