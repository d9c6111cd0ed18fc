"""``python -m tests.kafka.readers CLIENT``: do what standard input says, and print what came of it."""

from __future__ import annotations

import importlib
import sys
import time

from tests.kafka.readers.client import Client, Refused, follow, read, say, times
from tests.kafka.readers.spec import Spec, parse_spec

CLIENTS = {
    "librdkafka": ("tests.kafka.readers.librdkafka", "Librdkafka"),
    "aiokafka": ("tests.kafka.readers.aio", "Aiokafka"),
    "kafka-python": ("tests.kafka.readers.kafkapython", "KafkaPython"),
}


def main() -> None:
    module_name, class_name = CLIENTS[sys.argv[1]]
    module = importlib.import_module(module_name)
    spec = parse_spec(sys.stdin.read())
    began = time.monotonic()
    try:
        _do(getattr(module, class_name), spec)
    except Exception as error:
        known = error if isinstance(error, Refused) else module.refused(error)
        if known is None:
            raise
        words = " ".join(known.words.split())
        say("error", known.name, words, f"{time.monotonic() - began:.3f}")
    else:
        say("done")


def _do(client_class: type[Client], spec: Spec) -> None:
    if spec.do == "produce":
        client_class.produce(spec)
        return
    client = client_class(spec)
    try:
        {"read": read, "follow": follow, "times": times}[spec.do](client)
    finally:
        client.close()


if __name__ == "__main__":
    main()
