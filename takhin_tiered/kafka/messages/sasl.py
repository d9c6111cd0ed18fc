"""SaslHandshake and SaslAuthenticate.

Source: Kafka, SaslHandshakeRequest.json, SaslHandshakeResponse.json, SaslAuthenticateRequest.json,
SaslAuthenticateResponse.json.
"""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.fields import binary, int16, int64, nullable_string, string, strings


@dataclass(slots=True)
class SaslHandshakeRequest:
    mechanism: str = string()


@dataclass(slots=True)
class SaslHandshakeResponse:
    error_code: int = int16()
    mechanisms: list[str] = strings()


@dataclass(slots=True)
class SaslAuthenticateRequest:
    auth_bytes: bytes = binary()


@dataclass(slots=True)
class SaslAuthenticateResponse:
    error_code: int = int16()
    error_message: str | None = nullable_string()
    auth_bytes: bytes = binary()
    session_lifetime_ms: int = int64(since=1)
