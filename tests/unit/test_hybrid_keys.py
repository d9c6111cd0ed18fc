"""The keys of items' objects: no two items share one, and none is taken for a segment's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.config_tables import HybridTableSettings
from takhin_tiered.errors import ConfigError
from takhin_tiered.hybrid.keys import Naming, naming_of, object_key, parse_object_key, require_apart
from takhin_tiered.hybrid.typed import canonical_number
from takhin_tiered.segments.names import is_ours, parse_manifest_key
from takhin_tiered.segments.names import parse_object_key as parse_segment_key


def naming(name: str = "orders", *, template: str = "", sort: bool = True, part: int = 0, prefix: str = "p") -> Naming:
    settings = HybridTableSettings(
        name=name, partition_key="pk", sort_key="sk" if sort else "", timestamp="at", key_template=template
    )
    return naming_of(settings, prefix=prefix, part=part)


numbers = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9)
values = st.one_of(
    st.text(min_size=1, max_size=40).map(lambda text: {"S": text}),
    st.sampled_from(["..", ".", "a.g2", "a.g", "%2E", "n=1", "b=1", "1", "a/b", "sha256=0", "x.json.gz"]).map(
        lambda text: {"S": text}
    ),
    numbers.map(lambda number: {"N": str(number)}),
    st.binary(min_size=1, max_size=20).map(lambda data: {"B": data}),
)


def spelt(value: dict[str, object]) -> tuple[str, object]:
    ((kind, inner),) = value.items()
    return kind, canonical_number(str(inner)) if kind == "N" else inner


@given(values, values, values, values, st.integers(1, 12), st.integers(1, 12))
def test_two_items_never_share_a_key(
    pk: dict[str, object], sk: dict[str, object], pk2: dict[str, object], sk2: dict[str, object], one: int, other: int
) -> None:
    name = naming()
    first = object_key(name.base({"pk": pk, "sk": sk}), one)
    second = object_key(name.base({"pk": pk2, "sk": sk2}), other)
    same = (spelt(pk), spelt(sk), one) == (spelt(pk2), spelt(sk2), other)
    assert (first == second) == same
    assert parse_object_key(first) == (name.base({"pk": pk, "sk": sk}), one)
    assert {"", ".", ".."} & set(first.split("/")) == set()
    assert len(first.split("/")) in {2, 3}


@pytest.mark.parametrize(
    ("pk", "sk", "key"),
    [
        ({"S": "CUST_1"}, {"S": "ORDER_1"}, "orders/CUST_1/ORDER_1.json.gz"),
        ({"S": "a/b"}, {"S": ".."}, "orders/a%2Fb/%2E%2E.json.gz"),
        ({"S": "ä"}, {"S": "x.g2"}, "orders/%C3%A4/x%2Eg2.json.gz"),
        ({"N": "1.50"}, {"B": b"\x00/\xff"}, "orders/n=1.5/b=%00%2F%FF.json.gz"),
        ({"N": "1E2"}, {"N": "-0.0"}, "orders/n=100/n=0.json.gz"),
        ({"N": f"{10**37 + 1}"}, {"N": "1.000E-3"}, f"orders/n={10**37 + 1}/n=0.001.json.gz"),
    ],
)
def test_keys_as_they_are_written(pk: dict[str, object], sk: dict[str, object], key: str) -> None:
    assert object_key(naming().base({"pk": pk, "sk": sk})) == key


def test_a_key_that_the_store_refuses_is_a_digest() -> None:
    long = {"pk": {"S": "ä" * 1000}, "sk": {"S": "x"}}
    key = object_key(naming().base(long), 999)
    assert key.startswith("orders/sha256=")
    assert len(f"p/{key}".encode()) < 1024
    assert key != object_key(naming().base({**long, "sk": {"S": "y"}}), 999)
    # In a directory a name has 255 bytes.
    assert naming().base({"pk": {"S": "x" * 300}, "sk": {"S": "x"}}) == f"orders/{'x' * 300}/x"
    assert naming(part=255).base({"pk": {"S": "x" * 300}, "sk": {"S": "x"}}).startswith("orders/sha256=")
    longest = naming(prefix="p" * 100).longest
    assert len(f"{'p' * 100}/{object_key('k' * longest, 10**9)}") <= 1024


@given(values, values)
def test_no_key_is_taken_for_a_segments(pk: dict[str, object], sk: dict[str, object]) -> None:
    """Also of a table that is called like a partition."""
    for sort in (False, True):
        key = object_key(naming("orders-0", sort=sort).base({"pk": pk, "sk": sk}), 2)
        assert not is_ours(key)
        assert parse_manifest_key(key) is None
        assert parse_segment_key(key) is None


@pytest.mark.parametrize(
    "template",
    [
        "{tableName}/{partitionKey}-{sortKey}", "{tableName}/{partitionKey}/{sortKey}.x", "/{partitionKey}/{sortKey}",
        "{tableName}//{partitionKey}/{sortKey}", "../{partitionKey}/{sortKey}", "a%/{partitionKey}/{sortKey}",
        "{partitionKey}/{sortKey}/x",
    ],
)  # fmt: skip
def test_a_template_by_which_two_items_might_share_an_object_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="key_template"):
        naming(template=template)


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("takhin-tiered.tables", ""),
        ("takhin-tiered.owner", "{tableName}/{partitionKey}/{sortKey}"),
        ("takhin-tiered", "{tableName}.tables/{partitionKey}/{sortKey}"),
        ("orders", "takhin-tiered.x/{partitionKey}/{sortKey}"),
    ],
)
def test_no_table_stands_where_the_program_has_its_own_objects(name: str, template: str) -> None:
    with pytest.raises(ValueError, match=r"would stand under takhin-tiered\."):
        naming(name, template=template)
    assert naming(name, template="tables/{tableName}/{partitionKey}/{sortKey}").folder == f"tables/{name}/"


def test_a_generation_that_none_of_ours_can_be_is_a_part_of_the_name() -> None:
    """Whatever somebody wrote into a pointer: Python refuses to read a number of so many digits."""
    assert parse_object_key(f"orders/a.g{'9' * 5000}.json.gz") == (f"orders/a.g{'9' * 5000}", 1)
    assert parse_object_key("orders/a.g9999999999.json.gz") == ("orders/a", 9999999999)


def test_a_template_has_no_sort_key_where_the_table_has_none() -> None:
    with pytest.raises(ValueError, match="there is no sort_key"):
        HybridTableSettings(
            name="orders", partition_key="id", timestamp="at", key_template="{tableName}/{partitionKey}/{sortKey}"
        )


def test_tables_have_folders_of_their_own() -> None:
    require_apart([naming("orders"), naming("orders2"), naming("others", template="x/{partitionKey}/{sortKey}")])
    with pytest.raises(ConfigError, match="one folder"):
        require_apart([naming("orders"), naming("others", template="orders/x/{partitionKey}/{sortKey}")])
    with pytest.raises(ConfigError, match="that of the prefix"):
        require_apart([naming("orders"), naming("others", template="{partitionKey}/{sortKey}")])
