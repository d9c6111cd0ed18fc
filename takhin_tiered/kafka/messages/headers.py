"""What stands before every message. Source: Kafka, RequestHeader.json, ResponseHeader.json."""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.fields import int16, int32, never_compact_nullable_string


@dataclass(slots=True)
class RequestHeader:
    """Version 1, and 2 where the request's version is flexible."""

    request_api_key: int = int16()
    request_api_version: int = int16()
    correlation_id: int = int32()
    client_id: str | None = never_compact_nullable_string()


@dataclass(slots=True)
class ResponseHeader:
    """Version 0, and 1 where the request's version is flexible, except for ApiVersions."""

    correlation_id: int = int32()
