"""The object store, as the engine sees it. One contract suite holds for every backend.

Keys are relative: a store adds its bucket and prefix on the way in, and takes them off on the way out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from takhin_tiered.codec.checksums import Checksum, Source
from takhin_tiered.errors import StoreUnavailable
from takhin_tiered.store.landing import Seen, unseen

STORE_KEY = "takhin-tiered.store.json"
PROBE_KEY = "takhin-tiered.probe"


class NotSupported(StoreUnavailable):
    """The server refuses the request as it is: it does not know it, or a header of it."""


class Conflict(StoreUnavailable):
    """Another request for the same key came between: the write is to be tried again."""


def is_of_the_prefix(key: str) -> bool:
    """Whether an object belongs to whoever writes under a prefix, rather than to an archived segment."""
    return key.startswith("takhin-tiered.") and "/" not in key


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store says of an object: bytes, its SHA-256 (None where it keeps none), time of writing.

    ``sha256`` has the form of `Checksum.sha256`; ``modified`` is seconds since the epoch. ``read_only``: it stands
    under a prefix that is only read, so a `delete` leaves it. ``storage_class`` is empty where the store tells none.
    ``is_frozen``: it has to be retrieved before it is read, as only a `head` says; ``is_coming``: that was requested.
    """

    key: str
    size: int
    sha256: str | None
    modified: float
    read_only: bool = False
    storage_class: str = ""
    is_frozen: bool = False
    is_coming: bool = False


@dataclass(frozen=True, slots=True)
class StoreTime:
    """The store's clock, seconds since the epoch. ``is_independent``: it is another machine's, and can confirm ours."""

    seconds: float
    is_independent: bool


class Check(StrEnum):
    """What a server compares the bytes of an upload with before it stores them."""

    SHA256 = "sha256"
    MD5 = "md5"
    NOTHING = "nothing"


_CHECKS = {
    Check.SHA256: "the server refuses an upload whose bytes are not those of its SHA-256",
    Check.MD5: "the server compares uploads with their MD5 only: what its ETag does not prove is read back",
    Check.NOTHING: "the server checks no upload: each is read back before a local file is removed",
}
_ABILITIES = {
    "checksum_headers": (
        "checksum headers",
        "the server takes x-amz-checksum-sha256",
        "none is sent: the server refuses them, or storage.tiered.s3.checksum says so",
    ),
    "conditional_writes": (
        "conditional writes",
        "a second writer of the same key is refused",
        "the key is looked up before each write: two writers at the same moment are not told apart",
    ),
    "batch_delete": (
        "deletes in batches",
        "a thousand objects in a request, with Content-MD5",
        "objects are deleted one by one",
    ),
    "expect": (
        "Expect: 100-continue",
        "a large upload is refused before its bytes are sent",
        "large uploads are sent without asking first",
    ),
    "lists_uploads": (
        "listing of unfinished uploads",
        "what a killed process began is removed at the next start",
        "what a killed process began stays and costs: set a lifecycle rule, AbortIncompleteMultipartUpload",
    ),
    "lists_v2": (
        "ListObjectsV2",
        "used for listings",
        "listings are asked for in the form of version 1",
    ),
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an S3 server can do, as it was found out; None where nothing has needed it yet, or it may not be asked."""

    checks: Check | None = None
    checksum_headers: bool | None = None
    conditional_writes: bool | None = None
    batch_delete: bool | None = None
    expect: bool | None = None
    lists_uploads: bool | None = None
    lists_v2: bool | None = None

    def described(self) -> Iterator[tuple[str, str]]:
        """What, and what it means, for people."""
        yield "check of uploads", _CHECKS[self.checks] if self.checks else "not known yet"
        for name, (title, can, cannot) in _ABILITIES.items():
            known = getattr(self, name)
            yield title, "not known yet" if known is None else f"yes: {can}" if known else f"no: {cannot}"


class Notes(Protocol):
    """Where what was found out of a server outlives the process: the catalog's journal."""

    async def get_meta(self, name: str) -> str | None: ...

    async def set_meta(self, name: str, value: str) -> None: ...


class ReadableStore(Protocol):
    """An object store, to be read. Errors are `StoreError` and those below it; every wait is bounded."""

    @property
    def address(self) -> str:
        """Where it is, for people: ``s3://bucket/prefix``."""
        ...

    async def check(self) -> None:
        """Return if objects could be listed now, else raise why not."""
        ...

    async def recognise(self, key: str, is_known: Callable[[bytes | None], bool]) -> bytes | None:
        """The object by which a store is known, as it stands in whatever is at the address now; None where there is
        none. Where ``is_known`` says yes to it, that is the store from now on.
        """
        ...

    async def now(self) -> StoreTime | None:
        """What time it is by the store's clock; None where it tells none."""
        ...

    async def wants_md5(self) -> bool:
        """Whether an upload is proven by an MD5 in its checksum, as nothing else is looked at."""
        ...

    async def capabilities(self) -> Capabilities | None:
        """What the server behind it can do, asked now where it is not known; None where there is no server."""
        ...

    async def head(self, key: str) -> ObjectInfo | None: ...

    async def read(self, key: str, *, limit: int = 1 << 20) -> bytes:
        """A small object, whole; never more than ``limit`` bytes of it. `ObjectMissing` where there is none."""
        ...

    def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Bytes ``start`` to ``end`` (exclusive; None: to the end), in pieces of which few are in memory at a time.

        Raises `ObjectMissing` where there is none. Whoever does not read to the end closes it (`aclosing`).
        """
        ...

    async def fetch_into(
        self, key: str, file: int, *, start: int = 0, end: int | None = None, seen: Seen = unseen
    ) -> None:
        """Write bytes ``start`` to ``end`` into an open file, at the offsets that they have in the object.

        Blocks of zeros are left out. Each piece is first given to ``seen``, in order, in a thread. What that raises
        goes up, and ends it, as does an `OSError` of the file. Raises `ObjectMissing` where there is no object.
        """
        ...

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with the prefix, by key; without checksums."""
        ...

    async def retrieve(self, key: str, *, days: int, tier: str) -> None:
        """Request that a frozen object can be read, for so many days from then on; no error if it was requested.

        `NotSupported` where the store has nothing like it.
        """
        ...


class ObjectStore(ReadableStore, Protocol):
    """One that is written to as well: by whoever owns its prefix."""

    async def put(
        self,
        key: str,
        body: Source,
        *,
        size: int,
        checksum: Checksum,
        if_absent: bool = False,
        storage_class: str = "",
    ) -> ObjectInfo:
        """Store an object, whole or not at all; without a ``storage_class`` in the store's own.

        The store refuses bytes that are not those of ``checksum`` (`ObjectCorrupt`). With ``if_absent``
        it raises `ObjectExists` where there is an object already.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        ...

    async def change_class(self, key: str, storage_class: str, *, size: int, checksum: Checksum) -> None:
        """Let the store copy an object onto itself, into another class. Key and bytes stay what they are.

        At any moment the key has the whole object, in the one class or the other. Nothing is copied where the object is
        not the expected one (`ObjectCorrupt`), is replaced meanwhile (`ObjectExists`), or is gone (`ObjectMissing`).
        `NotSupported` where the store has no classes, or no such one; `InGlacier` where it would have to be retrieved
        first.
        """
        ...

    async def remove_stale_uploads(
        self, older_than: float, ours: Callable[[str], bool] = lambda _: True, begun: Sequence[str] = ()
    ) -> int:
        """Remove what unfinished writes of keys that are ours left more than so many seconds ago; returns how many.

        ``begun`` are keys of which some may be unfinished: not every server lists them all.
        """
        ...
