"""One contract for every object store: memory, a directory, S3 on a real server, and MinIO where there is one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from takhin_tiered.codec.checksums import Checksum, Source, bytes_source, checksum_of
from takhin_tiered.errors import (
    BucketMissing,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    StoreUnavailable,
)
from takhin_tiered.pace import Pace
from takhin_tiered.store import DirectoryStore, FallbackStore, MemoryStore, ObjectStore
from takhin_tiered.store.deadlines import Deadlines
from takhin_tiered.store.landing import Seen, unseen
from takhin_tiered.store.s3 import S3Store, open_s3
from takhin_tiered.vault.proof import prove, read_checksum
from tests.support import REGION, Bucket, find_minio, free_port

_S3 = ["s3", *(["minio"] if find_minio() else [])]
BACKENDS = ["memory", "directory", *_S3, *(f"over-{name}" for name in ("memory", "directory", *_S3))]
PART = 5 << 20


@pytest_asyncio.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    backend = request.param.removeprefix("over-")
    is_over = backend != request.param
    if backend == "memory":
        yield FallbackStore(MemoryStore(), [MemoryStore(), MemoryStore()]) if is_over else MemoryStore()
    elif backend == "directory":
        for name in ("store", "older", "oldest"):
            (tmp_path / name).mkdir()
        opened = DirectoryStore(tmp_path / "store")
        others = [DirectoryStore(tmp_path / name, to_read=True) for name in ("older", "oldest")]
        yield FallbackStore(opened, others) if is_over else opened
    else:
        name = "minio_endpoint" if backend == "minio" else "s3_endpoint"
        endpoint = request.getfixturevalue(name)
        bucket = Bucket(endpoint, f"contract-{uuid4().hex[:16]}")
        bucket.client.create_bucket(Bucket=bucket.name)
        bucket.close()
        async with open_s3(bucket.name, region=REGION, prefix="some/prefix", endpoint=endpoint) as s3:
            yield FallbackStore(s3, [s3.to_read("some/older"), s3.to_read("oldest")]) if is_over else s3


async def put(store: ObjectStore, key: str, data: bytes, *, if_absent: bool = False, part_size: int = 0) -> None:
    source = bytes_source(data)
    checksum = checksum_of(source, len(data), part_size)
    info = await store.put(key, source, size=len(data), checksum=checksum, if_absent=if_absent)
    assert (info.key, info.size) == (key, len(data))
    assert info.sha256 in (None, checksum.sha256)


async def get(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    """As each of the ways to read gives it."""
    fetched = b"".join([piece async for piece in store.open(key, start, end)])
    seen = bytearray()
    with tempfile.TemporaryFile() as file:
        await store.fetch_into(key, file.fileno(), start=start, end=end, seen=seen.extend)
        # Zeros at the end are a hole that nobody has made yet.
        written = os.pread(file.fileno(), len(fetched), start).ljust(len(fetched), b"\0")
        assert fetched == seen == written
    if not start and end is not None:
        assert await store.read(key, limit=end) == fetched
    return fetched


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix)]


@pytest.mark.parametrize("size", [0, 1, 1000, 3 << 20])
async def test_what_is_put_is_got_back(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    await put(store, "orders-0/a.log", data)
    assert await get(store, "orders-0/a.log") == data
    assert await store.read("orders-0/a.log", limit=max(size, 1)) == data
    info = await store.head("orders-0/a.log")
    assert info is not None
    assert info.size == size
    assert info.sha256 in (None, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0, 4, b"0123"), (3, 6, b"345"), (7, None, b"789"), (0, 99, b"0123456789"),
                                   (10, None, b""), (99, None, b""), (4, 4, b"")]
)  # fmt: skip
async def test_a_range_gives_just_those_bytes(store: ObjectStore, start: int, end: int | None, expected: bytes) -> None:
    await put(store, "k", b"0123456789")
    assert await get(store, "k", start, end) == expected


@pytest.mark.parametrize("key", ["orders-0/a.log", "a b+c~%41%&?#=;:@$,!*'()/ä.log", ".hidden", "-/_"])
async def test_any_key_is_the_same_for_every_request(store: ObjectStore, key: str) -> None:
    # The first of them goes by the SDK, where there is one, and those after it go straight.
    assert await store.head(key) is None
    data = key.encode()
    await put(store, key, data)
    assert await get(store, key) == data
    assert [info.key async for info in store.list()] == [key]
    info = await store.head(key)
    assert info is not None
    assert abs(info.modified - time.time()) < 3600
    with pytest.raises(ObjectExists):
        await put(store, key, b"other", if_absent=True)
    assert await get(store, key) == data
    await store.delete([key])
    assert await store.head(key) is None
    with pytest.raises(ObjectMissing):
        await get(store, key)


async def test_wrong_bytes_are_refused_and_nothing_is_left(store: ObjectStore) -> None:
    wrong = Checksum(hashlib.sha256(b"other bytes").hexdigest())
    with pytest.raises(ObjectCorrupt):
        await store.put("k", bytes_source(b"these bytes"), size=11, checksum=wrong)
    assert await store.head("k") is None
    assert await keys(store) == []


async def require_nothing_unfinished(store: ObjectStore, tmp_path: Path) -> None:
    assert await store.remove_stale_uploads(0) == 0
    # A directory store leaves alone what a living process writes.
    assert list(tmp_path.glob("*/.takhin-tmp/*")) == []


async def test_a_wrong_part_is_refused_and_nothing_is_left(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(2 * PART)
    good = checksum_of(bytes_source(data), len(data), PART)
    changed = bytes_source(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises((ObjectCorrupt, StoreUnavailable)):
        await store.put("k", changed, size=len(data), checksum=good)
    assert await store.head("k") is None
    await require_nothing_unfinished(store, tmp_path)


async def test_a_body_that_ends_early_is_refused(store: ObjectStore) -> None:
    def short(offset: int, length: int) -> bytes:
        if offset >= 4:
            raise EOFError("the file became shorter")
        return b"abcd"[offset : offset + length]

    with pytest.raises((ObjectCorrupt, StoreUnavailable, EOFError)):
        await store.put("k", short, size=8, checksum=checksum_of(bytes_source(b"abcdefgh"), 8))
    assert await store.head("k") is None


async def test_a_conditional_write_leaves_what_is_there(store: ObjectStore) -> None:
    await put(store, "k", b"first", if_absent=True)
    with pytest.raises(ObjectExists):
        await put(store, "k", b"second", if_absent=True)
    assert await get(store, "k") == b"first"
    await put(store, "k", b"third")
    assert await get(store, "k") == b"third"


async def test_of_many_conditional_writes_one_wins(store: ObjectStore) -> None:
    results = await asyncio.gather(
        *(put(store, "k", b"writer %d" % number, if_absent=True) for number in range(8)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert await get(store, "k") == b"writer %d" % results.index(None)


@pytest.mark.parametrize("if_absent", [False, True])
async def test_an_object_in_parts_is_one_object(store: ObjectStore, tmp_path: Path, if_absent: bool) -> None:
    data = os.urandom(2 * PART + 12_345)
    await put(store, "big", data, part_size=PART, if_absent=if_absent)
    assert await get(store, "big") == data
    info = await store.head("big")
    assert info is not None
    digests = b"".join(hashlib.sha256(data[at : at + PART]).digest() for at in range(0, len(data), PART))
    assert info.sha256 in (None, f"{hashlib.sha256(digests).hexdigest()}-3")
    with pytest.raises(ObjectExists):
        await put(store, "big", os.urandom(2 * PART), part_size=PART, if_absent=True)
    assert await get(store, "big", 100, 110) == data[100:110]
    await require_nothing_unfinished(store, tmp_path)


async def test_an_object_that_was_copied_in_other_parts_is_proven_by_its_bytes(store: ObjectStore) -> None:
    data = os.urandom(2 * PART + 12_345)
    await put(store, "copied", data, part_size=2 * PART)
    await prove(store, "copied", len(data), checksum_of(bytes_source(data), len(data), PART), segment="")
    other = bytes([data[0] ^ 1]) + data[1:]
    with pytest.raises(ObjectCorrupt):
        await prove(store, "copied", len(data), checksum_of(bytes_source(other), len(data), PART), segment="")


async def test_a_cancelled_write_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(4 * PART)
    reading = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(offset: int, length: int) -> bytes:
        loop.call_soon_threadsafe(reading.set)
        return data[offset : offset + length]

    source: Source = slow
    checksum = checksum_of(bytes_source(data), len(data), PART)
    writing = asyncio.create_task(store.put("k", source, size=len(data), checksum=checksum))
    await reading.wait()
    writing.cancel()
    cancelled = isinstance((await asyncio.gather(writing, return_exceptions=True))[0], asyncio.CancelledError)
    # It may have been too late: then it is whole.
    assert cancelled == (await store.head("k") is None) or await get(store, "k") == data
    await require_nothing_unfinished(store, tmp_path)


async def test_a_listing_has_every_key_in_order_and_its_keys_can_be_used(store: ObjectStore) -> None:
    wanted = sorted(f"topic-{number % 7}/{number:05d}" for number in range(1203))
    for at in range(0, len(wanted), 40):
        await asyncio.gather(*(put(store, key, key.encode()) for key in wanted[at : at + 40]))
    assert await keys(store) == wanted
    assert await get(store, (await keys(store))[-1]) == wanted[-1].encode()
    await store.delete(wanted)
    assert await keys(store) == []


async def test_a_prefix_is_text_and_topic_1_slash_is_not_topic_10(store: ObjectStore) -> None:
    for key in ("topic-1/a", "topic-10/a", "topic-1/b"):
        await put(store, key, b"x")
    assert await keys(store, "topic-1/") == ["topic-1/a", "topic-1/b"]
    assert await keys(store, "topic-1") == ["topic-1/a", "topic-1/b", "topic-10/a"]


async def test_what_is_missing_is_missing(store: ObjectStore) -> None:
    assert await store.head("nothing") is None
    with pytest.raises(ObjectMissing):
        await get(store, "nothing")
    await put(store, "something", b"x")
    await store.delete(["nothing", "something"])
    assert await keys(store) == []


async def test_check_passes_on_a_store_that_is_there(store: ObjectStore) -> None:
    await store.check()
    assert store.address


async def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    gone = DirectoryStore(tmp_path / "not-mounted")
    with pytest.raises(BucketMissing, match="not-mounted"):
        await gone.check()
    with pytest.raises(BucketMissing):
        await put(gone, "k", b"x")
    assert not (tmp_path / "not-mounted").exists()


async def test_a_missing_bucket_is_told(s3_endpoint: str) -> None:
    async with open_s3("no-such-bucket", region=REGION, prefix="p", endpoint=s3_endpoint) as store:
        with pytest.raises(BucketMissing, match="no-such-bucket"):
            await store.check()
        with pytest.raises(BucketMissing):
            await put(store, "k", b"x")


async def test_nothing_listening_is_unavailable() -> None:
    async with open_s3("b-b", region=REGION, prefix="p", endpoint=f"http://127.0.0.1:{free_port()}") as store:
        with pytest.raises(StoreUnavailable, match="b-b"):
            await store.check()


async def test_a_server_that_never_answers_is_unavailable_at_the_deadline() -> None:
    hold = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    deadlines = Deadlines(connect=1, read=60, base=0.5)
    async with (
        server,
        open_s3("b-b", region=REGION, prefix="p", endpoint=f"http://127.0.0.1:{port}", deadlines=deadlines) as store,
    ):
        with pytest.raises(StoreUnavailable, match="no end after"):
            await store.check()
        hold.set()


async def test_no_credentials_are_told(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    async with open_s3("b-b", region=REGION, prefix="p", endpoint=s3_endpoint) as store:
        assert isinstance(store, S3Store)
        with pytest.raises(StoreDenied, match="AWS_ACCESS_KEY_ID"):
            await store.check()


@pytest.mark.parametrize("size", [0, 1000, 8 << 20, (8 << 20) + 1])
async def test_an_object_read_at_a_pace_has_the_same_checksum(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    await put(store, "paced", data)
    at_once, at_a_pace = await read_checksum(store, "paced", 0), await read_checksum(store, "paced", 0, Pace(1e12))
    assert at_once == at_a_pace == (size, hashlib.sha256(data).hexdigest())


@pytest_asyncio.fixture(params=["memory", "directory", "s3"])
async def layers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[ObjectStore]]:
    """A store's own prefix, and two that it is to read, each to be written to by itself."""
    if request.param == "memory":
        yield [MemoryStore() for _ in range(3)]
    elif request.param == "directory":
        for name in ("own", "older", "oldest"):
            (tmp_path / name).mkdir()
        yield [DirectoryStore(tmp_path / name) for name in ("own", "older", "oldest")]
    else:
        bucket = Bucket(request.getfixturevalue("s3_endpoint"), f"contract-{uuid4().hex[:16]}")
        bucket.client.create_bucket(Bucket=bucket.name)
        bucket.close()
        async with open_s3(bucket.name, region=REGION, prefix="own", endpoint=bucket.endpoint) as own:
            yield [own, own.to_read("older"), own.to_read("oldest")]


async def test_what_is_missing_is_read_from_the_others_in_order(layers: list[ObjectStore]) -> None:
    own, older, oldest = layers
    store = FallbackStore(own, [older, oldest])
    for at, key in enumerate(("a", "t-0/b", "t-0/c")):
        for number, layer in enumerate(layers[at:]):
            await put(layer, key, b"%d-%d" % (at, number) + bytes(at))
    for at, key in enumerate(("a", "t-0/b", "t-0/c")):
        wanted = b"%d-0" % at + bytes(at)
        assert await get(store, key) == await store.read(key) == wanted
        assert await get(store, key, 1, 3) == wanted[1:3]
        info = await store.head(key)
        assert info is not None
        assert info.size == len(wanted)
    assert [(info.key, info.size) async for info in store.list()] == [("a", 3), ("t-0/b", 4), ("t-0/c", 5)]
    assert await keys(store, "t-0/") == ["t-0/b", "t-0/c"]


async def test_what_is_written_and_deleted_is_its_own(layers: list[ObjectStore]) -> None:
    own, older, oldest = layers
    store = FallbackStore(own, [older, oldest])
    await put(older, "t-0/a", b"old")
    await put(store, "t-0/a", b"new", if_absent=True)
    assert (await get(store, "t-0/a"), await get(older, "t-0/a")) == (b"new", b"old")
    with pytest.raises(ObjectExists):
        await put(store, "t-0/a", b"newer", if_absent=True)
    await store.delete(["t-0/a"])
    assert await get(store, "t-0/a") == await get(older, "t-0/a") == b"old"
    assert (await keys(own), await keys(oldest)) == ([], [])


async def test_a_listing_over_others_is_in_order_without_duplicates(layers: list[ObjectStore]) -> None:
    everywhere = sorted(f"t-{number % 5}/{number:03d}" for number in range(60))
    for number, key in enumerate(everywhere):
        for bit, layer in enumerate(layers):
            if (number % 7 + 1) >> bit & 1:
                await put(layer, key, b"x")
    assert await keys(FallbackStore(layers[0], layers[1:])) == everywhere


async def test_nothing_of_another_owner_is_shown(layers: list[ObjectStore]) -> None:
    """Its record would be taken for a claim on this store's own prefix."""
    own, older, oldest = layers
    store = FallbackStore(own, [older, oldest])
    theirs = ["takhin-tiered.owner.json", "takhin-tiered.probe", "takhin-tiered.owner-2.json"]
    for key in theirs:
        await put(older, key, b"theirs")
    await put(oldest, "takhin-tiered.topic-0/a", b"a topic")
    for key in theirs:
        assert await store.head(key) is None
        with pytest.raises(ObjectMissing):
            await store.read(key)
        with pytest.raises(ObjectMissing):
            await get(store, key)
    await put(store, theirs[0], b"ours", if_absent=True)
    assert await keys(store) == [theirs[0], "takhin-tiered.topic-0/a"]
    assert await get(store, theirs[0]) == b"ours"


async def test_a_prefix_that_cannot_be_read_is_told_and_its_objects_are_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    store = FallbackStore(DirectoryStore(tmp_path / "own"), [DirectoryStore(tmp_path / "gone", to_read=True)])
    for question in (store.check(), store.head("t-0/a"), store.read("t-0/a"), keys(store)):
        with pytest.raises(BucketMissing, match="gone"):
            await question
    await put(store, "t-0/a", b"x")
    assert await get(store, "t-0/a") == b"x"


async def test_an_object_that_goes_in_the_middle_is_not_gone_on_with_elsewhere() -> None:
    class Breaking(MemoryStore):
        async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
            yield b"half"
            raise ObjectMissing("deleted meanwhile", key=key)

        async def fetch_into(
            self, key: str, file: int, *, start: int = 0, end: int | None = None, seen: Seen = unseen
        ) -> None:
            seen(memoryview(b"half"))
            raise ObjectMissing("deleted meanwhile", key=key)

    other = MemoryStore()
    await put(other, "t-0/a", b"whole")
    store = FallbackStore(Breaking(), [other])
    with pytest.raises(ObjectMissing, match="meanwhile"):
        await get(store, "t-0/a")
    with tempfile.TemporaryFile() as file, pytest.raises(ObjectMissing, match="meanwhile"):
        await store.fetch_into("t-0/a", file.fileno())


async def test_what_a_server_can_do_is_told(store: ObjectStore, request: pytest.FixtureRequest) -> None:
    await put(store, "k", b"data", if_absent=True)
    found = await store.capabilities()
    if request.node.callspec.params["store"].removeprefix("over-") in {"memory", "directory"}:
        assert found is None
        return
    assert found is not None
    told = dict(found.described())
    assert all(words for words in told.values())
    assert "not known yet" not in {words for title, words in told.items() if not title.startswith("Expect")}
    # What was asked with is gone.
    assert await keys(store) == ["k"]


async def test_an_upload_that_a_dead_process_began_is_removed_by_its_key_where_no_listing_shows_it(
    bucket: Bucket,
) -> None:
    """MinIO lists unfinished uploads of a whole key only."""
    for key in ("orders-0/begun", "orders-0/begun.too", "elsewhere"):
        prefix = "" if key == "elsewhere" else f"{bucket.prefix}/"
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=prefix + key)
    async with open_s3(bucket.name, region=REGION, prefix=bucket.prefix, endpoint=bucket.endpoint) as store:
        assert await store.remove_stale_uploads(3600, begun=["orders-0/begun"]) == 0
        removed = await store.remove_stale_uploads(0, lambda key: key.startswith("orders-0/"), ["orders-0/begun"])
        assert 1 <= removed <= 2
        left = bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix=f"{bucket.prefix}/orders-0/begun")
        assert f"{bucket.prefix}/orders-0/begun" not in [upload["Key"] for upload in left.get("Uploads", ())]
    others = bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix="elsewhere")
    assert [upload["Key"] for upload in others.get("Uploads", ())] == ["elsewhere"]
