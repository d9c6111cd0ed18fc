"""``…/data``: a segment's bytes over HTTP, whole or in part, by a real daemon and real clients."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.codec.keys import KeyRing
from tests.chunked import RING, Objects, use_keys
from tests.support import Broker, Daemon, command, daemon, directory_settings, disk_cache, parts, wait_until

PREFIX = "/api/v1/tiered/segments"
CHUNK = 64 << 10
SIZE = 700_000


@dataclass
class Served:
    """A daemon with an archived segment in chunks, a local one, and the objects."""

    running: Daemon
    broker: Broker
    objects: Objects
    store: Path
    archived: str
    local: str
    large: str

    def url(self, path: str) -> str:
        return f"{self.running.wait_serving()}{PREFIX}/{path}/data"

    def get(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.running.request(method, f"{PREFIX}/{path}/data", headers=named)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("data")
    broker = Broker(home / "data")
    broker.root.mkdir()
    (archived,) = broker.segments("orders-0", 1, size=SIZE)
    settings = directory_settings(broker, home / "store")
    assert command(settings, "run", "--once").returncode == 0
    assert broker.on_disk(archived) == []
    objects = Objects.of_directory(home / "store")
    objects.cut(archived, CHUNK, level=3)
    local = broker.segment("local-0", age_hours=0.0, size=SIZE)
    # More than the buffers of a connection take.
    large = broker.segment("large-0", age_hours=0.0)
    broker.overwrite(large, os.urandom(32 << 20))
    with daemon(settings, home / "log") as running:
        running.wait_logged("cycle")
        yield Served(running, broker, objects, home / "store", archived, local, large)
        running.require_alive()
        assert "Traceback" not in (home / "log").read_text()


@pytest.mark.parametrize("where", ["archived", "local"])
def test_the_whole_and_its_parts(served: Served, where: str) -> None:
    path = getattr(served, where)
    whole = served.broker.files[path]
    size = len(whole)
    answer = served.get(path)
    assert (answer.status_code, answer.content) == (200, whole)
    assert answer.headers["content-length"] == str(size)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-takhin-proof"] == {"archived": "chunk", "local": "local"}[where]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert re.fullmatch(r'"[0-9a-f-]+"', answer.headers["etag"])
    assert answer.headers["last-modified"].endswith(" GMT")
    for header, (start, end) in {
        "bytes=0-0": (0, 1),
        "bytes=100-199": (100, 200),
        f"bytes={CHUNK - 1}-{CHUNK}": (CHUNK - 1, CHUNK + 1),
        "bytes=-500": (size - 500, size),
        "bytes=500-": (500, size),
        f"bytes=0-{size * 2}": (0, size),
        f"bytes=-{size * 2}": (0, size),
    }.items():
        part = served.get(path, Range=header)
        assert (part.status_code, part.content) == (206, whole[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.headers["content-length"] == str(end - start)
        assert part.headers["etag"] == answer.headers["etag"]
    for header in ("bytes=0-1,5-6", "lines=0-1", "bytes=5-4", "nonsense"):
        several = served.get(path, Range=header)
        assert (several.status_code, several.content) == (200, whole)
        assert "content-range" not in several.headers
    for header in (f"bytes={size}-", "bytes=-0"):
        none = served.get(path, Range=header)
        assert (none.status_code, none.headers["content-range"]) == (416, f"bytes */{size}")
        assert none.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("where", ["archived", "local"])
def test_conditions_and_head(served: Served, where: str) -> None:
    path = getattr(served, where)
    whole = served.broker.files[path]
    head = served.get(path, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole))
    # Ranges are defined for GET only.
    assert served.get(path, "HEAD", Range="bytes=0-9").status_code == 200
    etag, modified = head.headers["etag"], head.headers["last-modified"]
    same = served.get(path, If_None_Match=etag)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert served.get(path, If_None_Match='"other"').status_code == 200
    assert served.get(path, Range="bytes=1-2", If_Range=etag).content == whole[1:3]
    for stale in ('"other"', f"W/{etag}", "Thu, 01 Jan 1970 00:00:00 GMT"):
        assert served.get(path, Range="bytes=1-2", If_Range=stale).content == whole
        # What is beyond the end of another file is no error.
        assert served.get(path, Range="bytes=99999999-", If_Range=stale).content == whole
    assert modified


def test_paths_and_incarnations(served: Served) -> None:
    path, whole = served.archived, served.broker.files[served.archived]
    assert served.get(path.replace("/", "%2F")).content == whole
    assert served.get(f"{path}@~0").content == whole
    named = served.running.request("GET", f"{PREFIX}/{path}/data", params={"topic_id": "~0"})
    assert named.content == whole
    unknown = served.running.request("GET", f"{PREFIX}/{path}/data", params={"topic_id": "A" * 22})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert served.get("orders-0/00000000000000099999.log").status_code == 404
    assert served.get("orders-0/nonsense").json()["code"] == "invalid_path"
    # The segment itself is still described.
    one = served.running.request("GET", f"{PREFIX}/{path}").json()
    assert one["segment_path"] == path


def test_curl_resumes(served: Served, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    whole, out = served.broker.files[served.archived], tmp_path / "out"
    url = served.url(served.archived)
    subprocess.run([curl, "-sf", "-r", "100-299", "-o", out, url], check=True)
    assert out.read_bytes() == whole[100:300]
    out.write_bytes(whole[:300_001])
    done = subprocess.run(
        [curl, "-sf", "-C", "-", "-o", out, "-w", "%{http_code}", url], capture_output=True, check=True
    )
    assert (out.read_bytes(), done.stdout) == (whole, b"206")


def test_the_document_has_it(served: Served) -> None:
    document = served.running.request("GET", "/openapi.json").json()
    described = document["paths"][PREFIX + "/{segment_path}/data"]
    assert {"get", "head"} <= set(described)
    assert {"200", "206", "304", "404", "416", "502", "503"} <= set(described["get"]["responses"])
    assert "Range" in {each["name"] for each in described["get"]["parameters"]}


def test_hits_and_misses_are_counted(served: Served) -> None:
    served.get(served.archived)
    stats = served.running.request("GET", "/api/v1/tiers/stats").json()
    assert set(stats) == {
        "hot_segments", "warm_segments", "cold_segments", "promotion_count", "demotion_count", "cache_hits",
        "cache_misses", "tracked_segments",
    }  # fmt: skip
    served.get(served.archived)
    more = served.running.request("GET", "/api/v1/tiers/stats").json()
    assert more["cache_hits"] > stats["cache_hits"] > 0
    assert more["cache_misses"] == stats["cache_misses"] > 0
    metrics = served.running.request("GET", "/metrics").text
    assert f"tiered_storage_cache_hits_total {more['cache_hits']}.0" in metrics
    assert re.search(r"^tiered_storage_cache_bytes [1-9]", metrics, re.MULTILINE)


@asynccontextmanager
async def in_process(
    broker: Broker, store: Path, *, level: int = 0, ring: KeyRing | None = None, chunk: int = CHUNK, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, TieredStorage, Objects, str]]:
    (path,) = broker.segments("orders-0", 1, size=SIZE)
    async with TieredStorage.open(directory_settings(broker, store, **changes)) as storage:
        await storage.archive_segment(path)
        objects = Objects.of_directory(store)
        objects.cut(path, chunk, level=level, ring=ring)
        transport = httpx.ASGITransport(make_app(storage, dict, Tokens(storage.settings)), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client, storage, objects, path


async def test_errors_before_the_first_byte_have_a_status_of_their_own(broker: Broker, tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with in_process(broker, store, ring=RING) as (client, storage, objects, path):
        url = f"{PREFIX}/{path}/data"
        missing = await client.get(url)
        assert (missing.status_code, missing.json()["code"]) == (502, "no_key")
        assert path in missing.json()["error"]
        assert "'k1'" in missing.json()["error"]
        assert (await client.head(url)).status_code == 502
        use_keys(storage, RING)
        assert (await client.get(url)).content == broker.files[path]
        good = objects.read(path)
        await disk_cache(storage).written()
    shutil.rmtree(tmp_path / "data.takhin-tiered" / "cache")
    async with TieredStorage.open(directory_settings(broker, store)) as storage:
        use_keys(storage, RING)
        transport = httpx.ASGITransport(make_app(storage, dict, Tokens(storage.settings)), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            store.rename(tmp_path / "away")
            down = await client.get(url)
            assert down.status_code == 503
            (tmp_path / "away").rename(store)
            objects.write(path, good[:50] + b"?" + good[51:])
            bad = await client.get(url)
            assert (bad.status_code, bad.json()["code"]) == (502, "damaged")
            assert "chunk 0 of the log" in bad.json()["error"]
            # Where the damage is not, nothing is wrong.
            assert (await client.get(url, headers={"Range": "bytes=-10"})).content == broker.files[path][-10:]
            one = (await client.get(f"{PREFIX}/{path}")).json()
            assert "chunk 0" in str(one)


async def test_a_segment_that_the_broker_rolled_after_the_last_scan_is_there(broker: Broker, tmp_path: Path) -> None:
    async with in_process(broker, tmp_path / "store") as (client, _, _, _):
        # Of a partition that is known, and of one that is not.
        for partition in ("orders-0", "fresh-0"):
            path = broker.segment(partition, age_hours=0.0)
            answer = await client.get(f"{PREFIX}/{path}/data")
            assert (answer.status_code, answer.content) == (200, broker.files[path])
        assert (await client.get(f"{PREFIX}/fresh-0/{7:020d}.log/data")).status_code == 404


def test_an_error_in_the_middle_does_not_look_like_success(broker: Broker, tmp_path: Path) -> None:
    (path,) = broker.segments("orders-0", 1, size=SIZE)
    settings = directory_settings(broker, tmp_path / "store")
    assert command(settings, "run", "--once").returncode == 0
    objects = Objects.of_directory(tmp_path / "store")
    objects.cut(path, CHUNK)
    stored = bytearray(objects.read(path))
    stored[-10] ^= 1
    objects.write(path, bytes(stored))
    with daemon(settings, tmp_path / "log") as running:
        whole = broker.files[path]
        with pytest.raises(httpx.RemoteProtocolError):
            running.request("GET", f"{PREFIX}/{path}/data")
        curl = subprocess.run(["curl", "-s", "-o", tmp_path / "out", f"{running.api}{PREFIX}/{path}/data"], check=False)
        assert curl.returncode == 18
        got = (tmp_path / "out").read_bytes()
        # Nothing of it is wrong, and the damaged chunk is not among it.
        assert whole.startswith(got)
        assert len(got) <= len(whole) - len(whole) % CHUNK
        running.wait_logged("an answer broke off")
        text = (tmp_path / "log").read_text()
        assert "Traceback" not in text
        assert "damaged" in text


def test_a_client_that_goes_away_ends_the_reading(served: Served) -> None:
    """Its files are closed, and its chunks let go."""
    host, port = served.running.wait_serving().removeprefix("http://").split(":")
    held = Path(f"/proc/{served.running.process.pid}/fd")

    def logs_open() -> int:
        names = []
        for each in held.iterdir():
            try:
                names.append(os.readlink(each))
            except FileNotFoundError:
                continue
        return sum(served.large in name for name in names)

    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"GET {PREFIX}/{served.large}/data HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(100)
        # It waits for this client.
        assert logs_open() == 1
    wait_until(lambda: logs_open() == 0, what="the end of the reading")
    assert served.get(served.large).content == served.broker.files[served.large]


async def test_a_client_that_goes_away_before_the_first_byte_cancels_the_get(broker: Broker, tmp_path: Path) -> None:
    async with in_process(broker, tmp_path / "store") as (_, storage, _, path):
        fetcher = storage._reader.fetcher
        begun, ended = asyncio.Event(), asyncio.Event()

        async def never(*_: Any, **__: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        parts(storage).store._inner.fetch_into = never  # type: ignore[attr-defined]  # what it wraps is private
        messages = asyncio.Queue[dict[str, Any]]()
        messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": f"{PREFIX}/{path}/data", "raw_path": b"", "query_string": b"",
            "headers": [], "client": ("test", 1), "server": ("test", 80), "scheme": "http", "http_version": "1.1",
            "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        asking = asyncio.create_task(make_app(storage, dict, Tokens(storage.settings))(scope, messages.get, send))
        await asyncio.wait_for(begun.wait(), 10)
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(asking, 10)
        await asyncio.wait_for(ended.wait(), 10)
        assert not any(chunk.users for chunk in fetcher.memory._chunks.values())
