"""Numbers as people read them. Pure."""

from __future__ import annotations

from decimal import Decimal

_DAY = 86400.0


def size(count: float) -> str:
    """Bytes for people: ``1.4 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def dollars(amount: float) -> str:
    """Cents; of less than a cent two digits: ``$1,234.50``, ``$0.000012``."""
    sign = "-" if amount < 0 else ""
    amount = abs(amount)
    if amount >= 0.01 or not amount:
        return f"{sign}${amount:,.2f}"
    return f"{sign}${Decimal(f'{amount:.2g}'):f}"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def span(seconds: float) -> str:
    for length, name in ((_DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"
