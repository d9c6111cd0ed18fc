"""Committed offsets: kept through restarts and kills, bounded, and never of another incarnation of the topic."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from takhin_tiered.engine.clock import Clock, Span
from takhin_tiered.kafka import commits as module
from takhin_tiered.kafka.commits import LONGEST_METADATA, RETENTION, Commits, Committed, Unavailable, open_commits
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.offsets_database import FILE_NAME, OffsetsDatabase, Work
from tests.support import wait_until

ORDERS, OTHER = ("orders", 0), ("orders", 1)


@dataclass
class House:
    """A state directory, and what is around it."""

    state_dir: Path
    wall: float = 1_000_000_000.0
    labels: dict[tuple[str, int], str] = field(default_factory=lambda: {ORDERS: "", OTHER: ""})
    most_bytes: int = 1 << 20

    @property
    def database(self) -> Path:
        return self.state_dir / FILE_NAME

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Commits]:
        clock = Clock(wall=lambda: self.wall)
        async with open_commits(self.state_dir, self.label, clock, most_bytes=self.most_bytes) as commits:
            yield commits

    async def label(self, topic: str, partition: int) -> tuple[str, ...]:
        found = self.labels.get((topic, partition))
        return () if found is None else (found,)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "state")


async def commit(commits: Commits, offset: int, group: str = "readers", place: tuple[str, int] = ORDERS) -> ErrorCode:
    return (await commits.commit(group, {place: Committed(offset)}))[place]


async def test_commits_survive_a_restart(house: House) -> None:
    async with house.open() as commits:
        assert await commits.fetch("readers") == {}
        offsets = {ORDERS: Committed(7, 3, "mémo\0"), OTHER: Committed((1 << 63) - 1)}
        assert await commits.commit("readers", offsets) == {ORDERS: ErrorCode.NONE, OTHER: ErrorCode.NONE}
        assert await commit(commits, 1, "") is ErrorCode.NONE
        assert await commits.fetch("readers") == offsets
        assert await commits.fetch("readers", [OTHER, ("unknown", 0)]) == {OTHER: offsets[OTHER]}
    async with house.open() as commits:
        assert await commits.fetch("readers") == offsets
        assert sorted(commits.groups()) == ["", "readers"]
        assert await commit(commits, 8) is ErrorCode.NONE
        assert (await commits.fetch("readers"))[ORDERS] == Committed(8)


async def test_what_cannot_be_committed_is_told_for_each_partition(house: House) -> None:
    async with house.open() as commits:
        answers = await commits.commit(
            "readers",
            {ORDERS: Committed(1, metadata="é" * (LONGEST_METADATA // 2)), ("unknown", 0): Committed(1)},
        )
        assert answers == {ORDERS: ErrorCode.NONE, ("unknown", 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        long = {ORDERS: Committed(2, metadata="x" * (LONGEST_METADATA + 1)), OTHER: Committed(3)}
        assert await commits.commit("readers", long) == {
            ORDERS: ErrorCode.OFFSET_METADATA_TOO_LARGE,
            OTHER: ErrorCode.NONE,
        }
        assert [each.offset for each in (await commits.fetch("readers")).values()] == [1, 3]


async def test_a_topic_made_anew_does_not_inherit_offsets(house: House) -> None:
    async with house.open() as commits:
        await commit(commits, 500)
        await commit(commits, 600, place=OTHER)
        house.labels |= {ORDERS: "new-topic-id", ("orders@old-topic-id", 0): "old-topic-id"}
        assert await commits.fetch("readers") == {OTHER: Committed(600)}
        assert await commits.fetch("readers", [ORDERS]) == {}
        assert await commit(commits, 3) is ErrorCode.NONE
    async with house.open() as commits:
        assert await commits.fetch("readers", [ORDERS]) == {ORDERS: Committed(3)}
        # A topic that is gone altogether.
        del house.labels[ORDERS]
        assert await commits.fetch("readers") == {OTHER: Committed(600)}


async def test_many_commits_at_once_take_few_transactions(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = []
    write = OffsetsDatabase.write

    async def counted(database: OffsetsDatabase, work: Work) -> None:
        transactions.append(len(work))
        await write(database, work)

    monkeypatch.setattr(OffsetsDatabase, "write", counted)
    async with house.open() as commits:
        answers = await asyncio.gather(*(commit(commits, number, f"group-{number}") for number in range(100)))
        assert set(answers) == {ErrorCode.NONE}
        # Which of those that wait at the same time comes last is the one that counts.
        await asyncio.gather(*(commit(commits, number) for number in range(100)))
        assert len(transactions) <= 4
        assert await commits.fetch("readers") == {ORDERS: Committed(99)}
    async with house.open() as commits:
        assert len(commits.groups()) == 101
        assert await commits.fetch("readers") == {ORDERS: Committed(99)}


async def test_a_client_that_goes_while_its_commit_is_written_harms_no_other(house: House) -> None:
    async with house.open() as commits:
        tasks = [asyncio.create_task(commit(commits, number, f"group-{number}")) for number in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1::2] == [ErrorCode.NONE] * 5
    async with house.open() as commits:
        assert {f"group-{number}" for number in range(1, 10, 2)} <= set(commits.groups())


async def test_what_clients_can_store_is_bounded(house: House) -> None:
    house.most_bytes = 20_000
    house.labels |= {("orders", number): "" for number in range(100)}
    async with house.open() as commits:
        answers = [await commit(commits, 1, "one", ("orders", number)) for number in range(100)]
        stored = answers.count(ErrorCode.NONE)
        assert 20 < stored < 60
        assert answers == [ErrorCode.NONE] * stored + [ErrorCode.INVALID_COMMIT_OFFSET_SIZE] * (100 - stored)
        assert await commit(commits, 1, "two") is ErrorCode.INVALID_COMMIT_OFFSET_SIZE
        # Who is there already goes on.
        assert await commit(commits, 2, "one", ("orders", 0)) is ErrorCode.NONE
        used = commits._budget.used
    async with house.open() as commits:
        assert commits._budget.used == used
        assert await commit(commits, 1, "two") is ErrorCode.INVALID_COMMIT_OFFSET_SIZE
        house.wall += RETENTION + 1
        assert await commits.expire(lambda group: False) == ["one"]
        assert commits._budget.used == 0
        assert await commit(commits, 1, "two") is ErrorCode.NONE


async def test_groups_that_are_not_used_for_a_week_are_forgotten(house: House) -> None:
    async with house.open() as commits:
        for group in ("gone", "member", "committing"):
            await commit(commits, 1, group)
        house.wall += RETENTION - 1
        assert await commits.expire(lambda group: False) == []
        await commit(commits, 2, "committing")
        assert await commits.expire(lambda group: group == "member") == []
        house.wall += 2
        assert await commits.expire(lambda group: False) == ["gone"]
        assert sorted(commits.groups()) == ["committing", "member"]
    async with house.open() as commits:
        # It had members until just now.
        assert await commits.expire(lambda group: False) == []
        assert sorted(commits.groups()) == ["committing", "member"]
        assert await commits.fetch("gone") == {}


@pytest.mark.parametrize("steps", range(1, 12))
async def test_an_expiry_that_is_cancelled_harms_no_commit(house: House, steps: int) -> None:
    """Else nobody could commit any more."""
    async with house.open() as commits:
        await commit(commits, 1, "gone")
        house.wall += RETENTION + 1
        expiring = asyncio.create_task(commits.expire(lambda group: False))
        for _ in range(steps):
            await asyncio.sleep(0)
        expiring.cancel()
        await asyncio.gather(expiring, return_exceptions=True)
        async with asyncio.timeout(10):
            assert await commit(commits, 2, "new") == ErrorCode.NONE


async def test_a_clock_that_runs_ahead_expires_nothing(house: House) -> None:
    clock = Clock(wall=lambda: house.wall)
    async with open_commits(house.state_dir, house.label, clock) as commits:
        await commit(commits, 1)
        clock.span = Span(house.wall, house.wall, clock.uptime())
        house.wall += 10 * RETENTION
        assert await commits.expire(lambda group: False) == []
        clock.span = Span(house.wall, house.wall, clock.uptime())
        assert await commits.expire(lambda group: False) == ["readers"]


async def test_a_commit_during_expiry_is_kept(house: House) -> None:
    async with house.open() as commits:
        await commit(commits, 1)
        house.wall += 2 * RETENTION
        committing = [asyncio.create_task(commit(commits, 2))]
        expiring = asyncio.create_task(commits.expire(lambda group: False))
        await asyncio.gather(*committing, expiring)
        assert expiring.result() == []
        assert await commits.fetch("readers") == {ORDERS: Committed(2)}


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 500, bytes(4096)])
async def test_a_file_that_is_no_database_is_put_aside(
    house: House, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    house.state_dir.mkdir()
    house.database.write_bytes(content)
    async with house.open() as commits:
        assert await commit(commits, 1) is ErrorCode.NONE
    aside = house.database.with_name(FILE_NAME + ".damaged")
    assert aside.exists() == (content != b"")
    if content:
        assert aside.read_bytes() == content
        assert "begin a new file" in capsys.readouterr().out
    async with house.open() as commits:
        assert await commits.fetch("readers") == {ORDERS: Committed(1)}


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version=2",
        "DROP TABLE offsets; CREATE TABLE offsets (name TEXT)",
        "UPDATE offsets SET offset = 'seven'",
        "UPDATE groups SET used = 'never'",
    ],
)
async def test_a_database_of_other_content_is_put_aside(house: House, statement: str) -> None:
    async with house.open() as commits:
        await commit(commits, 1)
    with sqlite3.connect(house.database) as database:
        database.executescript(statement)
    database.close()
    async with house.open() as commits:
        assert await commits.fetch("readers") == {}
        assert await commit(commits, 2) is ErrorCode.NONE
    async with house.open() as commits:
        assert await commits.fetch("readers") == {ORDERS: Committed(2)}


async def test_a_flipped_page_is_found_or_harmless(house: House) -> None:
    async with house.open() as commits:
        await asyncio.gather(*(commit(commits, number, f"group-{number}") for number in range(200)))
    whole = house.database.read_bytes()
    for page in range(0, len(whole), 4096):
        house.database.write_bytes(whole[:page] + os.urandom(512) + whole[page + 512 :])
        async with house.open() as commits:
            assert await commit(commits, 1) is ErrorCode.NONE
        for leftover in house.state_dir.iterdir():
            leftover.unlink()


async def test_damage_while_open_costs_no_commit(house: House) -> None:
    async with house.open() as commits:
        await asyncio.gather(*(commit(commits, number, f"group-{number}") for number in range(50)))
        assert commits._database is not None

        def damage(database: sqlite3.Connection) -> None:
            raise sqlite3_error(sqlite3.SQLITE_CORRUPT)

        broken = commits._database
        write = broken._database.transact
        broken._database.transact = lambda work: write(damage)  # type: ignore[method-assign]
        assert await commit(commits, 99) is ErrorCode.NONE
        assert commits._database is not broken
    async with house.open() as commits:
        assert len(commits.groups()) == 51
        assert await commits.fetch("group-49") == {ORDERS: Committed(49)}


def sqlite3_error(code: int) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = code
    return error


async def test_a_full_disk_is_an_error_that_clients_retry(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_AFTER", 0.0)
    house.labels |= {("orders", number): "" for number in range(100)}
    many = {("orders", number): Committed(number, metadata="x" * 1000) for number in range(100)}
    async with house.open() as commits:
        assert await commit(commits, 1) is ErrorCode.NONE
        database = commits._database
        assert database is not None
        used = commits._budget.used
        await database._database.execute("PRAGMA max_page_count=1")
        assert set((await commits.commit("readers", many)).values()) == {ErrorCode.COORDINATOR_NOT_AVAILABLE}
        assert commits._budget.used == used
        assert await commits.fetch("readers") == {ORDERS: Committed(1)}
        # There is room again, and another connection.
        assert set((await commits.commit("readers", many)).values()) == {ErrorCode.NONE}
        assert commits._database is not database
    async with house.open() as commits:
        assert await commits.fetch("readers") == many


async def test_without_a_disk_at_the_start_nobody_begins_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_AFTER", 0.0)
    async with house.open() as commits:
        await commit(commits, 1)
    moved = house.state_dir.with_name("moved")
    house.state_dir.rename(moved)
    house.state_dir.write_text("no directory")
    async with house.open() as commits:
        with pytest.raises(Unavailable):
            await commits.fetch("readers")
        assert await commit(commits, 2) is ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert await commits.expire(lambda group: False) == []
        house.state_dir.unlink()
        moved.rename(house.state_dir)
        assert await commits.fetch("readers") == {ORDERS: Committed(1)}
        assert await commit(commits, 2) is ErrorCode.NONE


async def test_after_the_end_nothing_is_committed(house: House) -> None:
    async with house.open() as commits:
        await commit(commits, 1)
    assert await commit(commits, 2) is ErrorCode.COORDINATOR_NOT_AVAILABLE


_COMMITTER = """
import asyncio, sys
from pathlib import Path
from takhin_tiered.engine.clock import Clock
from takhin_tiered.kafka.commits import Committed, open_commits

async def label(topic, partition):
    return ("",)

async def main():
    async with open_commits(Path(sys.argv[1]), label, Clock()) as commits:
        async def consumer(number):
            for offset in range(1_000_000):
                answers = await commits.commit(f"group-{number}", {("orders", 0): Committed(offset)})
                assert set(answers.values()) == {0}
                print(number, offset, flush=True)
        await asyncio.gather(*map(consumer, range(5)))

asyncio.run(main())
"""


async def test_a_killed_process_has_kept_every_commit_that_it_answered(house: House, tmp_path: Path) -> None:
    log = tmp_path / "answered"
    for _ in range(3):
        with log.open("w") as output:
            process = subprocess.Popen([sys.executable, "-c", _COMMITTER, str(house.state_dir)], stdout=output)
            try:
                wait_until(lambda: log.stat().st_size > 1000, what="some commits")
            finally:
                process.kill()
                process.wait()
        answered: dict[str, int] = {}
        for line in log.read_text().rpartition("\n")[0].splitlines():
            number, offset = line.split()
            answered[f"group-{number}"] = int(offset)
        async with house.open() as commits:
            for group, last in answered.items():
                # The next one may be there too, as it was killed before it could answer.
                assert (await commits.fetch(group))[ORDERS].offset in {last, last + 1}
