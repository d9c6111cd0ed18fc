"""What the table tells of the whole fleet: its nodes with who writes for each, and the migrations. Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from takhin_tiered.fleet.comparing import scopes_of
from takhin_tiered.fleet.entities import Lease, Migration, Node, Segment
from takhin_tiered.fleet.initialise import look_at
from takhin_tiered.fleet.repositories import Repository, Scope, Table
from takhin_tiered.segments.report import iso_time

_RUNS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Times are ISO 8601 in UTC, or None. ``lease_host`` writes for the node now; empty if no daemon does."""

    node: str
    host: str
    version: str
    mode: str
    store: str
    segments: int
    archived_segments: int
    local_bytes: int
    archived_bytes: int
    seen_at: str | None
    lease_host: str
    lease_token: int


@dataclass(frozen=True, slots=True)
class RunInfo:
    run: str
    node: str
    entities: str
    state: str
    total: int
    written: int
    unchanged: int
    started_at: str | None
    ended_at: str | None


@dataclass(frozen=True, slots=True)
class FleetInfo:
    """``problems``: in what the table is not as the contract says."""

    table: str
    status: str
    ttl: str
    problems: tuple[str, ...]
    nodes: tuple[NodeInfo, ...]
    migrations: tuple[RunInfo, ...]


async def look_at_fleet(table: Table) -> FleetInfo:
    """`TableError` where the table cannot be reached, or is not there."""
    state = await look_at(table)
    nodes = [await _node_info(table, node) async for node in nodes_of(table)]
    runs = [run for node in nodes for run in await _runs_of(table, node.node)]
    return FleetInfo(state.table, state.status, state.ttl, state.problems, tuple(nodes), tuple(runs))


async def nodes_of(table: Table) -> AsyncIterator[Node]:
    async for node in Repository(table, Node).each(Scope("NODES", "N#", "GSI1")):
        yield node


async def segments_of(table: Table, node: str, state: str = "") -> AsyncIterator[Segment]:
    """In no order."""
    repository = Repository(table, Segment)
    for scope in scopes_of(node, state):
        async for segment in repository.each(scope):
            yield segment


async def _node_info(table: Table, node: Node) -> NodeInfo:
    lease = await Repository(table, Lease).get(resource=f"node/{node.node}")
    held = lease is not None and bool(lease.holder)
    return NodeInfo(
        node=node.node,
        host=node.host,
        version=node.version,
        mode=node.mode,
        store=node.store,
        segments=node.segments,
        archived_segments=node.archived_segments,
        local_bytes=node.local_bytes,
        archived_bytes=node.archived_bytes,
        seen_at=iso_time((node.seen_at or 0) / 1000),
        lease_host=lease.host if lease is not None and held else "",
        lease_token=lease.token if lease is not None else 0,
    )


async def _runs_of(table: Table, node: str) -> list[RunInfo]:
    scope = Scope(f"N#{node}", "M#", "GSI1")
    page = await Repository(table, Migration).page(scope, limit=_RUNS_SHOWN, newest=True)
    return [
        RunInfo(
            run=each.run,
            node=each.node,
            entities=each.entities,
            state=each.state,
            total=each.total,
            written=each.written,
            unchanged=each.unchanged,
            started_at=iso_time(each.started_at / 1000),
            ended_at=iso_time((each.ended_at or 0) / 1000),
        )
        for each in page.entities
    ]
