"""The catalog: what scans and verbs say of each segment, and what a restart reads of it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.catalog.journal import FILE_NAME, open_journal
from takhin_tiered.errors import CatalogError
from takhin_tiered.segments.listing import PartitionListing, pack_seen
from takhin_tiered.segments.model import Archive, FileStat, Intent, LocalFiles, Segment, State
from takhin_tiered.segments.names import Place, SegmentId
from takhin_tiered.segments.policy import Policy

POLICY = Policy(True, True, False, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=1000)
STAT = FileStat(5, 1_000, 7)
GROWN = FileStat(6, 2_000, 7)
ID = SegmentId("orders", 0, 0)
ARCHIVE = Archive(1, 5, 1_000, 3.0, LocalFiles(STAT))
INTENT = Intent("orders-0/00000000000000000000.log", ID, 5, "ab-2", 3, 4.5)


def seen(*offsets: int, topic: str = "orders", partition: int = 0, stat: FileStat = STAT) -> PartitionListing:
    rows = {offset: pack_seen(LocalFiles(stat)) for offset in offsets}
    return PartitionListing(topic, partition, rows, max(offsets, default=None))


def ids(segments: Iterable[Segment]) -> list[str]:
    return [f"{segment.id.directory}/{segment.id.base_offset}" for segment in segments]


def known(catalog: Catalog, identity: SegmentId = ID) -> Segment:
    segment = catalog.get(identity)
    assert segment is not None
    return segment


def many() -> Catalog:
    catalog = Catalog()
    for topic in ("b", "a", "a-b"):
        for partition in (10, 2):
            catalog.observe(seen(5, 100, 20, topic=topic, partition=partition))
    return catalog


def test_segments_come_in_order_of_topic_partition_and_number() -> None:
    found = [segment.id for segment in many().segments()]
    assert found == sorted(found)
    assert len(found) == len(many()) == 18
    assert ids(many().segments(topic="a")) == ["a-2/5", "a-2/20", "a-2/100", "a-10/5", "a-10/20", "a-10/100"]
    assert ids(many().segments(topic="absent")) == []


@pytest.mark.parametrize("topic", [None, "a", "b"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_pages_put_together_are_the_whole(topic: str | None, size: int) -> None:
    catalog = many()
    whole = list(catalog.segments(topic=topic))
    pages, after = [], None
    while page := [
        segment for segment, _ in zip(catalog.segments(topic=topic, after=after), range(size), strict=False)
    ]:
        pages += page
        after = page[-1].id
    assert pages == whole


def test_a_page_goes_on_behind_a_segment_that_is_gone_meanwhile() -> None:
    catalog = many()
    for after in (SegmentId("a", 2, 20), SegmentId("a", 2, 21), SegmentId("a", 3, 0)):
        expected = [segment for segment in catalog.segments() if segment.id > after]
        assert list(catalog.segments(after=after)) == expected
    catalog.remove(SegmentId("a", 2, 20))
    assert ids(catalog.segments(topic="a", after=SegmentId("a", 2, 20)))[0] == "a-2/100"


def test_the_newest_log_of_a_partition_is_active_as_of_the_last_scan() -> None:
    catalog = Catalog()
    assert catalog.active_offset(ID) == -1
    catalog.observe(seen(0, 9))
    assert catalog.active_offset(ID) == 9
    assert [segment.active for segment in catalog.segments()] == [False, True]
    catalog.observe(seen(0, 9, 12))
    assert [segment.active for segment in catalog.segments()] == [False, False, True]
    catalog.observe(PartitionListing("orders", 0, {}, None))
    assert catalog.active_offset(ID) == -1


def test_what_changed_between_two_scans_is_not_settled() -> None:
    catalog = Catalog()
    catalog.observe(seen(0, 9))
    assert known(catalog).settled
    for changed in (GROWN, GROWN._replace(stamp=8), GROWN._replace(stamp=8, mtime_ns=3_000)):
        catalog.observe(seen(0, 9, stat=changed))
        assert not known(catalog).settled
        catalog.observe(seen(0, 9, stat=changed))
        assert known(catalog).settled
    with_index = PartitionListing("orders", 0, {0: pack_seen(LocalFiles(STAT, STAT))}, 0)
    catalog.observe(with_index)
    assert not known(catalog).settled


def test_a_segment_without_a_log_or_an_archive_is_not_known() -> None:
    catalog = Catalog()
    assert catalog.observe(PartitionListing("orders", 0, {0: pack_seen(LocalFiles(offset_index=STAT))}, None)) == []
    assert len(catalog) == 0


def test_what_the_broker_deletes_is_gone_unless_it_is_archived() -> None:
    catalog = Catalog()
    catalog.observe(seen(0, 5, 9))
    catalog.put(replace(known(catalog), archive=ARCHIVE, lease_until=99.0))
    catalog.begin_scan()
    assert catalog.observe(seen(9)) == [SegmentId("orders", 0, 5)]
    assert ids(catalog.segments()) == ["orders-0/0", "orders-0/9"]
    assert known(catalog).state is State.ARCHIVED
    assert known(catalog).lease_until == 0


def test_a_partition_that_a_whole_scan_did_not_see_is_gone() -> None:
    catalog = Catalog()
    for partition in (0, 1):
        catalog.observe(seen(0, 9, partition=partition))
    catalog.put(replace(known(catalog), archive=ARCHIVE))
    catalog.begin_scan()
    assert catalog.observe_missing({("orders", 1)}) == [SegmentId("orders", 0, 9)]
    assert ids(catalog.segments()) == ["orders-0/0", "orders-1/0", "orders-1/9"]
    assert not known(catalog).local


def test_a_verbs_word_outweighs_a_scan_that_began_before_it() -> None:
    catalog = Catalog()
    catalog.observe(seen(0, 9))
    catalog.begin_scan()
    catalog.put(Segment(ID, archive=ARCHIVE))
    catalog.observe(seen(0, 9))
    assert known(catalog) == Segment(ID, archive=ARCHIVE)
    catalog.begin_scan()
    catalog.observe(seen(0, 9))
    assert known(catalog).local == LocalFiles(STAT)
    catalog.begin_scan()
    catalog.remove(ID)
    catalog.observe(seen(0, 9))
    assert catalog.get(ID) is None


async def test_a_scan_says_nothing_of_a_segment_that_a_verb_holds() -> None:
    catalog = Catalog()
    catalog.observe(seen(0, 9))
    async with catalog.lock(ID):
        catalog.observe(seen(0, 9, stat=GROWN))
        assert known(catalog).local == LocalFiles(STAT)
        assert known(catalog, SegmentId("orders", 0, 9)).local == LocalFiles(GROWN)
        assert catalog.observe(seen(9, stat=GROWN)) == []
    catalog.observe(seen(0, 9, stat=GROWN))
    assert known(catalog).local == LocalFiles(GROWN)


async def test_one_verb_at_a_time_holds_a_segment() -> None:
    catalog = Catalog()
    events: list[str] = []

    async def verb(name: str, identity: SegmentId) -> None:
        async with catalog.lock(identity):
            events.append(f"{name} begins")
            for _ in range(5):
                await asyncio.sleep(0)
            events.append(f"{name} ends")

    await asyncio.gather(verb("first", ID), verb("second", SegmentId("orders", 0, 0)), verb("third", ID))
    assert events == [f"{name} {what}" for name in ("first", "second", "third") for what in ("begins", "ends")]
    events.clear()
    await asyncio.gather(verb("one", ID), verb("other", SegmentId("orders", 0, 1)))
    assert events[:2] == ["one begins", "other begins"]


async def test_a_lock_is_given_back_when_its_verb_fails() -> None:
    catalog = Catalog()
    with pytest.raises(RuntimeError):
        async with catalog.lock(ID):
            raise RuntimeError
    async with asyncio.timeout(5), catalog.lock(ID):
        catalog.put(Segment(ID, archive=ARCHIVE))
    assert known(catalog).archive == ARCHIVE


def test_a_read_is_noted_for_segments_that_are_known() -> None:
    catalog = Catalog()
    catalog.observe(seen(0, 9))
    assert catalog.touch(ID, 77.0)
    assert known(catalog).last_access == 77.0
    assert not catalog.touch(SegmentId("orders", 0, 1), 77.0)
    assert len(catalog) == 2


def test_restored_and_quarantined_segments_are_counted_as_they_come_and_go() -> None:
    catalog = Catalog()
    restored = Segment(ID, LocalFiles(STAT), archive=ARCHIVE, lease_until=9.0)
    catalog.put(restored)
    catalog.put(Segment(SegmentId("orders", 0, 1), archive=ARCHIVE, quarantine="gone"))
    assert catalog.restored() == [restored]
    assert catalog.quarantined == 1
    catalog.put(replace(restored, local=LocalFiles(), lease_until=0.0))
    catalog.remove(SegmentId("orders", 0, 1))
    assert catalog.restored() == []
    assert catalog.quarantined == 0


def test_an_intent_stands_until_it_is_settled() -> None:
    catalog = Catalog()
    other = replace(INTENT, key="x", id=SegmentId("other", 0, 0))
    catalog.intend([INTENT, other])
    assert catalog.intents(ID) == [INTENT]
    catalog.intend([replace(INTENT, since=9.0)])
    assert catalog.intents() == [replace(INTENT, since=9.0), other]
    catalog.settle([INTENT.key, "never heard of"])
    assert catalog.intents() == [other]


async def test_a_restart_reads_exactly_what_was_flushed(tmp_path: Path) -> None:
    async with open_journal(tmp_path) as journal:
        catalog = Catalog(journal)
        catalog.observe(seen(0, 5, 9))
        catalog.observe(seen(3, topic="gone"))
        catalog.put(replace(known(catalog), archive=ARCHIVE, lease_until=5.0, damage="Zürich", quarantine="gone"))
        catalog.intend([INTENT, replace(INTENT, key="settled")])
        await catalog.flush()
        catalog.remove(SegmentId("gone", 0, 3))
        catalog.settle(["settled"])
        await catalog.flush()
        catalog.put(Segment(SegmentId("never", 0, 0), archive=ARCHIVE))  # not flushed
        before = [segment for segment in catalog.segments() if segment.id.topic != "never"]
    async with open_journal(tmp_path) as journal:
        again = Catalog(journal)
        await again.load()
        assert list(again.segments()) == before
        assert again.intents() == [INTENT]
        assert [again.active_offset(ID), again.quarantined, ids(again.restored())] == [9, 1, ["orders-0/0"]]
        assert again.stats(POLICY, 500.0, sure=500.0).total_segments == 3
        again.put(Segment(ID, archive=ARCHIVE))
        assert ids(again.restored()) == []


async def test_only_a_shutdown_that_was_told_counts_as_clean(tmp_path: Path) -> None:
    for clean in (False, True, False):
        async with open_journal(tmp_path) as journal:
            assert journal is not None
            if clean:
                assert not journal.was_clean
                await journal.set_meta("clean", "yes")
            elif await journal.get_meta("seen"):
                assert journal.was_clean
            await journal.set_meta("seen", "yes")
    async with open_journal(tmp_path) as journal:
        assert journal is not None
        assert not journal.was_clean


async def test_flushes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    async with open_journal(tmp_path) as journal:
        assert journal is not None
        catalog = Catalog(journal)

        async def put(number: int) -> None:
            catalog.put(Segment(SegmentId("orders", 0, number), archive=ARCHIVE))
            await catalog.flush()
            assert number in {offset async for _, rows in journal.places() for offset in rows}

        await asyncio.gather(*(put(number) for number in range(50)))


def break_table(state: Path, table: str) -> None:
    with closing(sqlite3.connect(state / FILE_NAME)) as database:
        database.execute(f"ALTER TABLE {table} RENAME TO {table}_away")


def mend_table(state: Path, table: str) -> None:
    with closing(sqlite3.connect(state / FILE_NAME, timeout=0.2)) as database:
        database.execute(f"ALTER TABLE {table}_away RENAME TO {table}")


@pytest.mark.parametrize("table", ["segments", "blocks", "intents"])
async def test_what_could_not_be_flushed_is_flushed_later(tmp_path: Path, table: str) -> None:
    async with open_journal(tmp_path) as journal:
        assert journal is not None
        catalog = Catalog(journal)
        catalog.put(Segment(ID, archive=ARCHIVE))
        catalog.observe(seen(*range(100), topic="many"))
        catalog.intend([INTENT])
        break_table(tmp_path, table)
        with pytest.raises(CatalogError, match="catalog database"):
            await catalog.flush()
        catalog.put(Segment(ID, archive=ARCHIVE, last_failure="newer"))
        mend_table(tmp_path, table)
        await catalog.flush()
        again = Catalog(journal)
        await again.load()
        assert (len(again), known(again).last_failure) == (101, "newer")
        assert again.intents() == [INTENT]


async def test_of_a_write_that_failed_nothing_is_committed_later(tmp_path: Path) -> None:
    async with open_journal(tmp_path) as journal:
        assert journal is not None
        catalog = Catalog(journal)
        catalog.put(Segment(ID, archive=ARCHIVE))
        catalog.intend([INTENT])
        break_table(tmp_path, "intents")
        with pytest.raises(CatalogError):
            await catalog.flush()
        await journal.set_meta("clean", "no")
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        assert database.execute("SELECT count(*) FROM segments").fetchone() == (0,)


async def test_a_process_that_only_looks_makes_and_writes_nothing(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "absent", read_only=True) as journal:
        assert journal is None
    assert not (tmp_path / "absent").exists()
    async with open_journal(tmp_path) as journal:
        catalog = Catalog(journal)
        catalog.put(Segment(ID, archive=ARCHIVE))
        await catalog.flush()
    async with open_journal(tmp_path, read_only=True) as journal:
        catalog = Catalog(journal)
        await catalog.load()
        catalog.detach()
        catalog.remove(ID)
        await catalog.flush()
    async with open_journal(tmp_path) as journal:
        assert journal is not None
        assert [partition async for partition, _ in journal.places()] == [Place("orders", 0)]


async def test_a_database_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(CatalogError, match="later release"):
        async with open_journal(tmp_path):
            raise AssertionError


async def test_a_file_that_is_no_database_is_told_and_left(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this is not a database" * 100)
    with pytest.raises(CatalogError, match=r"is damaged.*move catalog.db.* away"):
        async with open_journal(tmp_path):
            raise AssertionError
    assert (tmp_path / FILE_NAME).read_bytes() == b"this is not a database" * 100


def whole(catalog: Catalog) -> dict[SegmentId, Segment]:
    return {segment.id: segment for segment in catalog.segments()}


def count(state: Path, table: str) -> int:
    with closing(sqlite3.connect(state / FILE_NAME)) as database:
        (found,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(found)


async def test_many_changes_of_a_partition_write_it_whole_and_few_stand_beside_it(tmp_path: Path) -> None:
    async def reread() -> dict[SegmentId, Segment]:
        async with open_journal(tmp_path, read_only=True) as journal:
            again = Catalog(journal)
            await again.load()
            return whole(again)

    async with open_journal(tmp_path) as journal:
        catalog = Catalog(journal)
        catalog.observe(seen(*range(3000)))
        catalog.observe(seen(1, 2, topic="few"))
        await catalog.flush()
        assert (count(tmp_path, "blocks"), count(tmp_path, "segments")) == (3, 2)
        catalog.put(Segment(ID, archive=ARCHIVE, damage="Zürich"))
        catalog.remove(SegmentId("orders", 0, 2000))
        await catalog.flush()
        assert (count(tmp_path, "blocks"), count(tmp_path, "segments")) == (3, 4)
        assert await reread() == whole(catalog)
        # Few at a time, and in the end they are a fourth of the partition.
        for begin in range(0, 800, 50):
            for number in range(begin, begin + 50):
                catalog.put(Segment(SegmentId("orders", 0, number), archive=ARCHIVE))
            await catalog.flush()
            assert await reread() == whole(catalog)
        assert (count(tmp_path, "blocks"), count(tmp_path, "segments")) == (3, 52)
        catalog.begin_scan()
        catalog.observe(PartitionListing("orders", 0, {}, None))
        catalog.observe(PartitionListing("few", 0, {}, None))
        await catalog.flush()
        assert len(await reread()) == 800
        for number in range(800):
            catalog.remove(SegmentId("orders", 0, number))
        await catalog.flush()
        assert await reread() == {}
        assert (count(tmp_path, "blocks"), count(tmp_path, "segments")) == (0, 2)


async def test_a_database_of_the_release_before_is_read_row_by_row(tmp_path: Path) -> None:
    async with open_journal(tmp_path) as journal:
        catalog = Catalog(journal)
        catalog.observe(seen(0, 9))
        await catalog.flush()
    # A settled segment of a log only, and one that is active, as that release wrote them.
    settled, active = (struct.pack("<HqqQ", flags | 1 << 7, *STAT) for flags in (2, 3))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        database.executescript("DROP TABLE blocks; PRAGMA user_version = 1")
        database.execute("UPDATE segments SET record = ? WHERE base_offset = 0", (settled,))
        database.execute("UPDATE segments SET record = ? WHERE base_offset = 9", (active,))
        database.commit()
    with pytest.raises(CatalogError, match="earlier release"):
        async with open_journal(tmp_path, read_only=True):
            raise AssertionError
    async with open_journal(tmp_path) as journal:
        again = Catalog(journal)
        await again.load()
        assert whole(again) == whole(catalog)


@pytest.mark.parametrize("damage", ["x''", "x'ff'", "substr(rows, 1, 3)", "substr(rows, 1, 99)", "rows || x'00'"])
async def test_a_damaged_block_is_told(tmp_path: Path, damage: str) -> None:
    async with open_journal(tmp_path) as journal:
        catalog = Catalog(journal)
        catalog.observe(seen(*range(100)))
        await catalog.flush()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        database.execute(f"UPDATE blocks SET rows = {damage}")
        database.commit()
    async with open_journal(tmp_path) as journal:
        with pytest.raises(CatalogError, match="damaged"):
            await Catalog(journal).load()


def test_what_others_placed_above_it_does_not_close_the_active_segment() -> None:
    catalog = Catalog()
    catalog.observe(seen(0, 9, 20))
    restored = replace(known(catalog, SegmentId("orders", 0, 20)), active=False, archive=ARCHIVE, lease_until=99.0)
    catalog.put(restored)
    catalog.begin_scan()
    catalog.observe(seen(0, 9, 20))
    assert [known(catalog, SegmentId("orders", 0, base)).active for base in (0, 9, 20)] == [False, True, True]
    later = replace(seen(0, 9, 20), written_later=0)
    catalog.observe(later)
    assert known(catalog, SegmentId("orders", 0, 0)).active


def test_a_segment_becomes_active_when_the_one_above_it_is_gone() -> None:
    catalog = Catalog()
    catalog.observe(seen(0, 9))
    catalog.begin_scan()
    catalog.observe(seen(0))
    assert known(catalog, SegmentId("orders", 0, 0)).active


@pytest.mark.parametrize("seed", range(20))
def test_neighbours_of_an_offset_are_those_of_the_sorted_log(seed: int) -> None:
    """Through scans, archives, a truncation and removals, asked for in between."""
    dice, catalog, partition = random.Random(seed), Catalog(), ("orders", 0)
    on_disk: set[int] = set()

    def check() -> None:
        for incarnation in catalog.lineage(partition).incarnations:
            log = [segment.id for segment in catalog.log_of(partition, incarnation.label)]
            for offset in [dice.randrange(120) for _ in range(10)]:
                below, above = (
                    find(partition, offset, incarnation.label) for find in (catalog.at_or_below, catalog.above)
                )
                bases_below = [each for each in log if each.base_offset <= offset]
                bases_above = [each for each in log if each.base_offset > offset]
                assert (below and below.id) == (bases_below[-1] if bases_below else None)
                assert (above and above.id) == (bases_above[0] if bases_above else None)

    for _ in range(30):
        step = dice.randrange(5)
        if step < 2:
            on_disk = set(dice.sample(range(100), dice.randrange(12)))
            catalog.observe(seen(*on_disk))
        elif step == 2 and on_disk:
            identity = catalog.current(partition, dice.choice(sorted(on_disk)))
            if (segment := catalog.get(identity)) is not None:
                catalog.put(replace(segment, archive=ARCHIVE))
        elif step == 3 and on_disk and dice.randrange(3) == 0:
            catalog.branch(catalog.current(partition, min(on_disk)), topic_id="", is_other_topic=False)
        elif known_ones := catalog.log_of(partition):
            catalog.remove(dice.choice(known_ones).id)
        check()


@pytest.mark.parametrize("seed", range(5))
def test_what_lies_below_a_segment_is_what_a_look_at_all_of_them_finds(seed: int) -> None:
    """Also while segments come, change and go, and where a truncated log was continued at other offsets."""
    chance, catalog = random.Random(seed), Catalog()
    unproven = replace(ARCHIVE, proven=LocalFiles(GROWN))
    kinds = [
        (LocalFiles(STAT), None),
        (LocalFiles(), ARCHIVE),
        (LocalFiles(STAT), ARCHIVE),
        (LocalFiles(STAT), unproven),
    ]
    partition = ("orders", 0)
    for _ in range(300):
        if chance.random() < 0.05:
            catalog.observe(seen(*chance.sample(range(0, 60, 5), 6)))
        identity = catalog.current(partition, chance.randrange(0, 60, 5))
        if catalog.has(identity) and chance.random() < 0.3:
            catalog.remove(identity)
        else:
            local, archive = chance.choice(kinds)
            catalog.put(Segment(identity, local=local, archive=archive))
        if chance.random() < 0.02:
            catalog.branch(catalog.current(partition, chance.randrange(0, 60, 10)), topic_id="", is_other_topic=False)
        asked = catalog.current(partition, chance.randrange(0, 70, 5))
        below = [one for one in catalog.log_of(partition) if one.id.base_offset < asked.base_offset and one.local.log]
        assert catalog.has_local_below(asked) == bool(below)
        assert catalog.has_unarchived_below(asked) == any(
            one.archive is None or one.archive.proven.log != one.local.log for one in below
        )
