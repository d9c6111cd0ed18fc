"""Calls to one bucket: where it is, what each request carries, how long it may take, and what goes wrong in words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from takhin_tiered.concurrency import is_cancelled
from takhin_tiered.cost.usage import Kind
from takhin_tiered.errors import ObjectExists, ObjectMissing, StoreDenied, StoreUnavailable
from takhin_tiered.store.counting import RequestCounter
from takhin_tiered.store.deadlines import Deadlines
from takhin_tiered.store.s3.answers import Answer, address_of, meaning
from takhin_tiered.store.s3.requests import AlreadyThere, NotThere, Requests

_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
    ProfileNotFound,
    ConfigNotFound,
    ConfigParseError,
    InvalidConfigError,
)


@dataclass(frozen=True, slots=True)
class Demands:
    """What a bucket's policy, or its owner, demands of requests; `checksum` is what uploads may carry of it.

    ``cold_class`` gives the storage class of a topic, empty for the bucket's own.
    """

    sse: str = ""
    kms_key: str = ""
    requester_pays: bool = False
    checksum: str = "sha256"

    @property
    def of_new(self) -> dict[str, Any]:
        """For a request that makes an object."""
        wanted = {"ServerSideEncryption": self.sse, "SSEKMSKeyId": self.kms_key}
        return {name: value for name, value in wanted.items() if value}


def kind_of(operation: str) -> Kind:
    """How an operation is billed. Source: Amazon S3 pricing, "Requests & data retrievals"."""
    verb = operation.partition("_")[0]
    if verb in {"delete", "abort"}:
        return Kind.DELETE
    if operation == "restore_object":
        return Kind.THAW
    return {"get": Kind.GET, "head": Kind.GET, "list": Kind.LIST}.get(verb, Kind.PUT)


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix of a bucket; an empty endpoint is Amazon's."""

    bucket: str
    prefix: str
    endpoint: str


class Calls:
    """One prefix of one bucket."""

    def __init__(
        self, requests: Requests, place: Place, deadlines: Deadlines, demands: Demands, counter: RequestCounter
    ) -> None:
        self.requests, self.deadlines, self.demands, self._counter = requests, deadlines, demands, counter
        self.prefix = f"{place.prefix.strip('/')}/" if place.prefix.strip("/") else ""
        self.address = address_of(place.bucket, place.prefix, place.endpoint)
        self._place = place
        self._always: dict[str, Any] = {"Bucket": place.bucket}
        if demands.requester_pays:
            self._always["RequestPayer"] = "requester"

    def under(self, prefix: str) -> Calls:
        """The same bucket's other prefix."""
        return Calls(self.requests, replace(self._place, prefix=prefix), self.deadlines, self.demands, self._counter)

    @property
    def bucket(self) -> str:
        return self._place.bucket

    def full(self, key: str) -> str:
        return self.prefix + key

    async def identity(self) -> str:
        """What tells this place and its questions from any other, also where the SDK's own settings name the server."""
        return f"{await self.requests.endpoint()} {self._place.bucket} {self.prefix} {self.demands.checksum}"

    async def send(
        self, verb: str, operation: str, key: str = "", *, size: int = 0, storage_class: str = "", **arguments: Any
    ) -> Answer:
        """An operation on a key, or on the bucket where that is empty; the SDK's answer, and this project's errors.

        ``storage_class``: by which it is billed, where neither the request nor its answer names one.
        """
        if key:
            arguments["Key"] = self.full(key)
        deadline = self.deadlines.operation(size)
        try:
            with self._translated(verb, key, deadline):
                async with asyncio.timeout(deadline):
                    answer = Answer(await self.requests.send(operation, self._always | arguments))
            self._count(operation, {"StorageClass": storage_class, **arguments}, answer)
            return answer
        except NotThere:
            self._count(operation, arguments)
            raise ObjectMissing(f"there is no {key} in {self.address}", key=key) from None
        except AlreadyThere:
            self._count(operation, arguments)
            raise ObjectExists(f"there is a {key} in {self.address} already", key=key) from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise StoreUnavailable(f"cannot {verb} in {self.address}: the request was given up", key=key) from None

    def _count(self, operation: str, arguments: Mapping[str, Any], answer: Mapping[str, Any] | None = None) -> None:
        """A request that was answered, as it is billed; one that the server could not serve is not."""
        told = answer or {}
        kind, storage_class = kind_of(operation), str(arguments.get("StorageClass") or told.get("StorageClass") or "")
        self._counter.requested(kind, storage_class)
        if operation == "get_object":
            self._counter.received(int(told.get("ContentLength", 0)), storage_class)

    @contextmanager
    def _translated(self, verb: str, key: str, deadline: float) -> Iterator[None]:
        """The library's errors, as this project's."""
        failed = f"cannot {verb} in {self.address}"
        try:
            yield
        except ClientError as error:
            raise meaning(error.response, verb, key, self.address) from error
        except _CREDENTIALS as error:
            raise StoreDenied(f"{failed}: {error}", key=key, hint=self._credentials_hint()) from error
        except TimeoutError as error:
            raise StoreUnavailable(f"{failed}: no end after {deadline:.0f} s", key=key) from error
        except HTTPClientError as error:
            raise StoreUnavailable(f"{failed}: {error}", key=key) from error
        except StoreDenied as error:
            # The SDK cannot be used at all: the place is named all the same.
            error.message = f"{failed}: {error.message}"
            error.key = key
            raise
        except (BotoCoreError, aiohttp.ClientError, OSError, ValueError, LookupError) as error:
            raise StoreUnavailable(f"{failed}: {error!r}", key=key) from error

    def _credentials_hint(self) -> str:
        if unreadable := self.requests.credentials.unreadable():
            return f"{unreadable} cannot be read by this user: change its owner or mode; it is looked at again"
        return (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or an instance role. "
            "Files of credentials are read again without a restart"
        )
