"""What the live broker is asked before each cycle: topic settings, offsets, and how often it looks for old segments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import BrokerError
from takhin_tiered.segments.names import Partition
from takhin_tiered.segments.outlook import idle_tails
from takhin_tiered.segments.policy import Policy

if TYPE_CHECKING:
    from takhin_tiered.broker.client import BrokerClient


IDLE_HINT = (
    "Kafka rolls a segment only when the next record comes, and deletes an idle one whole at the end of its retention. "
    "Set segment.ms well below retention.ms: less is in the last segment then. A record now and then saves the rest"
)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """``bootstrap`` is ``host:port``, several with commas; ``options`` are aiokafka's for SASL and TLS."""

    bootstrap: str
    options: Mapping[str, object]


@asynccontextmanager
async def connected(address: BrokerAddress) -> AsyncIterator[BrokerClient]:
    # Imported here: the library is slow to load, and only needed where a broker is configured.
    from takhin_tiered.broker.client import open_broker

    async with open_broker(address.bootstrap, address.options) as client:
        yield client


async def ask_broker(situation: Situation, catalog: Catalog, address: BrokerAddress) -> None:
    """Bring the view up to date. If the broker does not answer, the last answers stay, and the view has the problem."""
    view = situation.view
    partitions = known_partitions(catalog, situation.policy)
    try:
        async with connected(address) as client:
            view.topics = await client.topic_settings({topic for topic, _ in partitions})
            view.offsets = await client.offsets(partitions)
            for node in view.node_ids:
                view.check_seconds = await client.check_interval_ms(node) / 1000
    except BrokerError as error:
        if view.problem != str(error):
            logs.logger().warning("the Kafka broker was not asked", code=error.code, error=str(error))
        view.problem = str(error)
    else:
        view.problem = ""
        _warn_of_idle_tails(situation)


def _warn_of_idle_tails(situation: Situation) -> None:
    topics = idle_tails(situation.view.topics, situation.policy)
    if fresh := [topic for topic in topics if topic not in situation.view.told_idle]:
        logs.logger().warning(
            "if these topics fall idle, Kafka deletes their last segment before it can be archived",
            topics=fresh,
            hint=IDLE_HINT,
        )
        situation.view.told_idle.update(fresh)


def known_partitions(catalog: Catalog, policy: Policy) -> set[Partition]:
    """Those that the configuration covers, and that have files here."""
    return {partition for partition in catalog.local_partitions() if policy.covers(partition[0])}
