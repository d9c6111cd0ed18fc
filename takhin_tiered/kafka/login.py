"""SASL on one connection: which mechanism, and whether the client has proven who it is.

Source: Kafka, "Protocol Guide", SASL authentication sequence; KIP-43, KIP-152.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from takhin_tiered.concurrency import in_thread
from takhin_tiered.kafka.apis import API_VERSIONS, SASL_AUTHENTICATE, SASL_HANDSHAKE
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.messages.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)

BEFORE_LOGIN = {API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE}


class AuthenticationFailed(Exception):
    """The client has not proven who it is. The message is for the client."""


class Exchange(Protocol):
    """One attempt, by one mechanism."""

    def step(self, data: bytes) -> tuple[bytes, bool, str]:
        """What to answer, whether that is the end, and who it is then. It may compute: it is called in a thread."""


class Authenticator(Protocol):
    @property
    def mechanisms(self) -> Sequence[str]: ...

    def begin(self, mechanism: str) -> Exchange: ...


class Login:
    """The SASL state of a connection."""

    def __init__(self, authenticator: Authenticator, failure_seconds: float) -> None:
        self._authenticator, self._failure_seconds = authenticator, failure_seconds
        self._exchange: Exchange | None = None
        self.is_done = False
        self.has_failed = False
        self.is_raw = False
        """After a handshake of version 0 the exchange goes on without headers."""

    async def handshake(self, request: SaslHandshakeRequest, client: Client) -> SaslHandshakeResponse:
        mechanisms = list(self._authenticator.mechanisms)
        if self.is_done or self._exchange is not None:
            self.has_failed = True
            return SaslHandshakeResponse(ErrorCode.ILLEGAL_SASL_STATE, mechanisms)
        if request.mechanism not in mechanisms:
            self.has_failed = True
            return SaslHandshakeResponse(ErrorCode.UNSUPPORTED_SASL_MECHANISM, mechanisms)
        self._exchange = self._authenticator.begin(request.mechanism)
        self.is_raw = client.version == 0
        return SaslHandshakeResponse(ErrorCode.NONE, mechanisms)

    async def authenticate(self, request: SaslAuthenticateRequest, client: Client) -> SaslAuthenticateResponse:
        if self._exchange is None:
            self.has_failed = True
            return SaslAuthenticateResponse(ErrorCode.ILLEGAL_SASL_STATE, "a SaslHandshake comes first")
        try:
            answer = await self.step(request.auth_bytes, client)
        except AuthenticationFailed as error:
            return SaslAuthenticateResponse(ErrorCode.SASL_AUTHENTICATION_FAILED, str(error))
        return SaslAuthenticateResponse(auth_bytes=answer)

    async def step(self, data: bytes, client: Client) -> bytes:
        assert self._exchange is not None
        try:
            answer, is_end, user = await in_thread(self._exchange.step, data)
        except AuthenticationFailed:
            self.has_failed = True
            await asyncio.sleep(self._failure_seconds)
            raise
        if is_end:
            client.user, self.is_done = user, True
            self._exchange, self.is_raw = None, False
        return answer
