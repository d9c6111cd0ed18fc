"""Logs that are made of parts of others: found byte for byte, or not at all."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing
from takhin_tiered.segments.chunks import Chunks
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.splice import Part, Span, covering, parse_parts, reaches, slices
from takhin_tiered.store.memory import MemoryStore
from takhin_tiered.vault.proof import log_of, prove_file
from takhin_tiered.vault.splicing import LocalLog, Matcher, NoMatchError, read_spliced, sources_of
from tests.rolled import base_of, batches, end_of, rolled, segment_files

COUNT = 24
BATCHES = batches(COUNT)
OWN = SegmentId("orders", 0, 0, f"~{'ab' * 16}.1")
SHA = "ab" * 32


def part(start: int = 0, end: int = 10, *, base: int = 0, size: int = 10) -> Part:
    identity = SegmentId("orders", 0, base)
    return Part(identity, identity.key(FileKind.LOG), size, SHA, 0, start, end)


def spliced(*parts: Part) -> Manifest:
    log = ManifestFile(OWN.key(FileKind.LOG), sum(map(len, parts)), SHA, 0, 5, 0o644, parts=parts)
    index = ManifestFile(OWN.key(FileKind.INDEX), 7, SHA, 0, 5, 0o644)
    return Manifest(OWN, {FileKind.LOG: log, FileKind.INDEX: index}, format="kafka", archived_at=5.0)


def test_such_a_manifest_is_read_as_it_is_written() -> None:
    manifest = spliced(part(3, 10), part(0, 4, base=50))
    read = Manifest.from_json(manifest.to_json(), key=OWN.manifest_key)
    assert read == manifest
    assert (read.version, replace(manifest, files={FileKind.INDEX: manifest.files[FileKind.INDEX]}).version) == (4, 2)
    assert (read.size, read.stored_size, read.objects) == (18, 7, [OWN.key(FileKind.INDEX)])
    assert read.in_short().stored_size == 7


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"start": 10}, "bytes 10 to 10"),
        ({"end": 11}, "bytes 0 to 11"),
        ({"start": -1}, "not a number of bytes"),
        ({"start": 1}, "no log of 10 bytes"),
        ({"sha256": "x"}, "not a SHA-256"),
        ({"part_size": 4}, "not a SHA-256"),
        ({"key": "orders-0/00000000000000000001.log"}, "not the key of the log of"),
        ({"key": "orders-0/00000000000000000000.index"}, "not the key of the log of"),
        ({"label": "../.."}, "not the key of the log of"),
        ({"label": OWN.label, "key": OWN.key(FileKind.LOG)}, "of this segment itself"),
        (
            {"segment": "orders-1/00000000000000000000.log", "key": "orders-1/00000000000000000000.log"},
            "another partition",
        ),
        ({"segment": "../etc/passwd"}, "not the path"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused(change: dict[str, Any], why: str) -> None:
    manifest = spliced(part())
    document = manifest.files[FileKind.LOG].to_json()
    [entry] = document["parts"]
    entry |= change
    whole = json.loads(manifest.to_json())
    del whole["crc32c"]
    whole["files"]["log"] = document
    with pytest.raises(ObjectCorrupt, match=why):
        Manifest.from_json(json.dumps(whole).encode(), key=OWN.manifest_key)


@pytest.mark.parametrize("entry", [{"parts": []}, {"parts": {}}, {"parts": [part().to_json()], "codec": "zstd"}])
def test_parts_that_make_no_log_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="parts"):
        parse_parts(entry, 10)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=6), st.data())
def test_a_range_of_a_spliced_log_stands_in_ranges_of_its_parts(
    cuts: list[tuple[int, int]], data: st.DataObject
) -> None:
    logs = [bytes(random.Random(number).randbytes(20)) for number in range(len(cuts))]
    parts = [part(start, start + length, size=20) for start, length in cuts]
    whole = b"".join(log[each.start : each.end] for log, each in zip(logs, parts, strict=True))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    found = list(slices(parts, start, end))
    assert b"".join(logs[number][first:last] for number, first, last in found) == whole[start:end]
    assert all(first < last for _, first, last in found)


def spans(*ranges: tuple[int, int]) -> list[Span]:
    return [Span(SegmentId("orders", 0, first), last) for first, last in ranges]


@pytest.mark.parametrize(
    ("archived", "first", "last", "expected", "whole"),
    [
        (spans((0, 99)), 0, 99, [0], True),
        (spans((0, 99), (100, 199), (200, 299)), 150, 250, [100, 200], True),
        (spans((0, 99), (100, 199), (200, 299)), 150, 350, [100, 200], False),
        (spans((100, 199)), 50, 150, [], False),
        # A hole is left to the bytes: compaction may have made it.
        (spans((0, 99), (150, 199)), 50, 180, [0, 150], True),
        # Of two that overlap, the next one begins behind the end of the first.
        (spans((0, 99), (50, 150), (100, 199)), 20, 180, [0, 100], True),
        (spans((0, 99), (50, 150)), 60, 140, [50], True),
        ([], 0, 10, [], False),
    ],
)
def test_which_segments_reach_over_a_range(
    archived: list[Span], first: int, last: int, expected: list[int], *, whole: bool
) -> None:
    run = covering(archived, first, last)
    assert ([span.id.base_offset for span in run], reaches(run, last)) == (expected, whole)


async def archive(store: MemoryStore, log: Sequence[bytes], *, with_index: bool = True, label: str = "") -> Manifest:
    """Some batches as an archived segment."""
    identity, files = SegmentId("orders", 0, base_of(log[0]), label), {}
    content = segment_files(log)
    for kind in (FileKind.LOG, FileKind.INDEX) if with_index else (FileKind.LOG,):
        data, key = content[kind], identity.key(kind)
        checksum = checksum_of(bytes_source(data), len(data))
        await store.put(key, bytes_source(data), size=len(data), checksum=checksum)
        chunks = Chunks(4096, tuple(crc32c(data[at : at + 4096]) for at in range(0, len(data), 4096)))
        files[kind] = ManifestFile(key, len(data), checksum.sha256, 0, 5, 0o644, chunks)
    manifest = Manifest(identity, files, format="kafka", last_offset=end_of(log[-1]) - 1, archived_at=5.0)
    await put_small(store, identity.manifest_key, manifest.to_json())
    return manifest


async def put_small(store: MemoryStore, key: str, data: bytes) -> None:
    await store.put(key, bytes_source(data), size=len(data), checksum=checksum_of(bytes_source(data), len(data)))


def local(log: Sequence[bytes]) -> LocalLog:
    data = b"".join(log)
    sha256 = checksum_of(bytes_source(data), len(data)).sha256
    return LocalLog(len(data), sha256, 0, "kafka", lambda at, length: data[at : at + length])


async def match(store: MemoryStore, log: Sequence[bytes], manifests: Sequence[Manifest]) -> tuple[Part, ...]:
    spans = [Span(each.id, each.end) for each in manifests]
    run = covering(spans, base_of(log[0]), end_of(log[-1]) - 1)
    return await Matcher(store, KeyRing(), lambda _: None).match(local(log), [span.id for span in run])


def cut(starts: Sequence[int]) -> list[list[bytes]]:
    ends = [*starts[1:], COUNT]
    return [BATCHES[start:end] for start, end in zip(starts, ends, strict=True)]


@pytest.mark.long
@given(one=st.integers(0, 999), other=st.integers(0, 999), with_index=st.booleans())
def test_each_segment_of_a_replica_is_found_in_those_of_another(one: int, other: int, *, with_index: bool) -> None:
    async def check() -> None:
        store = MemoryStore()
        manifests = [await archive(store, log, with_index=with_index) for log in cut(rolled(COUNT, seed=one))]
        for log in cut(rolled(COUNT, seed=other)):
            parts = await match(store, log, manifests)
            found = bytearray()
            manifest = replace(spliced(*parts), last_offset=1)
            await read_spliced(parts, await sources_of(store, manifest, KeyRing()), found.extend, lambda _: None)
            assert found == b"".join(log)
            await prove_file(store, OWN, manifest.log)

    asyncio.run(check())


@given(st.integers(0, 999), st.data())
def test_one_byte_that_differs_and_nothing_is_found(seed: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, COUNT - 2))
    mine = list(BATCHES[start : data.draw(st.integers(start + 1, COUNT))])
    number = data.draw(st.integers(0, len(mine) - 1))
    at = data.draw(st.integers(0, len(mine[number]) - 1))
    changed = bytearray(mine[number])
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    # The range of offsets stays that of the log, whatever its bytes say.
    first, last = base_of(mine[0]), end_of(mine[-1]) - 1
    mine[number] = bytes(changed)

    async def check() -> None:
        store = MemoryStore()
        manifests = [await archive(store, log) for log in cut(rolled(COUNT, seed=seed))]
        run = covering([Span(each.id, each.end) for each in manifests], first, last)
        with pytest.raises(NoMatchError):
            await Matcher(store, KeyRing(), lambda _: None).match(local(mine), [span.id for span in run])

    asyncio.run(check())


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_where_a_segment_is_missing_nothing_is_found(gone: int) -> None:
    store = MemoryStore()
    manifests = [await archive(store, log) for log in cut([0, 8, 16])]
    del manifests[gone]
    mine = BATCHES[4:20]
    spans = covering([Span(each.id, each.end) for each in manifests], base_of(mine[0]), end_of(mine[-1]) - 1)
    if gone == 0:
        assert not spans
    else:
        with pytest.raises(NoMatchError, match=r"has (other bytes|only the first)"):
            await Matcher(store, KeyRing(), lambda _: None).match(local(mine), [span.id for span in spans])


async def test_an_index_that_misleads_only_costs_time() -> None:
    store = MemoryStore()
    manifest = await archive(store, BATCHES)
    for wrong in (b"\0\0\0\1\0\0\0\7", b"\0\0\0\1\0\1\0\0", b"\xff" * 8, b""):
        index = manifest.files[FileKind.INDEX]
        checksum = checksum_of(bytes_source(wrong), len(wrong))
        await store.put(index.key, bytes_source(wrong), size=len(wrong), checksum=checksum)
        chunks = Chunks(4096, (crc32c(wrong),) if wrong else ())
        entry = replace(index, size=len(wrong), sha256=checksum.sha256, chunks=chunks)
        await put_small(
            store,
            manifest.id.manifest_key,
            replace(manifest, files={**manifest.files, FileKind.INDEX: entry}).to_json(),
        )
        [found] = await match(store, BATCHES[5:9], [manifest])
        assert (found.start, found.end) == (len(b"".join(BATCHES[:5])), len(b"".join(BATCHES[:9])))


async def test_what_is_no_log_is_found_nowhere() -> None:
    store = MemoryStore()
    manifest = await archive(store, BATCHES)
    data = b"no batch at all"
    wrong = LocalLog(len(data), SHA, 0, "kafka", lambda at, length: data[at : at + length])
    with pytest.raises(NoMatchError, match="does not begin with a batch"):
        await Matcher(store, KeyRing(), lambda _: None).match(wrong, [manifest.id])
    with pytest.raises(NoMatchError, match="no whole log of its format"):
        await match(store, BATCHES[3:5], [replace(manifest, id=replace(manifest.id, label="~1"))])


async def test_a_log_of_parts_is_not_looked_for_in_another_one() -> None:
    store = MemoryStore()
    manifest = await archive(store, BATCHES)
    parts = await match(store, BATCHES[:5], [manifest])
    other = replace(spliced(*parts), last_offset=99)
    await put_small(store, OWN.manifest_key, other.to_json())
    with pytest.raises(NoMatchError, match="no whole log of its format"):
        await match(store, BATCHES[2:4], [other])


async def test_a_part_is_found_in_whichever_generation_has_its_log() -> None:
    """Another replica may store the log anew, or archive other bytes: the part says which bytes are meant."""
    store = MemoryStore()
    manifest = await archive(store, BATCHES)
    [found] = await match(store, BATCHES[3:9], [manifest])
    assert await log_of(store, found) == manifest
    healed = replace(
        manifest, generation=2, files={FileKind.LOG: replace(manifest.log, key=manifest.id.key(FileKind.LOG, 2))}
    )
    await put_small(store, manifest.id.superseded_key(1), manifest.to_json())
    await put_small(store, manifest.id.manifest_key, healed.to_json())
    assert (await log_of(store, found)).generation == 2
    rewritten = replace(healed, generation=4, files={FileKind.LOG: replace(healed.log, sha256=SHA)})
    await put_small(store, manifest.id.manifest_key, rewritten.to_json())
    assert (await log_of(store, found)).generation == 1
    await store.delete([manifest.id.superseded_key(1)])
    with pytest.raises(ObjectMissing, match=r"no log of segment orders-0/0+\.log with SHA-256"):
        await log_of(store, found)
