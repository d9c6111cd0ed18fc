"""Records over HTTP and by the command line, with a daemon and without."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from takhin_tiered import Settings, TieredStorage
from takhin_tiered.api.app import make_app
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.reader.query import BATCHES, RecordQuery
from tests.logs import TIME, Log, Row, batch
from tests.partitions import Partition, Segment, Truth, decoded, make_partition
from tests.support import Broker, command, daemon, directory_settings, environment, parts

pytestmark = pytest.mark.long

RECORDS = "/api/v1/tiered/records"


def with_hole(broker: Broker) -> tuple[Partition, Segment]:
    made = make_partition("orders-0", 8, segments=4)
    lost = made.segments.pop(2)
    made.write(broker.root)
    return made, lost


def settings_of(broker: Broker, **changes: Any) -> Settings:
    changes = {"chunk_size_mb": 1 / 64, "archive_mode": "move"} | changes
    return directory_settings(broker, broker.root.parent / "store", **changes)


@asynccontextmanager
async def serving(broker: Broker, **changes: Any) -> AsyncIterator[tuple[httpx.AsyncClient, TieredStorage]]:
    async with TieredStorage.open(settings_of(broker, **changes)) as storage:
        transport = httpx.ASGITransport(
            make_app(storage, lambda: {"catalog": "", "store": ""}, Tokens(storage.settings))
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client, storage


async def test_the_answer_has_the_form_that_is_documented(broker: Broker) -> None:
    made, lost = with_hole(broker)
    truth = [each for each in made.known() if each.offset < lost.base]
    async with serving(broker) as (client, storage):
        for segment in made.segments:
            await storage.archive_segment(f"orders-0/{segment.base:020d}.log")
        answer = await client.get(RECORDS, params={"topic": "orders", "partition": 0, "offset": 0})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert set(body) == {"records", "next_offset"}
        visible = [each for each in truth if not each.is_control][:100]
        assert [each["offset"] for each in body["records"]] == [each.offset for each in visible][: len(body["records"])]
        for found, known in zip(body["records"], visible, strict=False):
            assert found == {
                "offset": known.offset,
                "timestamp": known.timestamp,
                "key": None if known.key is None else base64.b64encode(known.key).decode(),
                "value": None if known.value is None else base64.b64encode(known.value).decode(),
                "headers": [[n, None if v is None else base64.b64encode(v).decode()] for n, v in known.headers],
            }
        after = made.segments[2].base
        cases: list[tuple[dict[str, Any], int, str, dict[str, int | None]]] = [
            ({"offset": lost.base}, 404, "hole", {"next_offset": after}),
            ({"offset": made.end}, 200, "", {}),
            ({"offset": made.end + 1}, 404, "out_of_range", {"next_offset": None}),
            ({"offset": -1}, 400, "bad_request", {}),
            ({"timestamp": -1}, 400, "bad_request", {}),
            ({}, 400, "bad_request", {}),
            ({"offset": 0, "timestamp": 0}, 400, "bad_request", {}),
            ({"offset": "x"}, 400, "bad_request", {}),
            ({"offset": 0, "max_records": 0}, 400, "bad_request", {}),
            ({"offset": 0, "isolation": "dirty"}, 400, "bad_request", {}),
            ({"offset": 0, "partition": 7}, 404, "unknown_partition", {}),
            ({"offset": 0, "topic": "a/../b"}, 404, "unknown_partition", {}),
            ({"offset": 0, "topic_id": "nothing"}, 404, "not_found", {}),
        ]
        for asked, status, code, more in cases:
            params: dict[str, str | int] = {"topic": "orders", "partition": 0, **asked}
            answer = await client.get(RECORDS, params=params)
            assert answer.status_code == status, params
            if status == 200:
                assert answer.json() == {"records": [], "next_offset": made.end}
                continue
            body = answer.json()
            assert (body["code"], set(body) - {"next_offset"}) == (code, {"error", "code", "correlation_id"})
            assert {name: body[name] for name in more} == more


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
async def test_damage_is_502_and_named(broker: Broker, damage: str) -> None:
    made = make_partition("orders-0", 8)
    (path, *_) = made.write(broker.root)
    async with serving(broker) as (client, storage):
        await storage.archive_segment(path)
        file = broker.root.parent / "store" / path
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(data if damage == "flipped" else data[:-1])
        params: dict[str, str | int] = {"topic": "orders", "partition": 0, "offset": 0, "max_records": 10_000}
        answer = await client.get(RECORDS, params=params)
        assert (answer.status_code, answer.json()["code"]) == (502, "damaged")
        assert path in answer.json()["error"]
        assert "next_offset" not in answer.json()
        segment = next(iter(parts(storage).catalog.archived()))
        assert segment.quarantine


async def test_batches_of_a_log_are_streamed(broker: Broker) -> None:
    made, _ = with_hole(broker)
    async with serving(broker) as (client, _):
        params: dict[str, str | int] = {"topic": "orders", "partition": 0, "offset": made.segments[2].base}
        answer = await client.get(RECORDS, params=params, headers={"Accept": BATCHES})
        assert (answer.status_code, answer.headers["content-type"]) == (200, BATCHES)
        assert answer.content == made.segments[2].files["log"]
        params["offset"] = made.segments[1].base + 10_000
        answer = await client.get(RECORDS, params=params, headers={"Accept": BATCHES})
        assert (answer.status_code, answer.json()["code"]) == (404, "out_of_range")
        params["offset"] = made.end
        answer = await client.get(RECORDS, params=params, headers={"Accept": BATCHES})
        assert (answer.status_code, answer.content) == (200, b"")


async def test_an_error_within_a_stream_cuts_the_connection(broker: Broker, tmp_path: Path) -> None:
    made, lost = with_hole(broker)
    with daemon(settings_of(broker, enabled=False), tmp_path / "log") as running:
        address = running.wait_serving()
        got = bytearray()
        params: dict[str, str | int] = {"topic": "orders", "partition": "0", "offset": "0"}
        with (  # noqa: PT012 - it is raised between two pieces
            pytest.raises(httpx.RemoteProtocolError, match="incomplete"),
            httpx.stream("GET", address + RECORDS, params=params, headers={"Accept": BATCHES}) as answer,
        ):
            assert answer.status_code == 200
            for piece in answer.iter_raw():
                got += piece
        before = b"".join(segment.files["log"] for segment in made.segments if segment.base < lost.base)
        assert before.startswith(bytes(got))
        assert "Traceback" not in (tmp_path / "log").read_text()


@asynccontextmanager
async def longest_pause() -> AsyncIterator[list[float]]:
    """How long the event loop did nothing else, in seconds."""
    loop, found = asyncio.get_running_loop(), [0.0]

    async def look() -> None:
        last = loop.time()
        while True:
            await asyncio.sleep(0.001)
            now = loop.time()
            found[0] = max(found[0], now - last)
            last = now

    looking = asyncio.create_task(look())
    try:
        yield found
    finally:
        looking.cancel()


@pytest.mark.parametrize("codec", [0, 4])
@pytest.mark.parametrize("place", ["local", "archived"])
async def test_a_huge_batch_leaves_the_loop_to_others(broker: Broker, codec: int, place: str) -> None:
    # 100 MB of one record, and of a hundred thousand.
    log = Log(0)
    large = Row(0, TIME, b"k", bytes(range(256)) * 400_000)
    log.append(batch([large], codec=codec))
    log.append(batch([Row(1 + n, TIME, b"k", b"value " * 100) for n in range(100_000)], codec=codec))
    made = Partition("orders-0", [Segment(0, {"log": bytes(log.close().data)})], 100_001)
    (path,) = made.write(broker.root)
    async with serving(broker, chunk_size_mb=4, compression_codec="zstd") as (_, storage):
        if place == "archived":
            await storage.archive_segment(path)
        # Another process may take the processor for a moment: what our own work takes shows in the best of some tries.
        pauses: list[float] = []
        for _ in range(5):
            async with longest_pause() as pause:
                await read_huge(storage, large, len(log.data))
            # A value of 100 MB is made at once, whatever thread does it: nothing else takes that long.
            copied = time.perf_counter()
            assert len(bytes(memoryview(large.value or b""))) == 102_400_000
            pauses.append(pause[0] - 3 * (time.perf_counter() - copied))
            if pauses[-1] < 0.05:
                return
        raise AssertionError(f"others waited for the event loop for {min(pauses):.3f} s at least")


async def read_huge(storage: TieredStorage, large: Row, size: int) -> None:
    page = await storage.read_records(RecordQuery("orders", 0, 0), 1)
    assert page.records[0].value == large.value
    del page
    page = await storage.read_records(RecordQuery("orders", 0, 50_000), 10)
    assert [each.offset for each in page.records] == [*range(50_000, 50_010)]
    page = await storage.read_records(RecordQuery("orders", 0, timestamp=TIME), 1)
    found = 0
    async for piece in storage.read_batches(RecordQuery("orders", 0, 0)):
        found += len(piece)
    assert found == size


@contextmanager
def maybe_daemon(settings: Settings, log: Path, way: str) -> Iterator[None]:
    if way == "directly":
        yield
        return
    with daemon(settings, log) as running:
        running.wait_serving()
        yield


@pytest.mark.parametrize("way", ["directly", "daemon"])
def test_the_command_reads_in_every_form(broker: Broker, tmp_path: Path, way: str) -> None:
    made, lost = with_hole(broker)
    settings = settings_of(broker, enabled=False, api_token="secret" if way == "daemon" else "")
    after = made.segments[2].base
    truth = Truth(made.known(), made.end)
    visible, _ = truth.visible(committed=False)
    known = [each for each in visible if each.offset >= after]
    with maybe_daemon(settings, tmp_path / "log", way):

        def read(*arguments: str) -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                [sys.executable, "-m", "takhin_tiered", "read", "orders-0", *arguments],
                env=environment(settings), capture_output=True, check=False, timeout=60,
            )  # fmt: skip

        ended = read("--offset", str(after))
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert [json.loads(line)["offset"] for line in ended.stdout.splitlines()] == [each.offset for each in known]
        ended = read("--offset", str(after), "--format", "value")
        assert ended.stdout == b"".join((each.value or b"") + b"\n" for each in known)
        ended = read("--offset", str(after), "--format", "raw")
        assert (ended.returncode, ended.stdout) == (0, made.segments[2].files["log"])
        ended = read("--offset", "0", "--max", "3")
        assert [json.loads(line)["offset"] for line in ended.stdout.splitlines()] == [e.offset for e in visible[:3]]
        ended = read("--offset", str(after), "--key", "key of 3")
        keyed = [each.offset for each in known if each.key == b"key of 3"]
        assert [json.loads(line)["offset"] for line in ended.stdout.splitlines()] == keyed != []
        ended = read("--offset", str(after), "--isolation", "read_committed", "--format", "raw")
        assert decoded(ended.stdout) == [e for e in truth.visible(committed=True)[0] if e.offset >= after]
        # From a time on: the first one that is not older.
        when = known[5].timestamp
        ended = read("--timestamp", str(when), "--max", "1")
        first = truth.at_time(when)
        assert first is not None
        if first < lost.base:
            assert json.loads(ended.stdout)["offset"] == next(e.offset for e in visible if e.offset >= first)
        ended = read("--timestamp", "2001-01-01T00:00:00Z", "--max", "1")
        assert json.loads(ended.stdout)["offset"] == visible[0].offset
        # The end is no error, and a hole is one.
        ended = read("--offset", str(made.end))
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
        before = [each.offset for each in visible if each.offset < lost.base]
        for form in ("json", "raw"):
            ended = read("--offset", "0", "--format", form)
            assert ended.returncode == 1
            told = b" ".join(ended.stderr.split()).decode()
            assert f"offsets {lost.base} to {after - 1} of orders-0" in told
            assert f"The next one that can be read is {after}" in told
            lines = ended.stdout.splitlines() if form == "json" else []
            assert [json.loads(line)["offset"] for line in lines] == (before if form == "json" else [])
            if form == "raw":
                assert [each.offset for each in decoded(ended.stdout) if not each.is_control] == before
        for arguments, status in (
            (("--offset", str(made.end + 1)), 1), (("--offset", "0", "--topic-id", "none"), 1),
            (("--offset", "0", "--timestamp", "0"), 2), ((), 2), (("--offset", "-1"), 2),
            (("--timestamp", "yesterday"), 2), (("--offset", "0", "--format", "raw", "--max", "1"), 2),
        ):  # fmt: skip
            ended = read(*arguments)
            assert (ended.returncode, ended.stdout) == (status, b""), arguments
            assert b"Traceback" not in ended.stderr
            assert ended.stderr


@pytest.mark.parametrize("way", ["directly", "daemon"])
def test_a_reader_that_leaves_and_a_full_disk(broker: Broker, tmp_path: Path, way: str) -> None:
    made = make_partition("orders-0", 8)
    made.write(broker.root)
    settings = settings_of(broker, enabled=False)
    program = f"{sys.executable} -m takhin_tiered read orders-0 --offset 0"
    with maybe_daemon(settings, tmp_path / "log", way):
        for form in ("json", "value", "raw"):
            read = f"{program} --format {form}"
            ended = subprocess.run(
                ["bash", "-c", f"{read} | head -c 10 | wc -c; {read} > /dev/full"],
                env=environment(settings), capture_output=True, text=True, check=False, timeout=100,
            )  # fmt: skip
            assert ended.stdout.strip() == "10"
            assert ended.returncode == 1
            assert ended.stderr.splitlines() == ["Error: standard output cannot be written: No space left on device"]


def test_help_ends_in_examples(broker: Broker) -> None:
    ended = command(settings_of(broker), "read", "--help")
    assert "Examples:" in ended.stdout
    assert "takhin-tiered read orders-0 --offset" in ended.stdout
