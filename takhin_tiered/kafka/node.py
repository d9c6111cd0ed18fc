"""The one node that this endpoint is, as clients see it."""

from __future__ import annotations

from typing import NamedTuple

NODE_ID, NOBODY = 0, -1
"""``NOBODY`` leads partitions that are not here."""


class Address(NamedTuple):
    """Where a client reaches this node."""

    host: str
    port: int
