"""Records, read in place: every offset and many timestamps, against what aiokafka decodes of the broker's own files."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.errors import Damaged, OffsetInHole, OffsetOutOfRange, PartitionNotFound, SegmentNotFound
from takhin_tiered.formats.batch import Batch, parse_batch
from takhin_tiered.formats.records import decode
from takhin_tiered.formats.takhin import key_and_value, parse_record
from takhin_tiered.reader import cursor
from takhin_tiered.reader.query import Isolation, RecordQuery
from tests.logs import TIME, Log, batch, rows
from tests.partitions import (
    DAY,
    Known,
    Partition,
    Segment,
    Truth,
    as_known,
    as_seen,
    decoded,
    make_old_partition,
    make_partition,
    snapshot_of,
    write_segment,
)
from tests.support import Broker, directory_settings, parts

ENCODINGS = ["plain", "zstd", "key", "both"]
PLACES = ["archived", "copied", "local", "mixed"]


def encoded(how: str, home: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"chunk_size_mb": 1 / 64}
    if how in {"zstd", "both"}:
        found["compression_codec"] = "zstd"
    if how in {"key", "both"}:
        file = home / "keys"
        if not file.exists():
            file.write_text(f"first {base64.b64encode(os.urandom(32)).decode()}\n")
        found["encryption_key_file"] = file
    return found


@asynccontextmanager
async def served(
    broker: Broker, made: Partition, *, how: str = "plain", place: str = "archived", **changes: Any
) -> AsyncIterator[tuple[TieredStorage, list[str]]]:
    home = broker.root.parent
    paths = made.write(broker.root)
    mode = "copy" if place == "copied" else "move"
    settings = directory_settings(broker, home / "store", archive_mode=mode, **encoded(how, home), **changes)
    async with TieredStorage.open(settings) as storage:
        chosen = {"local": [], "mixed": paths[::2]}.get(place, paths)
        for path in chosen:
            await storage.archive_segment(path)
            assert (broker.root / path).exists() == (place == "copied")
        yield storage, paths


async def require_truth(
    storage: TieredStorage,
    name: str,
    truth: Truth,
    *,
    below: int | None = None,
    offsets: range | None = None,
    **more: Any,
) -> None:
    """Every offset in turn, and 200 timestamps, by both isolations."""
    topic, _, number = name.rpartition("-")
    chance = random.Random(3)
    for isolation in Isolation:
        committed = isolation is Isolation.READ_COMMITTED
        visible, end = truth.visible(committed=committed, below=below)

        async def require(wanted: int, question: RecordQuery, visible: list[Known] = visible, end: int = end) -> None:
            most = chance.choice([1, 3, 50])
            page = await storage.read_records(question, most)
            expected = [each for each in visible if each.offset >= wanted]
            assert as_seen(page.records) == as_known(expected[:most])
            if len(expected) > most:
                assert expected[most - 1].offset < page.next_offset <= expected[most].offset
            elif len(expected) < most:
                assert page.next_offset == (end if question.offset is None else max(end, wanted))

        high = truth.end if below is None else below
        for offset in offsets or range(truth.known[0].offset, high + 1):
            await require(offset, RecordQuery(topic, int(number), offset, isolation=isolation, **more))
        times = sorted({each.timestamp for each in truth.known})
        wanted = [
            0,
            times[0],
            times[-1],
            times[-1] + 1,
            *(t + d for t in chance.sample(times, min(60, len(times))) for d in (0, 1)),
        ]
        wanted += [chance.randrange(max(0, times[0] - DAY), times[-1] + DAY) for _ in range(200 - len(wanted))]
        for each in (max(0, time) for time in wanted):
            found = truth.at_time(each)
            await require(
                end if found is None else found,
                RecordQuery(topic, int(number), timestamp=each, isolation=isolation, **more),
            )


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ("plain", "archived"),
        ("both", "archived"),
        *(pytest.param(how, "archived", marks=pytest.mark.long) for how in ENCODINGS if how not in {"plain", "both"}),
        ("plain", "mixed"),
        ("both", "mixed"),
        *(pytest.param("both", place, marks=pytest.mark.long) for place in PLACES[1:3]),
    ],
)
async def test_every_offset_and_many_timestamps(broker: Broker, how: str, place: str) -> None:
    made = make_partition("orders-0", ENCODINGS.index(how) * 10 + PLACES.index(place))
    async with served(broker, made, how=how, place=place) as (storage, _):
        await require_truth(storage, "orders-0", Truth(made.known(), made.end))


@pytest.mark.long
@pytest.mark.parametrize("magic", [1, 0, -1])
@pytest.mark.parametrize("place", ["archived", "local"])
async def test_logs_of_older_formats_and_of_takhins(broker: Broker, magic: int, place: str) -> None:
    made = make_old_partition("orders-0", 5, magic)
    if magic >= 0:
        truth = Truth(made.known(), made.end)
    else:
        known = []
        for segment in made.segments:
            data = segment.files["log"]
            while data:
                record = parse_record(data, 0)
                assert record is not None
                known.append(
                    Known(
                        record.base_offset, record.base_timestamp, *key_and_value(data[: record.size]), [], None, False
                    )
                )
                data = data[record.size :]
        truth = Truth(known, made.end)
    async with served(broker, made, how="zstd", place=place) as (storage, _):
        await require_truth(storage, "orders-0", truth)


async def raw(storage: TieredStorage, question: RecordQuery) -> bytes:
    return b"".join([piece async for piece in storage.read_batches(question)])


@pytest.mark.parametrize("place", PLACES)
async def test_batches_are_those_of_the_log(broker: Broker, place: str) -> None:
    made = make_partition("orders-0", 77)
    whole = b"".join(segment.files["log"] for segment in made.segments)
    truth = Truth(made.known(), made.end)
    async with served(broker, made, how="both", place=place) as (storage, _):
        assert await raw(storage, RecordQuery("orders", 0, 0)) == whole
        for offset in random.Random(1).sample(range(made.end), 40):
            found = decoded(await raw(storage, RecordQuery("orders", 0, offset)))
            first = next(n for n, each in enumerate(truth.known) if each.offset >= found[0].offset)
            assert found == truth.known[first:]
            assert found[0].offset <= offset or truth.known[first].offset == found[0].offset
        committed, _ = truth.visible(committed=True)
        found = decoded(await raw(storage, RecordQuery("orders", 0, 0, isolation=Isolation.READ_COMMITTED)))
        assert found == committed


async def test_a_transaction_that_is_open_holds_back_what_is_behind_it(broker: Broker) -> None:
    made = Partition("orders-0")
    log = Log(0)
    log.append(batch(rows(0, 5)))
    log.append(batch(rows(5, 5), producer=7, transactional=True))
    log.append(batch(rows(10, 5)))
    first = Segment(0, {"log": bytes(log.close().data), "txnindex": b"", "snapshot": snapshot_of({})})
    log = Log(15)
    log.append(batch(rows(15, 5)))
    second = Segment(15, {"log": bytes(log.close().data), "txnindex": b"", "snapshot": snapshot_of({7: 5})})
    made.segments, made.end = [first, second], 20
    async with served(broker, made, place="mixed") as (storage, _):
        question = RecordQuery("orders", 0, 0, isolation=Isolation.READ_COMMITTED)
        page = await storage.read_records(question)
        assert ([each.offset for each in page.records], page.next_offset) == ([*range(5)], 5)
        page = await storage.read_records(RecordQuery("orders", 0, 12, isolation=Isolation.READ_COMMITTED))
        assert (page.records, page.next_offset) == ([], 12)
        assert len((await storage.read_records(RecordQuery("orders", 0, 0))).records) == 20


async def test_holes_are_told_and_never_skipped(broker: Broker) -> None:
    made = make_partition("orders-0", 8, segments=4, gaps=False, transactions=False)
    lost = made.segments.pop(1)
    after = made.segments[1].base
    async with served(broker, made) as (storage, _):
        page = await storage.read_records(RecordQuery("orders", 0, 0), 10_000)
        assert page.next_offset == lost.base
        assert page.records[-1].offset == lost.base - 1
        for offset in range(lost.base, after):
            with pytest.raises(OffsetInHole, match=f"offsets {lost.base} to {after - 1}") as hole:
                await storage.read_records(RecordQuery("orders", 0, offset))
            assert (hole.value.next_offset, hole.value.missing_from) == (after, offset)
        assert (await storage.read_records(RecordQuery("orders", 0, after))).records[0].offset == after
        with pytest.raises(OffsetInHole):
            await raw(storage, RecordQuery("orders", 0, 0))
        # What is missing may be the first record that is not older.
        inside = max(each.timestamp for each in decoded(made.segments[0].files["log"])) + 1
        with pytest.raises(OffsetInHole) as hole:
            await storage.read_records(RecordQuery("orders", 0, timestamp=inside))
        assert hole.value.next_offset == after


@pytest.mark.parametrize("is_restored", [False, True], ids=["nothing", "the-first"])
async def test_nothing_is_missing_before_the_archive_is_known(broker: Broker, is_restored: bool) -> None:
    """Without its catalog, the program knows the local segments alone at first: an end of them, or none between two."""
    made = make_partition("orders-0", 8, segments=4, gaps=False, transactions=False)
    async with served(broker, made) as (storage, paths):
        if is_restored:
            await storage.restore_segment(paths[0])
    known, settings = made.known(), directory_settings(broker, broker.root.parent / "store")
    at = made.segments[2].base
    newest = max(known, key=lambda each: each.timestamp)

    @asynccontextmanager
    async def anew() -> AsyncIterator[TieredStorage]:
        shutil.rmtree(settings.state_dir)
        async with TieredStorage.open(settings) as storage:
            yield storage

    for isolation in Isolation:
        for offset in (0, at):
            async with anew() as storage:
                page = await storage.read_records(RecordQuery("orders", 0, offset, isolation=isolation), len(known))
                assert as_seen(page.records) == as_known([each for each in known if each.offset >= offset])
        async with anew() as storage:
            page = await storage.read_records(RecordQuery("orders", 0, timestamp=newest.timestamp, isolation=isolation))
            assert page.records[0].offset == newest.offset
    async with anew() as storage:
        assert await raw(storage, RecordQuery("orders", 0, 0)) == b"".join(each.files["log"] for each in made.segments)
    async with anew() as storage:
        stream, found = storage.logs.stream("orders", 0, 0, Isolation.READ_UNCOMMITTED), 0
        while (taken := await stream.take(1 << 20, at_least_one=True)).size:
            found += taken.size
        await stream.close()
        assert found == sum(len(each.files["log"]) for each in made.segments)


@pytest.mark.parametrize("place", ["copied", "local"])
async def test_a_batch_that_claims_to_be_longer_than_its_log_hides_no_record(broker: Broker, place: str) -> None:
    """A length stands outside the CRC, and a broker may be about to write the rest of a batch: not of this one."""
    made = Partition("orders-0")
    for base in (0, 20):
        log = Log(base)
        log.append(batch(rows(base, 10)))
        log.append(batch(rows(base + 10, 10)))
        made.segments.append(Segment(base, {"log": bytes(log.close().data)}))
    made.end = 40
    async with served(broker, made, place=place) as (storage, paths):
        # A look at the directory is believed for as long as its time stays, once that is not a recent one.
        os.utime(broker.root / "orders-0", (1e9, 1e9))
        assert len((await storage.read_records(RecordQuery("orders", 0, 0))).records) == 40
        file = broker.root / paths[0]
        status, data = file.stat(), bytearray(file.read_bytes())
        data[len(batch(rows(0, 10))) + 9] ^= 0x40
        file.write_bytes(data)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        for question in (
            RecordQuery("orders", 0, 0),
            RecordQuery("orders", 0, 12),
            RecordQuery("orders", 0, timestamp=TIME + 12),
            RecordQuery("orders", 0, 0, isolation=Isolation.READ_COMMITTED),
        ):
            with pytest.raises(Damaged, match="is no whole batch"):
                await storage.read_records(question)
        with pytest.raises(Damaged, match="is no whole batch"):
            await raw(storage, RecordQuery("orders", 0, 0))


async def test_a_log_that_was_truncated_meanwhile_hides_no_record(broker: Broker) -> None:
    made = Partition("orders-0")
    for base in (0, 20):
        log = Log(base)
        log.append(batch(rows(base, 10)))
        log.append(batch(rows(base + 10, 10)))
        made.segments.append(Segment(base, {"log": bytes(log.close().data)}))
    made.end = 40
    async with served(broker, made, place="local") as (storage, paths):
        os.utime(broker.root / "orders-0", (1e9, 1e9))
        assert len((await storage.read_records(RecordQuery("orders", 0, 0))).records) == 40
        os.truncate(broker.root / paths[0], len(batch(rows(0, 10))))
        page = await storage.read_records(RecordQuery("orders", 0, 0))
        assert ([each.offset for each in page.records], page.next_offset) == ([*range(10)], 10)
        for question in (RecordQuery("orders", 0, 12), RecordQuery("orders", 0, timestamp=TIME + 12)):
            with pytest.raises(OffsetInHole) as hole:
                await storage.read_records(question)
            assert hole.value.next_offset == 20


async def test_ends_and_beyond(broker: Broker) -> None:
    made = make_partition("orders-0", 8)
    async with served(broker, made) as (storage, _):
        end = made.end
        for question in (RecordQuery("orders", 0, end), RecordQuery("orders", 0, timestamp=TIME + 9999 * DAY)):
            page = await storage.read_records(question)
            assert (page.records, page.next_offset) == ([], end)
            assert await raw(storage, question) == b""
        with pytest.raises(OffsetOutOfRange, match=f"above the end, {end}") as beyond:
            await storage.read_records(RecordQuery("orders", 0, end + 1))
        assert beyond.value.next_offset is None
        with pytest.raises(PartitionNotFound, match="partition orders-1"):
            await storage.read_records(RecordQuery("orders", 1, 0))
        for name in ("..", "a/b", "a\0b", "../data/orders"):
            with pytest.raises(PartitionNotFound):
                await storage.read_records(RecordQuery(name, 0, 0))
        with pytest.raises(SegmentNotFound, match="no incarnation"):
            await storage.read_records(RecordQuery("orders", 0, 0, topic_id="AAAAAAAAAAAAAAAAAAAAAA"))


async def test_below_the_first_offset_the_first_one_is_told(broker: Broker) -> None:
    made = make_partition("orders-0", 8)
    first = made.segments.pop(0)
    start = made.segments[0].base
    async with served(broker, made) as (storage, _):
        with pytest.raises(OffsetOutOfRange) as below:
            await storage.read_records(RecordQuery("orders", 0, first.base))
        assert below.value.next_offset == start


async def test_a_partition_with_nothing_but_an_empty_active_segment(broker: Broker) -> None:
    Partition("orders-0").write(broker.root)
    async with TieredStorage.open(directory_settings(broker, broker.root.parent / "store")) as storage:
        for isolation in Isolation:
            for question in (
                RecordQuery("orders", 0, 0, isolation=isolation),
                RecordQuery("orders", 0, timestamp=0, isolation=isolation),
            ):
                page = await storage.read_records(question)
                assert (page.records, page.next_offset) == ([], 0)
        with pytest.raises(OffsetOutOfRange):
            await storage.read_records(RecordQuery("orders", 0, 1))


@pytest.mark.parametrize("place", ["local", "archived"])
async def test_an_empty_closed_segment_is_a_hole_where_offsets_are_missing(broker: Broker, place: str) -> None:
    made = make_partition("orders-0", 8, gaps=False, transactions=False)
    empty = made.segments[1]
    empty.files = {"log": b"", "index": b"", "timeindex": b""}
    after = made.segments[2].base
    async with served(broker, made, place=place) as (storage, _):
        page = await storage.read_records(RecordQuery("orders", 0, 0), 10_000)
        assert page.next_offset == empty.base
        with pytest.raises(OffsetInHole) as hole:
            await storage.read_records(RecordQuery("orders", 0, empty.base + 1))
        assert hole.value.next_offset == after


async def test_where_segments_overlap_no_record_comes_twice(broker: Broker) -> None:
    made = make_partition("orders-0", 8, segments=2, gaps=False, transactions=False)
    # As where somebody copied files: the first segment goes on into what the second one holds.
    more = Log(made.segments[1].base)
    more.append(batch(rows(made.segments[1].base, 3)))
    made.segments[0].files["log"] += bytes(more.data)
    truth = decoded(make_partition("orders-0", 8, segments=2, gaps=False, transactions=False).segments[0].files["log"])
    truth += decoded(made.segments[1].files["log"])
    async with served(broker, made, place="local") as (storage, _):
        page = await storage.read_records(RecordQuery("orders", 0, 0), 10_000)
        assert as_seen(page.records) == as_known(truth)
        assert decoded(await raw(storage, RecordQuery("orders", 0, 0))) == truth


async def kafka(broker: Broker, mark: int | None, *, name: str = "orders 0") -> None:
    (broker.root / "meta.properties").write_text("version=1\nnode.id=1\ncluster.id=x\n")
    if mark is not None:
        (broker.root / "replication-offset-checkpoint").write_text(f"0\n1\n{name} {mark}\n")


@pytest.mark.long
async def test_the_active_segment_is_read_up_to_the_high_watermark(broker: Broker) -> None:
    made = make_partition("orders-0", 9, segments=3, gaps=False)
    active = made.segments[-1]
    closed = active.base
    made.write(broker.root)
    (broker.root / f"orders-0/{made.end:020d}.log").unlink()
    truth = Truth(made.known(), made.end)
    await kafka(broker, None)
    async with TieredStorage.open(directory_settings(broker, broker.root.parent / "store")) as storage:
        # Nothing tells which records of the active segment consumers may see.
        await require_truth(storage, "orders-0", truth, below=closed, offsets=range(closed - 3, closed + 1))
        with pytest.raises(OffsetOutOfRange):
            await storage.read_records(RecordQuery("orders", 0, closed + 1))
        offsets = sorted({each.offset for each in truth.known if each.offset >= closed})
        batches = [offset for offset in offsets if _begins_batch(active.files["log"], offset)]
        for mark in (batches[3], batches[len(batches) // 2], made.end):
            await kafka(broker, mark)
            await require_truth(storage, "orders-0", truth, below=mark, offsets=range(closed - 3, mark + 1))


def _begins_batch(log: bytes, offset: int) -> bool:
    return offset in {each.base_offset for each in _headers(log)}


def _headers(log: bytes) -> list[Batch]:
    found: list[Batch] = []
    while not found or found[-1].end < len(log):
        at = found[-1].end if found else 0
        header = parse_batch(log[at : at + 61], at)
        assert header is not None
        found.append(header)
    return found


@pytest.mark.long
async def test_segments_that_the_broker_rolled_since_the_last_scan_are_read(broker: Broker) -> None:
    made = make_partition("orders-0", 9, segments=4)
    truth = Truth(made.known(), made.end)
    first = Partition("orders-0", made.segments[:2], made.segments[2].base)
    async with served(broker, first, place="mixed") as (storage, _):
        directory = broker.root / "orders-0"
        for segment in made.segments[2:]:
            page = await storage.read_records(RecordQuery("orders", 0, 0), 10_000)
            assert page.next_offset == segment.base
            write_segment(directory, segment)
            (directory / f"{segment.base:020d}.log").touch()
            following = next((each.base for each in made.segments if each.base > segment.base), made.end)
            write_segment(directory, Segment(following, {"log": b""}))
        await require_truth(storage, "orders-0", truth)
        # A partition that is new.
        other = make_partition("others-3", 2)
        other.write(broker.root)
        await require_truth(storage, "others-3", Truth(other.known(), other.end), offsets=range(3))


async def test_an_active_segment_grows_between_two_reads(broker: Broker) -> None:
    made = make_partition("orders-0", 21, segments=2)
    active, directory = made.segments[-1], broker.root / "orders-0"
    made.write(broker.root)
    (directory / f"{made.end:020d}.log").unlink()
    log, txnindex = active.files["log"], active.files["txnindex"]
    truth = Truth(made.known(), made.end)
    path = directory / f"{active.base:020d}.log"
    for kind in ("index", "timeindex"):
        path.with_suffix(f".{kind}").write_bytes(bytes(1000))
    async with TieredStorage.open(directory_settings(broker, broker.root.parent / "store")) as storage:
        for first, following in zip(_headers(log)[:-1], _headers(log)[1:], strict=True):
            mark = following.base_offset
            path.write_bytes(log[: first.end] + bytes(100))
            entries = [txnindex[at : at + 34] for at in range(0, len(txnindex), 34)]
            told = b"".join(entry for entry in entries if int.from_bytes(entry[18:26], "big") < mark)
            path.with_suffix(".txnindex").write_bytes(told)
            await kafka(broker, mark)
            if not parts(storage).situation.policy.kafka:
                await storage.plan()
            for isolation in Isolation:
                visible, end = truth.visible(committed=isolation is Isolation.READ_COMMITTED, below=mark)
                page = await storage.read_records(RecordQuery("orders", 0, 0, isolation=isolation), 10_000)
                assert as_seen(page.records) == as_known(visible)
                assert page.next_offset == end


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("place", ["archived", "local"])
@pytest.mark.parametrize("read_size", [500, 4096, 30_000])
async def test_batches_are_those_of_the_logs_however_much_is_read_at_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, read_size: int, place: str, isolation: Isolation
) -> None:
    """A read that ends within a batch, within its header, and of many batches."""
    monkeypatch.setattr(cursor, "READ_SIZE", read_size)
    made = make_partition("orders-0", 7, segments=3)
    truth = Truth(made.known(), made.end)
    async with served(broker, made, place=place) as (storage, _):
        data = await raw(storage, RecordQuery("orders", 0, 0, isolation=isolation))
        if isolation is Isolation.READ_UNCOMMITTED:
            assert data == b"".join(segment.files["log"] for segment in made.segments)
        visible, _ = truth.visible(committed=isolation is Isolation.READ_COMMITTED)
        found = [record for header in _headers(data) for record in decode(data[header.position : header.end], header)]
        assert as_seen(found) == as_known(visible)


@pytest.mark.parametrize("event", ["archived", "evicted by hand", "restored", "deleted"])
async def test_a_segment_that_moves_between_two_pages(broker: Broker, event: str) -> None:
    made = make_partition("orders-0", 31, segments=3)
    truth = Truth(made.known(), made.end)
    place = {"archived": "local", "restored": "archived"}.get(event, "local")
    async with served(broker, made, place=place) as (storage, paths):
        offset, found = 0, []
        for number in range(10_000):
            page = await storage.read_records(RecordQuery("orders", 0, offset), 7)
            found += page.records
            if not page.records and page.next_offset == offset:
                break
            offset = page.next_offset
            if number == 2:
                for path in paths:
                    if event == "archived":
                        await storage.archive_segment(path)
                    elif event == "restored":
                        await storage.restore_segment(path)
            if number == 2 and event == "deleted":
                for kind in made.segments[0].files:
                    (broker.root / paths[0]).with_suffix(f".{kind}").unlink()
                with pytest.raises(OffsetOutOfRange) as gone:
                    await storage.read_records(RecordQuery("orders", 0, offset), 7)
                assert gone.value.next_offset == made.segments[1].base
                return
            if number == 2 and event == "evicted by hand":
                await storage.archive_segment(paths[0])
        assert as_seen(found) == as_known(truth.visible(committed=False)[0])


async def test_a_segment_that_is_deleted_within_a_page_is_a_hole(broker: Broker) -> None:
    made = make_partition("orders-0", 31, segments=3, gaps=False, transactions=False)
    async with served(broker, made, place="local") as (storage, paths):
        found = bytearray()
        with pytest.raises(OffsetInHole) as hole:  # noqa: PT012 - it is raised between two pieces
            async for piece in storage.read_batches(RecordQuery("orders", 0, 0)):
                if not found:
                    for kind in made.segments[1].files:
                        (broker.root / paths[1]).with_suffix(f".{kind}").unlink()
                found += piece
        assert bytes(found) == made.segments[0].files["log"]
        assert hole.value.next_offset == made.segments[2].base


async def test_records_of_an_earlier_incarnation(broker: Broker) -> None:
    one, other = "AAAAAAAAAAAAAAAAAAAAAQ", "AAAAAAAAAAAAAAAAAAAAAg"
    first, second = make_partition("orders-0", 41, segments=2), make_partition("orders-0", 42, segments=2)
    async with served(broker, Partition("orders-0")) as (storage, _):
        for made, topic in ((first, one), (second, other)):
            shutil.rmtree(broker.root / "orders-0")
            paths = made.write(broker.root)
            (broker.root / "orders-0/partition.metadata").write_text(f"version: 0\ntopic_id: {topic}\n")
            await storage.plan()
            for path in paths:
                await storage.archive_segment(path)
        await require_truth(storage, "orders-0", Truth(first.known(), first.end), topic_id=one)
        await require_truth(storage, "orders-0", Truth(second.known(), second.end), topic_id=other)
        await require_truth(storage, "orders-0", Truth(second.known(), second.end), offsets=range(3))


async def test_a_read_is_an_access(broker: Broker) -> None:
    made = make_partition("orders-0", 8)
    async with served(broker, made) as (storage, paths):
        await storage.read_records(RecordQuery("orders", 0, made.segments[1].base), 1)
        read = [parts(storage).catalog.get(segment.id) for segment in parts(storage).catalog.segments()]
        assert [bool(each and each.last_access) for each in read][: len(paths)] == [False, True, False]


async def test_many_readers_at_once(broker: Broker) -> None:
    made = make_partition("orders-0", 51)
    truth = Truth(made.known(), made.end)
    async with served(broker, made, how="both", place="mixed") as (storage, _):

        async def one(isolation: Isolation) -> None:
            page = await storage.read_records(RecordQuery("orders", 0, 0, isolation=isolation), 10_000)
            assert as_seen(page.records) == as_known(truth.visible(committed=isolation is Isolation.READ_COMMITTED)[0])

        await asyncio.gather(*(one(isolation) for isolation in Isolation for _ in range(20)))
