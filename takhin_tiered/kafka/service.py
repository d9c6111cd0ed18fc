"""The endpoint, put together: opened by the daemon, beside the API."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from takhin_tiered import logs
from takhin_tiered.concurrency import in_thread
from takhin_tiered.config import Settings
from takhin_tiered.config_listeners import KAFKA_TLS
from takhin_tiered.errors import ConfigError
from takhin_tiered.kafka.apis import DESCRIBE_CONFIGS, FETCH, LIST_OFFSETS, METADATA
from takhin_tiered.kafka.client import Client, Handler
from takhin_tiered.kafka.commits import open_commits
from takhin_tiered.kafka.coordinator import Coordinator
from takhin_tiered.kafka.credentials import load_users
from takhin_tiered.kafka.endpoint import complete
from takhin_tiered.kafka.fetching import Fetching
from takhin_tiered.kafka.groups import expire_commits, group_handlers
from takhin_tiered.kafka.list_offsets import ListOffsets
from takhin_tiered.kafka.login import Exchange
from takhin_tiered.kafka.node import Address
from takhin_tiered.kafka.open_streams import OpenStreams
from takhin_tiered.kafka.refusals import Holes, Refusals
from takhin_tiered.kafka.sasl import Authenticator
from takhin_tiered.kafka.server import Server
from takhin_tiered.kafka.topics import Topics
from takhin_tiered.pace import Pace
from takhin_tiered.segments.report import iso_time
from takhin_tiered.segments.results import Consumer
from takhin_tiered.tiered_storage import TieredStorage
from takhin_tiered.tls import renew, tls_context


class Endpoint:
    """What of it a reload changes: users, certificates, the quota, and what is done at holes."""

    def __init__(self, settings: Settings) -> None:
        """`ConfigError` for users or certificates that cannot be used."""
        self.users: Logins | None = None
        self.tls: ssl.SSLContext | None = None
        self.pace, self.holes = Pace(0), Holes()
        if settings.kafka_sasl_users_file is not None:
            self.users = Logins(Authenticator(load_users(settings.kafka_sasl_users_file)))
        if settings.kafka_tls_cert is not None and settings.kafka_tls_key is not None:
            self.tls = tls_context(settings.kafka_tls_cert, settings.kafka_tls_key, KAFKA_TLS)
        self._apply(settings)

    def reload(self, settings: Settings) -> None:
        """Raises nothing: with files that cannot be used the previous ones stay in effect. Blocking."""
        self._apply(settings)
        try:
            if self.users is not None and settings.kafka_sasl_users_file is not None:
                self.users.current = Authenticator(load_users(settings.kafka_sasl_users_file))
            if self.tls is not None and settings.kafka_tls_cert is not None and settings.kafka_tls_key is not None:
                renew(self.tls, settings.kafka_tls_cert, settings.kafka_tls_key, KAFKA_TLS)
        except (ConfigError, OSError) as error:
            logs.logger().error("the Kafka endpoint keeps its previous users and certificates", error=str(error))

    def _apply(self, settings: Settings) -> None:
        self.pace.rate = settings.kafka_quota_mbps * 1e6
        self.holes.are_skipped = settings.kafka_holes == "skip"


class Logins:
    """The users as the file had them last."""

    def __init__(self, current: Authenticator) -> None:
        self.current = current

    @property
    def mechanisms(self) -> Sequence[str]:
        return self.current.mechanisms

    def begin(self, mechanism: str) -> Exchange:
        return self.current.begin(mechanism)


@asynccontextmanager
async def open_endpoint(storage: TieredStorage, listener: socket.socket) -> AsyncIterator[Endpoint]:
    """Serve Kafka's clients on this socket. `ConfigError` for users or certificates that cannot be used."""
    settings, served = storage.settings, storage.logs
    endpoint = await in_thread(Endpoint, settings)
    refusals, streams = Refusals(storage.metrics), OpenStreams(served)
    topics = Topics(served, lambda client: _address(settings, client))
    async with AsyncExitStack() as stack:
        commits = await stack.enter_async_context(open_commits(settings.state_dir, served.incarnation, storage.clock))
        coordinator = Coordinator()
        stack.callback(coordinator.close)
        expiring = asyncio.create_task(expire_commits(coordinator, commits))
        stack.push_async_callback(asyncio.wait, [expiring])
        stack.callback(expiring.cancel)
        handlers: dict[int, Handler] = {
            METADATA: topics.metadata,
            DESCRIBE_CONFIGS: topics.configs,
            LIST_OFFSETS: ListOffsets(served, refusals, endpoint.holes),
            FETCH: Fetching(served, streams, refusals, endpoint.holes),
            **group_handlers(coordinator, commits, lambda client: _address(settings, client)),
        }
        server = Server(
            complete(handlers, with_sasl=endpoint.users is not None),
            metrics=storage.metrics.kafka,
            authenticator=endpoint.users,
            pace=endpoint.pace,
        )
        await server.start(listener, endpoint.tls)
        stack.push_async_callback(server.close)
        storage.consumers = lambda: _consumers(streams)
        host, port = listener.getsockname()[:2]
        logs.logger().info(
            "serving Kafka clients",
            host=host,
            port=port,
            tls=endpoint.tls is not None,
            sasl=list(endpoint.users.mechanisms) if endpoint.users else [],
        )
        yield endpoint


def _address(settings: Settings, client: Client) -> Address:
    """Where clients find this node: as configured, else where this one found it."""
    host, _, port = settings.kafka_advertised.rpartition(":")
    return Address(host.strip("[]"), int(port)) if host else Address(*client.local)


def _consumers(streams: OpenStreams) -> tuple[Consumer, ...]:
    return tuple(
        Consumer(
            client.id,
            client.address,
            client.user,
            name.topic,
            name.partition,
            place.offset,
            place.bytes,
            iso_time(place.at),
        )
        for client, name, place in streams.places()
    )
