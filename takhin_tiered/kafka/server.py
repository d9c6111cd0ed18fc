"""The listener: connections up to a limit, with TLS or without, and their end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Mapping

from takhin_tiered import machine
from takhin_tiered.kafka.client import Client, Handler
from takhin_tiered.kafka.connection import Connection, Shared
from takhin_tiered.kafka.frames import Memory
from takhin_tiered.kafka.limits import Limits
from takhin_tiered.kafka.login import Authenticator
from takhin_tiered.kafka.sparing_log import SparingLog
from takhin_tiered.kafka.stream import Stream
from takhin_tiered.metrics import KafkaMetrics
from takhin_tiered.pace import Pace

_TLS_SECONDS = 10.0
_BACKLOG = 512


class Server:
    """``pace`` is for the answers to all clients together."""

    def __init__(
        self,
        handlers: Mapping[int, Handler],
        *,
        metrics: KafkaMetrics,
        authenticator: Authenticator | None = None,
        pace: Pace | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self._limits, self._metrics, self._log = limits, metrics, SparingLog()
        self._most = min(limits.connections, machine.allow_open_files() // 4)
        memory, pace = Memory(limits.memory), pace or Pace(0)
        self._shared = Shared(handlers, authenticator, limits, memory, pace, metrics, self._log)
        self._connections: dict[Stream, tuple[Connection, asyncio.Task[None]]] = {}
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept on this socket, which the server closes in the end."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Stream(self._begin, self._end, self._limits.patience_seconds),
            sock=listener,
            ssl=tls,
            ssl_handshake_timeout=_TLS_SECONDS if tls else None,
            ssl_shutdown_timeout=_TLS_SECONDS if tls else None,
            backlog=_BACKLOG,
        )

    async def close(self) -> None:
        """Ends every connection, and returns when none has a task any more."""
        if self._server is not None:
            self._server.close()
        running = list(self._connections.values())
        for connection, _ in running:
            connection.stop()
        if running:
            await asyncio.wait([task for _, task in running])

    @property
    def clients(self) -> Iterator[Client]:
        return (connection.client for connection, _ in self._connections.values())

    def _begin(self, stream: Stream) -> None:
        if len(self._connections) >= self._most:
            self._metrics.dropped.labels("too many").inc()
            self._log.warning("a Kafka client was refused: too many are connected", client=stream.peer, most=self._most)
            stream.close(at_once=True)
            return
        connection = Connection(stream, self._shared)
        task = connection.start()
        self._connections[stream] = connection, task
        self._metrics.connections.inc()
        task.add_done_callback(lambda _: self._ended(stream))

    def _end(self, stream: Stream) -> None:
        if stream in self._connections:
            connection, _ = self._connections[stream]
            connection.stop()

    def _ended(self, stream: Stream) -> None:
        del self._connections[stream]
        self._metrics.connections.dec()
