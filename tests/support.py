"""What the tests share: a broker's data directory, real servers, an independent look at a bucket."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
import httpx
from botocore.config import Config

from takhin_tiered import TieredStorage, machine
from takhin_tiered.config import Settings
from takhin_tiered.engine.assembly import Assembly
from takhin_tiered.formats.sample import make_segment
from takhin_tiered.reader.cache import DiskCache
from tests.forking import run_forked

REGION = "us-east-1"
_ROOT = Path(__file__).resolve().parents[1]
_PROGRAM = _ROOT / "takhin_tiered/__main__.py"
SERVERS = _ROOT / ".make/servers/bin"
HOUR = 3600.0
COLD = 200.0
WARM = 100.0

KINDS = ("log", "index", "timeindex", "txnindex", "snapshot")

AtPoint = Callable[[str, Callable[[], object]], list[str]]
"""``at_point(name, action)``, the fixture: the list has the name once the point was reached."""


def unpack(archive: Path, directory: Path) -> None:
    with tarfile.open(archive) as tar:
        # Python 3.11.2 knows no filter yet.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(directory)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], Any], *, seconds: float = 30.0, what: str = "the condition") -> Any:
    """The first true value of ``condition``; fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {seconds} s")
        time.sleep(0.02)


@dataclass
class Broker:
    """A data directory as a broker keeps it. ``files`` remembers every byte written, by relative path.

    Of a ``transactional`` one each segment has a transaction index and a producer snapshot too.
    """

    root: Path
    transactional: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    next_offset: dict[str, int] = field(default_factory=dict)

    def segment(self, partition: str = "orders-0", *, age_hours: float = COLD, size: int = 20_000) -> str:
        """Write the next segment of a partition, last modified so many hours ago; returns its path."""
        directory = self.root / partition
        directory.mkdir(parents=True, exist_ok=True)
        base = self.next_offset.get(partition, 0)
        made = make_segment(base, size)
        self.next_offset[partition] = made.next_offset
        modified = time.time() - age_hours * HOUR
        files = {"log": made.log, "index": made.index, "timeindex": made.timeindex}
        if self.transactional:
            files |= {"txnindex": aborted(base, made.next_offset), "snapshot": b"producers at %d" % base}
        for kind, content in files.items():
            name = f"{partition}/{base:020d}.{kind}"
            (self.root / name).write_bytes(content)
            os.utime(self.root / name, (modified, modified))
            self.files[name] = content
        return f"{partition}/{base:020d}.log"

    def overwrite(self, path: str, content: bytes) -> None:
        """Other bytes in a file, which is cold as before, and still older than the active segment."""
        (self.root / path).write_bytes(content)
        self.overwrite_time(path)
        self.files[path] = content

    def overwrite_time(self, path: str) -> None:
        """Cold as before, whatever was done to the file."""
        os.utime(self.root / path, (time.time() - (COLD + 1) * HOUR,) * 2)

    def segments(self, partition: str = "orders-0", count: int = 3, **how: Any) -> list[str]:
        """So many closed segments, and an active one behind them; returns the paths of the closed ones."""
        closed = [self.segment(partition, **how) for _ in range(count)]
        self.segment(partition, age_hours=how.get("age_hours", COLD))
        return closed

    def triple(self, path: str) -> list[str]:
        """The names of a segment's files: the triple, and what else belongs to it."""
        stem = path.removesuffix(".log")
        return [name for kind in KINDS if (name := f"{stem}.{kind}") in self.files]

    def on_disk(self, path: str) -> list[str]:
        """Which files of a segment stand on disk."""
        return [name for name in self.triple(path) if (self.root / name).exists()]

    def is_whole(self, path: str) -> bool:
        """Whether all of a segment stands on disk, byte for byte."""
        return all(
            (self.root / name).is_file() and (self.root / name).read_bytes() == self.files[name]
            for name in self.triple(path)
        )

    def append(self, path: str, data: bytes = b"appended") -> None:
        """What a broker does that still writes to a segment."""
        with (self.root / path).open("ab") as file:
            file.write(data)
        self.files[path] += data


def aborted(first: int, end: int) -> bytes:
    """A transaction index that names one aborted transaction: all from ``first`` up to ``end``.

    Source: Apache Kafka, ``AbortedTxn``: version, producer ID, first, last and last stable offset.
    """
    return struct.pack(">hqqqq", 0, 4711, first, end - 1, end)


class Bucket:
    """An independent look at a bucket: the plain SDK, no code of ours."""

    def __init__(self, endpoint: str, name: str, prefix: str = "takhin-segments") -> None:
        self.endpoint, self.name, self.prefix = endpoint, name, prefix
        self.client = botocore.session.get_session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=endpoint,
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}),
        )

    def manifests(self) -> list[str]:
        """The keys of manifests: of the segments that are archived."""
        return [key for key in self.keys() if key.endswith(".manifest.json")]

    def keys(self) -> list[str]:
        """Every key below the prefix, without it, and without what belongs to the prefix itself."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"{self.prefix}/")
        found = [entry["Key"].removeprefix(f"{self.prefix}/") for page in pages for entry in page.get("Contents", ())]
        return sorted(key for key in found if not key.startswith("takhin-tiered."))

    def times(self) -> dict[str, Any]:
        """When each object was last written, by full key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {entry["Key"]: entry["LastModified"] for page in pages for entry in page.get("Contents", ())}

    def read(self, key: str) -> bytes:
        body = self.client.get_object(Bucket=self.name, Key=f"{self.prefix}/{key}")["Body"]
        data: bytes = body.read()
        body.close()
        return data

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"{self.prefix}/{key}", Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"{self.prefix}/{key}")

    def uploads(self) -> list[str]:
        """Keys of multipart uploads that are open."""
        return [upload["Key"] for upload in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]

    def close(self) -> None:
        self.client.close()


def parts(storage: TieredStorage) -> Assembly:
    """The inner parts, for a test of one of them. A program gets what `TieredStorage` offers."""
    return storage._parts


def disk_cache(storage: TieredStorage) -> DiskCache:
    """That of its reader."""
    cache = storage._reader.fetcher.cache
    assert isinstance(cache, DiskCache)
    return cache


def pass_time(storage: TieredStorage, passed: Callable[[], float]) -> None:
    """Let so many seconds pass for a storage: by the machine's clocks, and without a store's that contradicts them."""
    parts(storage).clock.wall = lambda: time.time() + passed()
    parts(storage).clock.uptime = lambda: machine.uptime() + passed()
    parts(storage).guards.clock._store = None


def store_settings(broker: Broker, bucket: Bucket, **changes: Any) -> Settings:
    """Settings for a broker's directory and a bucket."""
    return Settings(
        **{
            "data_dir": broker.root,
            "enabled": True,
            "s3_bucket": bucket.name,
            "s3_endpoint": bucket.endpoint,
            "api_port": 0,
            **changes,
        }
    )


def directory_settings(broker: Broker, store: Path, **changes: Any) -> Settings:
    """Settings for a broker's directory and a directory store, which is made."""
    store.mkdir(exist_ok=True)
    return Settings(**{"data_dir": broker.root, "enabled": True, "directory_path": store, "api_port": 0, **changes})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def environment(settings: Settings) -> dict[str, str]:
    """The same settings for another process, as variables; those that were not given stay as they are by default."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKHIN_")}
    shown = dict(settings.items())
    ours = {}
    for name in settings.model_fields_set:
        key = str(Settings.model_fields[name].validation_alias)
        value = settings.api_token.get_secret_value() if name == "api_token" else shown[key]
        ours["TAKHIN_" + key.replace(".", "_").upper()] = value
    return {**clean, **ours}


def to_point(
    settings: Settings,
    *arguments: str,
    point: str = "",
    nth: int = 1,
    seconds: float = 90.0,
    between: tuple[str, Settings, list[str]] | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command of the program, which kills itself at the n-th time that it reaches a named point; see the launcher.

    ``between``: at this point, another command runs with these settings.
    """
    at = {"TORTURE_POINT": point, "TORTURE_NTH": str(nth), "PYTHONPATH": str(_ROOT)}
    if between is not None:
        env = environment(between[1]) | {"PYTHONPATH": str(_ROOT)}
        at["TORTURE_BETWEEN"] = json.dumps({"point": between[0], "command": between[2], "env": env})
    launcher = _ROOT / "tests/faults/kill_launcher.py"
    return run_forked(launcher, *arguments, env=environment(settings) | at, seconds=seconds)


class Daemon:
    """A real daemon in a process of its own."""

    def __init__(self, settings: Settings, log: Path, *arguments: str, program: tuple[str, ...] = ()) -> None:
        self.settings, self.log = settings, log
        command = [sys.executable, *(program or ("-m", "takhin_tiered")), *(arguments or ("run",))]
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, env=environment(settings), stderr=file, stdout=file)

    @property
    def api(self) -> str:
        from takhin_tiered.disk.lock import read_holder

        holder = read_holder(self.settings.state_dir)
        return holder.api if holder and holder.pid == self.process.pid else ""

    def wait_serving(self) -> str:
        def serving() -> str:
            self.require_alive()
            return self.api

        return str(wait_until(serving, what="the daemon's API"))

    def wait_logged(self, text: str, *, seconds: float = 30.0) -> None:
        def logged() -> bool:
            found = text in self.log.read_text()
            if not found:
                self.require_alive()
            return found

        wait_until(logged, seconds=seconds, what=f"{text!r} in the log")

    def require_alive(self) -> None:
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return httpx.request(method, self.wait_serving() + path, trust_env=False, timeout=60, **arguments)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, *, seconds: float = 40.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def daemon(settings: Settings, log: Path, *arguments: str, program: tuple[str, ...] = ()) -> Iterator[Daemon]:
    running = Daemon(settings, log, *arguments, program=program)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


def archived_settings(broker: Broker, store: Path, segments: int) -> Settings:
    """Settings for a directory store, to which one cycle has moved so many segments."""
    broker.segments("orders-0", segments)
    settings = directory_settings(broker, store)
    assert command(settings, "run", "--once").returncode == 0
    return settings


def command(settings: Settings, *arguments: str, stderr: Any = None) -> subprocess.CompletedProcess[str]:
    """Run a command of the program to its end. Where its errors go to a file, it is not forked but started."""
    if stderr is None:
        return run_forked(_PROGRAM, *arguments, env=environment(settings), seconds=100)
    return subprocess.run(
        [sys.executable, "-m", "takhin_tiered", *arguments],
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
        timeout=100,
    )


@contextmanager
def ministack(port: int = 0, **variables: str) -> Iterator[str]:
    """A real S3 server in a process of its own, on a free port unless one is given; yields its endpoint."""
    port = port or free_port()
    with _server(
        [find_program("ministack")], port, BIND_HOST="127.0.0.1", GATEWAY_PORT=str(port), **variables
    ) as endpoint:
        yield endpoint


@contextmanager
def minio(binary: str, directory: Path) -> Iterator[str]:
    """A real MinIO on a free port; its user and password are the ones in the environment of the tests."""
    port = free_port()
    arguments = [binary, "server", str(directory), "--address", f"127.0.0.1:{port}", "--quiet"]
    with _server(
        arguments,
        port,
        MINIO_ROOT_USER=os.environ["AWS_ACCESS_KEY_ID"],
        MINIO_ROOT_PASSWORD=os.environ["AWS_SECRET_ACCESS_KEY"],
        MINIO_BROWSER="off",
    ) as endpoint:
        yield endpoint


@contextmanager
def rclone_server(directory: Path) -> Iterator[str]:
    """rclone's S3 server on a free port: of an upload it compares the MD5 only, and no write is conditional."""
    port = free_port()
    user, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    arguments = [find_program("rclone"), "serve", "s3", str(directory), "--addr", f"127.0.0.1:{port}"]
    with _server([*arguments, "--auth-key", f"{user},{secret}"], port, RCLONE_CONFIG="/dev/null") as endpoint:
        yield endpoint


def find_program(name: str) -> str:
    """A program of tests/servers.txt: in the environment that make installs them into, or elsewhere."""
    places = [str(SERVERS), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise AssertionError(f"there is no {name}: `make .make/servers/.done` installs it into {SERVERS}")
    return found


def find_minio() -> str | None:
    """A MinIO binary: ``$TAKHIN_TEST_MINIO``, or one on the path."""
    return os.environ.get("TAKHIN_TEST_MINIO") or shutil.which("minio")


@contextmanager
def _server(arguments: list[str], port: int, **variables: str) -> Iterator[str]:
    process = subprocess.Popen(
        arguments, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{arguments[0]} ended with {process.returncode}")
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, seconds=60, what=f"{arguments} on port {port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
