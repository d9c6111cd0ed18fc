"""The fleet's contract: valid by its schema, the same as the classes, and turned into items and back."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import takhin_tiered.fleet
from takhin_tiered.errors import TableRejected
from takhin_tiered.fleet.contract import Contract, describe, deviations, load_contract, table_definition
from takhin_tiered.fleet.entities import ENTITIES, Operation, Segment
from takhin_tiered.fleet.local import LocalNode, LocalSegment
from takhin_tiered.fleet.transforms import digest, from_item, keys_of, to_item, values_of
from takhin_tiered.fleet.ulid import is_ulid, new_ulid

ROOT = Path(__file__).parents[2]
DOCUMENT = json.loads((ROOT / "configs" / "fleet-contract.json").read_text())
SCHEMA = json.loads((ROOT / "configs" / "fleet-contract.schema.json").read_text())
TYPES = {"string": "str", "integer": "int", "decimal": "Decimal", "boolean": "bool", "map": "dict"}
NODE = "broker-1"
SEGMENT = Segment(node=NODE, topic="orders", partition=3, incarnation="~0", base_offset=42, shard=7, state="local")


def test_the_contract_is_valid_by_its_schema() -> None:
    jsonschema_rs.validator_for(SCHEMA).validate(DOCUMENT)


def test_the_package_has_the_contract() -> None:
    assert (Path(takhin_tiered.fleet.__file__).parent / "fleet-contract.json").read_bytes() == (
        ROOT / "configs" / "fleet-contract.json"
    ).read_bytes()


def broken(*path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    at = document
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("table", "billing_mode"), "PROVISIONED"),
        (("entities", "Segment", "attributes", "node", "type"), "binary"),
        (("entities", "Segment", "more"), 1),
        (("version",), 2),
    ],
)
def test_schema_and_model_refuse_the_same(path: tuple[str, ...], value: object) -> None:
    document = broken(*path, value=value)
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(SCHEMA).validate(document)
    with pytest.raises(ValidationError):
        Contract.model_validate(document)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("entities", "Segment", "keys", "SK"), "S#{offset}", "SK is made of offset"),
        (("entities", "Segment", "keys", "GSI3PK"), "x", "has the key GSI3PK"),
        (("entities", "Segment", "keys"), {"PK": "x"}, "lacks a key"),
        (("entities", "Segment", "keys"), {"PK": "x", "SK": "y", "GSI1PK": "z"}, "one of two keys"),
        (("entities", "Segment", "attributes", "node", "name"), "t", "two attributes"),
        (("entities", "Segment", "attributes", "node", "name"), "e", "the table's own"),
        (("entities", "Operation", "ttl", "from"), "day_of_birth", "the ttl begins at"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(path: tuple[str, ...], value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Contract.model_validate(broken(*path, value=value))


@pytest.mark.parametrize("kind", ENTITIES.values(), ids=ENTITIES)
def test_the_classes_are_what_the_contract_says(kind: Any) -> None:
    spec = load_contract().entities[kind.__name__]
    assert {each.name for each in fields(kind)} == set(spec.attributes)
    for each in fields(kind):
        assert str(each.type).split("[")[0].split(" ")[0] == TYPES[spec.attributes[each.name].type], each.name
        assert each.default is MISSING or each.default in {None, "", False}, each.name


def test_the_contract_has_the_entities_that_there_are() -> None:
    assert set(load_contract().entities) == set(ENTITIES)


def test_each_source_is_there() -> None:
    for name, local in (("Segment", LocalSegment), ("Node", LocalNode)):
        sources = {spec.source for spec in load_contract().entities[name].attributes.values()} - {""}
        assert sources
        assert {source for source in sources if not hasattr(local, source)} == set()


def test_the_page_has_what_is_generated() -> None:
    page = (ROOT / "docs" / "fleet.md").read_text()
    before, between, after = page.partition("<!-- generated from the contract -->\n")
    assert (bool(before), bool(between)) == (True, True)
    assert after.partition("<!-- end -->")[0] == "\n" + describe(load_contract()) + "\n"


def test_keys_are_those_that_others_rely_on() -> None:
    assert keys_of(Segment, values_of(replace(SEGMENT, state="archived", modified_at=1_700_000_000_123))) == {
        "PK": "T#orders-3#I#~0#N#broker-1",
        "SK": "S#00000000000000000042",
        "GSI1PK": "N#broker-1#7",
        "GSI1SK": "S#archived#001700000000123#00000000000000000042",
    }


def test_a_table_deviates_from_its_definition_in_nothing() -> None:
    definition = table_definition(load_contract(), "fleet")
    described = {**definition, "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"}}
    assert list(deviations(load_contract(), described)) == []
    assert list(deviations(load_contract(), {})) == [
        "its keys are not PK and SK",
        "it has no index GSI1",
        "it has no index GSI2",
        "it has no stream of NEW_AND_OLD_IMAGES",
        "its billing mode is PROVISIONED, not PAY_PER_REQUEST",
    ]


names = st.text("abcXYZ019._-", min_size=1, max_size=20)
numbers = st.integers(0, 2**63 - 1)
segments = st.builds(
    Segment,
    node=names,
    topic=names,
    partition=st.integers(0, 2**31 - 1),
    incarnation=names,
    base_offset=numbers,
    shard=st.integers(0, 15),
    state=st.sampled_from(["local", "copied", "archived"]),
    topic_id=st.one_of(st.just(""), names),
    active=st.booleans(),
    **dict.fromkeys(["size", "stored_size", "generation", "modified_at", "last_offset"], st.one_of(st.none(), numbers)),
    quarantine=st.text(),
    damage=st.text(),
    run=st.one_of(st.just(""), names),
)


@given(segments)
def test_items_and_back(segment: Segment) -> None:
    assert from_item(Segment, to_item(segment)) == segment


@given(segments, segments)
def test_two_items_are_the_same_if_and_only_if_what_they_say_is(one: Segment, other: Segment) -> None:
    same = replace(one, run="") == replace(other, run="")
    assert (digest(Segment, to_item(one)) == digest(Segment, to_item(other))) == same
    assert digest(Segment, to_item(one)) == digest(Segment, {**to_item(replace(one, run="x")), "w": {"S": "mark"}})


def test_capacity_is_exact() -> None:
    operation = Operation(
        node=NODE, day="2026-01-01", id=new_ulid(), shard=1, created_at=1_700_000_000_000, action="sync",
        outcome="ok", correlation_id="c", capacity=Decimal("1234567890.125"),
    )  # fmt: skip
    item = to_item(operation)
    assert item["ttl"] == {"N": str(1_700_000_000 + 90 * 86400)}
    assert from_item(Operation, item) == operation


@pytest.mark.parametrize("damage", [{"p": {"S": "3"}}, {"p": {"N": "three"}}])
def test_an_item_that_is_none_is_named(damage: Any) -> None:
    with pytest.raises(TableRejected, match="T#orders-3"):
        from_item(Segment, {**to_item(SEGMENT), **damage})
    item = to_item(SEGMENT)
    del item["o"]
    with pytest.raises(TableRejected, match="no Segment"):
        from_item(Segment, item)


def test_attributes_of_later_releases_are_ignored() -> None:
    assert from_item(Segment, {**to_item(SEGMENT), "zz": {"S": "later"}}) == SEGMENT


def test_ulids_sort_by_their_time() -> None:
    made = [new_ulid(moment) for moment in (0, 1, 1_700_000_000_000, 2**48 - 1)]
    assert made == sorted(made)
    assert all(map(is_ulid, made))
    assert len({new_ulid(5) for _ in range(1000)}) == 1000
    assert not is_ulid("8" + "0" * 25)
    assert not is_ulid("U" * 26)
