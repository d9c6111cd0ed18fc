"""What the processes that write to a table tell each other, in small objects: who is archiving, and what is removed.

An object of an item may only be removed once nobody can come to name it. A run that archives registers before it
reads which objects are being removed; who removes one says so before it looks for runs. So one of them sees the other:

- the run is seen: the object stays for now, and a later sweep removes it;
- the removal is seen: the run neither takes that object over nor uses its key again.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

from takhin_tiered import machine
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.errors import ConfigError, ObjectMissing
from takhin_tiered.hybrid.objects import from_json, to_json
from takhin_tiered.hybrid.shelf import Shelf
from takhin_tiered.vault.proof import OtherBytes

FOLDER = "takhin-tiered.tables"
LEASE_SECONDS = 24 * 3600.0
"""How long an item that came back stays, and how long a key that was removed is not used again."""
SILENT_AFTER = 3600.0
REFRESH_EVERY = 60.0
SETTLES_IN = 10.0
"""Seconds after which a request of a process that is gone has arrived, or never will arrive."""
_RESUMED_FOR = 24 * 3600.0


@dataclass(slots=True)
class Marks:
    """By the digest of a base key: items on lease, and the last generation of a key that was removed."""

    leased: set[str] = field(default_factory=set)
    generations: dict[str, int] = field(default_factory=dict)

    def is_leased(self, base: str) -> bool:
        return bool(self.leased) and digest_of(base) in self.leased

    def first_free(self, base: str) -> int:
        """The lowest generation whose key may be used."""
        return self.generations.get(digest_of(base), 0) + 1 if self.generations else 1


@dataclass(frozen=True, slots=True)
class Removal:
    """An object that is to be removed, as its mark says. ``age`` is the mark's, in seconds, and ``announced`` when it
    was made, by `machine.uptime`.
    """

    mark: str
    key: Item
    object_key: str
    age: float
    announced: float


def digest_of(base: str) -> str:
    return hashlib.sha256(base.encode()).hexdigest()


class Records:
    """Of one table."""

    def __init__(self, shelf: Shelf, table: str) -> None:
        self._shelf, self._table, self._folder = shelf, table, f"{FOLDER}/{table}"
        self._same_as = ""

    async def require_same_table(self, arn: str) -> None:
        """`ConfigError` where the objects of this name are another table's, of another account or region."""
        key = f"{self._folder}/table.json"
        record = json.dumps({"arn": arn}).encode()
        try:
            await self._shelf.write_record(key, record, if_absent=True)
        except OtherBytes:
            with suppress(ValueError, KeyError, TypeError):
                found = json.loads(await self._shelf.read_record(key))["arn"]
                raise ConfigError(
                    f"the objects of the table {self._table} in {self._shelf.address} are those of {found}, and not of "
                    f"{arn}",
                    hint=f"Give each its own storage.tiered.s3.prefix. If that table is gone for good, delete {key}",
                ) from None

    async def is_same_table(self, arn: str) -> bool:
        """The same, for whoever is about to remove an object; asked of the store until it says so once.

        A replica in another region, or a copy that was restored there, has the same items: only the first table's own
        writes tell which objects are not needed any more.
        """
        if self._same_as != arn:
            try:
                await self.require_same_table(arn)
            except ConfigError:
                return False
            self._same_as = arn
        return True

    # Runs.

    async def register(self) -> str:
        """Say that this process archives from now on; returns the key of the record."""
        key = f"{self._folder}/run-{uuid4().hex}.json"
        await self.refresh(key)
        return key

    async def refresh(self, run: str) -> None:
        """To be done every `REFRESH_EVERY` seconds: a run that is silent for longer than `SILENT_AFTER` is over."""
        me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": machine.started_at(os.getpid()),
            "machine": machine.process_space(),
            "at": time.time(),
        }
        await self._shelf.write_record(run, json.dumps(me).encode())

    async def unregister(self, run: str) -> None:
        await self._shelf.remove([run])

    async def busy_for(self) -> float:
        """Seconds until no run can come to name an object, as far as it is known; 0: none can.

        When a process died nobody knows, and its last request may still be on its way. So who finds it gone notes
        that, and it counts for `SETTLES_IN` seconds from then on.
        """
        longest, over = 0.0, []
        now: float | None = None
        async for info in self._shelf.list(f"{self._folder}/run-"):
            now = await self._shelf.now() if now is None else now
            age = max(0.0, now - info.modified)
            try:
                record = json.loads(await self._shelf.read_record(info.key))
                is_noted = "over" in record
                pid, started, space = record["pid"], record["started"], record["machine"]
                is_over = machine.is_gone(pid, started, space=space, here=machine.process_space())
            except ObjectMissing:
                continue
            except (ValueError, TypeError, KeyError):
                record, is_noted, is_over = {}, False, False
            if is_over and not is_noted:
                await self._shelf.write_record(info.key, json.dumps({**record, "over": time.time()}).encode())
                age = 0.0
            left = (SETTLES_IN if is_over else SILENT_AFTER) - age
            if left > 0:
                longest = max(longest, left)
            else:
                over.append(info.key)
        if over:
            await self._shelf.remove(over)
        return longest

    # What is removed.

    async def announce(self, base: str, generation: int, key: Item, object_key: str, *, leased: bool) -> None:
        """Before the table stops naming an object, or before one that it does not name is removed.

        ``leased``: the item came back, and is not archived again before the lease ends.
        """
        name = f"lease-{digest_of(base)}" if leased else f"removed-{digest_of(base)}.g{generation}"
        body = {"base": base, "object": object_key, "item": to_json(key).decode(), "at": time.time()}
        await self._shelf.write_record(f"{self._folder}/{name}.json", json.dumps(body).encode())

    async def marks(self) -> Marks:
        """Those that still hold."""
        found = Marks()
        now: float | None = None
        # In one listing: it is asked for with every page of a table.
        async for info in self._shelf.list(f"{self._folder}/"):
            group, _, name = info.key.rpartition("/")[2].removesuffix(".json").partition("-")
            if group not in {"lease", "removed"}:
                continue
            now = await self._shelf.now() if now is None else now
            if now - info.modified >= LEASE_SECONDS:
                continue
            digest, _, generation = name.partition(".g")
            if group == "lease":
                found.leased.add(digest)
            else:
                found.generations[digest] = max(found.generations.get(digest, 0), int(generation))
        return found

    async def removals(self) -> list[Removal]:
        """What was announced, whether or not it was done."""
        found = []
        now, began = 0.0, machine.uptime()
        for group in ("lease", "removed"):
            async for info in self._shelf.list(f"{self._folder}/{group}-"):
                now = now or await self._shelf.now()
                with suppress(ObjectMissing, ValueError, KeyError, TypeError):
                    body = json.loads(await self._shelf.read_record(info.key))
                    key = from_json(body["item"].encode())
                    age = now - info.modified
                    found.append(Removal(info.key, key, body["object"], age, began - age))
        return found

    async def forget(self, marks: list[str]) -> None:
        if marks:
            await self._shelf.remove(marks)

    # How far a run came.

    async def position(self) -> Item | None:
        """Where a run that broke off has to go on; None: at the beginning."""
        with suppress(ObjectMissing, ValueError, KeyError, TypeError):
            body = json.loads(await self._shelf.read_record(self._progress))
            if time.time() - float(body["at"]) < _RESUMED_FOR:
                return from_json(body["after"].encode())
        return None

    async def note_position(self, after: Item) -> None:
        """Everything up to this key was looked at."""
        body = {"after": to_json(after).decode(), "at": time.time()}
        await self._shelf.write_record(self._progress, json.dumps(body).encode())

    async def forget_position(self) -> None:
        await self._shelf.remove([self._progress])

    @property
    def _progress(self) -> str:
        return f"{self._folder}/progress.json"
