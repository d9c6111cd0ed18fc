"""Anything in any order: appends, rolls, compactions, deletions, cycles, restores, crashes, a store that fails.

A model knows which bytes must exist; after each step every one of them is whole on disk or whole in the
store, as plain files show it. A crash is a process that does nothing more: every step of a verb, every
change of the disk and every request raises from then on, so that no `finally` can clean up.
"""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from takhin_tiered import Settings, TakhinError, TieredStorage, points, tiered_storage
from takhin_tiered.codec.checksums import Checksum
from takhin_tiered.engine.assembly import Assembly, assemble
from takhin_tiered.errors import StoreUnavailable
from takhin_tiered.store import ObjectInfo, ObjectStore
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.ownership import Owned
from tests.decoding import keys_in
from tests.faults.truth import Folder, Truth
from tests.support import HOUR, KINDS, Broker, parts

FULL = os.environ.get("TAKHIN_TEST_TORTURE") == "full"
CODECS = ("none", "zstd")
PARTITIONS = ("orders-0", "orders-1", "orders-10")
T = TypeVar("T")
# Which segment, among those there are: after a crash these differ from run to run, and drawn values may not.
NUMBERS = st.integers(0, 999)


def _chosen(paths: list[str], number: int) -> str | None:
    return paths[number % len(paths)] if paths else None


class Crash(BaseException):
    """The process is no more: nothing in the program catches it."""


@dataclass
class World:
    """What can go wrong now. ``until_crash`` and ``until_fault`` count down; negative: never."""

    until_crash: int = -1
    until_fault: int = -1
    fault_after: bool = False
    dead: bool = False

    def step(self) -> None:
        """A step of a verb, a change of the disk, a request: here the process may end."""
        if self.dead:
            raise Crash
        self.until_crash -= 1
        if self.until_crash == 0:
            self.dead = True
            raise Crash

    def request_fails(self, *, after: bool) -> bool:
        if after is not self.fault_after:
            return False
        self.until_fault -= 1
        return self.until_fault == 0


class MortalOs:
    """`os`, as the program's modules see it, until the process is dead."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        if name in {"unlink", "rename", "link", "pwrite", "fsync", "utime", "mkdir"}:
            self._world.step()
        return getattr(os, name)


class MortalStore:
    """A store that may fail, before or after it did what was asked, and that a dead process cannot ask."""

    def __init__(self, store: ObjectStore, world: World) -> None:
        self._store, self._world = store, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def _ask(self, answer: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._world.step()
        if self._world.request_fails(after=False):
            raise StoreUnavailable("made to fail before anything was done")
        answered = await answer()
        if self._world.request_fails(after=True):
            raise StoreUnavailable("made to fail although it was done")
        return answered

    async def wants_md5(self) -> bool:
        return await self._store.wants_md5()

    async def put(
        self,
        key: str,
        body: Any,
        *,
        size: int,
        checksum: Checksum,
        if_absent: bool = False,
        storage_class: str = "",
    ) -> ObjectInfo:
        how: dict[str, Any] = {"if_absent": if_absent, "storage_class": storage_class}
        return await self._ask(lambda: self._store.put(key, body, size=size, checksum=checksum, **how))

    async def head(self, key: str) -> ObjectInfo | None:
        return await self._ask(lambda: self._store.head(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._ask(lambda: self._store.delete(keys))

    async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        self._world.step()
        if self._world.request_fails(after=False):
            raise StoreUnavailable("made to fail before anything was read")
        async with aclosing(self._store.open(key, start, end)) as pieces:
            async for piece in pieces:
                yield piece
        if self._world.request_fails(after=True):
            raise StoreUnavailable("made to fail although all was read")

    async def fetch_into(self, key: str, file: int, **how: Any) -> None:
        await self._ask(lambda: self._store.fetch_into(key, file, **how))

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        return await self._ask(lambda: self._store.read(key, limit=limit))


class Interleavings(RuleBasedStateMachine):
    """A broker with three partitions, the program in `copy` or `move`, and a directory store."""

    @initialize(mode=st.sampled_from(["move", "move", "copy"]), codec=st.sampled_from(CODECS), key=st.booleans())
    def begin(self, mode: Literal["move", "copy"], codec: Literal["none", "zstd"], key: bool) -> None:
        self.cleanup = ExitStack()
        home = Path(self.cleanup.enter_context(tempfile.TemporaryDirectory()))
        self.runner = self.cleanup.enter_context(asyncio.Runner())
        self.world, self.now, self.random = World(), 1_700_000_000.0, 0
        for module in ("disk.files", "engine.incoming", "store.landing", "vault.stored"):
            self.cleanup.enter_context(mock.patch(f"takhin_tiered.{module}.os", MortalOs(self.world)))
        self.cleanup.callback(setattr, points, "hook", None)
        (home / "data").mkdir()
        (home / "store").mkdir()
        self.broker = Broker(home / "data")
        key_file = home / "keys"
        key_file.write_text(f"first {base64.b64encode(bytes(range(32))).decode()}\n")
        self.truth = Truth(self.broker, Folder(home / "store"), keys=keys_in(key_file))
        self.settings = Settings(
            data_dir=home / "data",
            directory_path=home / "store",
            state_path=home / "state",
            enabled=True,
            archive_mode=mode,
            archive_concurrency=2,
            restore_lease_hours=10,
            compression_codec=codec,
            encryption_key_file=key_file if key else None,
            chunk_size_mb=1 / 64,
        )
        self.ends = dict.fromkeys(PARTITIONS, 0)
        self.required: set[str] = set()
        self.stack: AsyncExitStack | None = None
        for partition in PARTITIONS:
            self._new_active(partition)
        self._open()

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            try:
                self._settle()
            finally:
                self._close()
                self.cleanup.close()

    # What the broker does.

    @rule(partition=st.sampled_from(PARTITIONS), size=st.integers(1, 400))
    def append(self, partition: str, size: int) -> None:
        self._write(self._path(partition, self.ends[partition]), self._bytes(size), append=True)

    @rule(partition=st.sampled_from(PARTITIONS), cold=st.booleans())
    def roll(self, partition: str, cold: bool) -> None:
        closed = self._path(partition, self.ends[partition])
        self._stamp(closed, self.now - (400 * HOUR if cold else 0))
        self.required.add(closed)
        self.ends[partition] += 20
        self._new_active(partition)

    @rule(number=NUMBERS, same_size=st.booleans(), by_rename=st.booleans())
    def compact(self, number: int, same_size: bool, by_rename: bool) -> None:
        if (path := _chosen(self._on_disk(), number)) is None:
            return
        content = self._bytes(len(self.broker.files[path]) if same_size else 77)
        if by_rename:
            file = self.broker.root / f"{path}.swap"
            file.write_bytes(content)
            file.rename(self.broker.root / path)
            self.broker.files[path] = content
        else:
            self._wait_for_the_clock_of_files(path)
            self._write(path, content, append=False)
        # A cleaner leaves the times of its sources: one that is later than the active segment's would be written to.
        active = self._path(path.partition("/")[0], self.ends[path.partition("/")[0]])
        latest = min(int((self.now - 300 * HOUR) * 1e9), (self.broker.root / active).stat().st_mtime_ns)
        modified = self.truth.mtimes[path] if same_size else latest
        os.utime(self.broker.root / path, ns=(modified, modified))
        self.truth.mtimes[path] = modified

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        """The broker's own retention: what was archived stays so, and nothing else is asked for any more."""
        if (path := _chosen(self._on_disk(), number)) is None:
            return
        if not self.truth.whole_in_store(path):
            self.required.discard(path)
        for name in self.broker.triple(path):
            (self.broker.root / name).unlink()

    # What the program does.

    @rule()
    def cycle(self) -> None:
        self._try(lambda: self.storage.run_cycle())

    @rule(number=NUMBERS)
    def archive(self, number: int) -> None:
        if (path := _chosen(sorted(self.required), number)) is None:
            return
        self._try(lambda: self.storage.archive_segment(path))

    @rule(number=NUMBERS)
    def restore(self, number: int) -> None:
        if (path := _chosen(sorted(self.required), number)) is None:
            return
        if self._try(lambda: self.storage.restore_segment(path)):
            assert self.truth.whole_on_disk(path)

    @rule(numbers=st.lists(NUMBERS, min_size=2, max_size=4))
    def several_at_once(self, numbers: list[int]) -> None:
        paths = [path for number in numbers if (path := _chosen(sorted(self.required), number)) is not None]

        async def together() -> None:
            verbs = (self.storage.archive_segment, self.storage.restore_segment)
            work = [verbs[number % 2](path) for number, path in enumerate(paths)]
            for result in await asyncio.gather(self.storage.run_cycle(), *work, return_exceptions=True):
                if isinstance(result, BaseException) and not isinstance(result, TakhinError):
                    raise result

        self._try(together)

    @rule()
    def reconcile(self) -> None:
        self._try(lambda: self.storage.reconcile())

    @rule()
    def restart(self) -> None:
        self._close()
        self._open()

    @rule(hours=st.sampled_from([1, 11, 500]))
    def wait(self, hours: int) -> None:
        self.now += hours * HOUR

    # What goes wrong.

    @rule(steps=st.integers(1, 60))
    def crash_soon(self, steps: int) -> None:
        self.world.until_crash = steps

    @rule(requests=st.integers(1, 12), after=st.booleans())
    def store_fails_soon(self, requests: int, after: bool) -> None:
        self.world.until_fault, self.world.fault_after = requests, after

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "stack"):
            return
        assert self.truth.lost(self.required) == {}
        for partition, offset in self.ends.items():
            assert self.broker.is_whole(self._path(partition, offset))
        for path in self.required:
            on_disk = self.broker.on_disk(path)
            assert path not in on_disk or on_disk == self.broker.triple(path), "a log without its indexes"

    def _settle(self) -> None:
        """Nothing fails any more: soon everything cold is archived, nothing lies about, and all can be restored."""
        self.world.until_crash = self.world.until_fault = -1
        self.now += 1000 * HOUR
        for _ in range(3):
            assert self._try(lambda: self.storage.run_cycle())
        report = self.storage.last_cycle
        assert report is not None
        assert report.failures == []
        assert self.truth.lost(self.required) == {}
        assert (self.truth.orphans(), self.truth.temporary_files(), self.truth.store.uploads()) == ([], [], [])
        reported = [(info.segment_path, info.state) for info in self.storage.segments()]
        assert self.truth.misreported(reported, self.required) == []
        assert all(self.truth.whole_in_store(path) for path in self.required)
        for path in sorted(self.required):
            assert self._try(partial(self.storage.restore_segment, path))
            assert self.truth.whole_on_disk(path)

    def _open(self) -> None:
        async def opened() -> None:
            self.stack = AsyncExitStack()
            with mock.patch.object(tiered_storage, "assemble", self._assemble):
                self.storage = await self.stack.enter_async_context(TieredStorage.open(self.settings, scan=False))
            clock = parts(self.storage).clock
            clock.wall = clock.uptime = lambda: self.now
            # The store's files have the real time, which this one has nothing to do with.
            parts(self.storage).guards.clock._store = None

        self.runner.run(opened())
        points.hook = lambda _: self.world.step()

    def _assemble(self, *arguments: Any, store: Any, **named: Any) -> Assembly:
        """What the verbs ask of the store may end the process; what the owner's claim asks does not."""
        mortal = MortalStore(store, self.world)
        assembled = assemble(*arguments, store=mortal, **named)
        identity: Any = assembled.guards.identity
        ownership: Any = assembled.guards.ownership
        identity._store = ownership._store = store
        own = ownership.own

        async def own_mortal() -> tuple[OwnedPrefix, Owned]:
            owned, known = await own()
            return OwnedPrefix(mortal, owned._fence), known

        ownership.own = own_mortal
        return assembled

    def _close(self) -> None:
        """As the process ends: with a crash nothing is tidied up."""

        async def closed() -> None:
            assert self.stack is not None
            with suppress(Crash, TakhinError):
                await self.stack.aclose()

        self.runner.run(closed())
        self.world.dead, self.world.until_crash = False, -1
        points.hook = None

    def _try(self, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        """True if it succeeded. After a crash the next process has begun."""

        async def run() -> bool:
            try:
                await work()
            except TakhinError:
                return False
            return not self.world.dead

        try:
            done = self.runner.run(run())
        except Crash:
            done = False
        if self.world.dead:
            self._close()
            self._open()
        return done

    def _on_disk(self) -> list[str]:
        return sorted(path for path in self.required if self.truth.whole_on_disk(path))

    def _new_active(self, partition: str) -> None:
        path = self._path(partition, self.ends[partition])
        (self.broker.root / partition).mkdir(exist_ok=True)
        for kind in KINDS:
            self._write(path.removesuffix("log") + kind, self._bytes(30), append=False)
        self._stamp(path, self.now)

    def _write(self, name: str, content: bytes, *, append: bool) -> None:
        with (self.broker.root / name).open("ab" if append else "wb") as file:
            file.write(content)
        self.broker.files[name] = self.broker.files.get(name, b"") + content if append else content

    def _wait_for_the_clock_of_files(self, path: str) -> None:
        """It ticks some hundred times a second: until then a change leaves no other time of change."""
        probe = self.broker.root / "probe"
        while True:
            probe.write_bytes(b"")
            if probe.stat().st_ctime_ns > (self.broker.root / path).stat().st_ctime_ns:
                return

    def _stamp(self, path: str, seconds: float) -> None:
        for name in self.broker.triple(path):
            os.utime(self.broker.root / name, (seconds, seconds))
            self.truth.mtimes[name] = (self.broker.root / name).stat().st_mtime_ns

    def _bytes(self, size: int) -> bytes:
        self.random += 1
        return (f"{self.random:08d}" * (size // 8 + 1)).encode()[:size]

    @staticmethod
    def _path(partition: str, offset: int) -> str:
        return f"{partition}/{offset:020d}.log"


Interleavings.TestCase.settings = settings(
    max_examples=int(os.environ.get("TAKHIN_TEST_EXAMPLES", "400" if FULL else "15")),
    stateful_step_count=60 if FULL else 30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestInterleavings = pytest.mark.timeout(3600)(Interleavings.TestCase)
