"""Rekey: wrap the data keys of the archive with the current key of the key file, so that older keys can be given up.

Only manifests are written anew, each as a whole, with its segment's lock held: a kill leaves the one before or the one
after, and both can be read with the keys of the file. No object of a segment is touched.

An archive that began with an earlier key commits a manifest that no listing shows yet: it is waited for first. One that
begins later uses the current key, but it may give the manifest of the generation before its other name when the listing
has passed that by: such names are looked up at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.limits import Limits
from takhin_tiered.errors import ConfigError, NoKey, ObjectCorrupt, ObjectMissing, SegmentBusy, WrongKey
from takhin_tiered.points import reached
from takhin_tiered.segments.chunks import Encryption
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import SegmentId, parse_manifest_key, parse_superseded_key
from takhin_tiered.segments.results import FailedSegment, RekeyResult
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.decoding import data_key, key_context
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import put_proven, read_manifest
from takhin_tiered.verbs import verb

_AT_ONCE = 16


@dataclass(slots=True)
class _Tally:
    rewrapped: int = 0
    current: int = 0
    plain: int = 0
    read_only: int = 0
    failed: list[FailedSegment] = field(default_factory=list)
    # Superseded manifests that the listing showed; and segments that have such, with their generation.
    superseded: set[str] = field(default_factory=set)
    replaced: dict[SegmentId, int] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        return self.rewrapped + self.current + self.plain + self.read_only + len(self.failed)


@dataclass(frozen=True, slots=True)
class Rekeyer:
    """Wraps data keys anew."""

    catalog: Catalog
    store: ReadableStore
    limits: Limits
    codecs: Codecs

    async def rekey(self, owned: OwnedPrefix, progress: Callable[[int], None] = lambda _: None) -> RekeyResult:
        """Every manifest under the prefix, those of superseded generations too; ``progress`` is told how many.

        A manifest that cannot be read or unwrapped is a failure of its segment. `ConfigError` if there is no current
        key, and `StoreError` or `HeldElsewhere` if the store does not answer or is another's: what was done stays.
        """
        if not self.codecs.keys.current:
            raise ConfigError(
                "storage.tiered.encryption.key.file is not set: there is no key to wrap the data keys with"
            )
        for identity in self.catalog.held():
            async with self.catalog.lock(identity):
                pass
        tally, waiting = _Tally(), set[asyncio.Task[None]]()
        try:
            async with aclosing(self._manifests(tally)) as manifests:
                async for identity, key in manifests:
                    if len(waiting) >= _AT_ONCE:
                        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                        for task in done:
                            task.result()
                        progress(tally.seen)
                    waiting.add(asyncio.create_task(self._rekey_one(owned, identity, key, tally)))
            for task in waiting:
                await task
            for identity, generation in tally.replaced.items():
                for key in map(identity.superseded_key, range(1, generation)):
                    if key not in tally.superseded:
                        await self._rekey_one(owned, identity, key, tally)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return RekeyResult(tally.rewrapped, tally.current, tally.plain, tally.read_only, tuple(tally.failed))

    async def _manifests(self, tally: _Tally) -> AsyncGenerator[tuple[SegmentId, str], None]:
        """Those that the store lists, and that may be written, with their keys."""
        async for info in self.store.list():
            superseded = parse_superseded_key(info.key)
            identity = superseded[0] if superseded else parse_manifest_key(info.key)
            if identity is None:
                continue
            if info.read_only:
                tally.read_only += 1
                continue
            if superseded:
                tally.superseded.add(info.key)
            yield identity, info.key

    async def _rekey_one(self, owned: OwnedPrefix, identity: SegmentId, key: str, tally: _Tally) -> None:
        with verb("rekey", identity.path):
            try:
                async with self.catalog.lock(identity):
                    try:
                        manifest = await read_manifest(self.store, identity, key)
                    except ObjectMissing:
                        # It is gone since it was listed.
                        return
                    if manifest.generation > 1 and key == identity.manifest_key:
                        tally.replaced[identity] = manifest.generation
                    changed = self._rewrapped(manifest)
                    if changed is None:
                        is_encrypted = any(f.encoding and f.encoding.encryption for f in manifest.files.values())
                        tally.current += is_encrypted
                        tally.plain += not is_encrypted
                        return
                    await self._put(owned, manifest, changed, key)
                    tally.rewrapped += 1
            except (ObjectCorrupt, ObjectMissing, NoKey, WrongKey, SegmentBusy) as error:
                logs.logger().error("the data key stays as it is", code=error.code, error=str(error))
                tally.failed.append(FailedSegment(identity.full_path, str(error)))

    def _rewrapped(self, manifest: Manifest) -> Manifest | None:
        """With all data keys wrapped by the current key; None if they are already, or there are none."""
        files = {kind: self._file(manifest, file) for kind, file in manifest.files.items()}
        return None if files == manifest.files else replace(manifest, files=files)

    def _file(self, manifest: Manifest, file: ManifestFile) -> ManifestFile:
        keys, encoding = self.codecs.keys, file.encoding
        if encoding is None or encoding.encryption is None:
            return file
        # Of the current ID too: the key file may have another key under it.
        key = data_key(manifest.id, manifest.topic_id, encoding.encryption, keys)
        assert key is not None
        if encoding.encryption.key_id == keys.current:
            return file
        wrapped = keys.get(keys.current).wrap(key, key_context(manifest.id, manifest.topic_id))
        return replace(file, encoding=replace(encoding, encryption=Encryption(keys.current, wrapped)))

    async def _put(self, owned: OwnedPrefix, before: Manifest, after: Manifest, key: str) -> None:
        reached("rekey.before.manifest")
        async with self.limits.requests, owned.replacing(before, after, key):
            await put_proven(owned, key, after.to_json(), segment=after.id.path)
        reached("rekey.manifest.stored")
