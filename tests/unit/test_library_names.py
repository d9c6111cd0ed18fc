"""What is used of the HTTP library and the SDK without their promise: a test fails where a release changes it."""

from __future__ import annotations

import ast
import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import ClientRequest, ClientSession
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from takhin_tiered.codec.checksums import bytes_source
from takhin_tiered.store.s3 import expect, requests
from takhin_tiered.store.s3.body import SourceBody

PACKAGE = Path(requests.__file__).parent
KEYS = ReadOnlyCredentials("AKIAEXAMPLE", "secret", "a-token")
URL = "http://127.0.0.1:9000/bucket/t-0/00000000000000000000.log"


def test_no_other_private_name_of_a_library_is_used() -> None:
    used: set[str] = set()
    own: set[str] = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.ImportFrom):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                is_set_here = isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
                (own if is_set_here else used).add(node.attr)
    private = {name for name in used - own if name.startswith("_") and not name.startswith("__")}
    assert private == {"_host_from_url", "_continue", "_request_class"}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:9000/bucket", "127.0.0.1:9000"),
        ("http://store.example:80/bucket", "store.example"),
        ("https://store.example:443/bucket", "store.example"),
        ("https://bucket.s3.eu-central-1.amazonaws.com", "bucket.s3.eu-central-1.amazonaws.com"),
        ("https://[::1]:9000/bucket", "[::1]:9000"),
    ],
)
def test_a_host_is_written_as_the_sdk_signs_it(url: str, host: str) -> None:
    assert botocore.auth._host_from_url(url) == host


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Range": "bytes=0-9"},
        {"Content-Length": "9", "x-amz-checksum-sha256": "YWJj", "Expect": "100-continue", "If-None-Match": "*"},
    ],
)
def test_a_request_is_signed_as_the_sdk_signs_it(headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.datetime(2026, 11, 29, 12, 0, 0)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now)
    headers = {**headers, "Host": "127.0.0.1:9000", "User-Agent": "takhin-tiered"}
    config = Config(s3={"payload_signing_enabled": False})
    ours = requests._Request("PUT", URL, dict(headers), None, False, {"client_config": config})
    theirs = AWSRequest("PUT", URL, headers=dict(headers))
    theirs.context["client_config"] = config
    asked: list[requests._Request] = []

    class Signer(requests._Signer):
        def headers_to_sign(self, request: requests._Request) -> requests._Headers:
            asked.append(request)
            return super().headers_to_sign(request)

    Signer(KEYS, "s3", "eu-central-1").add_auth(ours)
    botocore.auth.S3SigV4Auth(KEYS, "s3", "eu-central-1").add_auth(theirs)
    assert "Signature=" in ours.headers["Authorization"]
    assert ours.headers == dict(theirs.headers.items())
    assert asked, "the SDK no longer asks for the headers by this name"


@asynccontextmanager
async def server(*, asks: bool) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Takes one upload of four bytes; ``asks`` for its body, or says nothing until it has it."""
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"expect: 100-continue" in head.lower()
        if asks:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(await reader.readexactly(4))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], bodies


@pytest.mark.parametrize("asks", [True, False])
async def test_who_asks_for_no_body_is_sent_it_all_the_same(asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the session that the SDK makes, with the class of requests that it makes, which waits for this future."""
    monkeypatch.setattr(expect, "PATIENCE", 30.0 if asks else 0.05)
    heard: list[bool] = []
    async with server(asks=asks) as (port, bodies), expect.impatient(heard.append)() as http:
        request = requests._Request(
            "PUT",
            f"http://127.0.0.1:{port}/bucket/key",
            {"Content-Length": "4", "Expect": "100-continue"},
            SourceBody(bytes_source(b"body"), 0, 4, patience=5.0),
            False,
            {},
        )
        async with asyncio.timeout(20):
            response = await http.send(request)
        assert response.status_code == 200
    assert bodies == [b"body"]
    assert heard == [asks]


async def test_the_names_behind_that_are_there() -> None:
    assert isinstance(vars(AIOHTTPSession).get("_get_session"), type(lambda: None))
    async with ClientSession() as session:
        assert session._request_class is ClientRequest
    assert "_continue" in vars(ClientRequest) or "_continue" in _slots(ClientRequest)


def _slots(of: Any) -> set[str]:
    return {name for each in of.__mro__ for name in getattr(each, "__slots__", ())}
