"""A prefix that replicas share: in the place of one owner's record there is a marker, which no process replaces.

Whoever puts it there owns the prefix first, by the rules for one owner. Then it gives an adoption record to every
segment that is archived already, in the name of the owner before: from then on no segment that somebody may rely on is
without one. A kill before the marker leaves a prefix with one owner, who is dead; the next one begins again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

from takhin_tiered import logs
from takhin_tiered.errors import ConfigError, HeldElsewhere, ObjectExists, OwnerSilent
from takhin_tiered.points import reached
from takhin_tiered.segments.names import is_replica_name, parse_adoption_key, parse_manifest_key
from takhin_tiered.segments.owner import OF_PREFIX, Party
from takhin_tiered.store.base import ObjectStore
from takhin_tiered.vault.challenging import Challenger, put, read
from takhin_tiered.vault.claim import Claim
from takhin_tiered.vault.identity import Meta

MARKER = Party(nonce="shared-by-replicas", shared=True)
_UNKNOWN = "unknown"
_LAST_SINGLE = "single-owner"
_AT_ONCE = 24
WAIT_FOR_OPENING = 20.0
_LOOKS = 40


class Sharing:
    """Sees that the marker stands. ``lost`` is set when one owner has the prefix again."""

    def __init__(self, store: ObjectStore, meta: Meta, me: Party, lost: asyncio.Event) -> None:
        self._store, self._meta, self._me, self._lost = store, meta, me, lost
        self.marker = Claim(store, meta, MARKER, lost)
        """What stands for all replicas: each of them asks whether it is there, and answers who challenges it."""

    async def require_conditional_writes(self) -> None:
        """`ConfigError` where the server takes each write of a key for its first: two replicas may upload at once."""
        can = await self._store.capabilities()
        if can is not None and not can.conditional_writes:
            raise ConfigError(
                f"storage.tiered.fleet.replicas is adopt, and {self._store.address} has no conditional writes",
                hint="Without them two replicas could overwrite what the other one archives. Use another server, or "
                "storage.tiered.fleet.replicas: own, and a prefix for each data directory",
            )

    async def open(self, settle: Callable[[], Awaitable[None]]) -> None:
        """Return when the prefix is shared. ``settle`` is called first where this process makes it so.

        Raises `HeldElsewhere` where one owner is alive, `OwnerSilent` while that is not known yet, and `StoreError`.
        """
        found = await self._wait_for_opening()
        if found is None or not found.shared:
            await self._open(found, settle)
        await self._outdate_last()
        self.marker.join()

    async def stayed(self) -> bool:
        """Whether no single owner had the prefix since this state directory asked last.

        Such an owner looks at no adoption record, so what this replica relies on may be gone.
        """
        last = Party.parse(await read(self._store, OF_PREFIX.last))
        nonce = last.nonce if last is not None else ""
        if await self._meta.get_meta(_LAST_SINGLE) == nonce:
            return True
        await self._meta.set_meta(_LAST_SINGLE, nonce)
        return False

    async def _outdate_last(self) -> None:
        """Before this replica changes anything: see that the single owner before is told of it, if it comes back.

        It compares the nonce of its last claim with this record, and takes its catalog for up to date where they are
        the same. Its identifier stays: what it relied on is recorded in that name.
        """
        last = Party.parse(await read(self._store, OF_PREFIX.last))
        if last is not None and not last.shared:
            await put(
                self._store, OF_PREFIX.last, replace(last, nonce=uuid4().hex, shared=True).dump(), if_absent=False
            )
            reached("replicas.outdated")

    async def _wait_for_opening(self) -> Party | None:
        """The record as it is. Another replica that is about to share the prefix has some time to do so."""
        others = Challenger(self._store, self._meta, self._me, OF_PREFIX, "")
        for _ in range(_LOOKS):
            found = Party.parse(await read(self._store, OF_PREFIX.owner))
            if found is None or not found.opening or others.is_known_dead(found):
                break
            await asyncio.sleep(WAIT_FOR_OPENING / _LOOKS)
        return found

    async def _open(self, found: Party | None, settle: Callable[[], Awaitable[None]]) -> None:
        last = Party.parse(await read(self._store, OF_PREFIX.last))
        before = {party.id for party in (last, found) if party is not None and is_replica_name(party.id)}
        gate = Claim(self._store, self._meta, replace(self._me, opening=True), asyncio.Event(), remembers=False)
        try:
            await gate.take()
        except OwnerSilent:
            raise
        except HeldElsewhere as error:
            now = Party.parse(await read(self._store, OF_PREFIX.owner))
            if now is not None and (now.shared or now.opening):
                # Another replica was faster, or takes its time: an archive may have many segments.
                raise OwnerSilent(
                    error.message, key=error.key, hint="It is about to share the prefix with this daemon, which waits"
                ) from error
            raise
        watch = asyncio.create_task(gate.watch())
        try:
            recorded = await self._record_all(before or {_UNKNOWN})
            await settle()
            reached("replicas.opening")
            await gate.require(fresh=True)
            await put(self._store, OF_PREFIX.owner, MARKER.dump(), if_absent=False)
            reached("replicas.opened")
        except BaseException:
            await asyncio.shield(gate.release())
            raise
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        logs.logger().warning(
            "the prefix is shared by replicas from now on", store=self._store.address, segments=recorded
        )

    async def _record_all(self, replicas: set[str]) -> int:
        """Give every archived segment the adoption records of these; returns how many segments there are."""
        segments, waiting = 0, set[asyncio.Task[None]]()
        missing = set[str]()
        at = None
        try:
            async for info in self._store.list():
                # A segment's adoption records come before its manifest.
                adoption = parse_adoption_key(info.key)
                identity = adoption[0] if adoption else parse_manifest_key(info.key)
                if identity is None or info.read_only:
                    continue
                if identity != at:
                    at, missing = identity, set(replicas)
                if adoption is not None:
                    missing.discard(adoption[1])
                    continue
                segments += 1
                for replica in missing:
                    if len(waiting) >= _AT_ONCE:
                        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                        for task in done:
                            task.result()
                    key = identity.adoption_key(replica)
                    waiting.add(asyncio.create_task(self._record(key, adoption_record(self._me, replica))))
            for task in waiting:
                await task
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return segments

    async def _record(self, key: str, record: bytes) -> None:
        try:
            await put(self._store, key, record, if_absent=True)
        except ObjectExists:
            return
        reached("replicas.recorded")


def adoption_record(me: Party, replica: str) -> bytes:
    """What stands in an adoption record, or in a deletion mark: who wrote it, for people. Its key says the rest."""
    return replace(me, id=replica).dump()
