"""The record of a prefix's owner in the store, and of a process that challenges it. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

_LONGEST = 64 << 10


@dataclass(frozen=True, slots=True)
class Party:
    """One process that writes, or wants to write, under a prefix.

    ``id`` belongs to the state directory and survives restarts; a copied disk has the same one. ``nonce`` is new at
    each start. ``pid`` and ``started`` are valid within ``machine`` (see `takhin_tiered.machine`), ``directories``
    (device and inode of each data directory) within the kernel's ``boot``. Earlier releases lack some fields.

    ``shared``: no process, but the word that the prefix is shared by replicas. ``opening``: a process that is about to
    say so.
    """

    id: str = ""
    nonce: str = ""
    host: str = ""
    pid: int = 0
    started: int = 0
    machine: str = ""
    boot: str = ""
    directories: tuple[str, ...] = ()
    data_dir: str = ""
    answered: str = ""
    shared: bool = False
    opening: bool = False

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Parse a record; None if it is malformed. Fields of later releases are ignored."""
        try:
            found = json.loads(data[:_LONGEST])
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        known = {field.name: _like(field.default, found[field.name]) for field in fields(cls) if field.name in found}
        if None in known.values() or not 0 <= known.get("pid", 0) < 1 << 31:
            return None
        return cls(**known)

    def dump(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def answering(self, nonce: str) -> Self:
        """The owner's record, with the answer to the challenge that has this nonce."""
        return replace(self, answered=nonce)

    @property
    def description(self) -> str:
        if self.shared:
            return "the daemons of several replicas"
        return f"process {self.pid} on {self.host or 'an unknown host'}, for {self.data_dir or 'an unknown directory'}"

    def was_of_same_directory(self, other: Self) -> bool:
        """Whether both use the same directories on the same boot, so that the lock on them decides who is alive."""
        return bool(self.boot and self.directories) and (self.boot, self.directories) == (other.boot, other.directories)


@dataclass(frozen=True, slots=True)
class OwnerKeys:
    """Where the record of an owner stands, who challenges it, what it answers, and who was the owner last."""

    owner: str = "takhin-tiered.owner.json"
    challenge: str = "takhin-tiered.challenge.json"
    answer: str = "takhin-tiered.answer.json"
    last: str = "takhin-tiered.last-owner.json"


OF_PREFIX = OwnerKeys()


def keys_of_replica(identifier: str) -> OwnerKeys:
    """Those of one of the replicas that share a prefix."""
    return OwnerKeys(
        *(f"takhin-tiered.{what}.{identifier}.json" for what in ("owner", "challenge", "answer", "last-owner"))
    )


def _like(default: Any, value: Any) -> Any:
    """The value, if it has the type of the field's default, else None."""
    if isinstance(default, tuple):
        return tuple(map(str, value)) if isinstance(value, list) else None
    return value if type(value) is type(default) else None
