"""One client: its requests in order, one at a time, and an answer to each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from typing import Any, TypeVar

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.kafka.apis import API_VERSIONS, APIS, SASL_AUTHENTICATE, SASL_HANDSHAKE, Api
from takhin_tiered.kafka.client import Client, Handler
from takhin_tiered.kafka.codec import Malformed, Part, decode, decode_first, encode, size_of
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.frames import Frames, Idle, Memory
from takhin_tiered.kafka.limits import Limits
from takhin_tiered.kafka.login import BEFORE_LOGIN, AuthenticationFailed, Authenticator, Login
from takhin_tiered.kafka.messages.headers import RequestHeader, ResponseHeader
from takhin_tiered.kafka.sending import FileTooShort, Sender
from takhin_tiered.kafka.sparing_log import SparingLog
from takhin_tiered.kafka.stream import Stream
from takhin_tiered.metrics import KafkaMetrics
from takhin_tiered.pace import Pace

_SHOWN = 100
_LARGE = 64 << 10
"""Bytes of a request from which on it, and its answer, may have so many elements that all others would wait."""
_MOST_LOOKED_AT = 1000
_LEAST = 8
"""Bytes of a request: API, version and the request's number."""


Result = TypeVar("Result")


class _Dropped(Exception):
    """This connection is ended from our side."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Shared:
    """What all connections use."""

    handlers: Mapping[int, Handler]
    authenticator: Authenticator | None
    limits: Limits
    memory: Memory
    pace: Pace
    metrics: KafkaMetrics
    log: SparingLog


class Connection:
    def __init__(self, stream: Stream, shared: Shared) -> None:
        self._stream, self._shared = stream, shared
        limits = shared.limits
        self.client = Client(address=stream.peer, local=stream.local)
        self._frames = Frames(stream, shared.memory, limits)
        self._sender = Sender(stream, shared.pace, shared.metrics.sent.inc)
        self._handlers = dict(shared.handlers)
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False
        self._login: Login | None = None
        if shared.authenticator is not None:
            self._login = Login(shared.authenticator, limits.failed_login_seconds)
            self._handlers[SASL_HANDSHAKE] = self._login.handshake
            self._handlers[SASL_AUTHENTICATE] = self._login.authenticate

    def start(self) -> asyncio.Task[None]:
        """The task raises nothing: it ends when the client ends the connection, or has to be dropped."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    def stop(self) -> None:
        # Once: another cancellation would interrupt what is being closed.
        if self._task is not None and not self._is_ending:
            self._is_ending = True
            self._task.cancel()

    async def _run(self) -> None:
        at_once = True
        try:
            while True:
                try:
                    async with self._frames.next(is_trusted=self._is_trusted) as frame:
                        await self._serve(frame)
                finally:
                    self.client.answered()
                if self._login is not None and self._login.has_failed:
                    at_once = False
                    raise _Dropped("authentication", "the client did not authenticate")
        except Idle:
            self._note("idle")
        except _Dropped as dropped:
            self._tell(dropped.reason, str(dropped))
        except Malformed as error:
            self._tell("malformed", f"not a request of Kafka's protocol: {error}")
        except TimeoutError as error:
            self._tell("slow", str(error) or "the request or its answer took too long")
        except (ConnectionError, asyncio.CancelledError):
            # The client has gone, or the server stops.
            pass
        except OSError as error:
            # Of the network, or of the disk that the kernel sends from.
            self._tell("failure", f"an answer could not be sent: {error}")
        except Exception:  # noqa: BLE001 - one client's failure is not the others'
            logs.logger().error("a Kafka client's connection failed", client=self.client.address, exc_info=True)
            self._note("failure")
        finally:
            await self._end(at_once)

    async def _end(self, at_once: bool) -> None:
        self._is_ending = True
        self._stream.close(at_once=at_once)
        try:
            await self.client.sessions.aclose()
        except Exception:  # noqa: BLE001 - nobody waits for it any more
            logs.logger().error("what a Kafka client had open could not be closed", exc_info=True)

    @property
    def _is_trusted(self) -> bool:
        return self._login is None or self._login.is_done

    def _note(self, reason: str) -> None:
        self._shared.metrics.dropped.labels(reason).inc()

    def _tell(self, reason: str, text: str) -> None:
        self._note(reason)
        facts = {"client": self.client.address, "client_id": self.client.id[:_SHOWN], "error": text}
        self._shared.log.warning(f"a Kafka client was dropped ({reason})", **facts)

    async def _serve(self, frame: memoryview) -> None:
        if self._login is not None and self._login.is_raw:
            await self._serve_raw(self._login, frame)
            return
        if len(frame) < _LEAST:
            raise Malformed(f"a frame of {len(frame)} bytes")
        key, version = (int.from_bytes(frame[at : at + 2], "big", signed=True) for at in (0, 2))
        api, handler = APIS.get(key), self._handlers.get(key)
        if api is None or handler is None:
            raise _Dropped("unsupported", f"this endpoint has no API {key}")
        if not self._is_trusted and key not in BEFORE_LOGIN:
            raise _Dropped("authentication", f"{api.name} before the client has authenticated")
        is_known = api.understands(version)
        if not is_known and key != API_VERSIONS:
            raise _Dropped("unsupported", f"this endpoint has no version {version} of {api.name}")
        header, body = decode_first(RequestHeader, frame, 1, is_known and api.is_flexible(version))
        self.client.id, self.client.version = header.client_id or "", version
        began = time.monotonic()
        if is_known:
            request = await _aside(len(frame), decode, api.request, body, version, api.is_flexible(version))
            response = await self._handled(api, handler, request)
        else:
            # Newer than what there is: it is told, in a form that every client can read.
            version = self.client.version = 0
            response = await self._handled(api, handler, api.request())
            response.error_code = ErrorCode.UNSUPPORTED_VERSION
        self._count(api, response, time.monotonic() - began)
        if response is not None:
            body_parts = await _aside(len(frame), encode, response, version, api.is_flexible(version))
            await self._respond(api, version, header.correlation_id, body_parts)

    async def _serve_raw(self, login: Login, frame: memoryview) -> None:
        try:
            answer = await login.step(bytes(frame), self.client)
        except AuthenticationFailed:
            # There is no form for an error here: the connection ends.
            return
        await self._sender.send([len(answer).to_bytes(4, "big"), answer])

    async def _handled(self, api: Api, handler: Handler, request: Any) -> Any:
        try:
            return await handler(request, self.client)
        except Exception as error:
            # asyncio.timeout within a handler is none of its client's.
            logs.logger().error(
                "a Kafka client's request failed", api=api.name, client=self.client.address, exc_info=True
            )
            response = _failure(api, self.client.version)
            if response is None:
                self._count(api, _Failed(), 0.0)
                raise _Dropped("failure", f"{api.name} failed: {error}") from error
            return response

    async def _respond(self, api: Api, version: int, correlation_id: int, body: list[Part]) -> None:
        head = encode(ResponseHeader(correlation_id), 0, api.has_flexible_header(version))
        length = (size_of(head) + size_of(body)).to_bytes(4, "big")
        parts: list[Part] = [length, *head, *body]
        try:
            await self._sender.send(parts)
        except FileTooShort:
            raise _Dropped("failure", f"a segment became shorter while {api.name} was answered") from None

    def _count(self, api: Api, response: Any, seconds: float) -> None:
        metrics = self._shared.metrics
        code = next(_errors(response), 0)
        metrics.requests.labels(api.name, _name_of(code)).inc()
        metrics.seconds.labels(api.name).observe(seconds)


async def _aside(size: int, work: Callable[..., Result], *arguments: Any) -> Result:
    return await in_thread(work, *arguments) if size > _LARGE else work(*arguments)


@dataclass(frozen=True, slots=True)
class _Failed:
    error_code: int = ErrorCode.UNKNOWN_SERVER_ERROR


def _failure(api: Api, version: int) -> Any:
    """A response that says no more than that; None where it has no place for it in this version."""
    for field in fields(api.response):
        wire = field.metadata["wire"]
        if field.name == "error_code" and wire.since <= version <= wire.until:
            return api.response(error_code=ErrorCode.UNKNOWN_SERVER_ERROR)
    return None


def _errors(response: Any) -> Iterator[int]:
    """The errors in a response, of its first partitions and groups too."""
    if not is_dataclass(response):
        return
    code = getattr(response, "error_code", 0)
    if code:
        yield code
    for field in fields(response):
        value = getattr(response, field.name)
        if isinstance(value, list) and value and is_dataclass(value[0]):
            for each in islice(value, _MOST_LOOKED_AT):
                yield from _errors(each)


def _name_of(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)
