"""Topics that a real broker wrote, and what each client was given of them by that broker."""

from __future__ import annotations

import fcntl
import pickle
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Producer

from tests.kafka.broker import Kafka
from tests.kafka.clients import CODECS, READ_COMMITTED, READ_UNCOMMITTED, Clients
from tests.kafka.program import Program, Running, segment
from tests.kafka.readers.client import Bounds
from tests.kafka.readers.run import Outcome, digest, readers, require_same, run
from tests.kafka.readers.spec import Place, Spec, places
from tests.support import free_port, wait_until

LEVELS = (READ_COMMITTED, READ_UNCOMMITTED)
ORDERS, LEDGER, STAMPS = "orders", "ledger", "stamps"
PARTITIONS = {ORDERS: 3, LEDGER: 3, STAMPS: 1}
ALL = ",".join(PARTITIONS)
TIMES = 200
_DAY = 24 * 3600 * 1000


@dataclass
class Recording:
    """``records``: by isolation level; ``bounds`` and ``offsets``: by client too."""

    version: str
    data: Path
    records: dict[str, Outcome]
    bounds: dict[tuple[str, str], dict[tuple[str, int], Bounds]]
    times: list[Place]
    offsets: dict[str, list[int]]

    def digest_of(self, isolation: str) -> str:
        return digest(self.records[isolation].ordered())


def record(root: Path, version: str) -> Recording:
    """Write the topics, read them with every client, stop the broker."""
    kafka = Kafka(root / "broker", version)
    kafka.start()
    try:
        clients = Clients(kafka.bootstrap)
        _write_orders(clients)
        _write_ledger(clients)
        clients.create(STAMPS, message_timestamp_type="LogAppendTime")
        clients.produce_every_codec(STAMPS, 120, size=3000)
        found = Recording(version, kafka.log_dir, {}, {}, [], {})
        for name in readers(version):
            for isolation in LEVELS:
                for mode in ("assign", "subscribe"):
                    outcome = run(name, _spec(kafka.bootstrap, name, mode, isolation), version)
                    require_same(outcome, found.records.setdefault(isolation, outcome), f"{name} {mode} {isolation}")
                found.bounds[name, isolation] = outcome.bounds
            found.times = found.times or _random_times(found.records[READ_UNCOMMITTED])
            found.offsets[name] = look_up(name, kafka.bootstrap, found)
        require_telling(found)
    finally:
        kafka.stop()
    return found


def require_telling(found: Recording) -> None:
    """The topics have in them what they are written for."""
    committed, everything = (found.records[level] for level in LEVELS)
    assert 0 < len(committed.rows) < len(everything.rows)
    assert any(row.key is None for row in everything.rows)
    assert any(row.value is None for row in everything.rows)
    assert any(value is None for row in everything.rows for _, value in row.headers)
    spread = [row.timestamp for row in everything.of(ORDERS, 0)]
    assert max(spread) - min(spread) > 28 * _DAY
    reference = found.bounds["librdkafka", READ_UNCOMMITTED]
    stable = found.bounds["java", READ_COMMITTED]
    assert stable[LEDGER, 2].latest < reference[LEDGER, 2].latest, "there is no open transaction at the end"
    for topic, count in PARTITIONS.items():
        for partition in range(count):
            closed = len(list((found.data / f"{topic}-{partition}").glob("*.log"))) - 1
            assert closed >= (1 if topic == STAMPS else 3), f"{topic}-{partition} has {closed} closed segments"


def look_up(name: str, bootstrap: str, found: Recording) -> list[int]:
    """The offsets of the times, as this client is told them."""
    spec = Spec(bootstrap, do="times", at=places(found.times))
    return [offset for _, offset in run(name, spec, found.version).times]


def _spec(bootstrap: str, name: str, mode: str, isolation: str) -> Spec:
    group = f"{name}-{isolation}" if mode == "subscribe" else ""
    return Spec(bootstrap, topics=ALL, mode=mode, isolation=isolation, group=group)


@contextmanager
def shared(root: Path, version: str) -> Iterator[Recording]:
    """One recording for all processes of a test run: who comes first makes it."""
    root.mkdir(parents=True, exist_ok=True)
    file = root / f"recording-{version}"
    with (root / f"lock-{version}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            place = root / f"broker-{version}"
            shutil.rmtree(place, ignore_errors=True)
            made = pickle.dumps(record(place, version))
            file.write_bytes(made)
    yield pickle.loads(file.read_bytes())


class Archive:
    """A copy of the recorded broker's data, half of its closed segments archived, and the daemon on it."""

    def __init__(self, root: Path, recording: Recording, **keys: object) -> None:
        shutil.copytree(recording.data, root / "data", dirs_exist_ok=True)
        self.recording = recording
        self.kafka = Kafka(root, recording.version, is_formatted=True)
        self.port = free_port()
        self.program = Program(
            root,
            self.kafka,
            **{
                "archive_mode": "move",
                "auto_archive_enabled": False,
                "kafka_port": self.port,
                "topics_include": list(PARTITIONS),
                **keys,
            },
        )

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def directory(self, topic: str, partition: int) -> Path:
        return self.kafka.partition_dir(topic, partition)

    def archive_half(self) -> None:
        """The older half of the closed segments of each partition."""
        wanted = []
        for topic, count in PARTITIONS.items():
            for partition in range(count):
                closed = self.program.closed(topic, partition)
                wanted += [segment(topic, base, partition) for base in closed[: (len(closed) + 1) // 2]]

        def gone() -> bool:
            # One that is archived before an older one stays until the next time.
            self.program.run("archive", *wanted)
            return not any((self.kafka.log_dir / path).exists() for path in wanted)

        wait_until(gone, what="half of the segments to be in the archive alone")

    @contextmanager
    def daemon(self) -> Iterator[Running]:
        with self.program.daemon() as running:
            clients = Clients(self.bootstrap)
            running.wait(lambda: serves(clients, PARTITIONS), "the endpoint to serve every partition")
            yield running


def serves(clients: Clients, partitions: Mapping[str, int]) -> bool:
    """Whether the endpoint is up and has so many partitions of each topic."""
    try:
        return all(clients.partitions(topic) == count for topic, count in partitions.items())
    except Exception:  # noqa: BLE001 - whatever it is, it does not answer yet
        return False


def _write_orders(clients: Clients) -> None:
    """Records of thirty days, not quite in order, of every codec."""
    clients.create(ORDERS, PARTITIONS[ORDERS], message_timestamp_before_max_ms=400 * _DAY)
    dice, now = random.Random(ORDERS), int(time.time() * 1000)
    start = now - 30 * _DAY
    producers = [Producer(clients._producer(codec)) for codec in CODECS]
    for partition in range(PARTITIONS[ORDERS]):
        for number in range(60):
            producer, day = producers[number % len(producers)], start + number * _DAY // 2
            size, at = dice.choice((50, 800, 3000, 9000)), min(now, day + dice.randint(-_DAY, _DAY // 3))
            clients._send(producer, ORDERS, range(number, number + 30), size, partition, at, None, (partition, number))
            assert producer.flush(60) == 0


def _write_ledger(clients: Clients) -> None:
    """Transactions that are committed, aborted, overlap and span segments; one that is open at the end."""
    clients.create(LEDGER, PARTITIONS[LEDGER])
    for partition in range(PARTITIONS[LEDGER]):
        for number, codec in enumerate(CODECS):
            name = f"first-{partition}-{number}"
            clients.transact(LEDGER, 60, commit=number % 2 == 0, name=name, codec=codec, partition=partition)
            clients.produce(LEDGER, 30, codec=codec, partition=partition)
        _span_segments(clients, partition)
        clients.produce(LEDGER, 100, partition=partition)
    _leave_open(clients, PARTITIONS[LEDGER] - 1)


def _span_segments(clients: Clients, partition: int) -> None:
    """One transaction through three segments that is aborted, with committed ones within."""
    long = Producer(clients._producer("none", **{"transactional.id": f"long-{partition}"}))
    long.init_transactions(30)
    long.begin_transaction()
    values = random.Random(partition)
    for number in range(6):
        for _ in range(100):
            long.produce(LEDGER, values.randbytes(5000), b"of the long one", partition)
        assert long.flush(60) == 0
        clients.transact(LEDGER, 20, commit=number % 3 != 1, name=f"short-{partition}-{number}", partition=partition)
    long.abort_transaction(30)


def _leave_open(clients: Clients, partition: int) -> None:
    settings = {"transactional.id": "open", "transaction.timeout.ms": 800_000}
    producer = Producer(clients._producer("none", **settings))
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in range(40):
        producer.produce(LEDGER, f"open {number}".encode(), b"open", partition)
    assert producer.flush(60) == 0
    clients.produce(LEDGER, 40, partition=partition)


def _random_times(records: Outcome) -> list[Place]:
    """Before, between, at and after the times of the records."""
    dice, found = random.Random(TIMES), []
    for _ in range(TIMES):
        row = dice.choice(records.rows)
        at = row.timestamp + dice.choice((-_DAY, -1, 0, 0, 1, dice.randint(-_DAY, _DAY)))
        found.append(Place(row.topic, row.partition, max(0, at)))
    return found
