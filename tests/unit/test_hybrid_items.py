"""Items, their objects and their pointers, without a server."""

from __future__ import annotations

import gzip
import json
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.codec.aesgcm import Key
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.config_tables import HybridTableSettings
from takhin_tiered.errors import ConfigError, Damaged, NoKey, WrongKey
from takhin_tiered.hybrid import archival_timestamp, hybrid_table, judging, objects, pointers
from takhin_tiered.hybrid.cache import ItemCache
from takhin_tiered.hybrid.estimate import estimate
from takhin_tiered.hybrid.judging import DAY, Judge, seconds_of
from takhin_tiered.hybrid.models import ModelShape, PlainShape, settings_of
from takhin_tiered.hybrid.schema import Schema, schema_of
from takhin_tiered.hybrid.typed import is_same_item, plain, size_of, to_typed
from tests.tables import index, item, many, n, normal, s

PLAIN = KeyRing()
RING = KeyRing({"one": Key(b"1" * 32), "two": Key(b"2" * 32)}, "one")
KEY = "orders/CUST_1/ORDER_1.json.gz"


def schema(**more: Any) -> Schema:
    description = {
        "KeySchema": [
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        "AttributeDefinitions": [{"AttributeName": each, "AttributeType": "S"} for each in ("pk", "sk")],
        **more,
    }
    return schema_of(description, HybridTableSettings(name="orders", partition_key="pk", sort_key="sk", timestamp="at"))


def test_an_object_is_exact_and_always_the_same() -> None:
    chance = random.Random(1)
    for each in many(200, chance):
        data = objects.pack(objects.to_json(each), KEY, level=0, keys=PLAIN)
        shuffled = dict(chance.sample(sorted(each.items()), len(each)))
        assert objects.pack(objects.to_json(shuffled), KEY, level=0, keys=PLAIN) == data
        assert normal(objects.read_item(objects.unpack(data, KEY, PLAIN), KEY)) == normal(each)


def test_an_object_is_the_json_of_dynamodb_in_gzip() -> None:
    data = objects.pack(
        objects.to_json({"pk": s("x"), "b": {"B": b"\x00\xff"}, "n": n("1.50")}), KEY, level=0, keys=PLAIN
    )
    assert json.loads(gzip.decompress(data)) == {"pk": {"S": "x"}, "b": {"B": "AP8="}, "n": {"N": "1.50"}}


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("keys", [PLAIN, RING])
def test_no_changed_byte_goes_unseen(level: int, keys: KeyRing) -> None:
    whole = item("x", "y", text="some words " * 20)
    data = objects.pack(objects.to_json(whole), KEY, level=level, keys=keys)
    assert objects.read_item(objects.unpack(data, KEY, keys), KEY) == whole
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        try:
            found = objects.read_item(objects.unpack(changed, KEY, keys), KEY)
        except (Damaged, WrongKey, NoKey):
            continue
        # Such as the time and the system in gzip's header, which say nothing of the item.
        assert found == whole
    for size in range(len(data)):
        with pytest.raises((Damaged, WrongKey)):
            objects.unpack(data[:size], KEY, keys)
    with pytest.raises(Damaged):
        objects.unpack(data + b"x", KEY, keys)


def test_an_encrypted_object_opens_nowhere_else() -> None:
    data = objects.pack(b"{}", KEY, level=0, keys=RING)
    with pytest.raises(WrongKey, match="g2"):
        objects.unpack(data, KEY.replace(".json", ".g2.json"), RING)
    with pytest.raises(NoKey, match="one"):
        objects.unpack(data, KEY, KeyRing({"two": Key(b"2" * 32)}, "two"))
    assert objects.unpack(data, KEY, KeyRing({"two": Key(b"2" * 32), "one": Key(b"1" * 32)}, "two")) == b"{}"
    assert b"ORDER" not in data


def test_a_bomb_is_refused() -> None:
    with pytest.raises(Damaged):
        objects.unpack(gzip.compress(bytes(objects.MOST_PLAIN + 1)), KEY, PLAIN)


@given(st.recursive(
    st.one_of(st.text(), st.integers(-(10**30), 10**30), st.binary(), st.booleans(), st.none(),
              st.decimals(allow_nan=False, allow_infinity=False, places=4), st.sets(st.text(), min_size=1),
              st.sets(st.integers(), min_size=1), st.sets(st.binary(), min_size=1)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20,
))  # fmt: skip
def test_plain_values_are_exact(value: object) -> None:
    typed = to_typed(value)
    assert typed is not None
    assert plain({"x": typed})["x"] == value
    assert is_same_item({"x": typed}, objects.from_json(objects.to_json({"x": typed})))


def test_what_has_no_type_is_refused() -> None:
    assert to_typed(set()) is None
    for value in (object(), {1, "a"}):
        with pytest.raises(TypeError):
            to_typed(value)
    for number in (float("nan"), float("inf"), Decimal("NaN")):
        with pytest.raises(ValueError, match="no number"):
            to_typed(number)


class Colour(Enum):
    RED = "red"


class Line(pydantic.BaseModel):
    price: Decimal
    count: int


@hybrid_table("orders", partition_key="customer_id", sort_key="id", archive_after_days=90)
class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    customer_id: str
    number: int = pydantic.Field(alias="id")
    created_at: Annotated[datetime, archival_timestamp]
    note: str | None = None
    must: str | None
    tags: set[str]
    weights: frozenset[float] = frozenset()
    colour: Colour = Colour.RED
    ref: UUID = UUID(int=7)
    day: date = date(2026, 1, 2)
    lines: list[Line] = []
    ratio: float = 0.1
    data: bytes = b""
    by_year: dict[int, str] = {}


def order(**more: Any) -> Order:
    given: dict[str, Any] = {
        "customer_id": "c",
        "number": 7,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "must": None,
    }
    return Order(**{**given, "tags": set(), **more})


def test_a_model_is_an_item_and_back() -> None:
    shape = ModelShape(Order)
    full = order(note="n", must="m", tags={"a"}, weights={1.5, 2.0}, lines=[Line(price=Decimal("1.10"), count=2)],
                 data=b"\x00", by_year={2026: "x"})  # fmt: skip
    for each in (order(), full):
        assert shape.from_item(shape.to_item(each)) == each
    found = shape.to_item(order())
    assert found["created_at"] == {"S": "2026-01-01T00:00:00+00:00"}
    assert found["must"] == {"NULL": True}
    assert {"note", "tags"} & found.keys() == set()
    assert (found["id"], found["colour"], found["ratio"]) == ({"N": "7"}, {"S": "red"}, {"N": "0.1"})
    naive = shape.to_item(order(created_at=datetime(2026, 1, 1)))
    assert naive["created_at"] == {"S": "2026-01-01T00:00:00+00:00"}


def test_a_secret_is_refused_and_an_empty_set_stays_empty() -> None:
    @hybrid_table("accounts", partition_key="id")
    class Account(pydantic.BaseModel):
        id: str
        at: Annotated[datetime, archival_timestamp]
        tags: set[str] = {"new"}
        password: pydantic.SecretStr | None = None

    shape, at = ModelShape(Account), datetime(2026, 1, 1, tzinfo=UTC)
    for tags in (set[str](), {"new"}, {"old"}):
        account = Account(id="a", at=at, tags=tags)
        assert shape.from_item(shape.to_item(account)) == account
    with pytest.raises(TypeError, match="masked"):
        shape.to_item(Account(id="a", at=at, password=pydantic.SecretStr("x")))


def test_changes_go_by_fields_or_attributes() -> None:
    shape = ModelShape(Order)
    assert shape.changes({"note": None, "must": None, "tags": set(), "ratio": 2.5}) == (
        {"must": {"NULL": True}, "ratio": {"N": "2.5"}},
        ["note", "tags"],
    )
    with pytest.raises(TypeError, match="no field 'nothing'"):
        shape.changes({"nothing": 1})


def test_a_pointer_of_a_model_says_where_its_object_is() -> None:
    found = ModelShape(Order).pointer({"customer_id": s("c"), "id": n(7), "s3Key": s("k"), "archivedAt": s("t")})
    assert isinstance(found, Order)
    assert (found.customer_id, found.number, getattr(found, "s3_key", "")) == ("c", 7, "k")
    assert PlainShape().pointer({"s3Key": s("k"), "archivedAt": s("t")}).s3_key == "k"
    assert PlainShape().from_item({"s3Key": s("k")}).s3_key == ""


def test_a_class_that_cannot_be_a_table_is_refused() -> None:
    class Bare(pydantic.BaseModel):
        id: str

    class Twice(pydantic.BaseModel):
        id: str
        a: Annotated[datetime, archival_timestamp]
        b: Annotated[datetime, archival_timestamp]

    class Named(pydantic.BaseModel):
        id: str
        at: Annotated[datetime, archival_timestamp]
        s3Key: str  # noqa: N815 - the attribute's name

    class Optional(pydantic.BaseModel):
        id: str
        at: Annotated[datetime, archival_timestamp] | None = None

    class OneWay(pydantic.BaseModel):
        id: str
        at: Annotated[datetime, archival_timestamp]
        note: str = pydantic.Field("", serialization_alias="n")

    wrong: list[Any] = [Bare, Twice, Named, OneWay, str]
    for cls in wrong:
        with pytest.raises(TypeError):
            hybrid_table("t-able", partition_key="id")(cls)
    with pytest.raises(TypeError, match="no field"):
        hybrid_table("t-able", partition_key="key")(Optional)
    with pytest.raises(TypeError, match="no @hybrid_table"):
        settings_of(Bare)
    assert settings_of(hybrid_table("t-able", partition_key="id")(Optional)).timestamp == "at"
    assert settings_of(Order).archive_after_days == 90


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (s("2026-01-01T00:00:00+00:00"), 1767225600.0),
        (s("2026-01-01T02:00:00+02:00"), 1767225600.0),
        (s("2026-01-01T00:00:00Z"), 1767225600.0),
        (s("2026-01-01"), 1767225600.0),
        (n(1767225600), 1767225600.0),
        (n(1767225600123), 1767225600.123),
        (n("1.7672256E9"), 1767225600.0),
        (s("yesterday"), None),
        (s("20240101"), 1704067200.0),
        # Milliseconds as text, which the parser takes for the year 1712.
        (s("1712121212345"), None),
        (s(""), None),
        (n("1E125"), 1e122),
        ({"BOOL": True}, None),
        (None, None),
    ],
)
def test_timestamps_in_every_form(value: dict[str, Any] | None, seconds: float | None) -> None:
    assert seconds_of(value) == (None if seconds is None else pytest.approx(seconds))


def test_only_what_is_old_and_can_leave_is_archived() -> None:
    now = datetime.now(UTC).timestamp()
    judge = Judge(schema(GlobalSecondaryIndexes=[index("i", "status", "total")]), "at", now - 180 * DAY)
    old = item("x", "y", text="t")
    reasons = {
        "": old,
        judging.YOUNG: item("x", "y", age_days=179, text="t"),
        judging.ARCHIVED: {**old, "s3Key": s("k"), "archivedAt": s("t")},
        judging.NO_TIMESTAMP: {name: value for name, value in old.items() if name != "at"},
        judging.BAD_TIMESTAMP: {**old, "at": s("soon")},
        judging.RESERVED: {**old, "s3Key": s("mine")},
        judging.NOTHING: {**item("x", "y"), "status": s("open"), "total": n(1)},
    }
    assert {judge.reason_to_stay(each): each for each in reasons.values()} == reasons


def test_a_pointer_keeps_what_indexes_use() -> None:
    found = schema(
        GlobalSecondaryIndexes=[
            index("i", "status", "total"),
            index("j", "status", "other", projection="INCLUDE", included=["note"]),
        ],
        LocalSecondaryIndexes=[index("k", "pk", "local")],
    )
    assert found.kept == {"pk", "sk", "at", "status", "total", "other", "note", "local"}
    assert found.indexes["j"].projection == "INCLUDE"
    wrong = HybridTableSettings(name="orders", partition_key="pk", timestamp="at")
    keys = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
    with pytest.raises(ConfigError, match="has the keys pk and sk"):
        schema_of({"KeySchema": keys, "AttributeDefinitions": []}, wrong)


def test_an_update_compares_every_attribute_or_is_not_made() -> None:
    small = item("x", "y", text="t", note="n")
    found = pointers.archiving(small, schema(), "key", "now")
    assert found is not None
    assert found["ConditionExpression"].count("=") == 3
    large = item("x", "y") | {f"a{number}": s("v") for number in range(149)}
    assert pointers.archiving(large, schema(), "key", "now") is None


def test_the_cache_is_bounded_in_bytes() -> None:
    cache = ItemCache(10_000)
    for number in range(100):
        cache.put((f"k{number}", "t"), bytes(1000))
    assert cache.size <= 10_000
    assert cache.get(("k99", "t")) == bytes(1000)
    assert cache.get(("k0", "t")) is None
    # The same key of a later archive is another item.
    assert cache.get(("k99", "later")) is None
    cache.put(("large", "t"), bytes(20_000))
    assert cache.get(("large", "t")) is None
    for number in range(100):
        cache.forget((f"k{number}", "t"))
    assert cache.size == 0


def test_an_estimate_counts_what_archiving_costs() -> None:
    now = datetime(2026, 11, 29, tzinfo=UTC)
    size, items = 100 * 10**9, 10_000_000
    found = estimate(items=items, size=size, kept=items * 100, sizes={10: items}, scanned=size, now=now)
    assert found.monthly_saved == pytest.approx(found.monthly_before - found.monthly_after)
    assert 80 < found.saved_percent < 95
    # 100 million write units, 10 million PUTs, 24 million read units.
    assert found.cost == pytest.approx(62.5 + 50 + 3.05, abs=0.1)
    assert found.months == -int(-found.cost // found.monthly_saved)
    assert found.pays_off == "2027-04"
    # A pointer takes more room than so small an item.
    assert estimate(items=10, size=100, kept=100, sizes={1: 10}, scanned=100, now=now).months is None
    assert estimate(items=0, size=0, kept=0, sizes={}, scanned=0, now=now).pays_off == ""


def test_sizes_are_about_those_of_dynamodb() -> None:
    assert size_of({"pk": s("x" * 10), "n": n(1234), "b": {"B": bytes(5)}, "l": {"L": [s("ab")]}}) == 12 + 4 + 6 + 7
    assert timedelta(days=1).total_seconds() == DAY
