"""Start a client in a process of its own, under a time limit, and take what it prints."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.kafka.broker import ROOT, find_jars
from tests.kafka.readers.client import Bounds
from tests.kafka.readers.spec import Place, Row, Spec, row_of

OLDEST_JAVA = "2.1.1"
PYTHON_READERS = ("librdkafka", "aiokafka", "kafka-python")
_SOURCE = Path(__file__).parent / "java" / "KafkaReader.java"
_MARGIN_SECONDS = 60.0


class Failure(NamedTuple):
    """What the client told its user, and after how many seconds."""

    name: str
    words: str
    seconds: float


@dataclass
class Outcome:
    """Everything that one client was given."""

    rows: list[Row] = field(default_factory=list)
    bounds: dict[tuple[str, int], Bounds] = field(default_factory=dict)
    times: list[tuple[Place, int]] = field(default_factory=list)
    failure: Failure | None = None
    is_done: bool = False
    committed: int = 0
    assigned: list[frozenset[str]] = field(default_factory=list)

    def take(self, line: str) -> None:
        what, *words = line.rstrip("\n").split("\t")
        if what == "record":
            self.rows.append(row_of(words))
        elif what == "bounds":
            self.bounds[words[0], int(words[1])] = Bounds(int(words[2]), int(words[3]))
        elif what == "time":
            self.times.append((Place(words[0], int(words[1]), int(words[2])), int(words[3])))
        elif what == "assigned":
            self.assigned.append(frozenset(words[0].split()))
        elif what == "committed":
            self.committed += int(words[0])
        elif what == "error":
            self.failure = Failure(words[0], words[1], float(words[2]))
        elif what == "done":
            self.is_done = True

    def of(self, topic: str, partition: int) -> list[Row]:
        """In the order in which they came."""
        return [row for row in self.rows if (row.topic, row.partition) == (topic, partition)]

    def ordered(self) -> list[Row]:
        """By partition; within one as they came."""
        return sorted(self.rows, key=lambda row: (row.topic, row.partition))


def digest(rows: Iterable[Row]) -> str:
    summed = hashlib.sha256()
    for row in rows:
        summed.update(repr(tuple(row)).encode())
    return summed.hexdigest()


def require_same(found: Outcome, expected: Outcome, words: str) -> None:
    """The same records by hash; else the first that differs."""
    ours, theirs = found.ordered(), expected.ordered()
    assert theirs, f"{words}: there is nothing to compare with"
    if digest(ours) == digest(theirs):
        return
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    raise AssertionError(
        f"{words}: {len(ours)} records for {len(theirs)}; the first difference is at {at}: "
        f"got {_short(ours, at)}, not {_short(theirs, at)}; it ended with {found.failure}"
    )


def _short(rows: Sequence[Row], at: int) -> str:
    return repr(rows[at])[:200] if at < len(rows) else "nothing"


def readers(version: str) -> list[str]:
    """Every client: of Python, the Java one of the broker's release, and the oldest that Kafka 4 serves."""
    return [*PYTHON_READERS, "java", *(["java-oldest"] if _old_jars() else [])] if version else []


def run(name: str, spec: Spec, version: str, *, complete: bool = True) -> Outcome:
    """To its end. ``complete``: it must not fail."""
    outcome = Outcome()
    with _started(name, spec, version) as (process, errors):
        limit = threading.Timer(float(spec.seconds) + _MARGIN_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                outcome.take(line)
            process.wait()
        finally:
            limit.cancel()
        said = errors.read_text(errors="replace")[-2000:]
    assert outcome.is_done or outcome.failure is not None, f"{name} ended with {process.returncode}:\n{said}"
    if complete:
        assert outcome.is_done, f"{name} failed: {outcome.failure}\n{said}"
    return outcome


def run_each(names: Sequence[str], spec: Spec, version: str, *, complete: bool = True) -> dict[str, Outcome]:
    """All clients at the same time."""
    with ThreadPoolExecutor(len(names)) as pool:
        found = {name: pool.submit(run, name, spec, version, complete=complete) for name in names}
        return {name: each.result() for name, each in found.items()}


class Following:
    """A consumer of a group that goes on until it is killed or closed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.outcome = process, Outcome()
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    @property
    def partitions(self) -> frozenset[str]:
        """What is assigned to it now."""
        return self.outcome.assigned[-1] if self.outcome.assigned else frozenset()

    @property
    def is_all_committed(self) -> bool:
        return self.outcome.committed == len(self.outcome.rows)

    def kill(self) -> None:
        """Without a word to anybody."""
        self.process.kill()
        self.process.wait()
        self._thread.join(20)

    def _take(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # A line may be cut by the kill.
            if line.endswith("\n"):
                self.outcome.take(line)


@contextmanager
def following(name: str, spec: Spec, version: str) -> Iterator[Following]:
    with _started(name, spec, version) as (process, _):
        consumer = Following(process)
        yield consumer
        consumer.kill()


@contextmanager
def _started(name: str, spec: Spec, version: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    with tempfile.TemporaryDirectory() as place:
        errors = Path(place) / "stderr"
        with errors.open("w") as output:
            process = subprocess.Popen(
                _command(name, version),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=ROOT,
                env=_environment(),
            )
        try:
            assert process.stdin is not None
            with process.stdin as words:
                words.write(spec.text)
            yield process, errors
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _command(name: str, version: str) -> list[str]:
    if name in PYTHON_READERS:
        return [sys.executable, "-m", "tests.kafka.readers", name]
    jars = _old_jars() if name == "java-oldest" else find_jars(version)
    java = shutil.which("java")
    assert jars is not None
    assert java is not None
    path = f"{_compiled(jars)}:{jars}/*"
    return [java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", path, "KafkaReader"]


@functools.cache
def _compiled(jars: Path) -> Path:
    """Where the class is. It is compiled with the jars that it runs with."""
    target = Path(tempfile.mkdtemp(prefix="kafka-reader-"))
    javac = shutil.which("javac")
    assert javac is not None, "there is no javac: the tests of the Java client need a JDK"
    done = subprocess.run(
        [javac, "-cp", f"{jars}/*", "-d", str(target), str(_SOURCE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def _old_jars() -> Path | None:
    lib = ROOT / ".make" / "kafka-clients" / OLDEST_JAVA / "lib"
    return lib if any(lib.glob("kafka-clients-*.jar")) else None


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAKHIN_", "KAFKA_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
