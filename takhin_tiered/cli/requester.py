"""Who gives a command, and which: for others who find a lease."""

from __future__ import annotations

import os
import socket

from takhin_tiered.users import name_of


def requester(lease_hours: float | None) -> str:
    duration = "" if lease_hours is None else f" --for {lease_hours:g}h"
    return f"{name_of(os.getuid())} on {socket.gethostname()}, restore{duration}"
