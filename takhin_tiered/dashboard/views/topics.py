"""Topics, a row each; partitions with their offsets, holes and heat; incarnations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.concurrency import in_thread
from takhin_tiered.dashboard.face import Face, link
from takhin_tiered.dashboard.looking import COUNT_SECONDS, Strip, bars, strip_of, topic_rows
from takhin_tiered.engine.summaries import Summary
from takhin_tiered.errors import PartitionNotFound
from takhin_tiered.segments.names import Partition
from takhin_tiered.segments.report import PartitionInfo

_TOPICS_ON_A_PAGE = 50
_PARTITIONS_ON_A_PAGE = 20
_RANGES_SHOWN = 30

Number = Annotated[int, Query(ge=0, le=10_000_000)]


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """``shown`` are its incarnations, the current one first."""

    partition: Partition
    summary: Summary
    shown: list[PartitionInfo]
    strip: Strip

    @property
    def current(self) -> PartitionInfo | None:
        return self.shown[0] if self.shown else None


def topic_views(routes: APIRouter, face: Face) -> None:
    storage = face.storage

    @routes.get("/dashboard/topics")
    async def topics(
        request: Request,
        find: Annotated[str, Query(max_length=249)] = "",
        sort: Literal["name", "size", "segments", "problems"] = "name",
        start: Number = 0,
    ) -> Response:
        is_whole = await storage.count(COUNT_SECONDS)
        rows = topic_rows(storage, find.strip())
        orders = {
            "size": lambda row: -row.summary.total_bytes,
            "segments": lambda row: -row.summary.segments,
            "problems": lambda row: -row.summary.troubled,
        }
        if sort in orders:
            rows.sort(key=orders[sort])
        page = rows[start : start + _TOPICS_ON_A_PAGE]
        return face.page(
            request,
            "topics",
            rows=page,
            matched=len(rows),
            find=find,
            sort=sort,
            start=start,
            is_whole=is_whole,
            largest=max((row.summary.total_bytes for row in rows), default=0),
            pages=_pages("/dashboard/topics", start, len(page), len(rows), _TOPICS_ON_A_PAGE, find=find, sort=sort),
        )

    @routes.get("/dashboard/topics/{topic}")
    async def topic(request: Request, topic: str, start: Number = 0) -> Response:
        every = [partition for partition in storage.partition_names() if partition[0] == topic]
        if not every:
            raise PartitionNotFound(f"no segment of a topic {topic!r} is known", hint="Topics lists what there is")
        await storage.count(COUNT_SECONDS, every)
        page = every[start : start + _PARTITIONS_ON_A_PAGE]
        rows = [await _row(partition) for partition in page]
        whole = Summary()
        for partition in every:
            whole.add(storage.summary(partition))
        return face.page(
            request,
            "topic",
            topic=topic,
            whole=whole,
            tier_bars=_tier_bars(whole),
            partition_count=len(every),
            rows=rows,
            start=start,
            pages=_pages(request.url.path, start, len(page), len(every), _PARTITIONS_ON_A_PAGE),
        )

    @routes.get("/dashboard/topics/{topic}/{number}")
    async def partition(request: Request, topic: str, number: int) -> Response:
        wanted = topic, number
        if wanted not in storage.partition_names():
            raise PartitionNotFound(f"no segment of {topic}-{number} is known", hint="Topics lists what there is")
        await storage.count(COUNT_SECONDS, [wanted])
        row = await _row(wanted)
        cells = {each.incarnation: await in_thread(storage.strip, wanted, each.incarnation) for each in row.shown}
        return face.page(
            request,
            "partition",
            topic=topic,
            number=number,
            row=row,
            cells=cells,
            strips={each.incarnation: strip_of(cells[each.incarnation], each.holes) for each in row.shown},
            tier_bars=_tier_bars(row.summary),
            ranges_shown=_RANGES_SHOWN,
        )

    async def _row(partition: Partition) -> PartitionRow:
        shown = sorted(await storage.incarnations(partition), key=lambda each: not each.current)
        strip = strip_of(await in_thread(storage.strip, partition), shown[0].holes if shown else ())
        return PartitionRow(partition, storage.summary(partition), shown, strip)


def _tier_bars(found: Summary) -> object:
    return bars([(tier, getattr(found, f"{tier}_bytes"), tier) for tier in ("hot", "warm", "cold")])


def _pages(path: str, start: int, shown: int, matched: int, size: int, **query: object) -> dict[str, object]:
    """Links to the page before and the one behind; None where there is none."""
    return {
        "first": start + 1 if shown else 0,
        "last": start + shown,
        "matched": matched,
        "before": link(path, **query, start=max(0, start - size) or None) if start else None,
        "behind": link(path, **query, start=start + shown) if start + shown < matched else None,
    }
