"""ApiVersions. Source: Kafka, ApiVersionsRequest.json, ApiVersionsResponse.json."""

from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.kafka.fields import array, int16, int32, string


@dataclass(slots=True)
class ApiVersionsRequest:
    client_software_name: str = string(since=3)
    client_software_version: str = string(since=3)


@dataclass(slots=True)
class ApiVersion:
    api_key: int = int16()
    min_version: int = int16()
    max_version: int = int16()


@dataclass(slots=True)
class ApiVersionsResponse:
    error_code: int = int16()
    api_keys: list[ApiVersion] = array(ApiVersion)
    throttle_time_ms: int = int32(since=1)
