"""An archived object into another storage class, by the store itself, and proven after that."""

from __future__ import annotations

from contextlib import suppress

from takhin_tiered.codec.checksums import Checksum
from takhin_tiered.errors import ObjectExists
from takhin_tiered.points import reached
from takhin_tiered.segments.manifest import ManifestFile
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import prove


async def change_class(owned: OwnedPrefix, identity: SegmentId, file: ManifestFile, storage_class: str) -> None:
    """The manifest stays as it is: key, size and checksum are the same.

    `ObjectMissing` and `ObjectCorrupt` where the object is not what the manifest says, before or after; `NotSupported`
    and `InGlacier`, where it stays in its class; and other `StoreError`.
    """
    checksum = Checksum(file.sha256, file.part_size)
    await prove(owned.store, file.key, file.size, checksum, segment=identity.path)
    # Where another owner of a shared prefix was first, what it made is proven all the same.
    with suppress(ObjectExists):
        await owned.change_class(file.key, storage_class, size=file.size, checksum=checksum)
    await prove(owned.store, file.key, file.size, checksum, segment=identity.path)
    reached("class.proven")
