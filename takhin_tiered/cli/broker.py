"""Texts about the local broker: for ``status``, ``config check`` and ``archive``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from takhin_tiered.cli.output import console, counted, error_console
from takhin_tiered.config import Settings
from takhin_tiered.disk.files import DataDir
from takhin_tiered.disk.kafka import is_broker_running, is_kafka
from takhin_tiered.engine.asking import IDLE_HINT, BrokerAddress, connected
from takhin_tiered.segments.names import parse_partition
from takhin_tiered.segments.outlook import idle_tails
from takhin_tiered.segments.results import BrokerStatus, Status

_KAFKAS_RETENTION_HOURS = 168.0
_WELL_BELOW = 0.75
_NAMES_SHOWN = 10


def broker_text(found: BrokerStatus) -> str:
    """The broker's line in ``status``."""
    if not found.kind:
        return "not Apache Kafka: there is no meta.properties"
    text = "Apache Kafka (meta.properties), " + ("running (.lock)" if found.running else "stopped (.lock)")
    if found.problem:
        return f"{text}; {found.problem}"
    if found.bootstrap:
        text = f"{text}; settings of {found.topics_known} topics from {found.bootstrap}"
        idle = found.idle_tail_topics
        its = "its tail" if len(idle) == 1 else "their tails"
        return f"{text}; {counted(len(idle), 'topic')} may lose {its} when idle (segment.ms)" if idle else text
    return f"{text}; topic settings unknown: set storage.tiered.broker.bootstrap"


def kept_text(found: Status, mode: str) -> str:
    """Why ``archive`` unlinks nothing of a topic in this mode; empty where it does."""
    if mode == "trim":
        return "in mode trim a cycle asks the broker to free them"
    if mode == "copy":
        return "mode copy unlinks nothing"
    return "a Kafka broker runs on the directory, and would fail if they disappeared" if found.broker.running else ""


def directory_text(settings: Settings) -> Iterator[str]:
    """Lines of ``config check`` about the data directories, and about Kafka's retention and the cold age."""
    kafka = False
    for path in settings.data_dirs:
        try:
            root = DataDir(path)
        except OSError:
            continue
        try:
            if is_kafka(root.fd):
                kafka = True
                state = "a broker runs on it" if is_broker_running(root.fd) else "no broker runs on it"
                yield f"{path} is a log directory of Apache Kafka (meta.properties), and {state} (.lock)"
        except OSError as error:
            yield f"Warning: cannot tell whether a broker runs on {path}: {error}"
        finally:
            root.close()
    if text := _reserve_text(settings, kafka=kafka):
        yield text
    if not kafka:
        return
    if settings.archive_mode is None:
        yield (
            "Warning: storage.tiered.archive.mode is not set. "
            "Beside Kafka the default is copy, which removes no local file"
        )
    if not settings.broker_bootstrap and settings.cold_age_hours > _WELL_BELOW * _KAFKAS_RETENTION_HOURS:
        yield (
            f"Warning: storage.tiered.cold.age.hours is {settings.cold_age_hours:g}, and Kafka's default retention is "
            f"{_KAFKAS_RETENTION_HOURS:g} hours: Kafka may delete a segment before it is archived. Set the cold age "
            "well below the retention, or set storage.tiered.broker.bootstrap to read the retention from the broker"
        )


def _reserve_text(settings: Settings, *, kafka: bool) -> str:
    policy = settings.policy_for(kafka)
    if not policy.reserve or policy.unlinks_somewhere or policy.trims_somewhere:
        return ""
    return (
        "Warning: storage.tiered.local.reserve.percent has no effect in mode copy, which frees nothing. Set "
        "storage.tiered.archive.mode to trim or move"
    )


async def try_broker(settings: Settings) -> None:
    """Connect to the broker if one is configured. Raises `BrokerError`."""
    if settings.broker_bootstrap:
        policy = settings.policy_for(kafka=True)
        topics = {topic for topic in local_topics(settings) if policy.covers(topic)}
        async with connected(BrokerAddress(settings.broker_bootstrap, settings.broker_arguments)) as client:
            console().print(f"The broker at {settings.broker_bootstrap} answers")
            if text := idle_text(idle_tails(await client.topic_settings(topics), policy)):
                error_console().print(text)


def idle_text(topics: list[str]) -> str:
    """The warning about topics that lose their last segment when they fall idle; empty if there are none."""
    if not topics:
        return ""
    names = ", ".join(topics[:_NAMES_SHOWN])
    more = f" and {len(topics) - _NAMES_SHOWN} more" if len(topics) > _NAMES_SHOWN else ""
    lost = f"if they fall idle, Kafka deletes the last segment of {names}{more} before it can be archived"
    return f"Warning: {lost}. {IDLE_HINT}"


def local_topics(settings: Settings) -> set[str]:
    """The topics with a partition in the data directories. Unreadable directories are reported elsewhere."""
    topics: set[str] = set()
    for path in settings.data_dirs:
        with suppress(OSError):
            topics |= {found[0] for entry in path.iterdir() if (found := parse_partition(entry.name)) is not None}
    return topics
