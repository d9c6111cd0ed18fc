"""Offsets that consumer groups committed. A commit is answered once it is on the disk.

All are in memory too, so a fetch reads no disk. Both are bounded.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from takhin_tiered import logs
from takhin_tiered.errors import TakhinError
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.membership import Budget
from takhin_tiered.kafka.offsets_database import COMMITTED, FORGOTTEN, USED, OffsetsDatabase, Work, is_damage

TopicPartition = tuple[str, int]
"""The topic as clients name it: ``orders``, or ``orders@<topic ID>`` for an earlier incarnation."""
IncarnationOf = Callable[[str, int], Awaitable[tuple[str, ...]]]
"""The names of a topic's incarnation, the best first; none for a partition that is not known. Raises `TakhinError`
where it may be merely not known yet."""
RETENTION = 7 * 24 * 3600.0
"""Seconds for which the commits of a group without members are kept: Kafka's offsets.retention.minutes."""
LONGEST_METADATA = 4096
_ROW, _GROUP = 400, 300
"""Bytes in memory besides the strings."""
_RETRY_AFTER = 5.0
_ERRORS = (OSError, sqlite3.Error)


class Times(Protocol):
    """The wall clock, as far as it can be believed: see `takhin_tiered.engine.clock.Clock`."""

    def sure_now(self) -> float: ...

    def stamp_now(self) -> float: ...


class Unavailable(Exception):
    """The commits are on a disk that cannot be read now, or the topics that they are of are not known yet."""


@dataclass(frozen=True, slots=True)
class Committed:
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class _Stored:
    """``incarnation`` is that of the topic to which the offset belongs."""

    incarnation: str
    committed: Committed


@dataclass(slots=True)
class _Group:
    used: float = 0.0
    offsets: dict[TopicPartition, _Stored] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Change:
    """Offsets of a group that was used at ``used``; None forgets the group. ``done``: whether it is on the disk.

    ``growth``: bytes that are reserved for it.
    """

    group: str
    used: float
    offsets: Mapping[TopicPartition, _Stored] | None
    growth: int
    done: asyncio.Future[bool]


class Commits:
    """Made by `open_commits`."""

    def __init__(
        self,
        state_dir: Path,
        incarnation_of: IncarnationOf,
        times: Times,
        most_bytes: int,
    ) -> None:
        self._state_dir, self._incarnation_of, self._times = state_dir, incarnation_of, times
        self._budget = Budget(most_bytes)
        self._groups: dict[str, _Group] = {}
        # While there is none, the disk could not be read or written. Once loaded, memory has all that is committed.
        self._database: OffsetsDatabase | None = None
        self._is_loaded = self._is_closed = self._has_failed = False
        self._opening, self._next_try = asyncio.Lock(), 0.0
        self._queue: list[_Change] = []
        self._running: list[_Change] = []
        self._wake = asyncio.Event()

    async def commit(self, group: str, offsets: Mapping[TopicPartition, Committed]) -> dict[TopicPartition, ErrorCode]:
        """An error for each. Those that are right are committed, whatever is wrong with others."""
        answers: dict[TopicPartition, ErrorCode] = {}
        right: dict[TopicPartition, _Stored] = {}
        for place, committed in offsets.items():
            try:
                names = await self._incarnation_of(*place)
            except TakhinError:
                # None of them: the others may be as little known, and the client commits all again.
                return dict.fromkeys(offsets, ErrorCode.COORDINATOR_NOT_AVAILABLE)
            if not names:
                answers[place] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif len(committed.metadata.encode()) > LONGEST_METADATA:
                answers[place] = ErrorCode.OFFSET_METADATA_TOO_LARGE
            else:
                right[place] = _Stored(names[0], committed)
        if right:
            answers |= dict.fromkeys(right, await self._commit(group, right))
        return answers

    async def fetch(
        self, group: str, places: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, Committed]:
        """What is committed of these partitions, or of all. Raises `Unavailable`: nobody may begin anew for that.

        Nor because a topic is not known yet.
        """
        if not self._is_loaded and not await self.try_to_open():
            raise Unavailable
        known = self._groups.get(group)
        if known is None:
            return {}
        found = {}
        for place in list(known.offsets) if places is None else places:
            stored = known.offsets.get(place)
            if stored is None:
                continue
            try:
                names = await self._incarnation_of(*place)
            except TakhinError as error:
                raise Unavailable from error
            if stored.incarnation in names:
                found[place] = stored.committed
        return found

    def has(self, group: str) -> bool:
        return group in self._groups

    def groups(self) -> list[str]:
        return list(self._groups)

    async def expire(self, has_members: Callable[[str], bool]) -> list[str]:
        """Forget groups that were not used for a week, and return their names. To be called about hourly.

        A group with members is in use, whether or not they commit.
        """
        if not await self.try_to_open():
            return []
        # What waits is written first, so that a group which commits just now is not taken for an old one.
        while waiting := [*self._running, *self._queue]:
            await asyncio.wait([change.done for change in waiting])
        expired, changes, now = [], [], self._times.sure_now()
        for name, group in self._groups.items():
            if has_members(name):
                changes.append(self._enqueue(name, {}))
            elif group.used + RETENTION < now:
                expired.append(name)
                changes.append(self._enqueue(name, None))
        # Whoever is cancelled, as here at the end, leaves alone what is to be written.
        if not all(await asyncio.shield(asyncio.gather(*changes))):
            return []
        if expired:
            logs.logger().info("forgot consumer groups that were not used for a week", groups=expired)
        return expired

    async def close(self) -> None:
        if self._database is not None:
            await self._database.close()

    # --- to the disk ---

    async def write_what_comes(self) -> None:
        """One transaction for all that waits at the same time, until `stop`."""
        while self._queue or not self._is_closed:
            await self._wake.wait()
            self._running, self._queue = self._queue, []
            if not self._is_closed:
                self._wake.clear()
            is_done = await self._store([each for change in self._running for each in _statements(change)])
            running, self._running = self._running, []
            for change in running:
                self._budget.change(-change.growth)
                if is_done:
                    self._apply(change)
                change.done.set_result(is_done)

    def stop(self) -> None:
        """What waits is written; nothing more is taken."""
        self._is_closed = True
        self._wake.set()

    async def _commit(self, group: str, offsets: Mapping[TopicPartition, _Stored]) -> ErrorCode:
        if not await self.try_to_open():
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        # A group at the bound can go on: only what is new grows.
        growth = max(0, self._growth(group, offsets))
        if not self._budget.change(growth):
            return ErrorCode.INVALID_COMMIT_OFFSET_SIZE
        is_done = await asyncio.shield(self._enqueue(group, offsets, growth))
        return ErrorCode.NONE if is_done else ErrorCode.COORDINATOR_NOT_AVAILABLE

    def _enqueue(
        self, group: str, offsets: Mapping[TopicPartition, _Stored] | None, growth: int = 0
    ) -> asyncio.Future[bool]:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            done.set_result(False)
            return done
        self._queue.append(_Change(group, self._times.stamp_now(), offsets, growth, done))
        self._wake.set()
        return done

    async def _store(self, work: Work) -> bool:
        database = self._database
        if database is None:
            return False
        try:
            self._database = await self._written(database, work)
        except _ERRORS as error:
            self._tell(error)
            # A connection may stay unusable when the disk is well again: the next one is a new one.
            self._database, self._next_try = None, asyncio.get_running_loop().time() + _RETRY_AFTER
            await database.close()
            return False
        if self._has_failed:
            self._has_failed = False
            logs.logger().info("committed offsets are written again")
        return True

    async def _written(self, database: OffsetsDatabase, work: Work) -> OffsetsDatabase:
        """Where it was written."""
        try:
            await database.write(work)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            # Memory has all that was in it.
            return await database.replace(error, [*self._all(), *work])
        return database

    async def try_to_open(self) -> bool:
        """Opened now, if it could not be before. Not with each request: a broken disk may be slow."""
        if self._database is None and not self._is_closed:
            async with self._opening:
                loop = asyncio.get_running_loop()
                if self._database is None and loop.time() >= self._next_try:
                    self._next_try = loop.time() + _RETRY_AFTER
                    try:
                        self._database = await self._open()
                    except _ERRORS as error:
                        self._tell(error)
        return self._database is not None and not self._is_closed

    async def _open(self) -> OffsetsDatabase:
        database = await OffsetsDatabase.open(self._state_dir)
        try:
            if self._is_loaded:
                await database.write(self._all())
            else:
                await self._load(database)
        except BaseException:
            await database.close()
            raise
        return database

    # --- in memory ---

    async def _load(self, database: OffsetsDatabase) -> None:
        groups = {name: _Group(used) for name, used in await database.groups()}
        for name, topic, partition, incarnation, offset, epoch, metadata in await database.offsets():
            stored = _Stored(incarnation, Committed(offset, epoch, metadata))
            groups.setdefault(name, _Group()).offsets[topic, partition] = stored
        self._groups, self._is_loaded = groups, True
        # Though it may be more than is allowed now.
        self._budget.used = sum(_cost_of_group(name, group) for name, group in groups.items())

    def _all(self) -> Work:
        """What would write all that is known."""
        work: Work = []
        for name, group in self._groups.items():
            work += _rows(name, group.used, group.offsets)
        return work

    def _apply(self, change: _Change) -> None:
        if change.offsets is None:
            gone = self._groups.pop(change.group, None)
            if gone is not None:
                self._budget.change(-_cost_of_group(change.group, gone))
            return
        self._budget.used += self._growth(change.group, change.offsets)
        group = self._groups.setdefault(change.group, _Group())
        group.used = change.used
        group.offsets.update(change.offsets)

    def _growth(self, name: str, offsets: Mapping[TopicPartition, _Stored]) -> int:
        known = self._groups.get(name)
        if known is None:
            return _cost_of_group(name, _Group(0.0, dict(offsets)))
        before = ((place, known.offsets.get(place)) for place in offsets)
        return sum(_cost(place, stored) for place, stored in offsets.items()) - sum(
            _cost(place, stored) for place, stored in before if stored is not None
        )

    def _tell(self, error: Exception) -> None:
        """Once: clients try again and again."""
        if not self._has_failed:
            self._has_failed = True
            logs.logger().error(
                "offsets cannot be committed: consumers read on, and commit again later",
                error=str(error),
                path=str(self._state_dir),
                hint="Check the disk and the permissions of the state directory",
            )


@asynccontextmanager
async def open_commits(
    state_dir: Path,
    incarnation_of: IncarnationOf,
    times: Times,
    *,
    most_bytes: int = 32 << 20,
) -> AsyncIterator[Commits]:
    """A topic that was deleted and created again does not inherit the offsets of the one before.

    Without a disk nothing can be committed or fetched, until it is there again.
    """
    commits = Commits(state_dir, incarnation_of, times, most_bytes)
    await commits.try_to_open()
    writing = asyncio.create_task(commits.write_what_comes())
    try:
        yield commits
    finally:
        commits.stop()
        try:
            await writing
        finally:
            await commits.close()


def _statements(change: _Change) -> Work:
    if change.offsets is None:
        return [(statement, [(change.group,)]) for statement in FORGOTTEN]
    return _rows(change.group, change.used, change.offsets)


def _rows(name: str, used: float, offsets: Mapping[TopicPartition, _Stored]) -> Work:
    rows = [
        (name, *place, each.incarnation, each.committed.offset, each.committed.leader_epoch, each.committed.metadata)
        for place, each in offsets.items()
    ]
    return [(USED, [(name, used)]), (COMMITTED, rows)]


def _cost(place: TopicPartition, stored: _Stored) -> int:
    return _ROW + len(place[0]) + len(stored.incarnation) + len(stored.committed.metadata)


def _cost_of_group(name: str, group: _Group) -> int:
    return _GROUP + len(name) + sum(_cost(place, stored) for place, stored in group.offsets.items())
