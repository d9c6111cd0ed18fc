"""read_committed where a hole has the markers of transactions."""

from __future__ import annotations

import os
import struct

import pytest

from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.kafka.fetching import Fetching
from takhin_tiered.kafka.messages.fetch import READ_COMMITTED, PartitionData
from tests.integration.test_kafka_fetch import asked, bytes_of, handler, parts_of
from tests.integration.test_records import served
from tests.partitions import Known, Partition, Truth, as_known, decoded, make_partition
from tests.support import Broker


async def committed(fetch: Fetching, client: Client, offset: int, *, most: int) -> PartitionData:
    request = asked((0, offset), most=most)
    request.isolation_level = READ_COMMITTED
    (data,) = parts_of(await fetch(request, client))
    return data


def given_to_user(data: PartitionData, piece: list[Known], wanted: int) -> list[Known]:
    """Source: Apache Kafka, ``CompletedFetch``: aborted producers, until their marker."""
    aborted = sorted(data.aborted_transactions or (), key=lambda each: each.first_offset)
    found, of = [], set[int]()
    for each in piece:
        while aborted and aborted[0].first_offset <= each.offset:
            of.add(aborted.pop(0).producer_id)
        if each.is_control:
            if each.key is not None and struct.unpack(">hh", each.key)[1] == 0 and each.producer is not None:
                of.discard(each.producer)
        elif each.offset >= wanted and each.producer not in of:
            found.append(each)
    return found


def undecided(made: Partition, hole: int) -> set[int]:
    """Offsets before the hole whose transactions end in it or behind it."""
    pending: dict[int | None, list[int]] = {}
    for each in made.known():
        if each.offset < hole and each.producer is not None:
            if each.is_control:
                pending.pop(each.producer, None)
            else:
                pending.setdefault(each.producer, []).append(each.offset)
    return {offset for offsets in pending.values() for offset in offsets}


@pytest.mark.parametrize("most", [1, 4_000, 1 << 20])
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("place", ["archived", "local"])
async def test_only_what_a_hole_hides_is_left_out(broker: Broker, place: str, skips: bool, most: int) -> None:
    made = make_partition("orders-0", 4, segments=4, gaps=False)
    hole, following = made.segments[2].base, made.segments[3].base
    hidden = undecided(made, hole)
    # There are some, and other records between them and the hole.
    assert hidden
    assert min(hidden) + 10 < hole
    visible, end = Truth(made.known(), made.end).visible(committed=True)
    expected = [each for each in visible if each.offset not in hidden and not hole <= each.offset < following]
    async with served(broker, made, place="local") as (storage, paths):
        os.unlink(broker.root / paths[2])
        for path in paths[:2] + paths[3:] if place == "archived" else []:
            await storage.archive_segment(path)
        fetch, client = handler(storage, skips_holes=skips), Client("here")
        found, offset, code = list[Known](), 0, ErrorCode.NONE
        while offset < end and code == ErrorCode.NONE:
            data = await committed(fetch, client, offset, most=most)
            code = ErrorCode(data.error_code)
            piece = decoded(bytes_of(data))
            assert piece or code != ErrorCode.NONE
            found += given_to_user(data, piece, offset)
            offset = piece[-1].offset + 1 if piece else offset
            client.answered()
        if skips:
            assert as_known(found) == as_known(expected)
        else:
            assert code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
            assert as_known(found) == as_known([each for each in expected if each.offset < min(hidden)])
        await client.sessions.aclose()
