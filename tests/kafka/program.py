"""The program under test, by its command line only, and an independent look at a directory store."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.kafka.broker import Kafka
from tests.support import free_port, wait_until

SECOND = 1 / 3600
KINDS = ("log", "index", "timeindex", "txnindex", "snapshot")


class Running:
    """The daemon, in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
        self.process, self.log, self.api = process, log, f"http://127.0.0.1:{port}"
        self.killed = False
        self._start = log.stat().st_size

    @property
    def log_text(self) -> str:
        return self.log.read_text()[self._start :]

    def kill(self) -> None:
        self.killed = True
        self.process.kill()
        self.process.wait()

    def wait(self, condition: Callable[[], Any], what: str, *, seconds: float = 40) -> Any:
        """`wait_until`, which fails at once when the daemon ends."""

        def alive_and() -> Any:
            self.require_alive()
            return condition()

        return wait_until(alive_and, seconds=seconds, what=what)

    def metrics(self) -> str:
        return httpx.get(f"{self.api}/metrics", trust_env=False, timeout=20).text

    def wait_cycles(self, count: int = 2, *, seconds: float = 60) -> None:
        """So many cycles that begin from now on, and end."""

        def ended() -> float:
            self.require_alive()
            try:
                return metric(self.metrics(), "tiered_storage_cycles_total")
            except httpx.HTTPError:
                return -1.0

        before = wait_until(lambda: max(0.0, ended() + 1), seconds=30, what="the daemon's metrics") - 1
        wait_until(lambda: ended() > before + count, seconds=seconds, what=f"{count} cycles")

    def require_alive(self) -> None:
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log_text[-3000:]}")


class Program:
    """``takhin-tiered`` for the log directories of a broker, with a directory as the store.

    Keys are given as in the configuration file, below ``storage.tiered``; None leaves one out.
    """

    def __init__(self, root: Path, kafka: Kafka, **keys: object) -> None:
        self.root, self.kafka = root, kafka
        self.store = root / "store"
        self.store.mkdir(exist_ok=True)
        self.log = root / "daemon.log"
        self.log.touch()
        self._port = free_port()
        self._file = root / "takhin.yaml"
        data = [str(path) for path in kafka.log_dirs]
        self._keys: dict[str, object] = {
            "storage.data.dir": data if len(data) > 1 else data[0],
            "storage.tiered.enabled": True,
            "storage.tiered.directory.path": str(self.store),
            "storage.tiered.state.dir": str(root / "state"),
            "storage.tiered.cold.age.hours": SECOND,
            "storage.tiered.warm.age.hours": SECOND / 2,
            "storage.tiered.archive.interval.minutes": 1 / 60,
            "storage.tiered.api.port": self._port,
        }
        self.configure(**keys)

    def configure(self, **keys: object) -> None:
        """Change keys, written with ``_`` for each dot; ``data_dir`` is the only one not below ``storage.tiered``."""
        for name, value in keys.items():
            key = "storage.data.dir" if name == "data_dir" else "storage.tiered." + name.replace("_", ".")
            self._keys[key] = value
        set_ones = {key: value for key, value in self._keys.items() if value is not None}
        self._file.write_text(json.dumps(set_ones, indent=1))

    def run(self, *arguments: str, status: int | None = 0, seconds: float = 100) -> subprocess.CompletedProcess[str]:
        """A command, to its end, which must be of this status (None: any)."""
        done = subprocess.run(
            self._command(*arguments), env=_environment(), capture_output=True, text=True, check=False, timeout=seconds
        )
        assert "Traceback" not in done.stderr, done.stderr
        if status is not None:
            said = f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            assert done.returncode == status, said
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def cycle(self, times: int = 2, *, status: int | None = 0) -> str:
        """Whole cycles one after another: a segment is taken at the second look. Returns what the last one said."""
        said = ""
        for _ in range(times):
            done = self.run("run", "--once", status=status)
            said = done.stdout + done.stderr
        return said

    def archive_closed(self, topic: str, partition: int = 0, *, seconds: float = 40) -> None:
        """Cycles until every segment but the active one is in the archive."""
        wanted = set(self.closed(topic, partition))
        assert wanted, f"{topic}-{partition} has no closed segment"

        def archived() -> bool:
            self.run("run", "--once")
            return wanted <= self.archived(topic, partition)

        wait_until(archived, seconds=seconds, what=f"the archive of {sorted(wanted)}")

    @contextmanager
    def daemon(self) -> Iterator[Running]:
        with self.log.open("ab") as file:
            process = subprocess.Popen(self._command("run"), env=_environment(), stdout=file, stderr=file)
        running = Running(process, self.log, self._port)
        try:
            yield running
            if not running.killed:
                running.require_alive()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(40)
                except subprocess.TimeoutExpired:
                    running.kill()
                    raise

    def closed(self, topic: str, partition: int = 0) -> list[int]:
        """Base offsets of the closed segments on the disk."""
        return self.local(topic, partition)[:-1]

    def local(self, topic: str, partition: int = 0) -> list[int]:
        return bases(self.kafka.partition_dir(topic, partition))

    def manifests(self, topic: str, partition: int = 0) -> list[dict[str, Any]]:
        """Every manifest of a partition, of whatever incarnation."""
        found = self.store.glob(f"**/{topic}-{partition}/**/*.manifest.json")
        return [json.loads(path.read_text()) for path in sorted(found)]

    def archived(self, topic: str, partition: int = 0) -> set[int]:
        """Base offsets that have a manifest."""
        return {int(manifest["base_offset"]) for manifest in self.manifests(topic, partition)}

    def objects(self, topic: str, partition: int = 0, kind: str = "log") -> set[str]:
        """The SHA-256 of each object of one kind, found in the store without a manifest's help."""
        found = self.store.glob(f"**/{topic}-{partition}/**/*.{kind}")
        return {sha256(path) for path in found}

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "takhin_tiered", "--config", str(self._file), *arguments]


def bases(directory: Path) -> list[int]:
    """Base offsets of the segments in a partition's directory."""
    return sorted(int(path.stem) for path in directory.glob("*.log") if path.stem.isdigit())


def segment(topic: str, base: int, partition: int = 0) -> str:
    return f"{topic}-{partition}/{base:020d}.log"


def files_of(directory: Path, base: int) -> dict[str, bytes]:
    """Whatever stands there of a segment, by kind."""
    found = {kind: directory / f"{base:020d}.{kind}" for kind in KINDS}
    return {kind: path.read_bytes() for kind, path in found.items() if path.is_file()}


def closed_files(directory: Path) -> dict[int, dict[str, bytes]]:
    """The files of every closed segment, by base offset."""
    return {base: files_of(directory, base) for base in bases(directory)[:-1]}


def sha256(source: Path | bytes) -> str:
    return hashlib.sha256(source if isinstance(source, bytes) else source.read_bytes()).hexdigest()


def disk_usage(directory: Path) -> int:
    """As `du` counts it: the indexes of the active segment are large files of almost nothing."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir() if path.is_file())


def topic_id(directory: Path) -> str:
    """As the broker wrote it."""
    found = re.search(r"topic_id: (\S+)", (directory / "partition.metadata").read_text())
    assert found is not None
    return found[1]


def metric(text: str, name: str) -> float:
    """The sum of a metric over its labels."""
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if re.match(rf"{name}(\{{| )", line))
    return sum(float(value) for _, value in rows)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TAKHIN_")}
