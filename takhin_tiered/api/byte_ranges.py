"""``Range`` and its conditions. Pure. Source: RFC 9110, sections 8.8, 13 and 14."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

_RANGE = re.compile(r"bytes\s*=\s*(?:(\d{1,19})\s*-\s*(\d{0,19})|-\s*(\d{1,19}))\s*", re.IGNORECASE | re.ASCII)


class Unsatisfiable(Exception):
    """The range has no byte of the file."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Bytes from and to (exclusive) of one range; None for the whole file.

    A server may ignore a range that it does not understand, and several ranges at once: that is the whole file too.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        if not int(suffix) or not size:
            raise Unsatisfiable
        return max(0, size - int(suffix)), size
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(size, int(last) + 1) if last else size


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


def is_named(header: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names this entity."""
    if header is None:
        return False
    return header.strip() == "*" or etag in {part.strip().removeprefix("W/") for part in header.split(",")}


def may_resume(header: str | None, etag: str, modified: float) -> bool:
    """Whether ``If-Range`` holds, so that the range may be served: it is this very entity."""
    if header is None:
        return True
    value = header.strip()
    if value.startswith(('"', "W/")):
        # A weak tag says nothing of single bytes.
        return value == etag
    try:
        named = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return False
    # A date is a strong validator only if the file did not change in the same second since.
    return named == datetime.fromtimestamp(int(modified), UTC) and modified == int(modified)
