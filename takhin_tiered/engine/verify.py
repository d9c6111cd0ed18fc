"""Verify: is the archive what the manifests say? It changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from takhin_tiered.engine.context import Engine, load_manifest
from takhin_tiered.engine.prove import prove_file, read_checksum
from takhin_tiered.errors import ObjectCorrupt, ObjectMissing
from takhin_tiered.segments.model import State
from takhin_tiered.segments.names import SegmentId, parse_manifest_key

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one archived segment: bytes that were looked at, and what is wrong, or an empty text."""

    id: SegmentId
    size: int
    problem: str


async def verify(engine: Engine, wanted: Callable[[SegmentId], bool], *, deep: bool) -> AsyncIterator[Verdict]:
    """Each archived segment, as it is done; ``deep`` reads every byte back, else sizes and checksums are asked for.

    A segment that the catalog knows as archived, and that has no manifest, is among them.
    """
    names = {segment.id for segment in engine.catalog.segments() if segment.state is not State.LOCAL}
    async for info in engine.store.list():
        if (identity := parse_manifest_key(info.key)) is not None:
            names.add(identity)
    todo = [identity for identity in sorted(names) if wanted(identity)]
    for at in range(0, len(todo), _AT_ONCE):
        for verdict in await asyncio.gather(*(_verify_one(engine, i, deep=deep) for i in todo[at : at + _AT_ONCE])):
            yield verdict


async def _verify_one(engine: Engine, identity: SegmentId, *, deep: bool) -> Verdict:
    try:
        manifest = await load_manifest(engine, identity)
        if manifest is None:
            return Verdict(identity, 0, f"no manifest {identity.manifest_key} in the archive")
        for file in manifest.files.values():
            if not deep:
                await prove_file(engine, identity, file)
            elif await read_checksum(engine.store, file.key, file.part_size) != (file.size, file.sha256):
                return Verdict(identity, manifest.size, f"object {file.key} does not hold the bytes that it should")
    except (ObjectMissing, ObjectCorrupt) as error:
        return Verdict(identity, 0, str(error))
    return Verdict(identity, manifest.size, "")
