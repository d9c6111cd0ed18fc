"""Names, manifests, checksums, Kafka's format: pure."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from aiokafka.record.memory_records import MemoryRecords

from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.engine.upload import part_size_for
from takhin_tiered.errors import InvalidSegmentPath, ObjectCorrupt
from takhin_tiered.formats.kafka import summarize
from takhin_tiered.formats.sample import make_segment
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import (
    FileKind,
    SegmentId,
    parse_file,
    parse_manifest_key,
    parse_object_key,
    parse_partition,
)

ID = SegmentId("my.dashed-topic", 12, 42)


def test_a_path_is_read_as_it_is_written() -> None:
    assert ID.path == "my.dashed-topic-12/00000000000000000042.log"
    assert SegmentId.parse(ID.path) == ID
    assert ID.key(FileKind.INDEX) == "my.dashed-topic-12/00000000000000000042.index"
    assert ID.key(FileKind.LOG, 3) == "my.dashed-topic-12/00000000000000000042.g3.log"
    assert parse_manifest_key(ID.manifest_key) == ID
    assert parse_object_key(ID.key(FileKind.LOG, 3)) == (ID, FileKind.LOG)
    assert parse_object_key(ID.manifest_key) is None


@pytest.mark.parametrize(
    "path",
    ["", "/", "a-0", "../x-0/00000000000000000000.log", "a-0/../00000000000000000000.log", "a-0/0.log",
     "a-0/00000000000000000000.index", "a-01/00000000000000000000.log", "-0/00000000000000000000.log",
     "a/00000000000000000000.log", "a-0/00000000000000000000.log/", "a-0//00000000000000000000.log",
     "a b-0/00000000000000000000.log", "a-0/99999999999999999999.log", "a-9999999999/00000000000000000000.log",
     "a-0/00000000000000000000.log\n", "ä-0/00000000000000000000.log", "\0", "x" * 10_240,
     "a" * 250 + "-0/00000000000000000000.log", "..-0/00000000000000000000.log"],
)  # fmt: skip
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidSegmentPath):
        SegmentId.parse(path)


@pytest.mark.parametrize(
    "name",
    ["orders-0.1234abcd-delete", "orders-0.99-stray", "orders-0.99-future", "orders", "lost+found", "a-00", ".-0"],
)
def test_directories_that_are_no_live_partition(name: str) -> None:
    assert parse_partition(name) is None


@pytest.mark.parametrize(
    "name",
    ["00000000000000000000.log.deleted", "00000000000000000000.cleaned", "00000000000000000000.log.swap", "0.log",
     "00000000000000000000.snapshot", "00000000000000000000.txnindex", "audit.log", "00000000000000000000.logx"],
)  # fmt: skip
def test_files_that_are_no_part_of_a_triple(name: str) -> None:
    assert parse_file(name) is None


def manifest() -> Manifest:
    file = ManifestFile(ID.key(FileKind.LOG), 7, "ab" * 32, 0, 123, 0o640)
    return Manifest(ID, {FileKind.LOG: file}, archived_at=1.5, first_offset=42, problem="a batch fails its CRC")


def test_a_manifest_is_read_as_it_is_written() -> None:
    assert Manifest.from_json(manifest().to_json(), key=ID.manifest_key) == manifest()


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"files": {}}, {"files": None}, {"segment": "../x"}, {"archived_at": "?"}, {"generation": None},
     {"segment": "other-0/00000000000000000000.log"}, {"files": {"log": {"key": "k"}}}, {"version": None}],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(change: dict[str, object]) -> None:
    document = {**json.loads(manifest().to_json()), **change}
    with pytest.raises(ObjectCorrupt, match="manifest"):
        Manifest.from_json(json.dumps(document).encode(), key=ID.manifest_key)
    with pytest.raises(ObjectCorrupt):
        Manifest.from_json(manifest().to_json()[:-20], key=ID.manifest_key)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250, 300])
def test_a_checksum_in_parts_is_what_s3_makes_of_them(size: int) -> None:
    data = os.urandom(size)
    assert checksum_of(bytes_source(data), size).sha256 == hashlib.sha256(data).hexdigest()
    parts = [hashlib.sha256(data[at : at + 100]).digest() for at in range(0, max(size, 1), 100)]
    found = checksum_of(bytes_source(data), size, 100)
    assert found.sha256 == f"{hashlib.sha256(b''.join(parts)).hexdigest()}-{len(parts)}"
    assert found.parts == tuple(parts)


@pytest.mark.parametrize("size", [0, 64 << 20, (64 << 20) + 1, 1 << 30, 5 << 30, (5 << 30) + 1, 1 << 40])
def test_parts_are_at_most_ten_thousand_and_never_above_five_gib(size: int) -> None:
    part = part_size_for(size)
    assert (part == 0) == (size <= 64 << 20)
    assert part == 0 or (5 << 20 <= part <= 5 << 30 and -(-size // part) <= 10_000)


def test_a_log_is_what_kafkas_own_reader_sees() -> None:
    made = make_segment(1000, 60_000)
    records = MemoryRecords(made.log)
    offsets, times = [], []
    while batch := records.next_batch():
        assert batch.validate_crc()
        for record in batch:
            offsets.append(record.offset)
            times.append(record.timestamp)
    found = summarize(bytes_source(made.log), len(made.log), made.timeindex)
    assert (found.first_offset, found.last_offset) == (offsets[0], offsets[-1]) == (1000, made.next_offset - 1)
    assert (found.first_timestamp, found.last_timestamp) == (times[0], max(times))
    assert (found.format, found.problem) == ("kafka", "")


def test_damage_is_told_with_its_place() -> None:
    made = make_segment(0, 60_000)
    flipped = bytearray(made.log)
    flipped[-100] ^= 1
    assert "fails its CRC" in summarize(bytes_source(bytes(flipped)), len(flipped), b"").problem
    cut = made.log[:-7]
    assert f"of {len(cut)} of the log" in summarize(bytes_source(cut), len(cut), b"").problem
    assert summarize(bytes_source(b"no batch at all" * 9), 135, b"").format == "unknown"
    assert summarize(bytes_source(b""), 0, b"").format == "empty"
