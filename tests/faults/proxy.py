"""A proxy between the program and a real S3 server, with faults that are switched on and off.

It speaks HTTP/1.1 at the level of sockets, streams bodies, keeps connections to the program alive, and
takes a new one to the server for each request. It does not hold to what the program does: a fault is
matched by method, path and query alone.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, urlsplit

_PIECE = 1 << 16
_HEAD_LIMIT = 1 << 20


class Kind(StrEnum):
    """LATENCY waits ``seconds``, HELD until ``released`` is set. STORED_503: the server carried the request out, and
    the answer is 503 all the same.

    PAGE is a success with words of an error in it, and nothing carried out. WHOLE asks the server for no range.
    LONGER and SHORTER tell a ``Content-Length`` ten bytes off; HANG_BODY sends half of a body, and then nothing.
    THROTTLED is DynamoDB's refusal.
    """

    LATENCY = "latency"
    HELD = "held"
    ERROR_500 = "500"
    SLOW_DOWN = "503"
    DENIED = "403"
    FULL = "507"
    FROZEN = "frozen"
    PAGE = "page"
    WHOLE = "whole"
    RESET = "reset"
    HANG = "hang"
    HANG_BODY = "hang-body"
    CUT_RESPONSE = "cut-response"
    FLIP_RESPONSE = "flip-response"
    FLIP_REQUEST = "flip-request"
    LONGER = "longer"
    SHORTER = "shorter"
    STORED_503 = "stored-503"
    THROTTLED = "throttled"


_THROTTLED = (
    '{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException", "message": "by the proxy"}'
)
_REFUSALS = {
    Kind.ERROR_500: (500, "InternalError"),
    Kind.SLOW_DOWN: (503, "SlowDown"),
    Kind.DENIED: (403, "AccessDenied"),
    Kind.PAGE: (200, "InternalError"),
    Kind.FROZEN: (403, "InvalidObjectState"),
    Kind.FULL: (507, "XMinioStorageFull"),
    Kind.THROTTLED: (400, _THROTTLED),
}


@dataclass(eq=False)
class Fault:
    """One fault. Empty texts match every request; ``key`` and ``query`` are parts of path and query. For DynamoDB,
    whose path is always the same, ``key`` is a part of the operation's name, such as ``PutItem``.

    The first ``skip`` requests that match pass; then ``count`` of them are struck, or all where it is None.
    ``hits`` counts those that were.
    """

    kind: Kind
    method: str = ""
    key: str = ""
    query: str = ""
    skip: int = 0
    count: int | None = None
    seconds: float = 0.0
    hits: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    _passed: int = 0

    def strikes(self, method: str, path: str, query: str) -> bool:
        if self.method not in {"", method} or self.key not in path or self.query not in query:
            return False
        if self.count is not None and self.hits >= self.count:
            return False
        if self._passed < self.skip:
            self._passed += 1
            return False
        self.hits += 1
        return True


@dataclass(frozen=True)
class Head:
    """First line and headers of a request or an answer."""

    first: str
    headers: list[tuple[str, str]]

    def get(self, name: str) -> str:
        return next((value for known, value in self.headers if known.lower() == name), "")

    def without(self, *names: str) -> Head:
        return Head(self.first, [(name, value) for name, value in self.headers if name.lower() not in names])

    def with_header(self, name: str, value: str) -> Head:
        return Head(self.first, [*self.without(name.lower()).headers, (name, value)])

    def to_bytes(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")


Dialect = Callable[[str, str, str, Head], tuple[int, str] | None]
"""Of method, path, query and headers: a status, and the code of a refusal or an answer's XML; None to pass on."""


@dataclass
class Proxy:
    """``faults`` may be changed at any time; ``page_size`` makes the server's listings that short.

    ``dialect`` answers in the place of a server that lacks something; ``ignores_expect``: it asks for no body.
    ``overlooks``: parts of a query that the server behind it never sees; ``named``: what it calls itself.

    ``lacks``: a header, or an element of a page, that no answer has.

    ``checks_nothing``: it stands for a server that stores checksums as they are claimed, and looks at no byte.
    """

    upstream: str
    endpoint: str = ""
    faults: list[Fault] = field(default_factory=list)
    page_size: int = 0
    checks_nothing: bool = False
    dialect: Dialect = lambda *_: None
    ignores_expect: bool = False
    overlooks: tuple[str, ...] = ()
    named: str = ""
    lacks: str = ""
    heads: list[Head] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    claims: dict[str, str] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the program's."""
        try:
            while (head := await _read_head(reader)) is not None:
                if not await self._exchange(head, reader, writer):
                    return
        except (OSError, asyncio.IncompleteReadError, _Broken):
            return
        finally:
            await _close(writer)

    async def _exchange(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Carry one request; False where the connection is of no more use."""
        method, target, version = head.first.split(" ", 2)
        parts = urlsplit(target)
        self.seen.append((method, target))
        self.heads.append(head)
        fault = self._fault(method, unquote(parts.path) + head.get("x-amz-target"), unquote(parts.query))
        kind = fault.kind if fault else None
        if fault is not None and kind is Kind.LATENCY:
            await asyncio.sleep(fault.seconds)
        if fault is not None and kind is Kind.HELD:
            await fault.released.wait()
        if kind is Kind.RESET:
            _reset(writer)
            return False
        if kind is Kind.HANG:
            await _until_closed(reader)
            return False
        if head.get("expect").lower() == "100-continue" and not self.ignores_expect:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if kind in _REFUSALS:
            async for _ in _body(head, reader, is_answer=False):
                pass
            await _refuse(writer, method, *_REFUSALS[kind])
            return True
        if (answered := self.dialect(method, unquote(parts.path), unquote(parts.query), head)) is not None:
            async for _ in _body(head, reader, is_answer=False):
                pass
            await _refuse(writer, method, *answered, name=self.named)
            return True
        is_listing = method == "GET" and "prefix=" in parts.query and "uploads" not in parts.query
        if (self.page_size and is_listing) or self.overlooks:
            query = "&".join(
                part for part in parts.query.split("&") if not part.startswith(("max-keys=", *self.overlooks))
            )
            limit = f"&max-keys={self.page_size}" if self.page_size and is_listing else ""
            head = Head(f"{method} {parts.path}?{query}{limit} {version}", head.headers)
        if kind is Kind.WHOLE:
            head = head.without("range")
        claimed = head.get("x-amz-checksum-sha256")
        if self.checks_nothing and method == "PUT":
            self.claims[parts.path] = claimed
            head = head.without("x-amz-checksum-sha256", "x-amz-sdk-checksum-algorithm", "content-md5")
        there_reader, there = await asyncio.open_connection(*_address(self.upstream))
        try:
            await _send_request(head, reader, there, flip=kind is Kind.FLIP_REQUEST)
            claim = self.claims.get(parts.path, "") if method in {"PUT", "HEAD"} else ""
            more = [("x-amz-checksum-sha256", claim), ("Server", self.named)]
            extra = [(name, value) for name, value in more if value]
            return await _send_answer(method, there_reader, reader, writer, kind, extra, self.lacks)
        finally:
            await _close(there)

    def _fault(self, method: str, path: str, query: str) -> Fault | None:
        return next((fault for fault in self.faults if fault.strikes(method, path, query)), None)


@asynccontextmanager
async def proxy(upstream: str) -> AsyncIterator[Proxy]:
    """A proxy before the server at ``upstream``, on a free port, within the running event loop."""
    made = Proxy(upstream)
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(made.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_HEAD_LIMIT)
    made.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()
        left = list(connections)
        for task in left:
            task.cancel()
        for result in await asyncio.gather(*left, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


class _Broken(Exception):
    """The other side ended in the middle of something."""


async def _send_request(head: Head, reader: asyncio.StreamReader, there: asyncio.StreamWriter, *, flip: bool) -> None:
    there.write(head.without("expect", "connection").with_header("Connection", "close").to_bytes())
    async for piece in _body(head, reader, is_answer=False):
        there.write(_flipped(piece) if flip else piece)
        flip = False
        await there.drain()
    await there.drain()


async def _send_answer(
    method: str,
    there: asyncio.StreamReader,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    kind: Kind | None,
    extra: list[tuple[str, str]],
    lacks: str,
) -> bool:
    answer = await _read_head(there)
    while answer is not None and answer.first.split(" ")[1] == "100":
        answer = await _read_head(there)
    if answer is None:
        raise _Broken
    for name, value in extra:
        answer = answer.with_header(name, value)
    answer = answer.without(lacks.lower())
    status = int(answer.first.split(" ")[1])
    bodiless = method == "HEAD" or status in {204, 304}
    body = b""
    is_page = bool(lacks) and "xml" in answer.get("content-type")
    if (kind is not None or is_page) and not bodiless:
        # Where a body is to be spoiled it is known whole; the others are streamed.
        body = b"".join([piece async for piece in _body(answer, there, is_answer=True)])
        body = re.sub(b"<%s>.*?</%s>" % (lacks.encode(), lacks.encode()), b"", body) if is_page else body
    if kind is Kind.STORED_503:
        await _refuse(writer, method, 503, "ServiceUnavailable")
        return True
    length = answer.get("content-length")
    if (kind is None and not is_page) or bodiless:
        return await _stream_answer(answer, there, writer, bodiless=bodiless, length=length)
    told = len(body) + (10 if kind is Kind.LONGER else -10 if kind is Kind.SHORTER else 0)
    answer = answer.without("connection", "transfer-encoding").with_header("Content-Length", str(max(0, told)))
    writer.write(answer.to_bytes())
    if kind is Kind.FLIP_RESPONSE:
        body = _flipped(body)
    broken = kind in {Kind.CUT_RESPONSE, Kind.HANG_BODY}
    writer.write(body[: len(body) // 2] if broken else body)
    await writer.drain()
    if kind is Kind.HANG_BODY:
        await _until_closed(reader)
    return kind not in {Kind.CUT_RESPONSE, Kind.HANG_BODY, Kind.LONGER, Kind.SHORTER}


async def _stream_answer(
    answer: Head, there: asyncio.StreamReader, writer: asyncio.StreamWriter, *, bodiless: bool, length: str
) -> bool:
    framed = bodiless or bool(length) or answer.get("transfer-encoding").lower() == "chunked"
    head = answer.without("connection", *(() if bodiless or length else ("transfer-encoding",)))
    chunked = framed and not bodiless and not length
    if chunked:
        head = head.with_header("Transfer-Encoding", "chunked")
    writer.write(head.to_bytes())
    if not bodiless:
        async for piece in _body(answer, there, is_answer=True):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
    if chunked:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    return framed


async def _read_head(reader: asyncio.StreamReader) -> Head | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise _Broken from error
        return None
    first, *lines = raw.decode("latin-1").strip().split("\r\n")
    pairs = [line.partition(":") for line in lines]
    return Head(first, [(name.strip(), value.strip()) for name, _, value in pairs])


async def _body(head: Head, reader: asyncio.StreamReader, *, is_answer: bool) -> AsyncIterator[bytes]:
    if head.get("transfer-encoding").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
        return
    length = head.get("content-length")
    left = int(length) if length else 0
    until_end = is_answer and not length
    while left or until_end:
        piece = await reader.read(_PIECE if until_end else min(_PIECE, left))
        if not piece:
            if until_end:
                return
            raise _Broken
        left -= 0 if until_end else len(piece)
        yield piece


async def _refuse(writer: asyncio.StreamWriter, method: str, status: int, code: str, *, name: str = "") -> None:
    error = f"<Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>{code if code.startswith("<") else error}'.encode()
    is_json = code.startswith("{")
    body = code.encode() if is_json else body
    kind = "application/x-amz-json-1.0" if is_json else "application/xml"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    head = Head(f"HTTP/1.1 {status} Said", headers + ([("Server", name)] if name else []))
    writer.write(head.to_bytes() + (b"" if method == "HEAD" else body))
    await writer.drain()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    while await reader.read(_PIECE):
        pass


def _flipped(data: bytes) -> bytes:
    """One bit of the byte in the middle, the other way."""
    spoiled = bytearray(data)
    if spoiled:
        spoiled[len(spoiled) // 2] ^= 1
    return bytes(spoiled)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a crashed peer or a firewall does."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _address(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
