"""Mutated frames of every API and version: each is answered, or its connection ends; nothing crashes, no memory stays.

A few thousand in the everyday run; ``TAKHIN_TEST_TORTURE=full`` sends 100,000.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered.kafka import apis
from takhin_tiered.kafka.apis import APIS
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.codec import Malformed, decode_first
from takhin_tiered.kafka.limits import Limits
from takhin_tiered.kafka.messages.headers import ResponseHeader
from takhin_tiered.kafka.messages.versions import ApiVersionsRequest
from tests.kafka_wire import Passwords, Served, connected, on_uvloop, request_frame, served
from tests.messages import random_message, versions

FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
COUNTS = [pytest.param(1_000, id="a sample")]
if FULL:
    COUNTS.append(pytest.param(100_000, id="all", marks=[pytest.mark.long, pytest.mark.timeout(3600)]))
AT_ONCE = 24
MARK = 77_777_777
"""The number of the request that follows each mutated frame."""
LIMITS = Limits(frame_seconds=0.2, idle_seconds=5.0, login_seconds=5.0, failed_login_seconds=0.0, memory=64 << 20)
ABSURD = [0, 1, -1, -2, 127, 128, 255, 256, 32767, 32768, 65535, 1 << 20, (1 << 31) - 1, -1 << 31]

Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]


def flipped(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _bit in range(chance.choice([1, 1, 1, 4])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def absurd(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """A number that is a length, a count or an ID now says something else."""
    size = chance.choice([1, 2, 4, 8])
    at = chance.randrange(max(1, len(data) - size))
    number = chance.choice(ABSURD) % (1 << 8 * size)
    return data[:at] + number.to_bytes(size, "big") + data[at + size :]


def cut(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    return data[: chance.randrange(1, len(data))]


def without_a_piece(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randrange(1, 9) :]


def with_a_piece(chance: random.Random, data: bytes, _: list[bytes]) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + chance.randbytes(chance.randrange(1, 9)) + data[at:]


def crossed(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    other = chance.choice(others)
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def refitted(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Mutated, in a frame of the right length: the damage is in the message."""
    body = chance.choice([flipped, absurd, cut, without_a_piece, with_a_piece, crossed])(chance, data[4:], others)
    return len(body).to_bytes(4, "big") + body


def garbage(chance: random.Random, _: bytes, __: list[bytes]) -> bytes:
    return chance.randbytes(chance.randrange(1, 300))


MUTATIONS: list[Mutation] = [
    refitted, refitted, refitted, refitted, refitted,
    flipped, absurd, cut, without_a_piece, with_a_piece, crossed, garbage,
]  # fmt: skip


def corpus(chance: random.Random) -> list[bytes]:
    """Of each API and version a few requests."""
    return [
        request_frame(random_message(api.request, version, chance), version, number=chance.randrange(1 << 20))
        for api, version in versions()
        for _ in range(3)
    ]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def echo(request: Any, client: Client) -> Any:
    """Any answer will do."""
    api = next(api for api in APIS.values() if api.request is type(request))
    return random_message(api.response, client.version, random.Random(1))


class Fuzzer:
    def __init__(self, here: Served, chance: random.Random) -> None:
        self._here, self._chance = here, chance
        self._corpus = corpus(chance)
        self.ends: Counter[str] = Counter()

    async def run(self, count: int) -> None:
        # Mutated beforehand, one after another: what is sent depends on the seed alone.
        frames = [
            self._chance.choice(MUTATIONS)(self._chance, self._chance.choice(self._corpus), self._corpus)
            for _ in range(count)
        ]
        queue = iter(frames)

        async def send() -> None:
            for frame in queue:
                await self._try(frame)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(send())

    async def _try(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(30), connected(self._here.port) as client:
                client.writer.write(frame + request_frame(ApiVersionsRequest(), 0, number=MARK))
                answers = 0
                while True:
                    answer = memoryview(await client.frame())
                    header, _ = decode_first(ResponseHeader, answer, 0, False)
                    if header.correlation_id == MARK:
                        self.ends["answered" if answers else "not answered, and open"] += 1
                        return
                    answers += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ends["closed"] += 1
        except TimeoutError:
            pytest.fail(f"neither answered nor closed after {frame.hex()}")
        except Malformed as error:
            pytest.fail(f"an answer that is none ({error}) after {frame.hex()}")


@pytest.mark.parametrize("with_sasl", [False, True])
@pytest.mark.parametrize("count", COUNTS)
@on_uvloop
async def test_mutated_frames(count: int, with_sasl: bool) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    sasl = {apis.SASL_HANDSHAKE, apis.SASL_AUTHENTICATE, apis.API_VERSIONS}
    handlers = {key: echo for key in APIS if key not in sasl}
    async with served(handlers, limits=LIMITS, authenticator=Passwords() if with_sasl else None) as here:
        fuzzer = Fuzzer(here, random.Random(count + with_sasl))
        await fuzzer.run(count // 4)
        before = resident()
        for _ in range(3):
            await fuzzer.run(count // 4)
        await here.until_connected(0)
        assert resident() - before < 48 << 20
        assert here.sample("tiered_storage_kafka_dropped_connections_total", reason="failure") == 0
        # The one or the other, and each of them often: else it would not have been tried.
        assert sum(fuzzer.ends.values()) == count // 4 * 4
        assert fuzzer.ends["closed"] > count // 10
        assert with_sasl or fuzzer.ends["answered"] > count // 10
        async with connected(here.port) as client:
            assert (await client.ask(ApiVersionsRequest(), 0)).error_code == 0
    assert failures == []
