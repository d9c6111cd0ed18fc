"""The differences between the local catalog and what is known of the table, a part at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.concurrency import in_thread
from takhin_tiered.engine.sharing import PackedPlace
from takhin_tiered.errors import TableRejected
from takhin_tiered.fleet.entities import Segment
from takhin_tiered.fleet.local import SHARDS, row_digest, segment_entity
from takhin_tiered.fleet.repositories import Repository, Scope, Table
from takhin_tiered.fleet.transforms import digest, from_item, key_of, table_key, to_item
from takhin_tiered.fleet.written import Digests, Entry, Name, Written
from takhin_tiered.segments.lineage import Incarnation
from takhin_tiered.segments.names import Place

_AT_ONCE = 1000
_LAST_BASE = 2**63 - 1


class LocalCatalog(Protocol):
    """What `takhin_tiered.engine.sharing.Shares` has of it."""

    def places(self) -> list[Place]: ...

    def incarnation(self, place: Place) -> Incarnation: ...

    def packed(self, place: Place) -> PackedPlace: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """A segment whose item has to be put (``item``) or deleted (None). ``was_there``: the table has one.

    ``is_same``: the row changed and the item did not, so that there is nothing to be written.
    """

    name: Name
    base: int
    key: Item
    item: Item | None
    entry: Entry | None
    was_there: bool
    is_same: bool = False

    @property
    def path(self) -> str:
        return f"{self.name.topic}-{self.name.partition}/{self.base:020d}.log"


def name_of_place(place: Place, incarnation: Incarnation) -> Name:
    return Name(place.topic, place.number, incarnation.name)


async def differences(local: LocalCatalog, node: str, written: Written) -> AsyncGenerator[list[Difference], None]:
    """In parts of a few hundred, first what is local, by partition; then what is in the table only."""
    seen: set[Name] = set()
    for place in local.places():
        packed = local.packed(place)
        name = name_of_place(place, packed.incarnation)
        seen.add(name)
        async for some in _of_place(packed, name, node, written):
            yield some
    for name in await written.names():
        if name not in seen:
            async for some in _gone(name, node, written):
                yield some


async def _of_place(
    packed: PackedPlace, name: Name, node: str, written: Written
) -> AsyncGenerator[list[Difference], None]:
    bases = sorted(packed.rows)
    for start in range(0, len(bases), _AT_ONCE):
        some = bases[start : start + _AT_ONCE]
        end = start + _AT_ONCE
        # Up to the next part: what was written between, and is not here any more, is found too.
        bounds = (some[0] if start else -1, bases[end] - 1 if end < len(bases) else _LAST_BASE)
        known = await written.between(name, bounds)
        found = await in_thread(_compare, packed, some, known, name, node)
        if found:
            yield found
    if not bases:
        async for some_gone in _gone(name, node, written):
            yield some_gone


def _compare(
    packed: PackedPlace, bases: Sequence[int], known: dict[int, Digests], name: Name, node: str
) -> list[Difference]:
    found = []
    for base in bases:
        row, before = row_digest(packed.rows[base], packed.incarnation), known.get(base)
        if before is not None and before.row == row:
            continue
        item = to_item(segment_entity(packed.segment(base), packed.incarnation, node))
        entry = Entry(name, base, row, digest(Segment, item))
        is_same = before is not None and before.item == entry.item
        found.append(Difference(name, base, table_key(item), item, entry, before is not None, is_same))
    here = set(bases)
    return found + [_deleted(name, base, node) for base in known if base not in here]


async def _gone(name: Name, node: str, written: Written) -> AsyncGenerator[list[Difference], None]:
    after = -1
    while known := await written.between(name, (after, _LAST_BASE), _AT_ONCE):
        yield [_deleted(name, base, node) for base in known]
        after = max(known) + 1


def _deleted(name: Name, base: int, node: str) -> Difference:
    fields = {"topic": name.topic, "partition": name.partition, "incarnation": name.incarnation}
    key = key_of(Segment, {**fields, "base_offset": base, "node": node})
    return Difference(name, base, key, None, None, was_there=True)


def scopes_of(node: str, state: str = "") -> list[Scope]:
    """Where the index has the segments of a node, or those in a state: in each by state and age."""
    return [Scope(f"N#{node}#{shard}", f"S#{state}#" if state else "S#", "GSI1") for shard in range(SHARDS)]


def _nothing(_: Segment) -> None:
    """Nobody wants to know."""


async def learn(
    table: Table, node: str, written: Written, seen: Callable[[Segment], None] = _nothing
) -> AsyncGenerator[int, None]:
    """Take what the table has of a node for what was written; yields how many items were read so far.

    The index tells which items there are, and may be late; the items themselves are read consistently.
    """
    count, repository = 0, Repository(table, Segment)
    for scope in scopes_of(node):
        async for listed in repository.items(scope):
            items = await table.database.batch_get(table.name, [table_key(item) for item in listed])
            entries = list(entries_of(items, seen))
            await written.note(entries)
            count += len(entries)
            yield count


def entries_of(items: list[Item], seen: Callable[[Segment], None] = _nothing) -> Iterator[Entry]:
    """Those of items that are segments."""
    for item in items:
        try:
            segment = from_item(Segment, item)
        except TableRejected:
            # Not of this program: it is nothing that this node wrote.
            continue
        seen(segment)
        name = Name(segment.topic, segment.partition, segment.incarnation)
        yield Entry(name, segment.base_offset, b"", digest(Segment, item))
