"""Whether the owner that a record names is dead, whatever clocks say: it is challenged, and has time to answer.

Who finds another's record leaves a challenge: another nonce, in another object. An owner that lives answers in a third
object, so that a late answer never overwrites the next owner. Only one that has been silent for `SILENT_AFTER` seconds
of the challenger's monotonic clock, and then through a last round in which the challenger reached the store all the
time, is taken for dead. It is not waited for where the record itself tells that it is dead: this very directory's, on
this boot of this machine, as the lock on it is ours; or a process of this machine that is not there any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from uuid import uuid4

from takhin_tiered import logs, machine
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.errors import HeldElsewhere, ObjectMissing, OwnerSilent, StoreError
from takhin_tiered.segments.owner import OwnerKeys, Party, keys_of_replica
from takhin_tiered.store.base import ObjectStore
from takhin_tiered.vault.identity import Meta

SILENT_AFTER = 300.0
LAST_ROUND = 30.0
_LOOKS_OF_LAST_ROUND = 10
_HINT = "It is alive. Give each data directory its own prefix"


@dataclass(frozen=True, slots=True)
class _Pending:
    """A challenge that stands: its nonce, against which record, and since when, in seconds of the monotonic clock."""

    nonce: str
    against: str
    boot: str
    since: float


class Challenger:
    """``me`` judges the owner whose record stands under ``keys``; ``pending`` is the word for its challenge."""

    def __init__(self, store: ObjectStore, meta: Meta, me: Party, keys: OwnerKeys, pending: str) -> None:
        self._store, self._meta, self._me, self._keys, self._pending_word = store, meta, me, keys, pending

    async def require_dead(self, data: bytes) -> None:
        """Return if the owner of this record is dead.

        Raises `HeldElsewhere` where it is alive, and `OwnerSilent` while that is not known: a challenge stands then.
        """
        found = Party.parse(data)
        if self.is_known_dead(found):
            return
        if found is not None and found.machine and found.machine == self._me.machine:
            raise HeldElsewhere(self.held_by(found), key=self._keys.owner, hint=_HINT)
        await self._challenge(data, found)

    async def require_same(self, data: bytes) -> None:
        """Return if the record is still the one that was judged."""
        now = await self.read(self._keys.owner)
        if now != data:
            await self.forget()
            raise HeldElsewhere(self.held_by(Party.parse(now)), key=self._keys.owner, hint=_HINT)

    async def forget(self) -> None:
        """No challenge of ours stands any more."""
        await self._meta.set_meta(self._pending_word, "")

    def is_known_dead(self, found: Party | None) -> bool:
        """Whether the record itself tells that its process is not there any more."""
        if found is None:
            return False
        if found.was_of_same_directory(self._me):
            return True
        return machine.is_gone(found.pid, found.started, space=found.machine, here=self._me.machine)

    async def _challenge(self, data: bytes, found: Party | None) -> None:
        """Return if the owner has been silent for long enough; else raise, and see that a challenge stands."""
        against = hashlib.sha256(data).hexdigest()
        pending = await self._pending()
        if pending is not None and pending.against != against:
            # It was written to since: it is alive, or was so for a while after an old challenge.
            await self.forget()
            if time.monotonic() - pending.since < 2 * SILENT_AFTER:
                raise HeldElsewhere(self.held_by(found), key=self._keys.owner, hint=_HINT)
            pending = None
        standing = Party.parse(await self.read(self._keys.challenge))
        await self._require_no_answer(found, standing)
        if pending is not None and standing is not None and standing.nonce == pending.nonce:
            left = SILENT_AFTER - (time.monotonic() - pending.since)
            if left > 0:
                raise self._silent(found, left)
            await self._last_round(data, found)
            return
        if standing is None:
            standing = await self._ask()
        # Another challenger's stands for this one too.
        pending = _Pending(standing.nonce, against, self._me.boot, time.monotonic())
        await self._meta.set_meta(self._pending_word, json.dumps(asdict(pending)))
        raise self._silent(found, SILENT_AFTER)

    async def _ask(self) -> Party:
        challenge = replace(self._me, nonce=uuid4().hex)
        await put(self._store, self._keys.challenge, challenge.dump(), if_absent=False)
        return challenge

    async def _last_round(self, data: bytes, found: Party | None) -> None:
        """Challenge once more, and wait while the store is seen to answer.

        The silence may have been an outage of the store, or of both machines' sleep.
        """
        challenge = await self._ask()
        for _ in range(_LOOKS_OF_LAST_ROUND):
            await asyncio.sleep(LAST_ROUND / _LOOKS_OF_LAST_ROUND)
            await self.require_same(data)
            await self._require_no_answer(found, challenge)

    async def _require_no_answer(self, found: Party | None, challenge: Party | None) -> None:
        """Raise if the owner has answered the challenge that stands; an answered one is taken away."""
        answer = Party.parse(await self.read(self._keys.answer))
        if found is None or answer is None or challenge is None or answer.answered != challenge.nonce:
            return
        if answer.nonce == found.nonce:
            await self.forget()
            await self.delete_or_pass(self._keys.challenge)
            await self.delete_or_pass(self._keys.answer)
            raise HeldElsewhere(self.held_by(found), key=self._keys.owner, hint=_HINT)

    async def _pending(self) -> _Pending | None:
        """Our challenge, of this process or of one before it; not of another boot, whose clock says nothing here."""
        text = await self._meta.get_meta(self._pending_word)
        if not text:
            return None
        pending = _Pending(**json.loads(text))
        # Where the boot has no name, a clock that went back is another boot's; the last round is waited for anyway.
        return pending if pending.boot == self._me.boot and pending.since <= time.monotonic() else None

    def _silent(self, found: Party | None, left: float) -> OwnerSilent:
        return OwnerSilent(
            self.held_by(found),
            key=self._keys.owner,
            seconds=left,
            hint=f"It was asked whether it lives: if it does not answer within {left:.0f} s, the prefix is taken over "
            "by the daemon, or by the next command after that. Give each data directory its own prefix",
        )

    def held_by(self, found: Party | None) -> str:
        owner = found.description if found is not None else "an owner that is not known"
        return f"{self._store.address} is held by {owner}"

    async def read(self, key: str) -> bytes:
        """What stands there; nothing where nothing does."""
        return await read(self._store, key)

    async def delete_or_pass(self, key: str) -> None:
        with suppress(StoreError):
            await self._store.delete([key])


async def read(store: ObjectStore, key: str) -> bytes:
    """What stands there; nothing where nothing does."""
    try:
        return await store.read(key)
    except ObjectMissing:
        return b""


class Fencer:
    """Finds out whether a process that left a mark can still act on it; ``me`` is this process."""

    def __init__(self, store: ObjectStore, meta: Meta, me: Party) -> None:
        self._store, self._meta, self._me = store, meta, me

    async def is_fenced(self, replica: str, nonce: str) -> bool:
        """Whether the process with this nonce owns its replica's record no more. A dead one is made to lose it."""
        keys = keys_of_replica(replica)
        data = await read(self._store, keys.owner)
        found = Party.parse(data)
        if not data or (found is not None and found.nonce != nonce):
            return True
        others = Challenger(self._store, self._meta, self._me, keys, f"challenge.{replica}")
        try:
            await others.require_dead(data)
            await others.require_same(data)
        except HeldElsewhere:
            return False
        await self._store.delete([keys.owner])
        await others.forget()
        await others.delete_or_pass(keys.challenge)
        logs.logger().warning(
            "a daemon ended while it changed the archive: its owner record is removed",
            owner=found.description if found is not None else replica,
        )
        return True

    async def may_be_alive(self, replica: str) -> bool:
        """Whether a process of this replica has an owner record, and is not known to be dead by that."""
        keys = keys_of_replica(replica)
        found = Party.parse(await read(self._store, keys.owner))
        judge = Challenger(self._store, self._meta, self._me, keys, "")
        return found is not None and not judge.is_known_dead(found)


async def put(store: ObjectStore, key: str, data: bytes, *, if_absent: bool) -> None:
    """Write a small object. `ObjectExists` where ``if_absent`` and there is one, and `StoreError`."""
    checksum = checksum_of(bytes_source(data), len(data))
    await store.put(key, bytes_source(data), size=len(data), checksum=checksum, if_absent=if_absent)
