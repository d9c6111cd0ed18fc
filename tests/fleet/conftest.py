"""A table of its own for each test, on the shared server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from takhin_tiered.aws.dynamodb import open_dynamodb
from takhin_tiered.config import Settings
from takhin_tiered.fleet.initialise import initialise
from takhin_tiered.fleet.repositories import Table
from tests.support import REGION, Broker, Bucket, store_settings


@pytest.fixture
def table_name() -> str:
    return f"takhin-{uuid4().hex[:12]}"


@pytest.fixture
async def table(s3_endpoint: str, table_name: str) -> AsyncIterator[Table]:
    """The fleet's table, initialised and empty."""
    async with open_dynamodb(REGION, s3_endpoint) as database:
        table = Table(database, table_name)
        await initialise(table)
        yield table


@pytest.fixture
def settings(broker: Broker, bucket: Bucket, table: Table) -> Settings:
    """Those of a node that has a table, and does not use it yet."""
    return store_settings(broker, bucket, fleet_table=table.name, fleet_endpoint=bucket.endpoint, fleet_node="broker-1")
