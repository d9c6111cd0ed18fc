"""Kafka's messages, as two other implementations read and write them."""

from __future__ import annotations

import io
import random
from typing import Any

import kafka.protocol.admin
import kafka.protocol.consumer
import kafka.protocol.metadata
import kafka.protocol.producer
import kafka.protocol.sasl
import kio.index
import pytest
from kafka.protocol.api_header import RequestHeader as OtherRequestHeader
from kio.schema.index import api_key_map
from kio.serial import entity_reader, entity_writer

from takhin_tiered.bulk import FileRange
from takhin_tiered.kafka.apis import APIS, Api
from takhin_tiered.kafka.codec import (
    MOST_ELEMENTS,
    Malformed,
    decode,
    decode_first,
    encode,
    size_of,
)
from takhin_tiered.kafka.messages.fetch import FetchableTopicResponse, FetchRequest, FetchResponse, PartitionData
from takhin_tiered.kafka.messages.headers import RequestHeader
from takhin_tiered.kafka.messages.metadata import MetadataRequest
from takhin_tiered.kafka.messages.refused import ProduceRequest
from takhin_tiered.kafka.messages.versions import ApiVersionsRequest, ApiVersionsResponse
from tests.messages import joined, plain, random_message, versions

ROUNDS = 12
AREAS = (
    kafka.protocol.admin,
    kafka.protocol.consumer,
    kafka.protocol.metadata,
    kafka.protocol.producer,
    kafka.protocol.sasl,
)
EVERY = pytest.mark.parametrize(
    ("api", "version", "side"),
    [
        pytest.param(api, version, side, id=f"{api.name}{side}-{version}")
        for api, version in versions()
        for side in ("Request", "Response")
    ],
)


def class_of(api: Api, side: str) -> type[Any]:
    return api.request if side == "Request" else api.response


def known(theirs: Any, ours: Any) -> Any:
    """What the other implementation decoded, of what we know.

    kafka-python has other names for the fields of authorized operations, and sets for their bits.
    """
    if isinstance(theirs, dict):
        as_ours = {name: value for name, value in ours.items() if name.endswith("authorized_operations")}
        return {name: known(value, ours[name]) for name, value in theirs.items() if name in ours} | as_ours
    if isinstance(theirs, list | tuple):
        return [known(each, our) for each, our in zip(theirs, ours, strict=True)]
    return bytes(theirs) if isinstance(theirs, memoryview) else theirs


@EVERY
def test_kafka_python_reads_and_writes_the_same(api: Api, version: int, side: str) -> None:
    other = next(getattr(area, f"{api.name}{side}") for area in AREAS if hasattr(area, f"{api.name}{side}"))
    cls, flexible, chance = class_of(api, side), api.is_flexible(version), random.Random(version)
    for _ in range(ROUNDS):
        message = random_message(cls, version, chance)
        if cls is ApiVersionsResponse:
            # With an error kafka-python takes it for version 0, whatever was asked for.
            message.error_code = 0
        ours = joined(encode(message, version, flexible))
        theirs = other.decode(ours, version=version)
        expected = plain(message, version)
        assert known(theirs.to_dict(json=False), expected) == expected
        theirs.with_header()
        encoded = bytes(theirs.encode())
        assert encoded == ours
        assert plain(decode(cls, memoryview(encoded), version, flexible), version) == expected


@EVERY
def test_kio_reads_and_writes_the_same(api: Api, version: int, side: str) -> None:
    load = kio.index.load_request_schema if side == "Request" else kio.index.load_response_schema
    schema: Any = load(api.key, version)
    read, write = entity_reader(schema), entity_writer(schema)
    cls, flexible, chance = class_of(api, side), api.is_flexible(version), random.Random(version + 1000)
    assert schema.__flexible__ == flexible
    header_version = schema.__header_schema__.__version__
    expected = api.has_flexible_header(version) if side == "Response" else flexible
    assert header_version == expected + (side == "Request")
    for _ in range(ROUNDS):
        message = random_message(cls, version, chance)
        ours = joined(encode(message, version, flexible))
        theirs, size = read(ours, 0)
        assert size == len(ours)
        buffer = io.BytesIO()
        write(buffer, theirs)
        assert buffer.getvalue() == ours
        assert plain(decode(cls, memoryview(ours), version, flexible), version) == plain(message, version)


@pytest.mark.parametrize("flexible", [False, True])
@pytest.mark.parametrize("name", [None, "", "a client"])
def test_the_header_of_a_request(name: str | None, flexible: bool) -> None:
    header = RequestHeader(3, 8, 77, name)
    data = joined(encode(header, 1, flexible))
    other = OtherRequestHeader.decode(io.BytesIO(data), flexible=flexible)
    assert (other.request_api_key, other.request_api_version, other.correlation_id) == (3, 8, 77)
    assert other.client_id == name
    again, rest = decode_first(RequestHeader, memoryview(data + b"body"), 1, flexible)
    assert again == header
    assert bytes(rest) == b"body"


def test_record_data_stays_in_its_parts() -> None:
    batch, piece = memoryview(b"a batch"), FileRange(7, 4096, 1000)
    partition = PartitionData(records=(batch, piece))
    parts = encode(FetchResponse(responses=[FetchableTopicResponse("t", [partition])]), 11, False)
    assert any(part is batch for part in parts)
    assert piece in parts
    before = next(number for number, part in enumerate(parts) if part is batch)
    assert joined(parts[:before])[-4:] == (7 + 1000).to_bytes(4, "big")
    assert size_of(parts) == sum(len(part) for part in parts if not isinstance(part, FileRange)) + 1000


def test_no_record_data_may_be_null() -> None:
    data = bytes.fromhex("ffff 0001 00000001 00000001 0001 74 00000001 00000000 ffffffff")
    request = decode(ProduceRequest, memoryview(data), 3, False)
    assert request.topic_data[0].partition_data[0].records == ()


@pytest.mark.parametrize(
    ("api", "version"), [pytest.param(*each, id=f"{each[0].name}-{each[1]}") for each in versions()]
)
def test_a_message_that_is_cut_or_too_long_is_malformed(api: Api, version: int) -> None:
    flexible = api.is_flexible(version)
    for cls in (api.request, api.response):
        data = joined(encode(random_message(cls, version, random.Random(5)), version, flexible))
        for size in {*range(0, len(data), max(1, len(data) // 50))} - {len(data)}:
            with pytest.raises(Malformed):
                decode(cls, memoryview(data)[:size], version, flexible)
        with pytest.raises(Malformed):
            decode(cls, memoryview(data + b"\0"), version, flexible)


@pytest.mark.parametrize(
    ("cls", "version", "flexible", "data"),
    [
        pytest.param(MetadataRequest, 1, False, "7fffffff", id="an array of two thousand million"),
        pytest.param(MetadataRequest, 1, False, "fffffffe", id="an array of less than none"),
        pytest.param(MetadataRequest, 1, False, "00000001 ffff", id="text that is null"),
        pytest.param(MetadataRequest, 1, False, "00000001 fffe", id="text of less than nothing"),
        pytest.param(MetadataRequest, 1, False, "00000001 0002 c328", id="text that is not UTF-8"),
        pytest.param(FetchRequest, 4, False, "00" * 17 + "ffffffff", id="an array that is null"),
        pytest.param(ApiVersionsRequest, 3, True, "ffffffffff01", id="a number without an end"),
        pytest.param(ApiVersionsRequest, 3, True, "ffffffff0f", id="text of four thousand million"),
        pytest.param(ApiVersionsRequest, 3, True, "00 01 00", id="compact text that is null"),
        pytest.param(ApiVersionsRequest, 3, True, "01 01 ffffffff0f", id="tags without end"),
        pytest.param(ApiVersionsRequest, 3, True, "01 01 01 05 ffffffff07", id="a tag of two thousand million"),
    ],
)
def test_absurd_lengths_are_malformed(cls: type[Any], version: int, flexible: bool, data: str) -> None:
    with pytest.raises(Malformed):
        decode(cls, memoryview(bytes.fromhex(data)), version, flexible)


def test_unknown_tags_are_skipped() -> None:
    data = bytes.fromhex("02 61 02 62 02 05 03 616263 7f 00")
    assert decode(ApiVersionsRequest, memoryview(data), 3, True) == ApiVersionsRequest("a", "b")


def test_more_elements_than_memory_is_for_are_malformed() -> None:
    topics = b"\0\0" * (MOST_ELEMENTS + 1)
    data = (MOST_ELEMENTS + 1).to_bytes(4, "big") + topics
    with pytest.raises(Malformed, match="elements"):
        decode(MetadataRequest, memoryview(data), 1, False)
    data = MOST_ELEMENTS.to_bytes(4, "big") + topics[2:]
    topics_read = decode(MetadataRequest, memoryview(data), 1, False).topics
    assert topics_read is not None
    assert len(topics_read) == MOST_ELEMENTS


def test_the_numbers_of_the_apis_are_kafkas() -> None:
    assert {api.name: key for key, api in APIS.items()} == {
        "".join(word.title() for word in kio_name.split("_")): key
        for key, kio_name in api_key_map.items()
        if key in APIS
    }
