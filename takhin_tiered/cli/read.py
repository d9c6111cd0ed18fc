"""``read``: records of a partition, straight from wherever they are."""

from __future__ import annotations

import base64
import json
import sys
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from takhin_tiered.cli.access import View, open_view
from takhin_tiered.cli.restore import milliseconds_of
from takhin_tiered.cli.running import run_work
from takhin_tiered.config import Settings
from takhin_tiered.formats.batch import Bytes
from takhin_tiered.reader.query import Isolation, RecordQuery
from takhin_tiered.segments.names import parse_partition

_PAGE = 1000
_WRITTEN_AT_ONCE = 64 << 10


class Format(StrEnum):
    JSON = "json"
    VALUE = "value"
    RAW = "raw"


def read(  # noqa: PLR0917 - typer gives them by name
    context: typer.Context,
    partition: Annotated[str, typer.Argument(metavar="TOPIC-PARTITION", help="Such as orders-0.")],
    offset: Annotated[int | None, typer.Option("--offset", min=0, metavar="N", help="The first offset.")] = None,
    timestamp: Annotated[
        str | None,
        typer.Option("--timestamp", metavar="T", help="The first record not older: milliseconds, or ISO 8601."),
    ] = None,
    at_most: Annotated[int | None, typer.Option("--max", min=0, metavar="N", help="So many records.")] = None,
    form: Annotated[
        Format, typer.Option("--format", help="JSON lines; values, a line each; or record batches as stored.")
    ] = Format.JSON,
    key: Annotated[str | None, typer.Option("--key", help="Only records with this key.")] = None,
    isolation: Annotated[
        Isolation, typer.Option("--isolation", help="read_committed leaves out aborted transactions.")
    ] = Isolation.READ_UNCOMMITTED,
    topic_id: Annotated[
        str | None, typer.Option("--topic-id", metavar="ID", help="An earlier incarnation: its topic ID or label.")
    ] = None,
) -> None:
    """Read records in place, without a restore: from the disk or the archive, to the newest that consumers may see.

    In JSON, keys and values are base64: jq's @base64d decodes them. Offsets that are missing end the output with an
    error, which tells where to go on.
    """
    named = parse_partition(partition)
    if named is None:
        raise typer.BadParameter(f"{partition!r} is not a partition, such as orders-0")
    if (offset is None) == (timestamp is None):
        raise typer.BadParameter("give either --offset or --timestamp")
    if form is Format.RAW and (key is not None or at_most is not None):
        raise typer.BadParameter("--format raw gives whole batches: it takes neither --key nor --max")
    since = None if timestamp is None else _milliseconds(timestamp)
    query = RecordQuery(*named, offset, since, isolation, topic_id)

    async def work(settings: Settings) -> None:
        async with open_view(settings) as view:
            if form is Format.RAW:
                await _print_batches(view, query)
            else:
                await _print_records(view, query, form, at_most, None if key is None else key.encode())

    run_work(context, work)


def _milliseconds(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    found = milliseconds_of(text)
    assert found is not None
    if found < 0:
        raise typer.BadParameter(f"{datetime.fromisoformat(text)} is before 1970")
    return found


async def _print_records(view: View, query: RecordQuery, form: Format, at_most: int | None, key: bytes | None) -> None:
    wanted = None if key is None else base64.b64encode(key).decode()
    printed = 0
    while at_most is None or printed < at_most:
        size = _PAGE if at_most is None or wanted is not None else min(_PAGE, at_most - printed)
        page = await view.records(query, size)
        lines: list[bytes] = []
        for record in page["records"]:
            if wanted is None or record["key"] == wanted:
                lines.append(_line(record, form))
            if at_most is not None and printed + len(lines) == at_most:
                break
        printed += len(lines)
        _write(b"".join(lines))
        if not page["records"] and page["next_offset"] == query.offset:
            return
        query = replace(query, offset=page["next_offset"], timestamp=None)


def _line(record: dict[str, Any], form: Format) -> bytes:
    if form is Format.JSON:
        return json.dumps(record).encode() + b"\n"
    return (b"" if record["value"] is None else base64.b64decode(record["value"])) + b"\n"


def _write(data: Bytes) -> None:
    if data:
        output: Any = sys.stdout
        output.write_bytes(data)


async def _print_batches(view: View, query: RecordQuery) -> None:
    # Imported here: a command without a daemon does not need the HTTP client.
    from takhin_tiered.cli.remote import DaemonBrokeOff

    waiting, size = list[Bytes](), 0
    try:
        async with aclosing(view.batches(query)) as batches:
            async for piece in batches:
                waiting.append(piece)
                size += len(piece)
                if size >= _WRITTEN_AT_ONCE:
                    _write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
                    waiting, size = [], 0
    except DaemonBrokeOff as error:
        # The connection ends without a word. To ask for what would have come next tells why.
        if error.next_offset is not None:
            await view.records(replace(query, offset=error.next_offset, timestamp=None), 1)
        raise
    finally:
        # What came before a hole is given too.
        _write(b"".join(waiting))
