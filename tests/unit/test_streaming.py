"""A client that takes nothing more is cut off; one that is slow is not, nor one whose reader is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from takhin_tiered.api import streaming
from takhin_tiered.api.streaming import Streamed

SECONDS = 0.05


async def _forever(*_: object) -> Any:
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_STALLED_SECONDS", SECONDS)


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    closed = asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"piece"
        finally:
            closed.set()

    taken: list[bytes] = []

    async def send(message: Any) -> None:
        if "body" in message:
            taken.append(message["body"])
            if len(taken) > 3:
                await _forever()

    async with asyncio.timeout(10):
        answer = Streamed(pieces(), media_type="x/y")
        answer._first = b"first"
        await answer({}, _forever, send)
    assert closed.is_set()
    assert len(taken) == 4


@pytest.mark.parametrize("slow", ["client", "reader"])
async def test_a_slow_one_is_not(slow: str) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        for _ in range(3):
            if slow == "reader":
                await asyncio.sleep(3 * SECONDS)
            yield b"piece"

    taken: list[bytes] = []

    async def send(message: Any) -> None:
        if slow == "client":
            await asyncio.sleep(SECONDS / 2)
        taken.append(message.get("body", b""))

    async with asyncio.timeout(10):
        answer = Streamed(pieces(), media_type="x/y")
        answer._first = b"first"
        await answer({}, _forever, send)
    assert b"".join(taken) == b"first" + 3 * b"piece"
