"""What stands only under a prefix that is only read: retention leaves it alone, as nothing is removed there.

Were it forgotten instead, the next rebuild would learn it again, and the next cycle would forget it again.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from takhin_tiered.engine.context import Engine
from takhin_tiered.errors import StoreError
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Plan, Step, Verb

REASON = "stands under a prefix that is only read (storage.tiered.s3.prefixes.read)"
_AT_ONCE = 16


async def is_read_only(engine: Engine, identity: SegmentId) -> bool:
    """Whether the segment's manifest stands under such a prefix, and not under the own one. `StoreError`."""
    if not engine.reads_others:
        return False
    info = await engine.store.head(identity.manifest_key)
    return info is not None and info.read_only


async def leave_read_only(engine: Engine, plan: Plan) -> Plan:
    """The plan, with such segments kept instead of expired. Each is asked for once, until it is archived anew.

    Where the store does not answer, steps stay as they are: an expire asks again, before it removes anything.
    """
    if not engine.reads_others:
        return plan
    unknown = [step.id for step in plan.steps if step.verb is Verb.EXPIRE and not _is_known(engine, step.id)]
    try:
        for at in range(0, len(unknown), _AT_ONCE):
            some = unknown[at : at + _AT_ONCE]
            found = await asyncio.gather(*(is_read_only(engine, identity) for identity in some))
            engine.read_only |= {
                identity: _archived_at(engine, identity) for identity, is_so in zip(some, found, strict=True) if is_so
            }
    except StoreError:
        return plan
    return replace(plan, steps=tuple(_kept(step) if _is_left(engine, step) else step for step in plan.steps))


def _is_left(engine: Engine, step: Step) -> bool:
    return step.verb is Verb.EXPIRE and _is_known(engine, step.id)


def _kept(step: Step) -> Step:
    return replace(step, verb=Verb.KEEP, reason=f"{step.reason}, but it {REASON}", reason_code="read_only")


def _is_known(engine: Engine, identity: SegmentId) -> bool:
    return engine.read_only.get(identity) == _archived_at(engine, identity)


def _archived_at(engine: Engine, identity: SegmentId) -> float:
    """When it was archived last, in seconds since the epoch: what is known of an older archive holds no more."""
    segment = engine.catalog.get(identity)
    return segment.archive.archived_at if segment is not None and segment.archive is not None else -1.0
