"""A real Apache Kafka broker: one node, KRaft, formatted and started in a directory of its own.

Everything that takes days with the settings of production takes seconds here: segments are small, and the
checks for retention, cleaning and deletion follow each other closely.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from confluent_kafka.admin import AdminClient

from tests.support import wait_until

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = tuple(os.environ.get("TAKHIN_TEST_KAFKA_VERSIONS", "3.9.1,4.1.0").split(","))
MIB = 1024 * 1024
CLUSTER = "MkU3OEVBNTcwNTJENDM2Qk"

# What a broker's log says when a segment was touched under it. Retention itself speaks of deleted segments at INFO.
COMPLAINTS = (
    "NoSuchFileException",
    "FileNotFoundException",
    "KafkaStorageException",
    "CorruptRecordException",
    "CorruptIndexException",
    "InvalidOffsetException",
    "OffsetOutOfRangeException",
    "failed log dir",
    "Error while",
    "Failed ",
    "-stray",
    "FATAL",
)
# Said in every start and stop, of nothing that concerns a segment.
HARMLESS = (
    "Broker heartbeat",
    "NodeToController",
    "BrokerLifecycleManager",
    "RaftManager",
    "NetworkClient",
    # How Kafka tells that it has deleted a file twice.
    "because it does not exist",
    # It flushes the directory of a partition that it moves, and has renamed that meanwhile.
    "-future (Utils)",
)

SCALED_DOWN = {
    "log.segment.bytes": MIB,
    "log.retention.hours": -1,
    "log.retention.check.interval.ms": 1000,
    "log.initial.task.delay.ms": 1000,
    "log.segment.delete.delay.ms": 1000,
    "log.cleaner.backoff.ms": 1000,
    "log.cleaner.dedupe.buffer.size": 4 * MIB,
    "log.flush.offset.checkpoint.interval.ms": 1000,
    "log.flush.start.offset.checkpoint.interval.ms": 1000,
    "replica.high.watermark.checkpoint.interval.ms": 1000,
    "group.initial.rebalance.delay.ms": 0,
    "offsets.topic.num.partitions": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.num.partitions": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "auto.create.topics.enable": "false",
    "controlled.shutdown.enable": "true",
    "message.max.bytes": MIB // 2,
}

LOG4J = """\
log4j.rootLogger=WARN, out
log4j.logger.kafka.log=INFO
log4j.logger.org.apache.kafka.storage.internals.log=INFO
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{HH:mm:ss,SSS} %p %m (%c{1})%n
"""


def find_jars(version: str) -> Path | None:
    """Where the jars of a release are: below ``$TAKHIN_TEST_KAFKA``, or where `.ci/test-kafka.sh` put them."""
    places = [Path(given)] if (given := os.environ.get("TAKHIN_TEST_KAFKA")) else [ROOT / ".make" / "kafka"]
    return next((lib for place in places if any((lib := place / version / "lib").glob("kafka_*.jar"))), None)


class Kafka:
    """One broker. Its data stays when it stops, and it starts again on the same ports with the same data.

    ``settings`` are keys of `server.properties` over the scaled-down ones, with ``_`` for each dot.
    """

    def __init__(
        self, root: Path, version: str, *, log_dirs: int = 1, is_formatted: bool = False, **settings: object
    ) -> None:
        self.root, self.version = root, version
        root.mkdir(parents=True, exist_ok=True)
        self.log_dirs = [root / (f"data{number}" if log_dirs > 1 else "data") for number in range(log_dirs)]
        for directory in self.log_dirs:
            directory.mkdir(exist_ok=True)
        self._port, self._controller = _free_ports(2)
        self._settings = {**SCALED_DOWN, **{key.replace("_", "."): value for key, value in settings.items()}}
        self._output = root / "broker.log"
        self._output.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = 0
        self._write_settings()
        if not is_formatted:
            self._format()

    @property
    def log_dir(self) -> Path:
        return self.log_dirs[0]

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log_text(self) -> str:
        return self._output.read_text(errors="replace")

    def mark(self) -> None:
        """From here on `errors` looks at the log."""
        self._mark = len(self.log_text)

    def errors(self) -> list[str]:
        """Lines since the mark that complain about a segment or a log directory."""
        return [
            line
            for line in self.log_text[self._mark :].splitlines()
            if any(word in line for word in COMPLAINTS) and not any(word in line for word in HARMLESS)
        ]

    def require_well(self) -> None:
        """Alive, its log directories online, and no complaint about a segment."""
        complaints = self.errors()
        assert not complaints, "the broker complains:\n" + "\n".join(complaints[:10])
        assert self.is_running, "the broker is down:\n" + self.log_text[-2000:]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert not self.is_running
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._java("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", self._log4j, "kafka.Kafka"),
                cwd=self.root,
                env=_clean_environment(),
                stdout=output,
                stderr=output,
            )
        wait_until(self._answers, seconds=90, what=f"Kafka {self.version} to answer")

    def stop(self) -> None:
        """A clean stop, as `kafka-server-stop` does it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self._process = None

    def kill(self) -> None:
        """An unclean stop."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def tool(self, main: str, *arguments: str) -> list[str]:
        """The command of one of the tools in Kafka's jars."""
        return [*self._java("-Xmx128m", "-XX:TieredStopAtLevel=1", self._log4j, main)[:-1], *arguments]

    def partition_dir(self, topic: str, partition: int = 0) -> Path:
        """Where a partition is; the first of the log directories if it is nowhere."""
        name = f"{topic}-{partition}"
        return next((found for place in self.log_dirs if (found := place / name).is_dir()), self.log_dir / name)

    def wait_checkpointed(self, topic: str, end: int, partition: int = 0) -> None:
        """Wait until the broker's checkpoint says that a partition is replicated up to ``end``.

        Below the high watermark nothing can be truncated any more, and a broker writes it down on a timer only.
        """
        checkpoint = self.partition_dir(topic, partition).parent / "replication-offset-checkpoint"

        def replicated() -> bool:
            if not checkpoint.exists():
                return False
            rows = (line.split() for line in checkpoint.read_text().splitlines()[2:])
            return any(row[:2] == [topic, str(partition)] and int(row[2]) >= end for row in rows if len(row) == 3)

        wait_until(replicated, what=f"a checkpointed high watermark of {end} for {topic}-{partition}")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"Kafka ended with {self._process.returncode}:\n{self.log_text[-3000:]}")
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", self._port)) != 0:
                return False
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            return bool(client.list_topics(timeout=1).brokers)
        except Exception:  # noqa: BLE001 - whatever it is, it does not answer yet
            return False

    def _write_settings(self) -> None:
        (self.root / "log4j.properties").write_text(LOG4J)
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "log.dirs": ",".join(str(directory) for directory in self.log_dirs),
            "metadata.log.dir": self.root / "metadata",
            **self._settings,
        }
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.root / "server.properties").write_text(text)

    def _format(self) -> None:
        file = str(self.root / "server.properties")
        command = self.tool("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", file)
        done = subprocess.run(
            command, cwd=self.root, env=_clean_environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def _log4j(self) -> str:
        return f"-Dlog4j.configuration=file:{self.root / 'log4j.properties'}"

    def _java(self, *arguments: str) -> list[str]:
        jars = find_jars(self.version)
        assert jars is not None, f"there are no jars of Kafka {self.version}: run make test-kafka"
        java = shutil.which("java")
        assert java is not None
        *options, main = arguments
        return [java, *options, "-cp", f"{jars}/*", main, str(self.root / "server.properties")]


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("TAKHIN_", "AWS_", "KAFKA_"))}


def _free_ports(count: int) -> list[int]:
    """Ports below those that outgoing connections take."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
