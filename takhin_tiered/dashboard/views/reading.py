"""Records, read where they are."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.dashboard.face import Face, link
from takhin_tiered.dashboard.words import Shown, shown
from takhin_tiered.errors import InGlacier, InvalidQuery, OffsetOutOfRange, SegmentNotFound, TakhinError
from takhin_tiered.formats.records import Record
from takhin_tiered.reader.query import Isolation, RecordPage, RecordQuery
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.report import SegmentInfo

_ON_A_PAGE = 50
_PATH = "/dashboard/records"


class Row:
    """A record as it is shown."""

    def __init__(self, record: Record) -> None:
        self.offset = record.offset
        self.at = record.timestamp / 1000 if record.timestamp >= 0 else None
        self.key, self.value = shown(record.key), shown(record.value)
        self.headers: list[tuple[str, Shown]] = [
            # Characters that hide or turn others are not shown as such, as in values.
            (name if name.isprintable() else ascii(name), shown(value))
            for name, value in record.headers
        ]


def record_views(routes: APIRouter, face: Face) -> None:
    storage = face.storage

    async def _first(asked: dict[str, str]) -> int:
        """The first offset of the log that is meant, where none is asked for."""
        if asked["offset"] or asked["time"]:
            return 0
        found = await storage.incarnations((asked["topic"], _number("partition", asked["partition"] or "0")))
        wanted = asked["topic_id"]
        logs = [each for each in found if wanted in {each.topic_id, each.incarnation} or (each.current and not wanted)]
        return min((first for each in logs for first, _ in (*each.local, *each.archived)), default=0)

    def _segment(path: str) -> SegmentInfo | None:
        """None where it is gone meanwhile."""
        with suppress(SegmentNotFound):
            return storage.segment(SegmentId.parse(path).exact_path)
        return None

    @routes.get(_PATH)
    async def records(  # noqa: PLR0917 - the framework gives them by name
        request: Request,
        topic: Annotated[str, Query(max_length=249)] = "",
        partition: Annotated[str, Query(max_length=10)] = "0",
        offset: Annotated[str, Query(max_length=20)] = "",
        time: Annotated[str, Query(max_length=40)] = "",
        isolation: Isolation = Isolation.READ_UNCOMMITTED,
        topic_id: Annotated[str, Query(max_length=40)] = "",
    ) -> Response:
        asked = {
            "topic": topic.strip(),
            "partition": partition.strip(),
            "offset": offset.strip(),
            "time": time.strip(),
            "isolation": isolation,
            "topic_id": topic_id.strip(),
        }
        page, problem, elsewhere, frozen, status = None, "", None, None, 200
        if asked["topic"]:
            try:
                page = await storage.read_records(_query(asked, await _first(asked)), _ON_A_PAGE)
            except TakhinError as error:
                problem, status = str(error), error.http_status
                if isinstance(error, OffsetOutOfRange) and error.next_offset is not None:
                    elsewhere = error.next_offset
                if isinstance(error, InGlacier) and error.segment:
                    frozen = _segment(error.segment)
        return face.page(
            request,
            "records",
            status,
            asked=asked,
            topics=sorted({name for name, _ in storage.partition_names()[:5000]})[:500],
            rows=[Row(record) for record in page.records] if page else [],
            page=page,
            problem=problem,
            more=_more(asked, page),
            frozen=frozen,
            elsewhere=link(_PATH, **asked | {"offset": elsewhere, "time": ""}) if elsewhere is not None else None,
        )


def _more(asked: dict[str, str], page: RecordPage | None) -> str | None:
    if page is None or not page.records:
        return None
    return link(_PATH, **asked | {"offset": page.next_offset, "time": ""})


def _query(asked: dict[str, str], first: int) -> RecordQuery:
    """From ``first`` on where neither an offset nor a time is asked for."""
    number = _number("partition", asked["partition"] or "0")
    offset = _number("offset", asked["offset"]) if asked["offset"] else None
    timestamp = _milliseconds(asked["time"]) if asked["time"] and offset is None else None
    if offset is None and timestamp is None:
        offset = first
    return RecordQuery(
        asked["topic"], number, offset, timestamp, Isolation(asked["isolation"]), asked["topic_id"] or None
    )


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidQuery(f"{name} is a number, not {text!r}")
    return int(text)


def _milliseconds(text: str) -> int:
    """Of ISO 8601, in UTC where it names no zone; or of milliseconds since the epoch themselves."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidQuery(f"{text!r} is no time: write it as 2026-11-29 or 2026-11-29T14:00, in UTC") from None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)
