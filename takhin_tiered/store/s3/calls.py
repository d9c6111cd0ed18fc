"""Calls to one bucket: where it is, what each request carries, how long it may take, and what goes wrong in words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
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
from takhin_tiered.errors import ObjectExists, ObjectMissing, StoreDenied, StoreUnavailable
from takhin_tiered.segments.names import parse_object_key
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
    """What a bucket's policy, or its owner, demands of requests; `checksum` is what uploads may carry of it."""

    sse: str = ""
    kms_key: str = ""
    cold_class: str = ""
    requester_pays: bool = False
    checksum: str = "sha256"

    def of_new(self, key: str) -> dict[str, Any]:
        """For a request that makes an object. A manifest, which is read often, stays in the bucket's own class."""
        wanted = {"ServerSideEncryption": self.sse, "SSEKMSKeyId": self.kms_key}
        if self.cold_class and parse_object_key(key) is not None:
            wanted["StorageClass"] = self.cold_class
        return {name: value for name, value in wanted.items() if value}


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix of a bucket; an empty endpoint is Amazon's."""

    bucket: str
    prefix: str
    endpoint: str


class Calls:
    """One prefix of one bucket."""

    def __init__(self, requests: Requests, place: Place, deadlines: Deadlines, demands: Demands) -> None:
        self.requests, self.deadlines, self.demands = requests, deadlines, demands
        self.prefix = f"{place.prefix.strip('/')}/" if place.prefix.strip("/") else ""
        self.address = address_of(place.bucket, place.prefix, place.endpoint)
        self._place = place
        self._always: dict[str, Any] = {"Bucket": place.bucket}
        if demands.requester_pays:
            self._always["RequestPayer"] = "requester"

    def under(self, prefix: str) -> Calls:
        """The same bucket's other prefix."""
        return Calls(self.requests, replace(self._place, prefix=prefix), self.deadlines, self.demands)

    def full(self, key: str) -> str:
        return self.prefix + key

    async def identity(self) -> str:
        """What tells this place and its questions from any other, also where the SDK's own settings name the server."""
        return f"{await self.requests.endpoint()} {self._place.bucket} {self.prefix} {self.demands.checksum}"

    async def send(self, verb: str, operation: str, key: str = "", *, size: int = 0, **arguments: Any) -> Answer:
        """An operation on a key, or on the bucket where that is empty; the SDK's answer, and this project's errors."""
        if key:
            arguments["Key"] = self.full(key)
        deadline = self.deadlines.operation(size)
        try:
            with self._translated(verb, key, deadline):
                async with asyncio.timeout(deadline):
                    return Answer(await self.requests.send(operation, self._always | arguments))
        except NotThere:
            raise ObjectMissing(f"there is no {key} in {self.address}", key=key) from None
        except AlreadyThere:
            raise ObjectExists(f"there is a {key} in {self.address} already", key=key) from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise StoreUnavailable(f"cannot {verb} in {self.address}: the request was given up", key=key) from None

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
