"""Names: what is a segment's path or key, and what is not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.errors import InvalidSegmentPath
from takhin_tiered.segments.names import (
    MAX_OFFSET,
    MAX_PARTITION,
    TEMP_SUFFIX,
    FileKind,
    SegmentId,
    is_ours,
    is_replica_name,
    parse_adoption_key,
    parse_file,
    parse_manifest_key,
    parse_mark_key,
    parse_object_key,
    parse_partition,
    segment_of,
)

ZERO = "00000000000000000000"
topics = st.from_regex(r"[a-zA-Z0-9._-]{1,249}", fullmatch=True).filter(lambda topic: topic not in {".", ".."})
identities = st.builds(SegmentId, topics, st.integers(0, MAX_PARTITION), st.integers(0, MAX_OFFSET))


@given(identities, st.sampled_from(FileKind), st.integers(1, 10**6))
def test_a_name_is_read_as_it_is_written(identity: SegmentId, kind: FileKind, generation: int) -> None:
    assert SegmentId.parse(identity.path) == identity
    assert parse_manifest_key(identity.manifest_key) == identity
    assert parse_object_key(identity.key(kind, generation)) == (identity, kind)
    assert parse_file(identity.file(kind)) == (identity.base_offset, kind)
    assert parse_partition(identity.directory) == (identity.topic, identity.partition)
    assert is_ours(identity.manifest_key)
    assert is_ours(identity.key(kind, generation))


@given(identities, st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), st.sampled_from(["", "~3"]))
def test_the_records_of_replicas_stand_beside_their_segment(identity: SegmentId, name: str, label: str) -> None:
    identity = replace(identity, label=label)
    adoption, mark = identity.adoption_key(name), identity.mark_key(name, "n0nce")
    assert is_replica_name(name)
    assert parse_adoption_key(adoption) == (identity, name)
    assert parse_mark_key(mark) == (identity, name, "n0nce")
    for key in (adoption, mark):
        assert is_ours(key)
        assert key.startswith(identity.stem)
        # No object, and no manifest: earlier releases leave it alone.
        assert segment_of(key) is None
    assert parse_adoption_key(mark) is None
    assert parse_mark_key(adoption) is None
    # A segment's adoption records are listed before its manifest.
    assert adoption < identity.manifest_key


@given(identities, st.sampled_from(FileKind), st.integers(1, 9))
def test_keys_tell_their_segment(identity: SegmentId, kind: FileKind, generation: int) -> None:
    keys = [identity.key(kind, generation), identity.manifest_key, identity.superseded_key(generation)]
    assert [segment_of(key) for key in keys] == [identity] * 3
    assert all(key.startswith(identity.stem) for key in keys)


@given(st.text())
def test_no_text_at_all_breaks_a_parser(text: str) -> None:
    for found in (parse_manifest_key(text), parse_object_key(text), parse_file(text), parse_partition(text)):
        assert found is None or re.fullmatch(r"[a-zA-Z0-9._/-]+", text)
    try:
        identity = SegmentId.parse(text)
    except InvalidSegmentPath:
        return
    assert identity.path == text


def test_the_forms_are_those_of_the_contract() -> None:
    identity = SegmentId("orders", 3, 42)
    assert identity.path == "orders-3/00000000000000000042.log"
    assert identity.manifest_key == "orders-3/00000000000000000042.manifest.json"
    assert [identity.key(kind) for kind in FileKind] == [
        "orders-3/00000000000000000042.log",
        "orders-3/00000000000000000042.index",
        "orders-3/00000000000000000042.timeindex",
        "orders-3/00000000000000000042.txnindex",
        "orders-3/00000000000000000042.snapshot",
    ]
    assert identity.key(FileKind.LOG, 2) == "orders-3/00000000000000000042.g2.log"


@pytest.mark.parametrize(
    ("directory", "topic", "partition"),
    [
        ("a-b-c-7", "a-b-c", 7),
        ("a--7", "a-", 7),
        ("orders-1-1", "orders-1", 1),
        ("com.example.orders-0", "com.example.orders", 0),
        ("...-0", "...", 0),
        ("_-0", "_", 0),
        ("__consumer_offsets-49", "__consumer_offsets", 49),
        ("-a-0", "-a", 0),
        ("--0", "-", 0),
        ("a-2147483647", "a", MAX_PARTITION),
        ("x" * 249 + "-0", "x" * 249, 0),
    ],
)
def test_dashes_and_dots_belong_to_the_topic(directory: str, topic: str, partition: int) -> None:
    identity = SegmentId.parse(f"{directory}/{ZERO}.log")
    assert (identity.topic, identity.partition) == (topic, partition)


@pytest.mark.parametrize(
    "directory",
    [
        "",
        "-0",
        "a",
        "a-",
        "a-00",
        "a-01",
        "a--1x",
        "a-+1",
        "a- 1",
        "a-1 ",
        "a-1\n",
        "a-1\0",
        "a-\u0661",
        "a-\u00b2",
        "\u00e4-0",
        "a b-0",
        "a/b-0",
        "a\\b-0",
        "a:b-0",
        ".-0",
        "..-0",
        ".",
        "..",
        "a-2147483648",
        "a-9999999999",
        "a-99999999999999999999",
        "x" * 250 + "-0",
        "orders-0.0123456789abcdef0123456789abcdef-delete",
        "orders-0.0123456789abcdef0123456789abcdef-stray",
        "orders-0.0123456789abcdef0123456789abcdef-future",
        "lost+found",
        "x" * 10_240,
        "x" * 10_240 + "-0",
        "-0" * 5_120 + "x",
    ],
)
def test_what_is_no_live_partition(directory: str) -> None:
    assert parse_partition(directory) is None
    for kind in FileKind:
        assert parse_object_key(f"{directory}/{ZERO}.{kind}") is None
    assert parse_manifest_key(f"{directory}/{ZERO}.manifest.json") is None
    with pytest.raises(InvalidSegmentPath):
        SegmentId.parse(f"{directory}/{ZERO}.log")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".log",
        "0.log",
        "0" * 19 + ".log",
        "0" * 21 + ".log",
        f"{ZERO}",
        f"{ZERO}.",
        f"{ZERO}.LOG",
        f"{ZERO}.logs",
        f"{ZERO}.log ",
        f"{ZERO}.log\n",
        f"{ZERO}.log\0",
        f" {ZERO}.log",
        f"{ZERO}.log.deleted",
        f"{ZERO}.log.cleaned",
        f"{ZERO}.log.swap",
        f"{ZERO}.snapshot.deleted",
        f"{ZERO}.log{TEMP_SUFFIX}",
        f"{ZERO}.manifest.json",
        "-0000000000000000001.log",
        "+0000000000000000001.log",
        "0000000000000000000x.log",
        "0000000000000000000\u0661.log",
        "09223372036854775808.log",
        "99999999999999999999.log",
        "audit.log",
        "x" * 10_240,
        "0" * 10_240 + ".log",
    ],
)
def test_what_is_no_file_of_a_triple(name: str) -> None:
    assert parse_file(name) is None
    assert parse_object_key(f"orders-0/{name}") is None
    with pytest.raises(InvalidSegmentPath):
        SegmentId.parse(f"orders-0/{name}")


def test_the_largest_offset_is_that_of_kafka() -> None:
    assert parse_file("09223372036854775807.log") == (MAX_OFFSET, FileKind.LOG)


@pytest.mark.parametrize(
    "path",
    [
        f"/orders-0/{ZERO}.log",
        f"./orders-0/{ZERO}.log",
        f"../orders-0/{ZERO}.log",
        f"orders-0/../orders-0/{ZERO}.log",
        f"orders-0//{ZERO}.log",
        f"orders-0/{ZERO}.log/",
        f"data/orders-0/{ZERO}.log",
        f"orders-0\\{ZERO}.log",
        f"orders-0%2F{ZERO}.log",
        f"orders-0{ZERO}.log",
        f"orders-0/{ZERO}.index",
        f"orders-0/{ZERO}.timeindex",
        f"orders-0/{ZERO}.g2.log",
        "/etc/passwd",
        "~",
        "*",
    ],
)
def test_only_the_one_form_is_a_path(path: str) -> None:
    with pytest.raises(InvalidSegmentPath) as caught:
        SegmentId.parse(path)
    assert repr(path) in str(caught.value)
    assert "orders-0/00000000000000000000.log" in caught.value.hint


def test_a_long_path_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidSegmentPath) as caught:
        SegmentId.parse("\0" * 10_240)
    assert len(str(caught.value)) < 500
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        f"orders-0/{ZERO}.g.log",
        f"orders-0/{ZERO}.gx.log",
        f"orders-0/{ZERO}.2.log",
        f"prefix/orders-0/{ZERO}.log",
        f"/orders-0/{ZERO}.log",
        f"orders-0/{ZERO}.g2.g3.log",
        f"orders-0/{ZERO}.json",
        "takhin-tiered.owner.json",
        "",
    ],
)
def test_keys_of_others_are_not_ours(key: str) -> None:
    assert parse_object_key(key) is None
    assert parse_manifest_key(key) is None
    assert not is_ours(key)


def test_a_manifest_is_no_object_of_a_file_and_the_reverse() -> None:
    identity = SegmentId("orders", 0, 0)
    assert parse_object_key(identity.manifest_key) is None
    assert parse_manifest_key(identity.key(FileKind.LOG)) is None


def test_segments_sort_by_topic_partition_and_number() -> None:
    ordered = [SegmentId("a", 2, 5), SegmentId("a", 10, 1), SegmentId("a", 10, 9), SegmentId("a", 10, 10)]
    shuffled = [ordered[2], ordered[0], ordered[3], ordered[1]]
    assert sorted(shuffled) == ordered
