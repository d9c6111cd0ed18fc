"""The manifest: read as it is written, and nothing else is taken for one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.segments.manifest import VERSION, Manifest, ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId

ID = SegmentId("my.dashed-topic", 12, 42)
SHA = "ab" * 32


def manifest() -> Manifest:
    return Manifest(
        ID,
        {
            FileKind.LOG: ManifestFile(ID.key(FileKind.LOG), 7, f"{SHA}-2", 4, 1_700_000_000_123_456_789, 0o640),
            FileKind.TIMEINDEX: ManifestFile(ID.key(FileKind.TIMEINDEX), 12, SHA, 0, 5, 0o644),
        },
        generation=3,
        format="kafka",
        first_offset=42,
        last_offset=99,
        first_timestamp=1_700_000_000_000,
        last_timestamp=1_700_000_000_999,
        archived_at=1_700_000_100.25,
        problem="the batch at byte 7 of the log fails its CRC",
    )


def read(data: bytes, key: str = ID.manifest_key) -> Manifest:
    return Manifest.from_json(data, key=key)


def document() -> dict[str, Any]:
    """Without its checksum, to be changed."""
    written: dict[str, Any] = json.loads(manifest().to_json())
    del written["crc32c"]
    return written


def test_a_manifest_is_read_as_it_is_written() -> None:
    assert read(manifest().to_json()) == manifest()
    unknown = replace(manifest(), first_offset=None, last_offset=None, first_timestamp=None, last_timestamp=None)
    assert read(unknown.to_json()) == unknown


def test_its_form_can_be_read_without_this_program() -> None:
    assert document() == {
        "version": 2,
        "segment": "my.dashed-topic-12/00000000000000000042.log",
        "topic": "my.dashed-topic",
        "partition": 12,
        "base_offset": 42,
        "generation": 3,
        "format": "kafka",
        "first_offset": 42,
        "last_offset": 99,
        "first_timestamp": 1_700_000_000_000,
        "last_timestamp": 1_700_000_000_999,
        "problem": "the batch at byte 7 of the log fails its CRC",
        "topic_id": "",
        "leader_epochs": [],
        "incarnation": {"label": "", "follows": None, "from_offset": 0},
        "kafka": False,
        "archived_at": "2023-11-14T22:15:00.250000+00:00",
        "files": {
            "log": {
                "key": "my.dashed-topic-12/00000000000000000042.log",
                "size": 7,
                "sha256": f"{SHA}-2",
                "part_size": 4,
                "mtime_ns": 1_700_000_000_123_456_789,
                "mode": "0640",
            },
            "timeindex": {
                "key": "my.dashed-topic-12/00000000000000000042.timeindex",
                "size": 12,
                "sha256": SHA,
                "part_size": 0,
                "mtime_ns": 5,
                "mode": "0644",
            },
        },
    }


def test_its_size_is_that_of_its_files() -> None:
    assert manifest().size == 19
    assert manifest().log.size == 7


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe{}",
        b"\0" * 100,
        b"<html>503 Slow Down</html>",
        manifest().to_json()[:-10],
        manifest().to_json() * 2,
        b"[" * 200_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_json_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(ObjectCorrupt) as caught:
        read(data)
    assert caught.value.key == ID.manifest_key
    assert "manifest" in str(caught.value)


NEW_IN_2 = {"topic_id", "leader_epochs", "kafka", "incarnation"}


def test_a_manifest_of_version_1_is_read_and_known_to_lack_something() -> None:
    old = {name: value for name, value in document().items() if name not in NEW_IN_2} | {"version": 1}
    found = read(json.dumps(old).encode())
    assert found == manifest()
    assert found.version == 1
    assert found.may_lack_files
    assert not manifest().may_lack_files


@pytest.mark.parametrize("value", [5, [1], [[1]], [[1, 2, 3]], [["1", 2]], [[True, 2]], "ab", None])
def test_leader_epochs_are_pairs_of_numbers(value: object) -> None:
    with pytest.raises(ObjectCorrupt):
        read(json.dumps(document() | {"leader_epochs": value}).encode())


@pytest.mark.parametrize("field", [name for name in document() if name not in {"problem", *NEW_IN_2}])
def test_a_missing_field_is_told_unless_it_only_repeats_another(field: str) -> None:
    cut = document()
    del cut[field]
    data = json.dumps(cut).encode()
    if field in {"topic", "partition", "base_offset"}:
        assert read(data) == manifest()
        return
    with pytest.raises(ObjectCorrupt, match=field):
        read(data)


@pytest.mark.parametrize("field", ["key", "size", "sha256", "part_size", "mtime_ns", "mode"])
def test_a_missing_field_of_a_file_is_told(field: str) -> None:
    cut = document()
    del cut["files"]["log"][field]
    with pytest.raises(ObjectCorrupt, match=field):
        read(json.dumps(cut).encode())


def test_a_manifest_from_before_problems_were_noted_is_read() -> None:
    cut = document()
    del cut["problem"]
    assert read(json.dumps(cut).encode()) == replace(manifest(), problem="")


def test_fields_of_nobody_are_passed_over() -> None:
    assert read(json.dumps({**document(), "written_by": "somebody"}).encode()) == manifest()


@pytest.mark.parametrize(
    "change",
    [
        {"version": None},
        {"version": "one"},
        {"version": []},
        {"version": float("inf")},
        {"segment": None},
        {"segment": 5},
        {"segment": "../x-0/00000000000000000000.log"},
        {"generation": None},
        {"generation": "x"},
        {"generation": float("inf")},
        {"generation": 0},
        {"generation": -1},
        {"generation": 2**40},
        {"first_offset": "first"},
        {"last_timestamp": []},
        {"archived_at": None},
        {"archived_at": 5},
        {"archived_at": "yesterday"},
        {"files": None},
        {"files": []},
        {"files": 5},
        {"files": {}},
        {"files": {"log": None}},
        {"files": {"log": []}},
        {"files": {"snapshot": document()["files"]["log"]}},
        {"files": {"timeindex": document()["files"]["timeindex"]}},
    ],
    ids=repr,
)
def test_values_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ObjectCorrupt):
        read(json.dumps({**document(), **change}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"size": None},
        {"size": "many"},
        {"size": float("inf")},
        {"size": -1},
        {"size": 2**70},
        {"part_size": -1},
        {"mtime_ns": 2**70},
        {"mtime_ns": "now"},
        {"mode": 416},
        {"mode": "rw-r--r--"},
        {"mode": "-644"},
        {"mode": "777777777777"},
        {"key": "other-0/00000000000000000000.log"},
        {"key": "../../etc/passwd"},
        {"sha256": "not hexadecimal"},
        {"sha256": ""},
        {"sha256": f"{SHA}-3"},
        {"part_size": 0},
        {"part_size": 1, "size": 1 << 40, "sha256": f"{SHA}-{1 << 40}"},
    ],
    ids=repr,
)
def test_values_that_make_no_sense_for_a_file_are_refused(change: dict[str, object]) -> None:
    """A damaged manifest is one bad segment: what is believed of it must fit the catalog and the store."""
    changed = document()
    changed["files"]["log"].update(change)
    with pytest.raises(ObjectCorrupt):
        read(json.dumps(changed).encode())


def test_a_later_version_is_refused_with_what_to_do() -> None:
    with pytest.raises(ObjectCorrupt, match=f"has version {VERSION + 1}.*supports versions up to {VERSION}") as caught:
        read(json.dumps({"version": VERSION + 1, "all": "different"}).encode())
    assert "later" in caught.value.hint


def test_a_manifest_under_the_key_of_another_segment_is_refused() -> None:
    other = SegmentId("other", 0, 42)
    with pytest.raises(ObjectCorrupt, match=re.escape(ID.path)) as caught:
        read(manifest().to_json(), other.manifest_key)
    assert caught.value.key == other.manifest_key


def test_a_manifest_without_a_log_is_refused() -> None:
    cut = document()
    del cut["files"]["log"]
    with pytest.raises(ObjectCorrupt, match=r"no \.log"):
        read(json.dumps(cut).encode())
