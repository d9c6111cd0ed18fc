"""A consumer of librdkafka: ``python -m benchmarks.consume BOOTSTRAP TOPIC END [FILE]`` prints what it saw as JSON.

It reads partition 0 from the beginning to ``END``; with ``FILE``, again and again until that file is there. The time
counts from the first record that is asked for. A line ``reading`` tells that the first records are here.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

_PATIENCE_SECONDS = 60.0


def consume(bootstrap: str, topic: str, end: int, until: Path | None) -> dict[str, Any]:
    """``longest``: seconds in which not one record came. ``sum``: of each value's first bytes and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "benchmark",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "log_level": 0,
        }
    )
    start = TopicPartition(topic, 0, OFFSET_BEGINNING)
    rounds, records, size, summed, longest = 0, 0, 0, 0, 0.0
    began = last = time.perf_counter()
    consumer.assign([start])
    while True:
        messages = consumer.consume(2000, 0.2)
        now = time.perf_counter()
        if messages:
            if not records:
                print("reading", file=sys.stderr, flush=True)
            else:
                longest = max(longest, now - last)
            last = now
        elif now - last > _PATIENCE_SECONDS:
            raise SystemExit(f"no record came for {_PATIENCE_SECONDS} s after {records}")
        at = 0
        for message in messages:
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            at = message.offset() or 0
            value = message.value() or b""
            if at < end:
                records += 1
                size += len(value)
                summed = zlib.crc32(b"%d" % at + value[:8], summed)
        if at + 1 >= end:
            rounds += 1
            if until is None or until.exists():
                break
            consumer.assign([start])
        elif until is not None and until.exists():
            break
    took = time.perf_counter() - began
    consumer.close()
    return {
        "seconds": took,
        "rounds": rounds,
        "records": records,
        "bytes": size,
        "sum": summed,
        "longest": max(longest, time.perf_counter() - last),
    }


def main() -> None:
    bootstrap, topic, end, *until = sys.argv[1:]
    print(json.dumps(consume(bootstrap, topic, int(end), Path(until[0]) if until else None)))


if __name__ == "__main__":
    main()
