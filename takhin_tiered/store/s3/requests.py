"""Each request to the server: by the SDK, or straight, signed by its signer and sent over its connections.

The SDK's layers between those two take three quarters of the processor's time for a small request. So one for
a single object is tried once without them, and only a plain success counts: whatever else is answered, or goes
wrong, is left to the SDK, which sends it anew, with its retries and its words for errors.
Source: Amazon S3 API reference, PutObject, GetObject, HeadObject.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.response import StreamingBody
from aiohttp.payload import Payload
from botocore.auth import SIGNED_HEADERS_BLACKLIST, S3SigV4Auth, _host_from_url
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header

from takhin_tiered.aws.credentials import LiveCredentials
from takhin_tiered.aws.session import USER_AGENT
from takhin_tiered.concurrency import is_cancelled
from takhin_tiered.store.s3.answers import EmptyRange
from takhin_tiered.store.s3.client import Client
from takhin_tiered.store.s3.expect import impatient

_METHODS = {"put_object": "PUT", "get_object": "GET", "head_object": "HEAD"}
_HEADERS = {
    "ContentLength": "Content-Length",
    "ContentMD5": "Content-MD5",
    "ChecksumAlgorithm": "x-amz-sdk-checksum-algorithm",
    "ChecksumMode": "x-amz-checksum-mode",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "IfNoneMatch": "If-None-Match",
    "Range": "Range",
    "RequestPayer": "x-amz-request-payer",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "StorageClass": "x-amz-storage-class",
}
_TOLD = {
    "x-amz-archive-status": "ArchiveStatus",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-restore": "Restore",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "SSEKMSKeyId",
    "x-amz-storage-class": "StorageClass",
}
_KNOWN = {*_HEADERS, "Bucket", "Key", "Body"}
_EXPECT_ABOVE = 1 << 20
_FAILURES = (aiohttp.ClientError, BotoCoreError, OSError, TimeoutError, LookupError, ValueError)
_BUCKET_URL = "takhin_bucket_url"
_SUCCESS = {"PUT": {200, 201, 204}, "GET": {200, 206}, "HEAD": {200}}
_MISSING, _REFUSED, _NO_SUCH_RANGE, _FULL = 404, 412, 416, 507
_CODE, _MESSAGE = re.compile(rb"<Code>([^<]+)</Code>"), re.compile(rb"<Message>([^<]+)</Message>")
_BUSY = {429, 500, 502, 503, 504}
_NO_SUCH_KEY = b"<Code>NoSuchKey</Code>"
_EXPECTATION_FAILED = 417
# The answer to a HEAD has no room for more than a number.
_STALE = {
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "TokenRefreshRequired",
    "SignatureDoesNotMatch",
    "400",
    "403",
}


class NotThere(Exception):
    """The server says that there is no such object."""


class AlreadyThere(Exception):
    """The server says that there is such an object, where a write was to be the first."""


@dataclass(frozen=True, slots=True)
class _Address:
    """Where the SDK sends a bucket's requests, and for which service and region it signs them."""

    url: str
    host: str
    service: str
    region: str


@dataclass(slots=True)
class _Request:
    """What the signer and the connections ask of the SDK's own, which keeps headers in an e-mail."""

    method: str
    url: str
    headers: dict[str, str]
    body: Any
    stream_output: bool
    context: dict[str, Any]
    params: dict[str, str] = field(default_factory=dict)


class _Headers(dict[str, str]):
    def get_all(self, name: str) -> list[str]:
        return [self[name]]


class _Signer(S3SigV4Auth):  # type: ignore[misc]  # the SDK has no types: its classes are Any
    """The SDK's, but for the e-mail in which it collects, twice, the headers to be signed."""

    def headers_to_sign(self, request: _Request) -> _Headers:
        lowered = ((name.lower(), value) for name, value in request.headers.items())
        return _Headers((name, value) for name, value in lowered if name not in SIGNED_HEADERS_BLACKLIST)


class Requests:
    """Takes the SDK's operations, with the SDK's arguments. The SDK sends the first, and so shows where to."""

    def __init__(self, sdk: Client, note_expect: Callable[[bool], None] = lambda _: None) -> None:
        self._sdk = sdk
        self._client: Any = None
        self._address: _Address | None = None
        self._http: AIOHTTPSession | None = None
        # Whether large uploads ask before they send; `note_expect` is told whether the server answers that.
        self.expects = True
        self.note_expect = note_expect
        # What the server calls itself; None until it has answered.
        self.server: str | None = None

    @property
    def credentials(self) -> LiveCredentials:
        return self._sdk.credentials

    def _connections(self, *args: Any, **kwargs: Any) -> AIOHTTPSession:
        """The SDK's ``http_session_cls``: it makes its connections, and they are used here as well."""
        self._http = impatient(self._heard)(*args, **kwargs)
        return self._http

    def _use(self, client: Any) -> None:
        events = client.meta.events
        events.unregister("before-call.s3", add_expect_header)
        events.register("before-call.s3", self._expect_for_large)
        events.register("before-call.s3", self._note_bucket)
        events.register("before-call.s3.DeleteObjects", _with_md5)
        events.register("before-sign.s3", self._note_address)
        events.register("before-send.s3", _without_host)
        self._client = client

    async def endpoint(self) -> str:
        """Where the SDK sends requests, whichever of its settings says so."""
        return str((await self._connected()).meta.endpoint_url)

    async def _connected(self) -> Any:
        return self._client or await self._sdk.get(self._connections, self._use)

    async def send(self, operation: str, arguments: dict[str, Any]) -> Any:
        """The answer, in the SDK's form. Raises `NotThere`, `AlreadyThere`, `EmptyRange`, or what the SDK raises."""
        client = await self._connected()
        answer = await self._send_straight(operation, arguments)
        if answer is not None:
            return answer
        version, expected = self.credentials.version, self.expects
        try:
            return self._noted(await getattr(client, operation)(**arguments))
        except ClientError as error:
            answer = self._noted(error.response)
            if answer["ResponseMetadata"].get("HTTPStatusCode") == _EXPECTATION_FAILED and expected:
                self._heard(False)
            elif str(answer["Error"].get("Code")) not in _STALE or not await self.credentials.refused(version):
                raise
        return self._noted(await getattr(client, operation)(**arguments))

    def _noted(self, answer: Any) -> Any:
        metadata = answer["ResponseMetadata"]
        self._note_server(metadata.get("HTTPStatusCode", 0), metadata.get("HTTPHeaders", {}))
        return answer

    def _note_server(self, status: int, headers: Any) -> None:
        """What refuses or is out of order may be something that stands before the server."""
        if self.server is None or status < 300 or status in {_MISSING, _REFUSED, _NO_SUCH_RANGE}:
            self.server = headers.get("server", "")

    def _heard(self, asked: bool) -> None:
        """Once it was not answered, it is not sent any more."""
        self.expects = self.expects and asked
        self.note_expect(self.expects)

    def _expect_for_large(self, params: dict[str, Any], **_: Any) -> None:
        """Let the server refuse a large body before it is sent. A small one is sent at once: that saves a turn."""
        is_body = isinstance(params.get("body"), Payload)
        if self.expects and is_body and int(params["headers"]["Content-Length"]) > _EXPECT_ABOVE:
            params["headers"]["Expect"] = "100-continue"

    @staticmethod
    def _note_bucket(params: dict[str, Any], **_: Any) -> None:
        url, path = params["url"].partition("?")[0], params["url_path"]
        if len(path) > 1 and url.endswith(path):
            params["context"][_BUCKET_URL] = url.removesuffix(path)

    def _note_address(self, request: Any, signing_name: str, region_name: str, **more: Any) -> None:
        """Before the SDK signs a request it has found the endpoint, after a redirect too."""
        url = request.context.get(_BUCKET_URL)
        if url is None:
            return
        signing = request.context.get("signing", {})
        self._address = None
        if more["signature_version"] == "s3v4" and request.url.startswith(f"{url}/"):
            self._address = _Address(
                url,
                _host_from_url(url),
                signing.get("signing_name", signing_name),
                signing.get("region", region_name),
            )

    async def _send_straight(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """None where the SDK has to send it. Of an answer only what is of use."""
        method = _METHODS.get(operation)
        if method is None or self._address is None or self._http is None or not arguments.keys() <= _KNOWN:
            return None
        try:
            request = await self._signed(method, self._address, arguments)
            response = await self._http.send(request)
            answer = await self._answer(method, response)
        except _FAILURES:
            return None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            return None
        if answer is None and response.status_code in _BUSY:
            # As the SDK does before its own second try.
            await asyncio.sleep(random.random())  # noqa: S311 - no secret
        return answer

    async def _signed(self, method: str, address: _Address, arguments: dict[str, Any]) -> _Request:
        headers = {header: str(arguments[name]) for name, header in _HEADERS.items() if name in arguments}
        headers["Host"] = address.host
        headers["User-Agent"] = USER_AGENT
        if self.expects and arguments.get("ContentLength", 0) > _EXPECT_ABOVE:
            headers["Expect"] = "100-continue"
        url = f"{address.url}/{quote(arguments['Key'], safe='/~')}"
        # What is to be signed is in the SDK's own settings.
        context = {"client_config": self._client.meta.config}
        request = _Request(method, url, headers, arguments.get("Body"), method == "GET", context)
        frozen = await self.credentials.get_frozen_credentials()
        _Signer(frozen, address.service, address.region).add_auth(request)
        return request

    async def _answer(self, method: str, response: Any) -> dict[str, Any] | None:
        """None for whatever is not plainly what was asked for."""
        status, headers = response.status_code, response.headers
        self._note_server(status, headers)
        if response.raw.history or 300 <= status < 400:
            # Another region, or another place, which was asked under this one's name: the SDK finds out which.
            response.raw.release()
            self._address = None
            return None
        if status == _MISSING and (method == "HEAD" or _NO_SUCH_KEY in await response.content):
            raise NotThere
        if status == _REFUSED and method == "PUT":
            raise AlreadyThere
        if status == _FULL:
            # To send it anew, as the SDK does, is no use.
            raise _full(await response.content)
        if status not in _SUCCESS[method]:
            response.raw.release()
            if status == _NO_SUCH_RANGE:
                raise EmptyRange("the range begins where the object ends")
            return None
        # A success with a page in it is none: it comes from something that stands before the server.
        if method == "PUT" and ("etag" not in headers or await response.content):
            return None
        answer: dict[str, Any] = {"ETag": headers.get("etag", "")}
        for header, name in _TOLD.items():
            if header in headers:
                answer[name] = headers[header]
        if method == "HEAD":
            answer["LastModified"] = parsedate_to_datetime(headers["last-modified"])
            answer["ContentLength"] = int(headers["content-length"])
        if method == "GET":
            answer["ContentLength"] = int(headers.get("content-length", 0))
            answer["Body"] = StreamingBody(response.raw, headers.get("content-length"))
            if "content-range" in headers:
                answer["ContentRange"] = headers["content-range"]
        return answer


def _full(page: bytes) -> ClientError:
    """As the SDK says it."""
    code, message = _CODE.search(page), _MESSAGE.search(page)
    told = {
        "Code": code[1].decode(errors="replace") if code else str(_FULL),
        "Message": message[1].decode(errors="replace") if message else "Insufficient Storage",
    }
    return ClientError({"Error": told, "ResponseMetadata": {"HTTPStatusCode": _FULL}}, "PutObject")


def _without_host(request: Any, **_: Any) -> None:
    """The connections write the header for whomever they ask, after a redirect too.

    The SDK's signer writes one of its own where awscrt is installed. It would be sent to the other server as well,
    and what that says of a host that is not its own, such as 404, would be taken for the answer.
    """
    request.headers.pop("Host", None)


def _with_md5(params: dict[str, Any], **_: Any) -> None:
    """A batch of deletes carries the checksum that every server takes, and some demand, instead of the SDK's own."""
    params.get("context", {}).pop("checksum", None)
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
