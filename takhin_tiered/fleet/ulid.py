"""ULIDs: names that nobody else gives, and that sort by the time they were given. Source: the ULID specification."""

from __future__ import annotations

import os
import time

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 26


def new_ulid(milliseconds: int | None = None) -> str:
    """48 bits of time and 80 random ones, in Crockford's base 32."""
    moment = time.time_ns() // 1_000_000 if milliseconds is None else milliseconds
    number = moment << 80 | int.from_bytes(os.urandom(10))
    return "".join(_DIGITS[number >> 5 * place & 31] for place in reversed(range(_LENGTH)))


def is_ulid(text: str) -> bool:
    return len(text) == _LENGTH and set(text) <= set(_DIGITS) and text[0] <= "7"
