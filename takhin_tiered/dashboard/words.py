"""Numbers, times and bytes as the pages show them. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from takhin_tiered.segments.words import counted, dollars, size, span

_VALUE_SHOWN = 2048
_DUMP_SHOWN = 256
_NONE = "\u2013"
_UNITS = {"min": 60.0, "h": 3600.0, "d": 86400.0}

__all__ = [
    "Shown",
    "ago",
    "at",
    "clock",
    "count",
    "counted",
    "dollars",
    "offset",
    "percent",
    "shown",
    "size",
    "span",
    "until",
]


def count(number: float) -> str:
    """``1 234 567``, with spaces that do not break."""
    return f"{number:,.0f}".replace(",", "\u202f")


def offset(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def percent(part: float, whole: float) -> str:
    if not whole:
        return "0 %"
    share = 100 * part / whole
    return "< 1 %" if 0 < share < 1 else f"{share:.0f} %"


def seconds_of(moment: str | float | None) -> float | None:
    """Seconds since the epoch, of those or of ISO 8601."""
    if isinstance(moment, str):
        return datetime.fromisoformat(moment).timestamp()
    return moment


def at(moment: str | float | None) -> str:
    """``2026-11-29 23:10:04 UTC``; a dash for none."""
    found = seconds_of(moment)
    try:
        return _NONE if found is None else f"{datetime.fromtimestamp(found, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{found:.0f} s since 1970"


def clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%H:%M}"


def ago(moment: str | float | None, now: float | None = None) -> str:
    """``3 h ago``; a dash for none."""
    found = seconds_of(moment)
    if found is None:
        return _NONE
    passed = (time.time() if now is None else now) - found
    if passed < 0:
        return f"in {short(-passed)}"
    return "just now" if passed < 5 else f"{short(passed)} ago"


def until(moment: str | float | None, now: float | None = None) -> str:
    """``for 5 h more``; ``over`` for what is past."""
    found = seconds_of(moment)
    if found is None:
        return _NONE
    left = found - (time.time() if now is None else now)
    return "over" if left <= 0 else f"for {short(left)} more"


def short(seconds: float) -> str:
    """One number and its unit, rounded: ``3 h``."""
    shown, unit = seconds, "s"
    for name, length in _UNITS.items():
        if seconds >= 2 * length:
            shown, unit = seconds / length, name
    return f"{shown:.0f} {unit}"


@dataclass(frozen=True, slots=True)
class Shown:
    """Bytes as a page shows them. ``kind``: ``null``, ``empty``, ``text`` or ``binary``. ``size``: of all of them."""

    kind: str
    text: str = ""
    size: int = 0
    is_cut: bool = False


def shown(data: bytes | None) -> Shown:
    if data is None:
        return Shown("null")
    if not data:
        return Shown("empty")
    text = _text(data)
    if text is not None:
        return Shown("text", text, len(data), is_cut=len(data) > _VALUE_SHOWN)
    return Shown("binary", "\n".join(_dump(data[:_DUMP_SHOWN])), len(data), is_cut=len(data) > _DUMP_SHOWN)


def _text(data: bytes) -> str | None:
    """As text, if all of what is shown is; characters that hide or turn others are not."""
    piece = data[:_VALUE_SHOWN]
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        # The last character may have been cut.
        if len(piece) == len(data) or error.start < len(piece) - 3:
            return None
        text = piece[: error.start].decode()
    return text if all(each.isprintable() or each in "\n\r\t" for each in text) else None


def _dump(data: bytes) -> list[str]:
    """Lines of sixteen bytes, in hexadecimal and in ASCII."""
    lines = []
    for start in range(0, len(data), 16):
        line = data[start : start + 16]
        readable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        lines.append(f"{start:04x}  {line.hex(' '):<47}  {readable}")
    return lines
