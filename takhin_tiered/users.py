"""Hints for permission errors: who owns a path, and which user to run as."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"


def owner_hint(path: Path) -> str:
    """What to do about a path without permission: it, or its nearest existing parent, belongs to another user."""
    me = os.geteuid()
    for place in (path, *path.absolute().parents):
        try:
            owner = place.stat().st_uid
        except OSError:
            continue
        # The parent of a path that does not exist yet often belongs to root: that is no reason to run as root.
        if owner != me and (owner != 0 or place == path):
            name = name_of(owner)
            quoted = f"'{name}'" if name.startswith("#") else name
            return f"You are {name_of(me)}, and {place} belongs to {name}: run this as {name} (sudo -u {quoted} …)"
        break
    return f"You are {name_of(me)}: run this as the daemon's user, or check the permissions of {path}"
