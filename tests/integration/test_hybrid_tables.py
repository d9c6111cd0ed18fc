"""Hybrid tables, as an application uses them: models and dicts, writes, errors, beside segments in one prefix."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pytest
from backports.zstd import decompress

from takhin_tiered import ObjectCorrupt, ObjectMissing, Settings, TieredStorage, machine
from takhin_tiered.aws.outcomes import Item
from takhin_tiered.errors import BucketMissing, ConfigError, TableMissing
from takhin_tiered.hybrid import HybridTables, archival_timestamp, hybrid_table, judging, records
from tests.support import Broker, Bucket, free_port, rclone_server, store_settings
from tests.tables import (
    NOW,
    POINTER,
    Dynamo,
    OpenTable,
    described,
    hybrid_settings,
    in_another_loop,
    item,
    n,
    normal,
    s,
)

OLD = datetime.now(UTC) - timedelta(days=400)


def key(pk: str, sk: str = "") -> Item:
    return {"pk": s(pk), **({"sk": s(sk)} if sk else {})}


@dataclass
class Scene(OpenTable):
    """``items`` is what it was made of."""

    items: list[Item]

    @property
    def objects(self) -> list[str]:
        """Keys of the objects of items."""
        folder = self.root / "store" / self.name
        return sorted(path.relative_to(self.root / "store").as_posix() for path in folder.rglob("*") if path.is_file())

    def object(self, key: str) -> Path:
        return self.root / "store" / key

    async def archive(self) -> int:
        result = await self.tables.archive_old_data()
        assert result.errors == []
        return result.items_archived


def some(count: int = 4, **more: Any) -> list[Item]:
    return [item("c", f"{number:03}", text=f"text {number}", num=n(number), **more) for number in range(count)]


@asynccontextmanager
async def scene(
    dynamo: Dynamo, root: Path, items: list[Item] | None = None, how: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[Scene]:
    """On a directory store."""
    name, given = dynamo.create(), some() if items is None else items
    dynamo.put(name, *given)
    settings = hybrid_settings(root, dynamo, [described(name)], **more)
    async with HybridTables.open(settings, **(how or {})) as tables:
        yield Scene(dynamo, name, settings, root, tables, tables.table(name, typed=True), given)


async def test_a_pointer_keeps_the_keys_the_timestamp_and_what_indexes_use(
    dynamo: Dynamo, bucket: Bucket, tmp_path: Path
) -> None:
    name = dynamo.create(indexes=True)
    whole = item("c", "1", status="open", total=n(5), note="n", text="t", num=n("1.5"), data={"B": b"\x00\xff"})
    young = item("c", "2", age_days=10, status="open", total=n(6), text="t")
    dynamo.put(name, whole, young)
    async with HybridTables.open(hybrid_settings(tmp_path, dynamo, [described(name)], bucket)) as tables:
        dry = await tables.archive_old_data(dry_run=True)
        assert (dry.items_processed, dry.items_archived, dry.items_skipped, dry.dry_run) == (2, 1, 1, True)
        assert dynamo.pointers(name) == []
        result = await tables.archive_old_data()
    assert (result.items_processed, result.items_archived, result.items_skipped, result.errors) == (2, 1, 1, [])
    assert (result.skipped, result.bytes_archived) == ({judging.YOUNG: 1}, dry.bytes_archived)
    pointer = dynamo.get(name, key("c", "1"))
    assert pointer is not None
    assert pointer.keys() == {"pk", "sk", "at", "status", "total", "note", *POINTER}
    assert pointer["s3Key"] == s(f"{name}/c/1.json.gz")
    assert datetime.fromisoformat(pointer["archivedAt"]["S"]) > NOW
    assert bucket.keys() == [f"{name}/c/1.json.gz"]
    found = json.loads(gzip.decompress(bucket.read(bucket.keys()[0])))
    assert found.pop("data") == {"B": base64.b64encode(b"\x00\xff").decode()}
    assert found == {name: value for name, value in whole.items() if name != "data"}
    assert dynamo.get(name, key("c", "2")) == young


@pytest.mark.long
async def test_what_an_index_or_the_ttl_uses_stays_also_when_it_is_new(dynamo: Dynamo, tmp_path: Path) -> None:
    async with scene(dynamo, tmp_path, [item("c", "1", text="t", status="open", expires=n(2000000000))]) as at:
        assert await at.table.load("c", "1") == at.items[0]
        with pytest.raises(ValueError, match="has no index 'new'"):
            _ = [each async for each in at.table.query("open", index="new")]
        keys = [{"AttributeName": "status", "KeyType": "HASH"}]
        dynamo.client.update_table(
            TableName=at.name,
            AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("pk", "sk", "status")],
            GlobalSecondaryIndexUpdates=[
                {"Create": {"IndexName": "new", "KeySchema": keys, "Projection": {"ProjectionType": "ALL"}}}
            ],
        )
        dynamo.client.update_time_to_live(
            TableName=at.name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires"}
        )
        assert await at.archive() == 1
        pointer = dynamo.get(at.name, key("c", "1"))
        assert pointer is not None
        assert pointer.keys() == {"pk", "sk", "at", "status", "expires", *POINTER}
        assert [each async for each in at.table.query("open", index="new")] == at.items


async def test_a_class_is_loaded_as_if_nothing_had_moved(dynamo: Dynamo, tmp_path: Path) -> None:
    name = dynamo.create(name="orders-0", sort="N")

    @hybrid_table(name, partition_key="pk", sort_key="number", archive_after_days=30)
    class Wrong(pydantic.BaseModel):
        pk: str
        number: int
        at: Annotated[datetime, archival_timestamp]

    @hybrid_table(name, partition_key="pk", sort_key="sk", archive_after_days=30)
    class Order(pydantic.BaseModel):
        pk: str
        sk: int
        at: Annotated[datetime, archival_timestamp]
        price: Decimal | None = None
        tags: set[str] = set()

    orders = [
        Order(pk="c", sk=number, at=NOW - timedelta(days=10 * number - 1), price=Decimal("1.50"), tags={"a"})
        for number in range(6)
    ]
    async with HybridTables.open(hybrid_settings(tmp_path, dynamo, [])) as tables:
        with pytest.raises(ConfigError, match="has the keys pk and sk, and not pk and number"):
            await tables.table(Wrong).load("c", 1)
        table = tables.table(Order)
        for order in orders:
            await table.put(order)
        result = await tables.archive_old_data()
        assert (result.items_processed, result.items_archived) == (6, 2)
        assert [each async for each in table.query("c")] == orders
        assert [each async for each in table.query("c", gte=3, descending=True, limit=2)] == [orders[5], orders[4]]
        assert sorted([each.sk async for each in table.scan(filter=lambda order: order.sk % 2 == 1)]) == [1, 3, 5]
        assert await table.batch_load([("c", 5), ("c", 9), ("c", 0), ("c", 5)]) == [
            orders[5],
            None,
            orders[0],
            orders[5],
        ]
        assert await table.load("c", 9) is None
        assert await table.update("c", 5, price=Decimal("2.5"), remove=["tags"]) == orders[5].model_copy(
            update={"price": Decimal("2.5"), "tags": set()}
        )
        assert await table.update("c", 9, price=Decimal(1)) is None
        assert await table.load("c", 9) is None
        assert await table.delete("c", 4)
        assert not await table.delete("c", 4)
        assert [each.sk async for each in table.query("c")] == [0, 1, 2, 3, 5]
    assert dynamo.pointers(name) == []


async def test_a_table_from_yaml_gives_dicts(dynamo: Dynamo, tmp_path: Path) -> None:
    name = dynamo.create(sort="")
    dynamo.put(name, item("a", text="t", num=n("1.5"), tags={"SS": ["x"]}), item("b", age_days=1))
    file = tmp_path / "takhin.yaml"
    (tmp_path / "store").mkdir()
    file.write_text(f"""
storage:
  data.dir: {tmp_path}/data
  tiered:
    enabled: true
    directory.path: {tmp_path}/store
    fleet.endpoint: {dynamo.endpoint}
    hybrid.tables:
      - name: {name}
        partition_key: pk
        timestamp: at
        archive_after_days: 30
        key_template: "old/{{tableName}}/{{partitionKey}}"
""")
    async with HybridTables.open(Settings.load(file)) as tables:
        assert (await tables.archive_old_data()).items_archived == 1
        table = tables.table(name)
        found = await table.load("a")
        assert found is not None
        assert (found["text"], found["num"], found["tags"], found.s3_key) == ("t", Decimal("1.5"), {"x"}, "")
        assert (tmp_path / f"store/old/{name}/a.json.gz").exists()
        with pytest.raises(ConfigError, match="no hybrid table 'other'"):
            tables.table("other")
        with pytest.raises(TypeError, match="partition key alone"):
            await table.load("a", "b")


async def test_an_item_that_came_back_stays_for_its_lease(
    dynamo: Dynamo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(dynamo, tmp_path) as at:
        assert await at.archive() == 4
        assert len(at.objects) == 4
        assert await at.table.unarchive("c", "000")
        assert not await at.table.unarchive("c", "000")
        assert not await at.table.unarchive("c", "no such")
        assert await at.table.update("c", "001", text=s("new")) == {**at.items[1], "text": s("new")}
        await at.table.put({**at.items[2], "text": s("put")})
        assert dynamo.get(at.name, key("c", "000")) == at.items[0]
        assert dynamo.get(at.name, key("c", "002")) == {**at.items[2], "text": s("put")}
        assert at.objects == [f"{at.name}/c/003.json.gz"]
        result = await at.tables.archive_old_data()
        assert result.skipped == {judging.LEASED: 3, judging.ARCHIVED: 1}
        monkeypatch.setattr(records, "LEASE_SECONDS", 0.0)
        assert await at.archive() == 3
        assert len(at.objects) == 4


async def test_a_deleted_item_takes_its_object_along_and_its_key_is_not_used_again(
    dynamo: Dynamo, tmp_path: Path
) -> None:
    async with scene(dynamo, tmp_path) as at:
        await at.archive()
        assert await at.table.delete("c", "000")
        assert dynamo.get(at.name, key("c", "000")) is None
        assert f"{at.name}/c/000.json.gz" not in at.objects
        # A delete that was sent twice may still be on its way.
        dynamo.put(at.name, at.items[0])
        assert await at.archive() == 1
        assert f"{at.name}/c/000.g2.json.gz" in at.objects
        assert await at.table.load("c", "000") == at.items[0]


async def test_other_bytes_get_the_next_generation(dynamo: Dynamo, tmp_path: Path) -> None:
    async with scene(dynamo, tmp_path, some(1)) as at:
        await at.archive()
        # An application that knows nothing of pointers.
        dynamo.put(at.name, {**at.items[0], "text": s("other")})
        assert await at.archive() == 1
        assert at.objects == [f"{at.name}/c/000.g2.json.gz", f"{at.name}/c/000.json.gz"]
        assert await at.table.load("c", "000") == {**at.items[0], "text": s("other")}
        # The same bytes: what stands there is taken.
        dynamo.put(at.name, at.items[0])
        assert await at.archive() == 1
        pointer = dynamo.get(at.name, key("c", "000"))
        assert pointer is not None
        assert pointer["s3Key"] == s(f"{at.name}/c/000.json.gz")
        found = await at.tables.verify()
        assert (found.checked, found.removed, found.bad) == (1, 1, [])
        assert at.objects == [f"{at.name}/c/000.json.gz"]


@pytest.mark.long
async def test_what_a_plain_writer_does_to_a_pointer_is_seen(dynamo: Dynamo, tmp_path: Path) -> None:
    async with scene(dynamo, tmp_path) as at:
        await at.archive()
        dynamo.client.update_item(
            TableName=at.name,
            Key=key("c", "000"),
            UpdateExpression="SET #t = :t, added = :a",
            ExpressionAttributeNames={"#t": "text"},
            ExpressionAttributeValues={":t": s("newer"), ":a": n(1)},
        )
        dynamo.client.delete_item(TableName=at.name, Key=key("c", "001"))
        dynamo.put(at.name, item("c", "002", age_days=1))
        changed = {**at.items[0], "text": s("newer"), "added": n(1)}
        assert [each async for each in at.table.query("c")] == [changed, item("c", "002", age_days=1), at.items[3]]
        assert (await at.tables.verify()).removed == 2
        assert await at.table.unarchive("c", "000")
        assert dynamo.get(at.name, key("c", "000")) == changed


@pytest.mark.long
@pytest.mark.parametrize("on_missing", ["raise", "pointer", "skip"])
async def test_an_object_that_is_gone(dynamo: Dynamo, tmp_path: Path, on_missing: str) -> None:
    async with scene(dynamo, tmp_path, how={"on_missing": on_missing}) as at:
        await at.archive()
        at.object(f"{at.name}/c/001.json.gz").unlink()
        plain = at.tables.table(at.name)
        if on_missing == "raise":
            for reading in (at.table.load("c", "001"), at.table.batch_load([("c", "001")])):
                with pytest.raises(ObjectMissing, match=r"001\.json\.gz") as failed:
                    await reading
                assert failed.value.key == f"{at.name}/c/001.json.gz"
            with pytest.raises(ObjectMissing):
                _ = [each async for each in at.table.query("c")]
        elif on_missing == "pointer":
            rows = [each async for each in plain.query("c")]
            assert [each.s3_key for each in rows] == ["", f"{at.name}/c/001.json.gz", "", ""]
            assert "text" not in rows[1]
        else:
            assert [each["sk"]["S"] async for each in at.table.query("c")] == ["000", "002", "003"]
            assert await at.table.load("c", "001") is None
        found = await at.tables.verify()
        assert [(each.key, each.item) for each in found.bad] == [(f"{at.name}/c/001.json.gz", f"{at.name} c 001")]
        with pytest.raises(ObjectMissing):
            await at.table.unarchive("c", "001")
        # What needs nothing of the store is done.
        await at.table.put(at.items[1])
        assert await at.table.load("c", "001") == at.items[1]


async def test_a_damaged_object_is_an_error_that_names_it(dynamo: Dynamo, tmp_path: Path) -> None:
    async with scene(dynamo, tmp_path) as at:
        await at.archive()
        one, other = (at.object(f"{at.name}/c/{number}.json.gz") for number in ("000", "001"))
        data = one.read_bytes()
        one.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
        other.write_bytes(at.object(f"{at.name}/c/002.json.gz").read_bytes())
        for number in ("000", "001"):
            with pytest.raises(ObjectCorrupt, match=f"{number}.json.gz"):
                await at.table.load("c", number)
            with pytest.raises(ObjectCorrupt):
                await at.table.unarchive("c", number)
        found = await at.tables.verify()
        assert {each.key for each in found.bad} == {f"{at.name}/c/000.json.gz", f"{at.name}/c/001.json.gz"}
        assert len(at.objects) == 4


async def test_a_store_that_is_down_is_no_missing_object(dynamo: Dynamo, tmp_path: Path) -> None:
    async with scene(dynamo, tmp_path, how={"on_missing": "skip"}) as at:
        await at.archive()
        (tmp_path / "store").rename(tmp_path / "away")
        with pytest.raises(BucketMissing):
            await at.table.load("c", "000")
        with pytest.raises(BucketMissing):
            await at.tables.archive_old_data(table=at.name)
        (tmp_path / "away").rename(tmp_path / "store")
        assert await at.table.load("c", "000") == at.items[0]


@pytest.mark.long
async def test_a_table_that_is_not_there_stops_no_other(dynamo: Dynamo, tmp_path: Path) -> None:
    name = dynamo.create()
    dynamo.put(name, *some())
    settings = hybrid_settings(tmp_path, dynamo, [described("missing"), described(name)])
    async with HybridTables.open(settings) as tables:
        result = await tables.archive_old_data()
        assert result.items_archived == 4
        assert len(result.errors) == 1
        assert "missing" in result.errors[0]
        with pytest.raises(TableMissing):
            await tables.table("missing").load("a", "b")


async def test_a_cached_item_needs_no_store(dynamo: Dynamo, tmp_path: Path) -> None:
    async with scene(dynamo, tmp_path) as at:
        await at.archive()
        whole = [each async for each in at.table.query("c")]
        assert whole == at.items
        (tmp_path / "store").rename(tmp_path / "away")
        assert [each async for each in at.table.query("c")] == whole


@pytest.mark.long
@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("encrypted", [False, True])
async def test_objects_are_encoded_as_segments_are(dynamo: Dynamo, tmp_path: Path, codec: str, encrypted: bool) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"k1 {base64.b64encode(b'x' * 32).decode()}\n")
    more: dict[str, Any] = {"encryption_key_file": keys} if encrypted else {}
    async with scene(dynamo, tmp_path, compression_codec=codec, **more) as at:
        await at.archive()
        assert [each async for each in at.table.query("c")] == at.items
        data = at.object(at.objects[0]).read_bytes()
        assert (b"text 0" in data) is False
        if encrypted:
            assert json.loads(data.partition(b"\n")[0])["key_id"] == "k1"
        elif codec == "zstd":
            assert normal(json.loads(decompress(data))) == normal(at.items[0])
        else:
            assert json.loads(gzip.decompress(data)) == at.items[0]
        assert (await at.tables.verify()).bad == []
        # Of a run that broke off: encrypted bytes are other ones each time, and still the same item.
        dynamo.put(at.name, at.items[0])
        assert await at.archive() == 1
        assert len(at.objects) == 4


@pytest.mark.long
async def test_an_object_of_another_table_is_never_removed(dynamo: Dynamo, tmp_path: Path) -> None:
    async with scene(dynamo, tmp_path) as at:
        await at.archive()
        folder = at.object(f"{at.name}/c")
        (folder / "README").write_text("hand-made")
        (folder / "010.json.gz").write_bytes(b"no item")
        (folder / "011.json.gz").write_bytes((folder / "000.json.gz").read_bytes())
        found = await at.tables.verify()
        assert (found.removed, found.checked) == (0, 4)
        assert found.unknown == [f"{at.name}/c/010.json.gz", f"{at.name}/c/011.json.gz"]
        assert len(at.objects) == 7
    # The same name in another account or region: the objects are not its.
    record = tmp_path / f"store/takhin-tiered.tables/{at.name}/table.json"
    record.write_text(json.dumps({"arn": "arn:aws:dynamodb:eu-west-1:1:table/x"}))
    async with HybridTables.open(at.settings) as tables:
        with pytest.raises(ConfigError, match="eu-west-1"):
            await tables.verify()
        with pytest.raises(ConfigError, match="eu-west-1"):
            await tables.archive_old_data(table=at.name)
        # Of a replica in another region, or a restored copy: its own writes are done, and the first table still reads.
        before = at.objects
        table = tables.table(at.name, typed=True)
        assert await table.unarchive("c", "000")
        assert await table.update("c", "001", text=s("new"))
        await table.put(item("c", "002", text="new"))
        assert await table.delete("c", "003")
        assert dynamo.pointers(at.name) == []
        assert at.objects == before


@pytest.mark.long
async def test_the_object_of_a_copied_pointer_is_the_other_items(dynamo: Dynamo, tmp_path: Path) -> None:
    segment = tmp_path / "store/orders-0/00000000000000000000.log"
    async with scene(dynamo, tmp_path) as at:
        await at.archive()
        segment.parent.mkdir()
        segment.write_bytes(b"a segment")
        pointer = dynamo.get(at.name, key("c", "000"))
        assert pointer is not None
        for sk in ("copy 1", "copy 2"):
            dynamo.put(at.name, {**pointer, "sk": s(sk)})
        dynamo.put(at.name, {**pointer, "sk": s("strange"), "s3Key": s("orders-0/00000000000000000000.log")})
        with pytest.raises(ObjectCorrupt, match="another item"):
            await at.table.load("c", "copy 1")
        assert await at.table.delete("c", "copy 1")
        await at.table.put(item("c", "copy 2", text="new"))
        assert await at.table.delete("c", "strange")
        assert (await at.tables.verify()).removed == 0
        assert segment.exists()
        assert len(at.objects) == 4
        assert await at.table.load("c", "000") == at.items[0]


@pytest.mark.long
async def test_keys_of_many_digits_are_different_keys(dynamo: Dynamo, tmp_path: Path) -> None:
    name = dynamo.create(sort="", partition="N")
    numbers = [10**37 + 1, 10**37 + 2]
    dynamo.put(name, *[{**item("", text=str(number)), "pk": n(number)} for number in numbers])
    settings = hybrid_settings(tmp_path, dynamo, [described(name, sort=False)])
    async with HybridTables.open(settings) as tables:
        for _ in range(2):
            found = await tables.table(name).batch_load(numbers)
            assert [each and each["text"] for each in found] == [str(number) for number in numbers]
            await tables.archive_old_data()
    assert {pointer["s3Key"]["S"] for pointer in dynamo.pointers(name)} == {
        f"{name}/n={number}.json.gz" for number in numbers
    }


@pytest.mark.long
async def test_a_run_over_young_items_for_hours_archives_what_is_behind_them(
    dynamo: Dynamo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    young = [item("c", f"{number:03}", age_days=1, text="x" * 50_000) for number in range(60)]
    async with scene(dynamo, tmp_path, [*young, item("c", "999", text="old")]) as at:
        real, passed = machine.uptime, [0.0]
        monkeypatch.setattr(machine, "uptime", lambda: real() + passed[0])
        monkeypatch.setattr(records, "REFRESH_EVERY", 0.001)

        def a_page(_: object) -> None:
            passed[0] += records.SILENT_AFTER / 5

        result = await at.tables.archive_old_data(progress=a_page)
        assert passed[0] > records.SILENT_AFTER / 2
        assert (result.items_archived, result.is_complete) == (1, True)


@pytest.mark.long
async def test_an_item_that_came_back_during_a_run_stays_for_its_lease(dynamo: Dynamo, tmp_path: Path) -> None:
    last = item("c", "999", text="old")
    async with scene(dynamo, tmp_path, [last]) as at:
        assert await at.archive() == 1
        dynamo.put_all(at.name, [item("c", f"{number:03}", age_days=1, text="x" * 50_000) for number in range(100)])
        seen: list[object] = []

        async def come_back() -> None:
            async with HybridTables.open(at.settings) as tables:
                assert await tables.table(at.name).unarchive("c", "999")

        def a_page(_: object) -> None:
            if not seen:
                seen.append(in_another_loop(come_back()))

        result = await at.tables.archive_old_data(progress=a_page)
        assert seen
        assert result.skipped == {judging.YOUNG: 100, judging.LEASED: 1}
        assert dynamo.get(at.name, key("c", "999")) == last


@pytest.mark.long
async def test_a_time_without_an_offset_finds_what_was_put_with_it(dynamo: Dynamo, tmp_path: Path) -> None:
    name = dynamo.create()

    @hybrid_table(name, partition_key="pk", sort_key="sk")
    class Visit(pydantic.BaseModel):
        pk: str
        sk: Annotated[datetime, archival_timestamp]

    async with HybridTables.open(hybrid_settings(tmp_path, dynamo, [])) as tables:
        visits, at = tables.table(Visit), datetime(2024, 1, 1)
        await visits.put(Visit(pk="c", sk=at))
        assert await visits.load("c", at) == Visit(pk="c", sk=at.replace(tzinfo=UTC))
        assert len([visit async for visit in visits.query("c", eq=at)]) == 1


@pytest.mark.long
async def test_names_of_pointers_are_reserved(dynamo: Dynamo, tmp_path: Path) -> None:
    async with scene(dynamo, tmp_path, [item("c", "1", s3Key="mine", text="t")]) as at:
        result = await at.tables.archive_old_data()
        assert result.skipped == {judging.RESERVED: 1}
        assert await at.table.load("c", "1") == at.items[0]
        with pytest.raises(ValueError, match="the pointers' own"):
            await at.table.put({**at.items[0], "archivedAt": s("x")})
        with pytest.raises(ValueError, match="cannot change"):
            await at.table.update("c", "1", sk=s("2"))
        with pytest.raises(ValueError, match="one condition"):
            _ = [each async for each in at.table.query("c", lt="1", gt="0")]
        with pytest.raises(ValueError, match="has no index"):
            _ = [each async for each in at.table.query("c", index="none")]


@pytest.mark.long
async def test_an_item_of_very_many_attributes_stays_and_one_comes_back_whole(dynamo: Dynamo, tmp_path: Path) -> None:
    many = {f"attribute number {number}": s("v") for number in range(400)}
    fitting = {f"attribute number {number}": s("v") for number in range(140)}
    async with scene(dynamo, tmp_path, [item("c", "1") | many, item("c", "2") | fitting]) as at:
        result = await at.tables.archive_old_data()
        assert (result.items_archived, result.skipped) == (1, {judging.TOO_MANY: 1})
        assert await at.table.load("c", "2") == at.items[1]
        assert await at.table.unarchive("c", "2")
        assert dynamo.get(at.name, key("c", "2")) == at.items[1]


@pytest.mark.long
async def test_segments_and_tables_leave_each_other_alone(
    dynamo: Dynamo, broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    """Also a table that is called like a partition."""
    name = dynamo.create(name="orders-0")
    items = [item("00000000000000000000.log", "1", text="a"), item("c", "00000000000000000000.log", text="b")]
    dynamo.put(name, *items)
    broker.segments("orders-0", 2)
    settings = store_settings(
        broker, bucket, fleet_endpoint=dynamo.endpoint, hybrid_tables=[described(name)], archive_superseded_keep_hours=1
    )
    async with HybridTables.open(settings) as tables:
        assert (await tables.archive_old_data()).items_archived == 2
        of_tables = bucket.keys()
        assert len(of_tables) == 2
        async with TieredStorage.open(settings) as storage:
            report = await storage.run_cycle()
            assert (report.archived, report.failed) == (2, 0)
            found = await storage.rebuild()
            assert (found.strays, found.lost) == (0, [])
            await storage.reconcile()
            await storage.scrub()
            assert {segment.segment_path for segment in storage.segments()} >= {"orders-0/00000000000000000000.log"}
            assert len(list(storage.segments())) == 3
        of_segments = [key for key in set(bucket.keys()) if key not in of_tables]
        assert len(of_segments) == 8
        checked = await tables.verify()
        assert (checked.checked, checked.bad, checked.removed, checked.unknown) == (2, [], 0, [])
        assert sorted([*of_tables, *of_segments]) == bucket.keys()
        found_items = [each async for each in tables.table(name, typed=True).scan()]
        assert {each["pk"]["S"]: each for each in found_items} == {each["pk"]["S"]: each for each in items}


@pytest.mark.long
async def test_a_store_without_conditional_writes_is_refused(dynamo: Dynamo, tmp_path: Path) -> None:
    (tmp_path / "s3/bucket").mkdir(parents=True)
    name = dynamo.create()
    dynamo.put(name, *some())
    with rclone_server(tmp_path / "s3") as endpoint:
        data = tmp_path / "data"
        data.mkdir()
        settings = Settings(
            data_dir=data, enabled=True, s3_bucket="bucket", s3_endpoint=endpoint, fleet_endpoint=dynamo.endpoint,
            hybrid_tables=[described(name)],
        )  # fmt: skip
        async with HybridTables.open(settings) as tables:
            with pytest.raises(ConfigError, match="no conditional writes"):
                await tables.archive_old_data(table=name)
    assert dynamo.pointers(name) == []


@pytest.mark.long
async def test_dynamodb_that_is_down_is_an_error_and_loses_nothing(dynamo: Dynamo, tmp_path: Path) -> None:
    broken = hybrid_settings(tmp_path, dynamo, [described("t-able")])
    settings = broken.model_copy(update={"fleet_endpoint": f"http://127.0.0.1:{free_port()}"})
    async with HybridTables.open(settings) as tables:
        result = await tables.archive_old_data()
        assert result.failed == 1
        assert "does not answer" in result.errors[0] or "is down" in result.errors[0]
