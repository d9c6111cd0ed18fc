"""The right to write: the store is the one that the catalog speaks of, and its prefix is ours or our replicas'."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from uuid import uuid4

from takhin_tiered.disk.files import DataDirs
from takhin_tiered.errors import ClaimGone
from takhin_tiered.segments.owner import Party, keys_of_replica
from takhin_tiered.store import ObjectStore
from takhin_tiered.vault.challenging import Fencer
from takhin_tiered.vault.claim import Claim, describe_self
from takhin_tiered.vault.identity import Identity, Judged, Meta
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.releases import Releases
from takhin_tiered.vault.replicas import SharedPrefix, Unanswered
from takhin_tiered.vault.sharing import Sharing

IDENTIFIER = "owner"


class Owned(Enum):
    """What is known of the archive when the prefix is ours."""

    ALREADY = auto()
    AGAIN = auto()
    """No other owner wrote there since this state directory was its owner last; replicas that share it may have."""
    ANEW = auto()


class Ownership:
    """Of one process, which writes to the store by what `own` returns, and by nothing else.

    ``shares``: the prefix belongs to the daemons of several replicas (`storage.tiered.fleet.replicas`).
    """

    def __init__(
        self, store: ObjectStore, identity: Identity, meta: Meta, data_dir: DataDirs, *, shares: bool = False
    ) -> None:
        self._store, self._identity, self._meta, self._data_dir = store, identity, meta, data_dir
        self.shares = shares
        self._me: Party | None = None
        self._claim: Claim | None = None
        self._sharing: Sharing | None = None
        self._watches: list[asyncio.Task[None]] = []
        self._lost = asyncio.Event()
        self._unanswered = Unanswered(Releases(meta))

    async def own(self) -> tuple[OwnedPrefix, Owned]:
        """Become the owner, or stay it: the prefix, to be written to, and what is known of it.

        Raises `StoreChanged`, `HeldElsewhere`, `OwnerSilent` and other `StoreError`.
        """
        judged = await self._identity.judge()
        me = self._me = self._me or await self._describe_self()
        if self.shares:
            judged = await self._share(me, judged)
        if self._claim is None:
            keys = [keys_of_replica(me.id)] if self.shares else []
            self._claim = Claim(self._store, self._meta, me, self._lost, *keys)
        claim = self._claim
        owned = Owned.ALREADY
        if claim.is_owned:
            # By the store's own word, before a verb begins. A record that is gone is written anew.
            with suppress(ClaimGone):
                await claim.require(fresh=True)
        if not claim.is_owned:
            is_again = await claim.take()
            if self._sharing is not None:
                is_again = await self._sharing.stayed() and is_again
            owned = Owned.AGAIN if is_again else Owned.ANEW
        self._watch([claim] if self._sharing is None else [claim, self._sharing.marker])
        await self._identity.settle(judged)
        prefix = OwnedPrefix(self._store, claim.require) if self._sharing is None else self._shared(me, claim)
        if isinstance(prefix, SharedPrefix):
            await self._unanswered.releases.load()
            await prefix.sweep()
        return prefix, Owned.ANEW if judged.by_hand else owned

    async def _share(self, me: Party, judged: Judged) -> Judged:
        """See that the prefix is shared; the store, judged again where another replica may have given it its ID."""
        sharing = self._sharing
        if sharing is None:
            sharing = Sharing(self._store, self._meta, me, self._lost)
            await sharing.require_conditional_writes()
            self._sharing = sharing
        with suppress(ClaimGone):
            if sharing.marker.is_owned:
                await sharing.marker.require(fresh=True)
        if sharing.marker.is_owned:
            return judged
        await sharing.open(lambda: self._identity.settle(judged))
        return replace(await self._identity.judge(), by_hand=judged.by_hand)

    def _shared(self, me: Party, claim: Claim) -> SharedPrefix:
        """In the hands of the present claim: one that is gone, and taken again, has another nonce."""
        nonce, sharing = claim.nonce, self._sharing
        assert sharing is not None

        async def fence(*, fresh: bool) -> None:
            await asyncio.gather(claim.require(fresh=fresh), sharing.marker.require(fresh=fresh))
            if claim.nonce != nonce:
                raise ClaimGone(
                    f"the claim on {self._store.address} was gone for a while",
                    hint="What had begun before that is not gone on with. The next cycle begins anew",
                )

        now = replace(me, nonce=nonce)
        return SharedPrefix(self._store, fence, now, Fencer(self._store, self._meta, now), self._unanswered)

    async def identifier(self) -> str:
        """What names this data directory's state from one start to the next."""
        identifier = await self._meta.get_meta(IDENTIFIER)
        if identifier is None:
            identifier = uuid4().hex
            await self._meta.set_meta(IDENTIFIER, identifier)
        return identifier

    async def wait_lost(self) -> None:
        """Until another owner has the prefix, or nobody watches any more whether it has: then with that error."""
        await self._lost.wait()
        for watch in self._watches:
            if watch.done():
                watch.result()

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        if self._claim is not None:
            await self._claim.release()

    def _watch(self, claims: Sequence[Claim]) -> None:
        """See that each claim is watched: an owner that answers nobody would be taken for dead."""
        if len(self._watches) < len(claims):
            self._watches = [asyncio.create_task(self._watched(claim)) for claim in claims]
            return
        for number, claim in enumerate(claims):
            if self._watches[number].done():
                self._watches[number] = asyncio.create_task(self._watched(claim))

    async def _watched(self, claim: Claim) -> None:
        try:
            await claim.watch()
        except Exception:
            self._lost.set()
            raise

    async def _describe_self(self) -> Party:
        directories = [root.place for root in self._data_dir.roots]
        return describe_self(await self.identifier(), str(self._data_dir), directories)
