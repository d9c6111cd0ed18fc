"""A plain client of Kafka's protocol, and a server with whatever handlers a test gives it."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from takhin_tiered.kafka.apis import APIS, Api
from takhin_tiered.kafka.client import Handler
from takhin_tiered.kafka.codec import decode, decode_first, encode
from takhin_tiered.kafka.endpoint import complete
from takhin_tiered.kafka.limits import Limits
from takhin_tiered.kafka.login import AuthenticationFailed, Authenticator
from takhin_tiered.kafka.messages.headers import RequestHeader, ResponseHeader
from takhin_tiered.kafka.server import Server
from takhin_tiered.metrics import Metrics
from takhin_tiered.pace import Pace
from tests.messages import joined

API_OF = {api.request: api for api in APIS.values()}


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def request_frame(request: Any, version: int, *, number: int = 1, client_id: str | None = "test") -> bytes:
    api = API_OF[type(request)]
    flexible = api.is_flexible(version)
    header = RequestHeader(api.key, version, number, client_id)
    return framed(joined(encode(header, 1, flexible)) + joined(encode(request, version, flexible)))


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in a loop as the daemon's."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class WireClient:
    """Closed with the block."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._number = 0

    async def ask(self, request: Any, version: int) -> Any:
        self._number += 1
        self.writer.write(request_frame(request, version, number=self._number))
        return await self.answer(API_OF[type(request)], version, self._number)

    async def answer(self, api: Api, version: int, number: int) -> Any:
        """The next answer, which is to be that of this request."""
        frame = memoryview(await self.frame())
        header, body = decode_first(ResponseHeader, frame, 0, api.has_flexible_header(version))
        assert header.correlation_id == number
        return decode(api.response, body, version, api.is_flexible(version))

    async def frame(self) -> bytes:
        return await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4), "big"))

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; whether nothing came before it."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def connected(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[WireClient]:
    name = "localhost" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name, limit=1 << 20)
    try:
        yield WireClient(reader, writer)
    finally:
        writer.transport.abort()


class Served:
    def __init__(self, server: Server, port: int, metrics: Metrics) -> None:
        self.server, self.port, self.metrics = server, port, metrics

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until_connected(self, count: int) -> None:
        async with asyncio.timeout(20):
            while self.sample("tiered_storage_kafka_connections") != count:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def served(
    handlers: Mapping[int, Handler],
    *,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    authenticator: Authenticator | None = None,
    bytes_per_second: float = 0.0,
) -> AsyncIterator[Served]:
    metrics = Metrics()
    server = Server(
        complete(handlers, with_sasl=authenticator is not None),
        metrics=metrics.kafka,
        authenticator=authenticator,
        pace=Pace(bytes_per_second),
        limits=limits,
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listener.getsockname()[1]
    await server.start(listener, tls)
    try:
        yield Served(server, port, metrics)
    finally:
        await server.close()
    assert metrics.registry.get_sample_value("tiered_storage_kafka_connections") == 0


class Passwords:
    """One user, in two steps or one."""

    mechanisms: Sequence[str] = ("ONE", "TWO")

    def begin(self, mechanism: str) -> Any:
        return _Attempt(1 if mechanism == "ONE" else 2)


class _Attempt:
    def __init__(self, steps: int) -> None:
        self._steps = steps

    def step(self, data: bytes) -> tuple[bytes, bool, str]:
        self._steps -= 1
        if data != b"secret":
            raise AuthenticationFailed("wrong user name or password")
        return b"more" if self._steps else b"done", not self._steps, "anna"
