"""One writer for a prefix, whatever clocks say: the owner has a record in the store, and answers whoever challenges it.

An owner only reads, unless it is challenged. Who finds another's record leaves a challenge: another nonce, in another
object. An owner that lives sees it within `LOOK_EVERY` seconds, and answers in a third object, so that a late answer
never overwrites the next owner. Only one that has been silent for `SILENT_AFTER` seconds of the challenger's monotonic
clock, and then through a last round in which the challenger reached the store all the time, is taken for dead. It is
not waited for where the record itself tells that it is dead: this very directory's, on this boot of this machine, as
the lock on it is ours; or a process of this machine that is not there any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from uuid import uuid4

from takhin_tiered import logs, machine
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.errors import (
    ClaimGone,
    HeldElsewhere,
    ObjectExists,
    ObjectMissing,
    OwnerSilent,
    StoreError,
    StoreUnavailable,
)
from takhin_tiered.points import reached
from takhin_tiered.segments.owner import Party
from takhin_tiered.store.base import ANSWER_KEY, CHALLENGE_KEY, LAST_OWNER_KEY, OWNER_KEY, ObjectStore
from takhin_tiered.vault.identity import Meta

LOOK_EVERY = 5.0
SILENT_AFTER = 300.0
LAST_ROUND = 30.0
SETTLES_IN = 1.0
_SURE_FOR = 5.0
"""Seconds for which a look at the record counts; before what cannot be undone, it is looked at anew."""
_OWN_RECORD_EVERY = 6
_LOOKS_OF_LAST_ROUND = 10
_HINT = "It is alive. Give each data directory its own prefix"
_LAST, _PENDING = "nonce", "challenge"


def describe_self(identifier: str, data_dir: str, directories: Sequence[tuple[int, int]]) -> Party:
    """This process, with the device and inode of each data directory that it holds the lock of."""
    return Party(
        id=identifier,
        nonce=uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=machine.started_at(os.getpid()),
        machine=machine.process_space(),
        boot=machine.boot_id(),
        directories=tuple(f"{device}:{inode}" for device, inode in directories),
        data_dir=data_dir,
    )


@dataclass(frozen=True, slots=True)
class _Pending:
    """A challenge that stands: its nonce, against which record, and since when, in seconds of the monotonic clock."""

    nonce: str
    against: str
    boot: str
    since: float


class Claim:
    """The record of one process; ``lost`` is set when another one has the prefix.

    ``store`` is the bare store: what only an owner may do asks this claim first.
    """

    def __init__(self, store: ObjectStore, meta: Meta, me: Party, lost: asyncio.Event) -> None:
        self._store, self._meta, self._me = store, meta, me
        self._seen = float("-inf")
        self._owned = False
        self._looking = asyncio.Lock()
        self.lost = lost

    @property
    def is_owned(self) -> bool:
        return self._owned

    async def take(self) -> bool:
        """Become the owner; True if nobody else was since the last claim of this state directory.

        Raises `HeldElsewhere` where the owner is alive, `OwnerSilent` while that is not known yet, and `StoreError`.
        """
        if self.lost.is_set():
            raise HeldElsewhere(f"{self._store.address} was taken over by another owner", key=OWNER_KEY)
        try:
            await put(self._store, OWNER_KEY, self._me.dump(), if_absent=True)
        except ObjectExists:
            await self._replace()
        reached("claim.written")
        found = Party.parse(await self._read(OWNER_KEY))
        if found is None:
            raise StoreUnavailable(f"{self._store.address} does not show what was just written", key=OWNER_KEY)
        if not self._is_mine(found):
            raise HeldElsewhere(self._held_by(found), key=OWNER_KEY)
        last = Party.parse(await self._read(LAST_OWNER_KEY))
        was_last = last is not None and last.nonce == await self._meta.get_meta(_LAST)
        await put(self._store, LAST_OWNER_KEY, self._me.dump(), if_absent=False)
        await self._meta.set_meta(_LAST, self._me.nonce)
        await self._meta.set_meta(_PENDING, "")
        self._seen, self._owned = machine.uptime(), True
        return was_last

    async def require(self, *, fresh: bool) -> None:
        """Return if the prefix is ours. ``fresh``: by a look at the record now.

        Raises `HeldElsewhere` where it is another's, `ClaimGone` where it is nobody's, and `StoreError`.
        """
        if not self._owned:
            if self.lost.is_set():
                raise HeldElsewhere(f"{self._store.address} was taken over by another owner", key=OWNER_KEY)
            raise ClaimGone(f"{self._store.address} is not owned, and so is not written to", key=OWNER_KEY)
        asked = machine.uptime()
        if not fresh and asked - self._seen < _SURE_FOR:
            return
        async with self._looking:
            # Another caller's look is enough, if it began after this call.
            if self._seen < asked:
                at = machine.uptime()
                self._judge(await self._read(OWNER_KEY))
                self._seen = at

    async def watch(self) -> None:
        """Answer challenges, and see whether the record is still there, until the claim is lost or gone."""
        answered, looks, told = None, 0, False
        while self._owned:
            await asyncio.sleep(LOOK_EVERY)
            looks += 1
            try:
                if answered is None:
                    last_answer = Party.parse(await self._read(ANSWER_KEY))
                    answered = last_answer.answered if last_answer is not None else ""
                challenge = Party.parse(await self._read(CHALLENGE_KEY))
                is_new = challenge is not None and challenge.nonce != answered
                if is_new or looks % _OWN_RECORD_EVERY == 0:
                    await self.require(fresh=True)
                if challenge is not None and is_new:
                    await put(self._store, ANSWER_KEY, self._me.answering(challenge.nonce).dump(), if_absent=False)
                    answered = challenge.nonce
                    logs.logger().warning(
                        "another process wants this prefix, and was refused", other=challenge.description
                    )
            except HeldElsewhere as error:
                logs.logger().error("lost the claim on the store", error=str(error))
            except StoreError as error:
                if not told:
                    logs.logger().warning("the claim on the store was not looked at", error=str(error))
                told = True
            else:
                told = False

    async def release(self) -> None:
        """Give the prefix back. Best effort: a record that stays is found to be a dead process's."""
        if self._owned:
            with suppress(StoreError, HeldElsewhere):
                await self.require(fresh=True)
                await self._store.delete([OWNER_KEY])
        self._owned = False

    def _is_mine(self, found: Party | None) -> bool:
        return found is not None and found.nonce == self._me.nonce

    def _judge(self, data: bytes) -> None:
        found = Party.parse(data)
        if self._is_mine(found):
            return
        self._owned = False
        if found is None or found.was_of_same_directory(self._me):
            # Removed, or put back as it was at an earlier start of this very process's directory.
            raise ClaimGone(
                f"the record of this process's claim on {self._store.address} is gone",
                key=OWNER_KEY,
                hint="Nothing is written there until it is claimed anew, by the next cycle",
            )
        self.lost.set()
        raise HeldElsewhere(f"{self._store.address} was taken over by {found.description}", key=OWNER_KEY)

    async def _replace(self) -> None:
        """Put our record in the place of another one, if that one's owner is dead."""
        data = await self._read(OWNER_KEY)
        found = Party.parse(data)
        if self._is_mine(found):
            # The write was done, though its answer was an error.
            return
        if data and not self._is_known_dead(found):
            if found is not None and found.machine and found.machine == self._me.machine:
                raise HeldElsewhere(self._held_by(found), key=OWNER_KEY, hint=_HINT)
            await self._challenge(data, found)
        if data and (found is None or found.id != self._me.id):
            who = found.description if found is not None else "nobody that can be read"
            logs.logger().warning("taking over the prefix of another owner", owner=who, store=self._store.address)
        reached("claim.replace")
        await self._require_same(data)
        await self._delete_or_pass(OWNER_KEY)
        try:
            await put(self._store, OWNER_KEY, self._me.dump(), if_absent=True)
        except ObjectExists:
            if not self._is_mine(Party.parse(await self._read(OWNER_KEY))):
                # These credentials may not delete: then the record is overwritten. Else another process was faster.
                await self._require_same(data)
                await put(self._store, OWNER_KEY, self._me.dump(), if_absent=False)
        await self._delete_or_pass(CHALLENGE_KEY)
        # Another process may do the same at this moment: the record shows which one wrote last.
        await asyncio.sleep(SETTLES_IN)

    async def _require_same(self, data: bytes) -> None:
        """Return if the record is still the one that was judged."""
        now = await self._read(OWNER_KEY)
        if now != data:
            await self._meta.set_meta(_PENDING, "")
            raise HeldElsewhere(self._held_by(Party.parse(now)), key=OWNER_KEY, hint=_HINT)

    def _is_known_dead(self, found: Party | None) -> bool:
        if found is None:
            return False
        if found.was_of_same_directory(self._me):
            return True
        is_here = bool(found.machine) and found.machine == self._me.machine
        return is_here and not machine.is_alive(found.pid, found.started)

    async def _challenge(self, data: bytes, found: Party | None) -> None:
        """Return if the owner has been silent for long enough; else raise, and see that a challenge stands."""
        against = hashlib.sha256(data).hexdigest()
        pending = await self._pending()
        if pending is not None and pending.against != against:
            # It was written to since: it is alive, or was so for a while after an old challenge.
            await self._meta.set_meta(_PENDING, "")
            if time.monotonic() - pending.since < 2 * SILENT_AFTER:
                raise HeldElsewhere(self._held_by(found), key=OWNER_KEY, hint=_HINT)
            pending = None
        standing = Party.parse(await self._read(CHALLENGE_KEY))
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
        await self._meta.set_meta(_PENDING, json.dumps(asdict(pending)))
        raise self._silent(found, SILENT_AFTER)

    async def _ask(self) -> Party:
        challenge = replace(self._me, nonce=uuid4().hex)
        await put(self._store, CHALLENGE_KEY, challenge.dump(), if_absent=False)
        return challenge

    async def _last_round(self, data: bytes, found: Party | None) -> None:
        """Challenge once more, and wait while the store is seen to answer.

        The silence may have been an outage of the store, or of both machines' sleep.
        """
        challenge = await self._ask()
        for _ in range(_LOOKS_OF_LAST_ROUND):
            await asyncio.sleep(LAST_ROUND / _LOOKS_OF_LAST_ROUND)
            await self._require_same(data)
            await self._require_no_answer(found, challenge)

    async def _require_no_answer(self, found: Party | None, challenge: Party | None) -> None:
        """Raise if the owner has answered the challenge that stands; an answered one is taken away."""
        answer = Party.parse(await self._read(ANSWER_KEY))
        if found is None or answer is None or challenge is None or answer.answered != challenge.nonce:
            return
        if answer.nonce == found.nonce:
            await self._meta.set_meta(_PENDING, "")
            await self._delete_or_pass(CHALLENGE_KEY)
            await self._delete_or_pass(ANSWER_KEY)
            raise HeldElsewhere(self._held_by(found), key=OWNER_KEY, hint=_HINT)

    async def _pending(self) -> _Pending | None:
        """Our challenge, of this process or of one before it; not of another boot, whose clock says nothing here."""
        text = await self._meta.get_meta(_PENDING)
        if not text:
            return None
        pending = _Pending(**json.loads(text))
        # Where the boot has no name, a clock that went back is another boot's; the last round is waited for anyway.
        return pending if pending.boot == self._me.boot and pending.since <= time.monotonic() else None

    def _silent(self, found: Party | None, left: float) -> OwnerSilent:
        return OwnerSilent(
            self._held_by(found),
            key=OWNER_KEY,
            seconds=left,
            hint=f"It was asked whether it lives: if it does not answer within {left:.0f} s, the prefix is taken over "
            "by the daemon, or by the next command after that. Give each data directory its own prefix",
        )

    def _held_by(self, found: Party | None) -> str:
        owner = found.description if found is not None else "an owner that is not known"
        return f"{self._store.address} is held by {owner}"

    async def _read(self, key: str) -> bytes:
        """What stands there; nothing where nothing does."""
        try:
            return await self._store.read(key)
        except ObjectMissing:
            return b""

    async def _delete_or_pass(self, key: str) -> None:
        with suppress(StoreError):
            await self._store.delete([key])


async def put(store: ObjectStore, key: str, data: bytes, *, if_absent: bool) -> None:
    """Write a small object. `ObjectExists` where ``if_absent`` and there is one, and `StoreError`."""
    checksum = checksum_of(bytes_source(data), len(data))
    await store.put(key, bytes_source(data), size=len(data), checksum=checksum, if_absent=if_absent)
