"""Rebuild: learn from the bucket what is archived, as the catalog may have lost it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from takhin_tiered import logs
from takhin_tiered.engine.context import Engine, load_manifest
from takhin_tiered.errors import ObjectCorrupt
from takhin_tiered.segments.model import Archive, Segment
from takhin_tiered.segments.names import SegmentId, parse_manifest_key

_AT_ONCE = 16


async def rebuild(engine: Engine, *, full: bool, progress: Callable[[int], None] = lambda _: None) -> int:
    """Read the manifests of segments that the catalog does not know as archived; returns how many it took over.

    ``full`` reads all of them. What the catalog knows of local files stays.
    Raises `StoreError` where the store does not answer.
    """
    found: set[SegmentId] = set()
    taken = 0
    room = asyncio.Semaphore(_AT_ONCE)

    async def take(identity: SegmentId) -> None:
        nonlocal taken
        async with room:
            try:
                manifest = await load_manifest(engine, identity)
            except ObjectCorrupt as error:
                logs.logger().error("a manifest cannot be read", segment=identity.path, error=str(error))
                return
        if manifest is None:
            return
        async with engine.catalog.lock(identity):
            known = engine.catalog.get(identity) or Segment(identity)
            archived = Archive(manifest.generation, manifest.size, manifest.log.mtime_ns, manifest.archived_at)
            if known.archive is None or replace(known.archive, proven=archived.proven) != archived:
                engine.catalog.put(replace(known, archive=archived))
                taken += 1
                progress(taken)

    waiting: set[asyncio.Task[None]] = set()
    try:
        async for info in engine.store.list():
            identity = parse_manifest_key(info.key)
            if identity is None:
                continue
            found.add(identity)
            known = engine.catalog.get(identity)
            if not full and known is not None and known.archive is not None:
                continue
            if len(waiting) >= _AT_ONCE * 4:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            waiting.add(asyncio.create_task(take(identity)))
        for task in waiting:
            await task
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    for segment in engine.catalog.segments():
        if segment.archive is not None and segment.id not in found:
            await _without_manifest(engine, segment.id)
    await engine.catalog.flush()
    return taken


async def _without_manifest(engine: Engine, identity: SegmentId) -> None:
    """The catalog says archived, and the listing has no manifest: look once more before it is believed."""
    async with engine.catalog.lock(identity):
        segment = engine.catalog.get(identity)
        if segment is None or segment.archive is None or await load_manifest(engine, identity) is not None:
            return
        if segment.local.log is not None:
            # Whole on disk: the next cycle archives it again.
            engine.catalog.put(replace(segment, archive=None))
            return
        problem = "its manifest is gone from the archive, and it is not on disk"
        engine.catalog.put(replace(segment, problem=problem))
        logs.logger().error("a segment is lost", segment=identity.path, problem=problem)
