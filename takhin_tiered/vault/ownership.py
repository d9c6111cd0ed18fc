"""The right to write: the store is the one that the catalog speaks of, and its prefix is ours."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum, auto
from uuid import uuid4

from takhin_tiered.disk.files import DataDirs
from takhin_tiered.errors import ClaimGone
from takhin_tiered.store import ObjectStore
from takhin_tiered.vault.claim import Claim, describe_self
from takhin_tiered.vault.identity import Identity, Meta
from takhin_tiered.vault.owned import OwnedPrefix

IDENTIFIER = "owner"


class Owned(Enum):
    """What is known of the archive when the prefix is ours."""

    ALREADY = auto()
    AGAIN = auto()
    """Nobody else wrote there since this state directory was its owner last."""
    ANEW = auto()


class Ownership:
    """Of one process, which writes to the store by what `own` returns, and by nothing else."""

    def __init__(self, store: ObjectStore, identity: Identity, meta: Meta, data_dir: DataDirs) -> None:
        self._store, self._identity, self._meta, self._data_dir = store, identity, meta, data_dir
        self._claim: Claim | None = None
        self._watch: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    async def own(self) -> tuple[OwnedPrefix, Owned]:
        """Become the owner, or stay it: the prefix, to be written to, and what is known of it.

        Raises `StoreChanged`, `HeldElsewhere`, `OwnerSilent` and other `StoreError`.
        """
        judged = await self._identity.judge()
        claim = self._claim = self._claim or await self._make_claim()
        owned = Owned.ALREADY
        if claim.is_owned:
            # By the store's own word, before a verb begins. A record that is gone is written anew.
            with suppress(ClaimGone):
                await claim.require(fresh=True)
        if not claim.is_owned:
            owned = Owned.AGAIN if await claim.take() else Owned.ANEW
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watched(claim))
        await self._identity.settle(judged)
        return OwnedPrefix(self._store, claim.require), Owned.ANEW if judged.by_hand else owned

    async def wait_lost(self) -> None:
        """Until another owner has the prefix, or nobody watches any more whether it has: then with that error."""
        await self._lost.wait()
        if self._watch is not None and self._watch.done():
            self._watch.result()

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._claim is not None:
            await self._claim.release()

    async def _watched(self, claim: Claim) -> None:
        try:
            await claim.watch()
        except Exception:
            # An owner that answers nobody would be taken for dead.
            self._lost.set()
            raise

    async def _make_claim(self) -> Claim:
        directories = [root.place for root in self._data_dir.roots]
        me = describe_self(await self._identifier(), str(self._data_dir), directories)
        return Claim(self._store, self._meta, me, self._lost)

    async def _identifier(self) -> str:
        """What names this data directory's state from one start to the next."""
        identifier = await self._meta.get_meta(IDENTIFIER)
        if identifier is None:
            identifier = uuid4().hex
            await self._meta.set_meta(IDENTIFIER, identifier)
        return identifier
