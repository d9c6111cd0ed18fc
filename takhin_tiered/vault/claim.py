"""One writer for a prefix, whatever clocks say: the owner has a record in the store, and answers whoever challenges it.

An owner only reads, unless it is challenged: it sees that within `LOOK_EVERY` seconds. Who wants to replace a record
asks `takhin_tiered.vault.challenging` whether its owner is dead. Where replicas share a prefix, each of them has such a
record of its own, under keys of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

from takhin_tiered import logs, machine
from takhin_tiered.errors import ClaimGone, HeldElsewhere, ObjectExists, StoreError, StoreUnavailable
from takhin_tiered.points import reached
from takhin_tiered.segments.owner import OF_PREFIX, OwnerKeys, Party
from takhin_tiered.store.base import ObjectStore
from takhin_tiered.vault.challenging import Challenger, put
from takhin_tiered.vault.identity import Meta

LOOK_EVERY = 5.0
SETTLES_IN = 1.0
SURE_FOR = 5.0
"""Seconds for which a look at the record counts; before what cannot be undone, it is looked at anew."""
_OWN_RECORD_EVERY = 6
_LAST, _PENDING = "nonce", "challenge"
_SHARED = (
    "Set storage.tiered.fleet.replicas: adopt, so that this daemon shares what stands there, or give this data "
    "directory its own prefix"
)


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


class Claim:
    """The record of one process; ``lost`` is set when another one has the prefix.

    ``store`` is the bare store: what only an owner may do asks this claim first. ``keys`` are where the record stands.
    ``remembers``: who was the owner last is written down; not by one that only opens the prefix to replicas.
    """

    def __init__(
        self,
        store: ObjectStore,
        meta: Meta,
        me: Party,
        lost: asyncio.Event,
        keys: OwnerKeys = OF_PREFIX,
        *,
        remembers: bool = True,
    ) -> None:
        self._store, self._meta, self._me, self._keys, self._remembers = store, meta, me, keys, remembers
        self._others = Challenger(store, meta, me, keys, _PENDING)
        self._seen = float("-inf")
        self._owned = self._was_owned = False
        self._looking = asyncio.Lock()
        self.lost = lost

    @property
    def is_owned(self) -> bool:
        return self._owned

    @property
    def nonce(self) -> str:
        """Of the present claim: one that was gone and is taken again has another one."""
        return self._me.nonce

    def join(self) -> None:
        """The record stands for several processes, and another one may have written it: it is as good as ours."""
        self._seen, self._owned = machine.uptime(), True

    async def take(self) -> bool:
        """Become the owner; True if nobody else was since the last claim of this state directory.

        Raises `HeldElsewhere` where the owner is alive, `OwnerSilent` while that is not known yet, and `StoreError`.
        """
        if self.lost.is_set():
            raise HeldElsewhere(f"{self._store.address} was taken over by another owner", key=self._keys.owner)
        if self._was_owned:
            # A verb that slept since the claim was gone must not go on as if it had stood all the time.
            self._me = replace(self._me, nonce=uuid4().hex)
            self._was_owned = False
        try:
            await put(self._store, self._keys.owner, self._me.dump(), if_absent=True)
        except ObjectExists:
            await self._replace()
        reached("claim.written")
        found = Party.parse(await self._others.read(self._keys.owner))
        if found is None:
            raise StoreUnavailable(f"{self._store.address} does not show what was just written", key=self._keys.owner)
        if not self._is_mine(found):
            raise HeldElsewhere(self._others.held_by(found), key=self._keys.owner)
        last = Party.parse(await self._others.read(self._keys.last))
        was_last = last is not None and last.nonce == await self._meta.get_meta(_LAST)
        if self._remembers:
            await put(self._store, self._keys.last, self._me.dump(), if_absent=False)
            await self._meta.set_meta(_LAST, self._me.nonce)
        await self._others.forget()
        self._seen, self._owned, self._was_owned = machine.uptime(), True, True
        return was_last

    async def require(self, *, fresh: bool) -> None:
        """Return if the prefix is ours. ``fresh``: by a look at the record now.

        Raises `HeldElsewhere` where it is another's, `ClaimGone` where it is nobody's, and `StoreError`.
        """
        if not self._owned:
            if self.lost.is_set():
                raise HeldElsewhere(f"{self._store.address} was taken over by another owner", key=self._keys.owner)
            raise ClaimGone(f"{self._store.address} is not owned, and so is not written to", key=self._keys.owner)
        asked = machine.uptime()
        if not fresh and asked - self._seen < SURE_FOR:
            return
        async with self._looking:
            # Another caller's look is enough, if it began after this call.
            if self._seen < asked:
                at = machine.uptime()
                self._judge(await self._others.read(self._keys.owner))
                self._seen = at

    async def watch(self) -> None:
        """Answer challenges, and see whether the record is still there, until the claim is lost or gone."""
        answered, looks, told = None, 0, False
        while self._owned:
            await asyncio.sleep(LOOK_EVERY)
            looks += 1
            try:
                if answered is None:
                    last_answer = Party.parse(await self._others.read(self._keys.answer))
                    answered = last_answer.answered if last_answer is not None else ""
                challenge = Party.parse(await self._others.read(self._keys.challenge))
                is_new = challenge is not None and challenge.nonce != answered
                if is_new or looks % _OWN_RECORD_EVERY == 0:
                    await self.require(fresh=True)
                if challenge is not None and is_new:
                    answer = self._me.answering(challenge.nonce)
                    await put(self._store, self._keys.answer, answer.dump(), if_absent=False)
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
                await self._store.delete([self._keys.owner])
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
                key=self._keys.owner,
                hint="Nothing is written there until it is claimed anew, by the next cycle",
            )
        self.lost.set()
        raise HeldElsewhere(f"{self._store.address} was taken over by {found.description}", key=self._keys.owner)

    async def _replace(self) -> None:
        """Put our record in the place of another one, if that one's owner is dead."""
        data = await self._others.read(self._keys.owner)
        found = Party.parse(data)
        if self._is_mine(found):
            # The write was done, though its answer was an error.
            return
        if found is not None and found.shared:
            # No process: nobody takes it over.
            raise HeldElsewhere(self._others.held_by(found), key=self._keys.owner, hint=_SHARED)
        if data:
            await self._others.require_dead(data)
        if data and (found is None or found.id != self._me.id):
            who = found.description if found is not None else "nobody that can be read"
            logs.logger().warning("taking over the prefix of another owner", owner=who, store=self._store.address)
        reached("claim.replace")
        await self._others.require_same(data)
        await self._others.delete_or_pass(self._keys.owner)
        try:
            await put(self._store, self._keys.owner, self._me.dump(), if_absent=True)
        except ObjectExists:
            if not self._is_mine(Party.parse(await self._others.read(self._keys.owner))):
                # These credentials may not delete: then the record is overwritten. Else another process was faster.
                await self._others.require_same(data)
                await put(self._store, self._keys.owner, self._me.dump(), if_absent=False)
        await self._others.delete_or_pass(self._keys.challenge)
        # Another process may do the same at this moment: the record shows which one wrote last.
        await asyncio.sleep(SETTLES_IN)
