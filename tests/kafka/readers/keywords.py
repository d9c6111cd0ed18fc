"""What aiokafka and kafka-python name alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.kafka.readers.spec import Row, Spec


def login(spec: Spec) -> dict[str, Any]:
    found: dict[str, Any] = {"bootstrap_servers": spec.bootstrap, "security_protocol": spec.protocol}
    if spec.mechanism:
        found |= {"sasl_mechanism": spec.mechanism, "sasl_plain_username": spec.user}
        found["sasl_plain_password"] = spec.password
    return found


def consuming(spec: Spec) -> dict[str, Any]:
    return {
        "group_id": spec.group or None,
        "enable_auto_commit": False,
        "auto_offset_reset": spec.reset,
        "isolation_level": spec.isolation,
        "check_crcs": True,
        "session_timeout_ms": 6000,
        "heartbeat_interval_ms": 500,
        "fetch_max_wait_ms": 100,
    }


def rows(polled: Mapping[Any, Sequence[Any]]) -> list[Row]:
    return [
        Row(each.topic, each.partition, each.offset, each.timestamp, each.key, each.value, tuple(each.headers))
        for records in polled.values()
        for each in records
    ]
