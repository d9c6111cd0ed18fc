"""Logs that a broker changes between two fetches, and between a fetch and its answer."""

from __future__ import annotations

import os
import shutil

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.bulk import FileRange
from takhin_tiered.errors import DiskError
from takhin_tiered.kafka.client import Client
from takhin_tiered.kafka.errors import ErrorCode
from takhin_tiered.reader.query import Isolation
from tests.integration.test_kafka_fetch import asked, handler, log_of, parts_of
from tests.integration.test_records import kafka, served
from tests.integration.test_streams import bytes_of
from tests.partitions import make_partition
from tests.support import Broker, directory_settings

ALL = Isolation.READ_UNCOMMITTED


def identify(broker: Broker, letter: str) -> None:
    directory = broker.root / "orders-0"
    directory.mkdir()
    (directory / "partition.metadata").write_text(f"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAA{letter}")


@pytest.mark.parametrize("place", ["archived", "local"])
async def test_a_topic_made_anew_is_not_read_on_from_the_one_before(broker: Broker, place: str) -> None:
    old, new = (make_partition("orders-0", seed, gaps=False, transactions=False) for seed in (61, 62))
    identify(broker, "Q")
    async with served(broker, old, place=place) as (storage, _):
        stream = storage.logs.stream("orders", 0, 0, ALL)
        assert bytes_of(await stream.take(4_000, at_least_one=True))
        shutil.rmtree(broker.root / "orders-0")
        identify(broker, "g")
        new.write(broker.root)
        # Each fetch begins with these.
        bounds = await storage.logs.bounds("orders", 0, ALL, fresh=True)
        assert stream.offset < bounds.end
        found = bytes_of(await stream.take(4_000, at_least_one=True))
        assert found
        assert found in log_of(new)
        await stream.close()


async def test_a_log_that_was_truncated_and_written_again_in_place_is_looked_for_anew(broker: Broker) -> None:
    """As the returning leader of an unclean election does with a closed segment."""
    made, other = (make_partition("orders-0", seed, gaps=False, transactions=False) for seed in (63, 64))
    async with served(broker, made, place="local") as (storage, paths):
        stream = storage.logs.stream("orders", 0, 0, ALL)
        await stream.take(3_000, at_least_one=True)
        assert stream.offset < min(made.segments[1].base, other.segments[1].base)
        with (broker.root / paths[0]).open("r+b") as log:
            log.truncate(0)
            log.write(other.segments[0].files["log"])
        found = bytes_of(await stream.take(3_000, at_least_one=True))
        assert found
        assert found in log_of(other)
        await stream.close()


async def test_a_log_that_cannot_be_read_is_the_disks_fault(broker: Broker) -> None:
    made = make_partition("orders-0", 65)
    async with served(broker, made, place="local") as (storage, _):
        stream = storage.logs.stream("orders", 0, 0, ALL)
        taken = await stream.take(1_000, at_least_one=True)
        (run,) = taken.data
        assert isinstance(run, FileRange)
        # Reading a directory fails as a bad disk does.
        directory = os.open(broker.root, os.O_RDONLY)
        os.dup2(directory, run.file)
        os.close(directory)
        with pytest.raises(DiskError):
            await stream.take(1_000, at_least_one=True)
        await stream.close()


async def test_a_high_watermark_that_goes_back_sends_no_consumer_elsewhere(broker: Broker) -> None:
    """It is told that there is nothing yet, also where it asks just when the watermark goes back."""
    made = make_partition("orders-0", 66, segments=2, gaps=False)
    made.write(broker.root)
    (broker.root / f"orders-0/{made.end:020d}.log").unlink()
    await kafka(broker, made.end)
    async with TieredStorage.open(directory_settings(broker, broker.root.parent / "store")) as storage:
        fetch, client = handler(storage), Client("here")
        for mark in (made.end, made.end - 2, made.segments[1].base, made.end):
            # As it was known just now, and then as it is.
            await storage.logs.bounds("orders", 0, ALL, fresh=True)
            await kafka(broker, mark)
            for _ in range(2):
                (data,) = parts_of(await fetch(asked((0, made.end - 1), wait=5 if mark == made.end else 0), client))
                assert data.error_code == ErrorCode.NONE
                assert bool(data.records) == (mark == made.end)
                client.answered()
                await client.sessions.aclose()
                await storage.logs.bounds("orders", 0, ALL, fresh=True)
