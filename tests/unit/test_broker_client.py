"""The client of a broker, without one: who does not answer, options that make no sense, what the answers mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from takhin_tiered.batches import in_batches
from takhin_tiered.broker.assignments import Assignment, by_leader, by_topic
from takhin_tiered.broker.client import open_broker
from takhin_tiered.broker.responses import bounded, error_for, raise_for, trim_error, trim_result
from takhin_tiered.errors import BrokerDenied, BrokerError, BrokerUnavailable, ConfigError, TrimRefused
from takhin_tiered.segments.broker import TopicSettings, topic_settings
from tests.support import free_port

SOON = {"request_timeout_ms": 300}


@asynccontextmanager
async def server(first_words: bytes | None) -> AsyncIterator[str]:
    """A server that is no Kafka: it says something, or holds its tongue, to whoever connects."""
    ends: list[asyncio.StreamWriter] = []

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        if first_words is not None:
            writer.write(first_words)
            writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        for end in ends:
            end.close()


async def test_nobody_listens() -> None:
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        async with open_broker(f"127.0.0.1:{free_port()}", {}):
            pytest.fail("there is no broker")


@pytest.mark.parametrize("first_words", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x06abcdef"])
async def test_who_answers_is_no_broker(first_words: bytes | None) -> None:
    async with server(first_words) as address:
        with pytest.raises(BrokerUnavailable, match="cannot be reached"):
            async with open_broker(address, SOON):
                pytest.fail("there is no broker")


async def test_a_cancelled_connection_leaves_nothing_open() -> None:
    async with server(None) as address:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), open_broker(address, {}):
                pytest.fail("there is no broker")


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": 1},
        {"security_protocol": "TLS"},
        {"security_protocol": "SSL", "cafile": "/nonexistent/ca.pem"},
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_username": "me"},
        {"security_protocol": "SASL_SSL", "sasl_plain_password": "secret"},
    ],
)
async def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_broker("127.0.0.1:1", options):
            pytest.fail("nothing is opened")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("bootstrap", ["127.0.0.1:port", "[::1:9092"])
async def test_an_address_that_makes_no_sense(bootstrap: str) -> None:
    with pytest.raises(ConfigError):
        async with open_broker(bootstrap, {}):
            pytest.fail("nothing is opened")


@pytest.mark.parametrize(
    ("code", "kind", "trim_kind"),
    [
        (1, BrokerError, TrimRefused),
        (3, BrokerUnavailable, BrokerUnavailable),
        (6, BrokerUnavailable, BrokerUnavailable),
        (7, BrokerUnavailable, BrokerUnavailable),
        (17, BrokerError, TrimRefused),
        (29, BrokerDenied, BrokerDenied),
        (30, BrokerDenied, BrokerDenied),
        (31, BrokerDenied, BrokerDenied),
        (44, BrokerError, TrimRefused),
        (9999, BrokerError, BrokerError),
    ],
)
def test_what_an_error_code_means(code: int, kind: type[BrokerError], trim_kind: type[BrokerError]) -> None:
    for error, wanted in ((error_for(code, "a-0"), kind), (trim_error(code, "a-0"), trim_kind)):
        assert type(error) is wanted
        assert "a-0" in str(error)
        assert str(code) in str(error)
    with pytest.raises(kind):
        raise_for(code, "a-0")


def test_no_error() -> None:
    assert error_for(0, "a-0") is None
    assert trim_error(0, "a-0") is None
    raise_for(0, "a-0")


TIMED_OUT = BrokerUnavailable("7")
REFUSED = TrimRefused("44")


@pytest.mark.parametrize(
    ("reported", "start", "expected"),
    [
        (30, 30, 30),
        (30, 40, 40),
        (30, None, 30),
        # It was done although the leader gave up waiting.
        (TIMED_OUT, 30, 30),
        (TIMED_OUT, 31, 31),
        (TIMED_OUT, 29, TIMED_OUT),
        (TIMED_OUT, None, TIMED_OUT),
        (REFUSED, 30, REFUSED),
    ],
)
def test_what_a_trim_came_to(reported: int | BrokerError, start: int | None, expected: int | BrokerError) -> None:
    assert trim_result(reported, start, 30) is expected


async def test_a_question_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("takhin_tiered.broker.responses._OPERATION_SECONDS", 0.05)
    with pytest.raises(BrokerUnavailable, match="Kafka is slow: no answer in"):
        async with bounded("Kafka is slow"):
            await asyncio.sleep(10)


async def test_an_answer_that_makes_no_sense() -> None:
    with pytest.raises(BrokerError, match="odd: invalid literal"):
        async with bounded("odd"):
            int("seven")


def test_topic_settings() -> None:
    entries = {"cleanup.policy": "compact, delete", "retention.ms": "5", "retention.bytes": "-1", "segment.ms": None}
    assert topic_settings(entries) == TopicSettings(frozenset({"compact", "delete"}), 5, None, None)
    assert topic_settings({"cleanup.policy": ""}) == TopicSettings(frozenset(), None, None, None)


def test_partitions_are_asked_about_in_groups() -> None:
    assignments = {("a", number): Assignment(number % 2, (0, 1)) for number in range(1200)} | {
        ("b", 0): Assignment(-1, (0,))
    }
    pieces = list(by_leader(assignments))
    assert [(leader, len(partitions)) for leader, partitions in pieces] == [(0, 500), (0, 100), (1, 500), (1, 100)]
    assert {partition for _, partitions in pieces for partition in partitions} == set(assignments) - {("b", 0)}
    assert by_topic([(("a", 0), 5), (("b", 1), 6), (("a", 2), 7)]) == [("a", [(0, 5), (2, 7)]), ("b", [(1, 6)])]
    assert list(in_batches([], 2)) == []
