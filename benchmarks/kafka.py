"""What Kafka's clients read from the endpoint, against the broker that wrote the segments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, ours
from benchmarks.daemon import Running, daemon, python
from benchmarks.data import link_tree, make_segments
from benchmarks.latency import ask
from benchmarks.measure import OURS, Failed, Figure, Result, Sample, percentile, require, run
from benchmarks.server import free_port

_COUNT, _SIZE, _QUICK_SIZE = 4, 256 << 20, 8 << 20
_RECORD = 1000
_CLIENTS = 10
_VERSION = "4.1.0"
_BROKER, _LOCAL = "the broker", "ours, local segments"
_TICK = os.sysconf("SC_CLK_TCK")


def kafka(bench: Bench, name: str) -> list[Result]:
    """One partition, read by librdkafka: from the broker, from local segments, from the store; then by ten clients."""
    size = _QUICK_SIZE if bench.quick else _SIZE
    words = (
        f"{_COUNT} closed segments of {size >> 20} MiB that Kafka {_VERSION} wrote, records of {_RECORD} bytes that "
        "do not compress, read in order by one consumer of librdkafka in a process of its own. CPU and peak memory are "
        "those of the server: the daemon, or the broker."
    )
    verified = "Every record by its offset and its first bytes, in every round."
    local = Result(f"{name}-local", f"{words} The segments are on the disk.", verified)
    archived = Result(
        f"{name}-archived", f"{words} The segments are in the store alone; nothing is in the cache.", verified
    )
    together = Result(
        f"{name}-clients",
        f"{_CLIENTS} such consumers read local segments again and again, while an archive cycle runs and `/stats` is "
        "asked 200 times a second. Clients, daemon and server share the machine's cores.",
        "Every answer is 200; at the end all cold segments are archived, and every consumer got records.",
    )
    with bench.directory("kafka") as place, _broker(place, size) as broker:
        end = _write(broker, size)
        _alternate(bench, name, place, broker, end, local, archived)
        broker.stop()
        _crowd(bench, name, place, broker.log_dir, end, together)
    return [local, archived, together]


def _alternate(bench: Bench, name: str, place: Path, broker: Any, end: int, local: Result, archived: Result) -> None:
    """By turns: the broker, the same files, the objects."""
    data, state = place / "copy", place / "state"
    link_tree(broker.log_dir, data)
    env = bench.settings(data, state, prefix="kafka", TAKHIN_STORAGE_TIERED_COLD_AGE_HOURS="0.0002")
    env["TAKHIN_STORAGE_TIERED_WARM_AGE_HOURS"] = "0.0001"
    try:
        while len(list((data / "orders-0").glob("*.log"))) > 1:
            run(ours("run", "--once"), log=bench.log, env=env)
        observing = bench.settings(broker.log_dir, place / "observing")
        expected: int | None = None
        for number in range(bench.rounds):
            bench.say(f"{name}: round {number + 1} of {bench.rounds}")
            sample, expected = _read(broker.bootstrap, end, broker.process_id, expected)
            local.add(_BROKER, sample)
            archived.add(_BROKER, sample)
            shutil.rmtree(state / "cache", ignore_errors=True)
            for settings, result, contestant in ((observing, local, OURS), (env, archived, OURS)):
                with _endpoint(settings, bench.log) as (running, bootstrap):
                    sample, expected = _read(bootstrap, end, running.process.pid, expected)
                    result.add(contestant, sample)
                if result is local:
                    archived.add(_LOCAL, sample)
        size = sum(path.stat().st_size for path in broker.partition_dir("orders").glob("*.log"))
        for result in (local, archived):
            for contestant, samples in result.series.items():
                rates = tuple(size / 1e6 / sample.wall for sample in samples)
                result.figures.append(Figure(f"read from {contestant}", "MB/s", rates))
    finally:
        bench.server.clear("kafka")


def _crowd(bench: Bench, name: str, place: Path, written: Path, end: int, result: Result) -> None:
    """The archive alone, the clients alone, and both."""
    count, each = (8, 4 << 20) if bench.quick else (64, 32 << 20)
    cold = place / "cold"
    make_segments(cold, count, each, partitions=4, topic="cold")
    seen: dict[str, list[float]] = {
        key: [] for key in ("alone", "reading", "archived", "read", "p99", "stall", "lag", "peak")
    }
    for number in range(bench.rounds):
        bench.say(f"{name}: {_CLIENTS} clients, round {number + 1} of {bench.rounds}")
        for clients, archives in ((0, True), (_CLIENTS, False), (_CLIENTS, True)):
            data, state, stop = place / "crowd", place / "crowd-state", place / "stop"
            link_tree(written, data)
            env = bench.settings(data, state, prefix="crowd", TAKHIN_STORAGE_TIERED_TOPICS_INCLUDE="cold")
            env["TAKHIN_STORAGE_TIERED_AUTO_ARCHIVE_ENABLED"] = str(archives).lower()
            env["TAKHIN_STORAGE_TIERED_ARCHIVE_INTERVAL_MINUTES"] = "0.02"
            try:
                with _endpoint(env, bench.log) as (running, bootstrap):
                    readers = [_start(bootstrap, end, stop) for _ in range(clients)]
                    if archives:
                        # Only now is there anything to archive.
                        link_tree(cold, data)
                    asked = ask(running.address, 300 if archives else 10, count if archives else 0)
                    stop.touch()
                    found = [json.loads(reader.communicate(timeout=120)[0]) for reader in readers]
                    peak = running.memory()[1] / 1e6
            finally:
                bench.server.clear("crowd")
                for path in (data, state):
                    shutil.rmtree(path, ignore_errors=True)
                stop.unlink(missing_ok=True)
            require(all(each["records"] for each in found), "a client got no record")
            speed = sum(one["bytes"] / 1e6 / one["seconds"] for one in found)
            if not archives:
                seen["reading"].append(speed)
                continue
            require(asked["archived"] == count, f"{asked['archived']} of {count} segments were archived")
            rate = count * each / 1e6 / asked["seconds"]
            if not clients:
                seen["alone"].append(rate)
                continue
            seen["archived"].append(rate)
            seen["read"].append(speed)
            seen["p99"].append(percentile(asked["latencies"], 0.99) * 1e3)
            seen["lag"].append(percentile(asked["lags"], 0.99) * 1e3)
            seen["stall"].append(max(one["longest"] for one in found))
            seen["peak"].append(peak)
    result.figures += [
        Figure("archived, nobody reads", "MB/s", tuple(seen["alone"])),
        Figure("read, nothing is archived", "MB/s", tuple(seen["reading"])),
        Figure("archived meanwhile", "MB/s", tuple(seen["archived"])),
        Figure("read meanwhile", "MB/s", tuple(seen["read"])),
        Figure("`/stats` meanwhile, p99", "ms", tuple(seen["p99"]), "at most 50 ms"),
        Figure("of which the client was late itself, p99", "ms", tuple(seen["lag"])),
        Figure("longest stall of a client meanwhile", "seconds", tuple(seen["stall"]), "at most 2 s"),
        Figure("peak memory of the daemon", "MB", tuple(seen["peak"])),
    ]


@contextmanager
def _broker(place: Path, size: int) -> Iterator[Any]:
    try:
        # The test bed knows how to start one. It needs Java, and the extra `kafka`.
        from tests.kafka.broker import Kafka, find_jars
    except ImportError as error:
        raise Failed(f"there is no Kafka client ({error}): run make test-kafka once") from error
    require(shutil.which("java"), "there is no java")
    require(find_jars(_VERSION), f"there are no jars of Kafka {_VERSION}: run make test-kafka once")
    broker = Kafka(place / "broker", _VERSION, log_segment_bytes=size)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def _write(broker: Any, size: int) -> int:
    """Returns the base offset of the active segment."""
    from confluent_kafka import Producer

    from tests.kafka.clients import Clients

    Clients(broker.bootstrap).create("orders")
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20, "batch.size": 256_000})
    directory, pool = broker.partition_dir("orders"), os.urandom(1 << 20)
    number = 0
    while len(list(directory.glob("*.log"))) <= _COUNT:
        for _ in range(size // _RECORD // 8):
            at = number * 7919 % (len(pool) - _RECORD)
            producer.produce("orders", pool[at : at + _RECORD], b"%d" % number, 0)
            number += 1
            if number % 500 == 0:
                producer.flush(60)
    require(producer.flush(60) == 0, "the broker did not take every record")
    return max(int(path.stem) for path in directory.glob("*.log"))


@contextmanager
def _endpoint(env: dict[str, str], log: Path) -> Iterator[tuple[Running, str]]:
    port = free_port()
    with daemon({**env, "TAKHIN_STORAGE_TIERED_KAFKA_PORT": str(port)}, log) as running:
        yield running, f"127.0.0.1:{port}"


def _read(bootstrap: str, end: int, process_id: int, expected: int | None) -> tuple[Sample, int]:
    before = _cpu(process_id)
    found = json.loads(_start(bootstrap, end).communicate(timeout=600)[0])
    require(found["records"] == end, f"{found['records']} records were read, not {end}")
    require(expected in (None, found["sum"]), "the records are others than those of the first round")
    status = Path(f"/proc/{process_id}/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return Sample(found["seconds"], _cpu(process_id) - before, peak), found["sum"]


def _start(bootstrap: str, end: int, until: Path | None = None) -> subprocess.Popen[bytes]:
    """Returns when the first records are here."""
    command = python("-m", "benchmarks.consume", bootstrap, "orders", str(end), *([str(until)] if until else []))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    while line := process.stderr.readline():
        if line.strip() == b"reading":
            return process
    raise Failed(f"the consumer ended with {process.wait()}")


def _cpu(process_id: int) -> float:
    """Seconds of the process so far."""
    words = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICK
