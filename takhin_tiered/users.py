"""Whose a path is, for whoever may not use it: the words that say whom to run as. Pure, but for a look at the path."""

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
    """What to do about a path that may not be used: it, or what is nearest above it, belongs to somebody else."""
    me = os.geteuid()
    for place in (path, *path.absolute().parents):
        try:
            owner = place.stat().st_uid
        except OSError:
            continue
        # Where nothing is yet, what is above it is often root's, and no reason to be root.
        if owner != me and (owner != 0 or place == path):
            name = name_of(owner)
            quoted = f"'{name}'" if name.startswith("#") else name
            return f"You are {name_of(me)}, and {place} belongs to {name}: run this as {name} (sudo -u {quoted} …)"
        break
    return f"You are {name_of(me)}: run this as the user of the daemon, or look at the permissions of {path}"
