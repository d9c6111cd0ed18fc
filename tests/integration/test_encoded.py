"""Archives that are compressed, encrypted or both: in and out, on a real S3 server and a directory."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports.zstd import decompress
from crc32c import crc32c
from pyzstd import SeekableZstdFile

from takhin_tiered import ConfigError, Damaged, NoKey, Settings, TakhinError, TieredStorage, WrongKey
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.reload import reload
from tests.faults.truth import Folder, Store
from tests.support import Broker, Bucket, command, directory_settings, environment, store_settings

MIB = 1 << 20
CHUNK = 1 / 16
"""Mebibytes: several chunks in a segment."""


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


class Place:
    """A broker and its store. ``settings`` adds to what encodes; ``key_file`` has one key, called ``first``."""

    def __init__(self, broker: Broker, store: Store, home: Path, settings: Callable[..., Settings]) -> None:
        self.broker, self.store, self.key_file, self._settings = broker, store, home / "keys", settings
        self.keys = {"first": new_key()}
        self.write_keys("first")

    def write_keys(self, *names: str) -> None:
        self.key_file.write_text("".join(f"{name} {self.keys[name]}\n" for name in names))

    def settings(self, how: str, **changes: Any) -> Settings:
        """``how``: ``plain``, ``zstd``, ``key`` or ``both``."""
        encoding: dict[str, Any] = {"chunk_size_mb": CHUNK}
        if how in {"zstd", "both"}:
            encoding["compression_codec"] = "zstd"
        if how in {"key", "both"}:
            encoding["encryption_key_file"] = self.key_file
        return self._settings(**(encoding | changes))

    def manifest(self, path: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.store.read(path.rpartition(".")[0] + ".manifest.json"))
        return document

    def entry(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest(path)["files"][path.rpartition(".")[2]]
        return found

    def objects(self) -> dict[str, bytes]:
        keys = self.store.keys()
        return {key: self.store.read(key) for key in keys}

    def change(self, key: str, change: Callable[[bytes], bytes]) -> None:
        self.store.write(key, change(self.store.read(key)))


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Place:
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        return Place(broker, bucket, tmp_path, lambda **changes: store_settings(broker, bucket, **changes))
    root = tmp_path / "store"
    return Place(broker, Folder(root), tmp_path, lambda **changes: directory_settings(broker, root, **changes))


@pytest.fixture
def folder(broker: Broker, tmp_path: Path) -> Place:
    root = tmp_path / "store"
    return Place(broker, Folder(root), tmp_path, lambda **changes: directory_settings(broker, root, **changes))


async def cycle(settings: Settings) -> None:
    async with TieredStorage.open(settings) as storage:
        assert (await storage.run_cycle()).failures == []


async def restore(settings: Settings, *paths: str) -> None:
    async with TieredStorage.open(settings) as storage:
        for path in paths:
            await storage.restore_segment(path)


@pytest.mark.parametrize("how", ["zstd", pytest.param("key", marks=pytest.mark.long), "both"])
@pytest.mark.parametrize("size", [20_000, 3 * MIB])
async def test_encoded_segments_come_back_byte_for_byte(place: Place, how: str, size: int) -> None:
    broker = place.broker
    broker.transactional = True
    closed = broker.segments("orders-0", 2, size=size)
    mtimes = {name: (broker.root / name).stat().st_mtime_ns for path in closed for name in broker.triple(path)}
    await cycle(place.settings(how))
    for path in closed:
        assert broker.on_disk(path) == []
        manifest, entry = place.manifest(path), place.entry(path)
        assert manifest["version"] == 3
        stored, plain = place.store.read(path), broker.files[path]
        assert (entry["size"], entry["plain"]["size"]) == (len(stored), len(plain))
        assert plain[:100] not in stored
        assert ("codec" in entry, "encryption" in entry) == (how != "key", how != "zstd")
        if how == "zstd":
            assert decompress(stored) == plain
            with SeekableZstdFile(io.BytesIO(stored), "r") as file:
                file.seek(len(plain) // 2)
                assert file.read(100) == plain[len(plain) // 2 :][:100]
        if how != "key":
            assert len(stored) < 0.7 * len(plain)
    await restore(place.settings(how), *closed)
    assert all(broker.is_whole(path) for path in closed)
    assert {name: (broker.root / name).stat().st_mtime_ns for name in mtimes} == mtimes
    # All that is known of it comes from the manifest: other settings change nothing, but for the key.
    async with TieredStorage.open(place.settings("key", chunk_size_mb=4, restore_lease_hours=0)) as storage:
        assert (await storage.run_cycle()).failures == []
        assert [problem async for verdict in storage.verify(deep=True) if (problem := verdict.problem)] == []


@pytest.mark.parametrize(("how", "chunk"), [("zstd", 4), pytest.param("key", 3, marks=pytest.mark.long), ("both", 0.3)])
async def test_large_files_go_in_parts_and_come_in_ranges(place: Place, how: str, chunk: float) -> None:
    (path,) = place.broker.segments("orders-0", 1, size=9000)
    place.broker.overwrite(path, b"".join(os.urandom(3000) + bytes(5000) for _ in range(10_000)))
    settings = place.settings(how, chunk_size_mb=chunk)
    await cycle(settings)
    entry = place.entry(path)
    assert entry["plain"]["part_size"] == 16 * MIB
    assert entry["part_size"] == (16 * MIB if how == "key" else 0)
    assert len(place.store.read(path)) == entry["size"]
    await restore(settings, path)
    assert place.broker.is_whole(path)
    if not isinstance(place.store, Folder):
        return
    # A flipped bit near the end, in the last of the ranges.
    (place.broker.root / path).unlink()
    place.change(path, lambda stored: stored[:-900] + bytes([stored[-900] ^ 4]) + stored[-899:])
    with pytest.raises(Damaged, match=f"chunk {len(entry['chunks']['stored']) - 1} of the log"):
        await restore(settings, path)
    assert not (place.broker.root / path).exists()
    assert not list(place.broker.root.rglob("*.takhin-tmp"))


@pytest.mark.long
@pytest.mark.parametrize("how", ["plain", "zstd", "key", "both"])
async def test_a_second_cycle_uploads_nothing_whatever_the_settings_are_by_then(folder: Place, how: str) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=MIB)
    await cycle(folder.settings(how, archive_mode="copy"))
    before = folder.objects()
    for other in ("plain", "zstd", "key", "both"):
        folder.keys["later"] = new_key()
        folder.write_keys("later", "first")
        async with TieredStorage.open(folder.settings(other, archive_mode="copy", chunk_size_mb=1)) as storage:
            # As after a catalog that was lost: the files have to be compared.
            await storage.rebuild()
            await storage.archive_segment(path)
            folder.broker.overwrite_time(path)
            await storage.archive_segment(path)
    assert folder.objects() == before
    # And where the local file may be unlinked, it is: it has the bytes that were archived.
    async with TieredStorage.open(folder.settings(how, archive_mode="move")) as storage:
        await storage.archive_segment(path)
    assert folder.broker.on_disk(path) == []
    assert folder.objects() == before


async def test_without_codec_and_key_objects_are_the_files_with_a_checksum_of_each_chunk(place: Place) -> None:
    closed = place.broker.segments("orders-0", 2, size=MIB)
    await cycle(place.settings("plain"))
    for path in closed:
        assert place.manifest(path)["version"] == 2
        for name in place.broker.triple(path):
            content = place.broker.files[name]
            assert place.store.read(name) == content
            chunks = place.entry(name)["chunks"]
            step = chunks["size"]
            assert step == 1 << 16
            pieces = [content[at : at + step] for at in range(0, len(content), step)]
            assert chunks == {"size": step, "crc32c": [f"{crc32c(piece):08x}" for piece in pieces]}


async def test_the_codec_of_a_topic_is_that_of_the_first_glob(folder: Place) -> None:
    for topic in ("orders", "images", "metrics"):
        folder.broker.segments(f"{topic}-0", 1, size=100_000)
    topics = {"images*": "none", "*a*": "zstd", "metrics": "zstd"}
    await cycle(folder.settings("plain", compression_topics=topics))
    codecs = {t: folder.entry(f"{t}-0/{0:020d}.log").get("codec") for t in ("orders", "images", "metrics")}
    assert codecs == {"orders": None, "images": None, "metrics": "zstd"}


async def test_what_is_not_compressible_is_stored_as_it_is_unless_encrypted(folder: Place) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=100_000)
    noise = os.urandom(3 * MIB)
    folder.broker.overwrite(path, noise)
    await cycle(folder.settings("zstd", archive_mode="copy"))
    assert folder.store.read(path) == noise
    assert "plain" not in folder.entry(path)
    (folder.broker.root / "orders-1").mkdir()
    (other,) = folder.broker.segments("orders-1", 1, size=100_000)
    folder.broker.overwrite(other, noise)
    await cycle(folder.settings("both"))
    assert len(folder.store.read(other)) < 1.01 * len(noise)
    assert "codec" not in folder.entry(other)
    await restore(folder.settings("both"), other)
    assert folder.broker.is_whole(other)


@pytest.mark.parametrize("how", ["zstd", "key", "both"])
@pytest.mark.parametrize("kind", ["empty", "tiny", "zeros", "sparse"])
async def test_empty_tiny_and_sparse_files(folder: Place, how: str, kind: str) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=9000)
    content = {
        "empty": b"",
        "tiny": b"x",
        "zeros": bytes(2 * MIB),
        "sparse": b"head" + bytes(5 * MIB) + os.urandom(1000) + bytes(70_000),
    }[kind]
    folder.broker.overwrite(path, content)
    # A sparse file becomes sparse again.
    with (folder.broker.root / path).open("r+b") as file:
        file.truncate(0)
        file.truncate(len(content))
        for at in range(0, len(content), 4096):
            if any(piece := content[at : at + 4096]):
                file.seek(at)
                file.write(piece)
    blocks = (folder.broker.root / path).stat().st_blocks
    folder.broker.overwrite_time(path)
    await cycle(folder.settings(how))
    stored, entry = folder.store.read(path), folder.entry(path)
    if kind == "empty":
        assert stored == b""
        assert entry["chunks"]["crc32c"] == []
    if kind in {"zeros", "sparse"} and how != "key":
        assert len(stored) < 10_000
    assert ("encryption" in entry) == (how != "zstd")
    await restore(folder.settings(how), path)
    assert folder.broker.is_whole(path)
    assert (folder.broker.root / path).stat().st_blocks <= blocks + 8


async def test_a_key_of_earlier_segments_is_still_used_after_a_rotation(place: Place) -> None:
    first = place.broker.segments("orders-0", 1, size=200_000)
    await cycle(place.settings("both"))
    place.keys["second"] = new_key()
    place.write_keys("second", "first")
    second = place.broker.segments("orders-1", 1, size=200_000)
    await cycle(place.settings("both"))
    ids = [place.entry(path)["encryption"]["key_id"] for path in (*first, *second)]
    assert ids == ["first", "second"]
    await restore(place.settings("both"), *first, *second)
    assert all(place.broker.is_whole(path) for path in (*first, *second))


def nothing_is_there(place: Place, path: str) -> bool:
    return place.broker.on_disk(path) == [] and not list(place.broker.root.rglob("*.takhin-tmp"))


@pytest.mark.parametrize("size", [20_000, MIB])
async def test_without_its_key_nothing_is_restored_and_the_key_is_named(place: Place, size: int) -> None:
    (path,) = place.broker.segments("orders-0", 1, size=size)
    await cycle(place.settings("both"))
    place.keys["second"] = new_key()
    place.write_keys("second")
    async with TieredStorage.open(place.settings("both")) as storage:
        with pytest.raises(NoKey, match=r"'first'.*has second") as no_key:
            await storage.restore_segment(path)
        # Neither scrub nor verify needs a key.
        assert [verdict.problem async for verdict in storage.verify(deep=True)] == [""]
        assert (await storage.scrub_segment(path)).problem == ""
    assert path in str(no_key.value)
    assert nothing_is_there(place, path)
    place.keys["first"] = new_key()
    place.write_keys("second", "first")
    async with TieredStorage.open(place.settings("both")) as storage:
        with pytest.raises(WrongKey, match="'first'") as wrong:
            await storage.restore_segment(path)
    assert path in str(wrong.value)
    assert nothing_is_there(place, path)
    async with TieredStorage.open(place.settings("plain")) as storage:
        with pytest.raises(NoKey, match=r"'first'.*is not set"):
            await storage.restore_segment(path)
    assert nothing_is_there(place, path)


@pytest.mark.parametrize("text", ["", "first AAAA\n", None])
async def test_a_key_file_that_makes_no_sense_stops_the_start(folder: Place, text: str | None) -> None:
    if text is None:
        folder.key_file.unlink()
    else:
        folder.key_file.write_text(text)
    with pytest.raises(ConfigError, match=r"encryption\.key\.file"):
        async with TieredStorage.open(folder.settings("both")):
            pass


def truncated(data: bytes) -> bytes:
    return data[:-1]


def longer(data: bytes) -> bytes:
    return data + b"\0"


def flipped_at_the_start(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def flipped_within(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


CHANGES = [truncated, longer, flipped_at_the_start, flipped_within]


@pytest.mark.parametrize("how", ["zstd", "key", "both"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [20_000, MIB])
async def test_a_damaged_object_is_never_restored(
    folder: Place, how: str, change: Callable[[bytes], bytes], size: int
) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=size)
    await cycle(folder.settings(how))
    folder.change(path, change)
    async with TieredStorage.open(folder.settings(how)) as storage:
        with pytest.raises(TakhinError) as raised:
            await storage.restore_segment(path)
        assert raised.value.code in {"damaged", "object_corrupt"}
        assert path in str(raised.value)
        assert nothing_is_there(folder, path)
        problems = [verdict.problem async for verdict in storage.verify(deep=True)]
        assert path in problems[0]


@pytest.mark.parametrize("how", ["zstd", "key", "both"])
async def test_swapped_chunks_and_chunks_of_other_segments_are_found(folder: Place, how: str) -> None:
    first, second = folder.broker.segments("orders-0", 2, size=MIB)
    folder.broker.overwrite(first, b"the first of the same length " * 20_000)
    folder.broker.overwrite(second, b"a second of the same length. " * 20_000)
    await cycle(folder.settings(how))
    stored, sizes = folder.store.read(first), folder.entry(first)["chunks"]["stored"]
    assert sizes[1] == sizes[2]
    a, b, c = sizes[0], sizes[0] + sizes[1], sizes[0] + sizes[1] + sizes[2]
    swapped = stored[:a] + stored[b:c] + stored[a:b] + stored[c:]
    assert stored[a:b] != stored[b:c]
    for bad in (swapped, folder.store.read(second)):
        folder.store.write(first, bad)
        async with TieredStorage.open(folder.settings(how)) as storage:
            with pytest.raises(TakhinError) as raised:
                await storage.restore_segment(first)
            assert first in str(raised.value)
        assert nothing_is_there(folder, first)
    folder.store.write(first, stored)
    await restore(folder.settings(how), first)
    assert folder.broker.is_whole(first)


@pytest.mark.parametrize("how", ["key", "both"])
async def test_a_chunk_with_a_forged_checksum_is_still_not_authentic(folder: Place, how: str) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=MIB)
    await cycle(folder.settings(how))
    entry = folder.entry(path)
    folder.change(path, flipped_at_the_start)
    manifest_key = path.replace(".log", ".manifest.json")
    changed = folder.store.read(path)[: entry["chunks"]["stored"][0]]
    manifest = folder.manifest(path)
    manifest["files"]["log"]["chunks"]["crc32c"][0] = f"{crc32c(changed):08x}"
    del manifest["crc32c"]
    folder.store.write(manifest_key, json.dumps(manifest).encode())
    async with TieredStorage.open(folder.settings(how)) as storage:
        with pytest.raises(Damaged, match=r"chunk 0 of the log.*not authentic"):
            await storage.restore_segment(path)
    assert nothing_is_there(folder, path)


MIXED = [("plain", "zstd"), ("zstd", "plain"), ("zstd", "both"), ("both", "key"), ("key", "plain"), ("plain", "both")]


@pytest.mark.parametrize(("before", "after"), MIXED)
async def test_a_later_generation_names_objects_of_other_encodings(folder: Place, before: str, after: str) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=400_000)
    await cycle(folder.settings(before, archive_mode="copy"))
    old = folder.broker.files[path]
    folder.broker.overwrite(path, old + b"written by a compaction")
    folder.keys["second"] = new_key()
    folder.write_keys("second", "first")
    # Without the key of the indexes the segment would not be evicted.
    await cycle(folder.settings(after, archive_mode="copy"))
    manifest = folder.manifest(path)
    assert manifest["generation"] == 2
    assert manifest["files"]["log"]["key"].endswith(".g2.log")
    # The indexes did not change, and stay as they were stored.
    assert not manifest["files"]["index"]["key"].endswith(".g2.index")
    assert manifest["version"] == (3 if any("plain" in file for file in manifest["files"].values()) else 2)
    await cycle(folder.settings("key"))
    assert folder.broker.on_disk(path) == []
    await restore(folder.settings("key"), path)
    assert folder.broker.is_whole(path)


async def test_a_topic_id_that_appears_later_does_not_lock_encrypted_files(folder: Place) -> None:
    """Chunks are bound to the topic ID that their manifest had: the next one, which names them too, has to keep it."""
    (path,) = folder.broker.segments("orders-0", 1, size=400_000)
    await cycle(folder.settings("both", archive_mode="copy"))
    (folder.broker.root / "orders-0/partition.metadata").write_text("version: 0\ntopic_id: 1HPDq9KPTmqeRsGSyBUSuA")
    folder.broker.overwrite(path, folder.broker.files[path] + b"more")
    await cycle(folder.settings("both"))
    manifest = folder.manifest(path)
    assert manifest["generation"] == 2
    assert manifest["files"]["index"]["key"] == path.replace(".log", ".index")
    await restore(folder.settings("both"), path)
    assert folder.broker.is_whole(path)


@pytest.mark.parametrize("how", ["plain", "zstd", "both"])
async def test_bytes_in_the_store_are_those_of_the_objects(place: Place, how: str) -> None:
    (path,) = place.broker.segments("orders-0", 1, size=MIB)
    local = sum(len(place.broker.files[name]) for name in place.broker.triple(path))
    settings = place.settings(how)
    await cycle(settings)
    stored = sum(len(place.store.read(name)) for name in place.broker.triple(path))
    for rebuilt in (False, True):
        if rebuilt:
            (settings.state_dir / "catalog.db").unlink()
        async with TieredStorage.open(settings) as storage:
            if rebuilt:
                await storage.rebuild()
            info = storage.segment(path)
            assert (info.archived_size_bytes, info.size_bytes) == (stored, local)
            assert storage.stats().archived_size_bytes == stored
            assert storage.status().archived_size_bytes == stored


async def test_a_bad_object_is_stored_again_from_the_disk_in_the_encoding_of_today(folder: Place) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=400_000)
    await cycle(folder.settings("both", archive_mode="copy"))
    folder.change(path, flipped_within)
    async with TieredStorage.open(folder.settings("zstd", archive_mode="copy")) as storage:
        assert (await storage.scrub_segment(path)).healed
    assert decompress(folder.store.read(folder.entry(path)["key"])) == folder.broker.files[path]
    await cycle(folder.settings("key"))
    await restore(folder.settings("key"), path)
    assert folder.broker.is_whole(path)


async def test_a_reload_takes_the_keys_and_the_codec_of_now(folder: Place) -> None:
    first = folder.broker.segments("orders-0", 1, size=100_000)
    settings = folder.settings("key")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
        folder.keys["second"] = new_key()
        folder.write_keys("second", "first")
        await reload(storage, Tokens(storage.settings), lambda: folder.settings("both"))
        second = folder.broker.segments("orders-1", 1, size=100_000)
        await storage.run_cycle()
        entries = [folder.entry(path) for path in (*first, *second)]
        assert [entry["encryption"]["key_id"] for entry in entries] == ["first", "second"]
        assert ["codec" in entry for entry in entries] == [False, True]
        for path in (*first, *second):
            await storage.restore_segment(path)
    assert all(folder.broker.is_whole(path) for path in (*first, *second))


async def test_a_key_file_that_became_bad_is_told_and_the_keys_before_stay(
    folder: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=100_000)
    async with TieredStorage.open(folder.settings("key")) as storage:
        folder.key_file.write_text("nonsense\n")
        await reload(storage, Tokens(storage.settings), lambda: folder.settings("both", archive_concurrency=7))
        told = "".join(capsys.readouterr())
        assert "the key file cannot be reloaded: the previous one stays in effect" in told
        assert "line 1" in told
        assert storage.settings.archive_concurrency != 7
        await storage.run_cycle()
        assert folder.entry(path)["encryption"]["key_id"] == "first"
        assert "codec" not in folder.entry(path)
        await storage.restore_segment(path)
    assert folder.broker.is_whole(path)


@pytest.mark.long
def test_doctor_and_config_check_look_at_the_key_file(folder: Place) -> None:
    settings = folder.settings("key")
    assert "encrypted with the key 'first'" in command(settings, "doctor").stdout
    assert command(settings, "config", "check").returncode == 0
    folder.key_file.write_text("first AAAA\n")
    failed, checked = command(settings, "doctor"), command(settings, "config", "check")
    assert (failed.returncode, checked.returncode) == (1, 2)
    for told in (failed.stdout, checked.stderr):
        assert "encryption.key.file: line 1 of" in told.replace("\n", " ")
        assert "AAAA" not in told
    started = command(settings, "run", "--once")
    assert started.returncode == 2
    assert "encryption.key.file" in started.stderr


@pytest.mark.parametrize("lost", ["missing", "another", "catalog too"])
async def test_nothing_is_unlinked_that_nobody_could_decrypt(folder: Place, lost: str) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=100_000)
    await cycle(folder.settings("key"))
    await restore(folder.settings("key", restore_lease_hours=0), path)
    before = folder.objects()
    first = folder.keys["first"]
    folder.keys |= {"first": new_key(), "second": new_key()}
    folder.write_keys(*(["second", "first"] if lost == "another" else ["second"]))
    settings = folder.settings("key", restore_lease_hours=0)
    if lost == "catalog too":
        (settings.state_dir / "catalog.db").unlink()
    for _ in range(2):
        async with TieredStorage.open(settings) as storage:
            report = await storage.run_cycle()
            assert [failed for failed, _ in report.failures] == [path]
            assert "'first'" in report.failures[0][1]
        assert folder.broker.is_whole(path)
    assert folder.objects() == before
    folder.keys["first"] = first
    folder.write_keys("second", "first")
    await cycle(settings)
    assert folder.broker.on_disk(path) == []
    assert folder.objects() == before


@pytest.mark.parametrize("then", ["key", "plain"])
async def test_what_a_broken_attempt_left_goes_and_its_keys_are_not_used_again(folder: Place, then: str) -> None:
    """Encrypted bytes are other ones each time: a write that arrives late must not take their place."""
    (path,) = folder.broker.segments("orders-0", 1, size=100_000)
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, str(root / "tests/faults/kill_launcher.py"), "run", "--once"],
        env=environment(folder.settings("key")) | {"TORTURE_POINT": "archive.before.manifest", "PYTHONPATH": str(root)},
        check=False,
        timeout=90,
    )
    assert killed.returncode == -signal.SIGKILL
    left = folder.objects()
    assert set(left) == set(folder.broker.triple(path))
    await cycle(folder.settings(then))
    assert {file["key"] for file in folder.manifest(path)["files"].values()} == {
        name.replace(".", ".g2.") for name in folder.broker.triple(path)
    }
    assert set(folder.objects()) & set(left) == set()
    await restore(folder.settings("key"), path)
    assert folder.broker.is_whole(path)


@pytest.mark.parametrize("how", ["key", "both"])
async def test_the_documented_program_decodes_an_object(folder: Place, tmp_path: Path, how: str) -> None:
    (path,) = folder.broker.segments("orders-0", 1, size=MIB)
    (folder.broker.root / "orders-0/partition.metadata").write_text("version: 0\ntopic_id: 1HPDq9KPTmqeRsGSyBUSuA")
    await cycle(folder.settings(how))
    text = (Path(__file__).parents[2] / "docs/object-format.md").read_text()
    program = text.partition("### Decode an object by hand")[2].partition("```python\n")[2].partition("```")[0]
    assert len(program.splitlines()) < 20
    (tmp_path / "manifest.json").write_text(json.dumps(folder.manifest(path)))
    (tmp_path / "object").write_bytes(folder.store.read(folder.entry(path)["key"]))
    folder.key_file.write_text(f"# a comment\n\n{folder.key_file.read_text()}")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "file").read_bytes() == folder.broker.files[path]
