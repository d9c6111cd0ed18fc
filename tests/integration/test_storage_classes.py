"""Storage classes: at upload by the tier, and by a copy on the server once a segment is cold."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, unquote

import pytest

from takhin_tiered import TieredStorage
from takhin_tiered.codec.checksums import Checksum, bytes_source, checksum_of
from takhin_tiered.config import Settings
from takhin_tiered.errors import ObjectCorrupt, ObjectExists, ObjectMissing
from takhin_tiered.store.base import NotSupported
from takhin_tiered.store.s3 import open_s3
from takhin_tiered.store.s3.calls import Demands
from takhin_tiered.store.s3.store import S3Store
from tests.faults.proxy import Dialect, Head, Proxy, proxy
from tests.support import (
    HOUR,
    REGION,
    WARM,
    Broker,
    Bucket,
    directory_settings,
    pass_time,
    rclone_server,
    store_settings,
)

pytestmark = pytest.mark.long

LARGE = 200_000
RANGE = "x-amz-copy-source-range"
PART = 5 << 20


def classes(bucket: Bucket) -> dict[str, str]:
    """Of each object, by key, as the server lists it."""
    pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=f"{bucket.prefix}/")
    found = {entry["Key"]: entry["StorageClass"] for page in pages for entry in page["Contents"]}
    return {key.removeprefix(f"{bucket.prefix}/"): storage_class for key, storage_class in found.items()}


def copies(between: Proxy) -> list[Head]:
    return [head for head in between.heads if head.get("x-amz-copy-source") and "probe" not in head.first]


def parts_with_checksums(bucket: Bucket, *, wrong: bool = False) -> Dialect:
    """As Amazon's S3: it tells the SHA-256 of each part that it copied, and keeps it. The server behind it has none."""

    def answer(method: str, path: str, query: str, head: Head) -> tuple[int, str] | None:
        if method != "PUT" or "partNumber" not in query or not head.get("x-amz-copy-source"):
            return None
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        source, copied = unquote(head.get("x-amz-copy-source")).lstrip("/").partition("/")[2], head.get(RANGE)
        data = bucket.client.get_object(Bucket=bucket.name, Key=source, Range=copied)["Body"].read()
        made = bucket.client.upload_part(
            Bucket=bucket.name, Key=path.removeprefix(f"/{bucket.name}/"), UploadId=asked["uploadId"], Body=data,
            PartNumber=int(asked["partNumber"]), ChecksumAlgorithm="SHA256",
        )  # fmt: skip
        digest = base64.b64encode(hashlib.sha256(data + b"!" * wrong).digest()).decode()
        etag = made["ETag"]
        return 200, f"<CopyPartResult><ETag>{etag}</ETag><ChecksumSHA256>{digest}</ChecksumSHA256></CopyPartResult>"

    return answer


@pytest.fixture
async def store(bucket: Bucket) -> AsyncIterator[S3Store]:
    async with open_s3(bucket.name, region=REGION, prefix=bucket.prefix, endpoint=bucket.endpoint) as opened:
        yield opened


async def put(store: S3Store, key: str, data: bytes, part_size: int = 0, storage_class: str = "") -> Checksum:
    checksum = checksum_of(bytes_source(data), len(data), part_size)
    await store.put(key, bytes_source(data), size=len(data), checksum=checksum, storage_class=storage_class)
    return checksum


async def test_the_class_at_upload_is_that_of_the_tier(broker: Broker, bucket: Bucket) -> None:
    [warm] = broker.segments("warm-0", 1, age_hours=WARM, size=LARGE)
    [cold] = broker.segments("cold-0", 1, size=LARGE)
    [small] = broker.segments("small-0", 1)
    settings = store_settings(broker, bucket, warm_copy=True, s3_class_warm="STANDARD_IA", s3_class_cold="GLACIER_IR")
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    found = classes(bucket)
    assert (found[warm], found[cold], found[small]) == ("STANDARD_IA", "GLACIER_IR", "STANDARD")
    # What is small, or read often, stays in the bucket's own class.
    assert {found[key] for key in found if key not in {warm, cold}} == {"STANDARD"}


async def test_a_segment_that_turned_cold_changes_its_class_and_nothing_else(broker: Broker, bucket: Bucket) -> None:
    [path] = broker.segments(count=1, age_hours=WARM, size=LARGE)
    async with proxy(bucket.endpoint) as between:
        settings = store_settings(
            broker, bucket, s3_endpoint=between.endpoint, warm_copy=True, s3_class_cold="STANDARD_IA", s3_sse="AES256"
        )
        async with TieredStorage.open(settings) as storage:
            await storage.run_cycle()
            before = {key: bucket.read(key) for key in set(bucket.keys())}
            assert classes(bucket)[path] == "STANDARD"
            pass_time(storage, lambda: 100 * HOUR)
            assert [each.storage_class for each in storage.cost().classes] == ["STANDARD"]
            await storage.run_cycle()
            assert not broker.on_disk(path)
            assert classes(bucket)[path] == "STANDARD_IA"
            assert [each.storage_class for each in storage.cost().classes] == ["STANDARD_IA"]
            assert {key: bucket.read(key) for key in set(bucket.keys())} == before
            [copy] = copies(between)
            assert copy.get("x-amz-copy-source-if-match")
            assert copy.get("x-amz-server-side-encryption") == "AES256"
            assert (
                storage.metrics.registry.get_sample_value("tiered_storage_class_changes_total", {"result": "success"})
                == 1
            )
            # It is done once: what is there already is not copied again, nor looked at before the interval is over.
            between.heads.clear()
            await storage.run_cycle()
            assert copies(between) == []
            await storage.restore_segment(path)
        assert broker.is_whole(path)


async def test_what_is_read_much_is_in_the_class_of_warm_ones(broker: Broker, bucket: Bucket) -> None:
    [early, late] = broker.segments(count=2, size=LARGE)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.archive_segment(early)
    settings = store_settings(broker, bucket, s3_class_cold="GLACIER", hot_promote_mb_hourly=0)
    async with TieredStorage.open(settings) as storage:
        for path in (early, late):
            for _ in range(40):
                storage.report_read(path, 100)
        await storage.archive_segment(late)
        await storage.run_cycle()
        assert (classes(bucket)[early], classes(bucket)[late]) == ("STANDARD", "STANDARD")
        pass_time(storage, lambda: 1000 * HOUR)
        await storage.run_cycle()
        assert (classes(bucket)[early], classes(bucket)[late]) == ("GLACIER", "GLACIER")


async def test_another_owner_that_was_first_is_no_damage(broker: Broker, bucket: Bucket) -> None:
    """With a key of KMS each copy has an ETag of its own, so the condition on the one that was looked at fails."""
    [path] = broker.segments(count=1, size=LARGE)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
    async with proxy(bucket.endpoint) as between:

        def too_late(method: str, at: str, _query: str, head: Head) -> tuple[int, str] | None:
            if method != "PUT" or not head.get("x-amz-copy-source") or "probe" in at:
                return None
            full = f"{bucket.prefix}/{path}"
            bucket.client.copy_object(
                Bucket=bucket.name, Key=full, CopySource=f"{bucket.name}/{full}", StorageClass="STANDARD_IA"
            )
            return 412, "<Error><Code>PreconditionFailed</Code><Message>At least one did not hold</Message></Error>"

        between.dialect = too_late
        settings = store_settings(broker, bucket, s3_endpoint=between.endpoint, s3_class_cold="STANDARD_IA")
        async with TieredStorage.open(settings) as storage:
            await storage.run_cycle()
            assert copies(between)
            assert storage.segment(path).quarantine == ""
            await storage.restore_segment(path)
    assert classes(bucket)[path] == "STANDARD_IA"
    assert broker.is_whole(path)


async def test_what_a_lifecycle_rule_moved_stays_where_it_is(broker: Broker, bucket: Bucket) -> None:
    [path] = broker.segments(count=1, size=LARGE)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
    full = f"{bucket.prefix}/{path}"
    bucket.client.copy_object(
        Bucket=bucket.name, Key=full, CopySource=f"{bucket.name}/{full}", StorageClass="DEEP_ARCHIVE"
    )
    async with TieredStorage.open(store_settings(broker, bucket, s3_class_cold="STANDARD_IA")) as storage:
        await storage.run_cycle()
    assert classes(bucket)[path] == "DEEP_ARCHIVE"


async def test_hot_quarantined_and_read_only_segments_keep_their_class(broker: Broker, bucket: Bucket) -> None:
    hot, bad, cold = broker.segments(count=3, size=LARGE)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
        await storage.restore_segment(hot)
        bucket.write(bad, b"x" * LARGE)
        assert (await storage.scrub_segment(bad)).problem
    async with TieredStorage.open(store_settings(broker, bucket, s3_class_cold="STANDARD_IA")) as storage:
        await storage.run_cycle()
        assert [classes(bucket)[path] for path in (hot, bad, cold)] == ["STANDARD", "STANDARD", "STANDARD_IA"]
    own = Broker(broker.root.parent / "other")
    own.root.mkdir()
    settings = store_settings(
        own, bucket, s3_prefix="other", s3_prefixes_read=(bucket.prefix,), s3_class_cold="GLACIER_IR",
        s3_class_warm="STANDARD_IA",
    )  # fmt: skip
    async with TieredStorage.open(settings) as storage:
        await storage.run_cycle()
    assert classes(bucket)[cold] == "STANDARD_IA"


async def test_an_object_that_is_not_the_archived_one_is_not_copied_and_is_quarantined(
    broker: Broker, bucket: Bucket
) -> None:
    [path] = broker.segments(count=1, size=LARGE)
    async with TieredStorage.open(store_settings(broker, bucket)) as storage:
        await storage.run_cycle()
    size = len(broker.files[path])
    bucket.write(path, b"x" * size)
    async with TieredStorage.open(store_settings(broker, bucket, s3_class_cold="STANDARD_IA")) as storage:
        await storage.run_cycle()
        assert "does not hold the bytes that it should" in storage.segment(path).quarantine
    assert classes(bucket)[path] == "STANDARD"
    assert bucket.read(path) == b"x" * size


async def test_another_object_that_comes_between_is_not_copied(bucket: Bucket) -> None:
    async with (
        proxy(bucket.endpoint) as between,
        open_s3(bucket.name, region=REGION, prefix=bucket.prefix, endpoint=between.endpoint) as store,
    ):
        checksum = await put(store, "a-0/log", b"one")

        def replace_it(method: str, _path: str, _query: str, head: Head) -> None:
            if method == "PUT" and head.get("x-amz-copy-source"):
                bucket.write("a-0/log", b"two")

        between.dialect = replace_it
        with pytest.raises(ObjectExists, match="changed before it was copied"):
            await store.change_class("a-0/log", "STANDARD_IA", size=3, checksum=checksum)
        between.dialect = lambda *_: None
        bucket.delete("a-0/log")
        with pytest.raises(ObjectMissing):
            await store.change_class("a-0/log", "STANDARD_IA", size=3, checksum=checksum)


async def test_a_large_object_keeps_its_bytes_and_its_checksum(store: S3Store, bucket: Bucket) -> None:
    data = b"a large object" * (PART // 10)
    checksum = await put(store, "a-0/log", data, PART)
    before = await store.head("a-0/log")
    assert before is not None
    await store.change_class("a-0/log", "STANDARD_IA", size=len(data), checksum=checksum)
    after = await store.head("a-0/log")
    assert after is not None
    assert (after.storage_class, after.size, after.sha256) == ("STANDARD_IA", len(data), before.sha256)
    assert bucket.read("a-0/log") == data
    assert bucket.uploads() == []


@pytest.mark.parametrize("wrong", [False, True])
async def test_parts_are_compared_before_they_take_the_place_of_the_object(bucket: Bucket, wrong: bool) -> None:
    data = b"a large object" * (PART // 10)
    async with (
        proxy(bucket.endpoint) as between,
        open_s3(bucket.name, region=REGION, prefix=bucket.prefix, endpoint=between.endpoint) as store,
    ):
        checksum = await put(store, "a-0/log", data, PART)
        between.dialect = parts_with_checksums(bucket, wrong=wrong)
        between.heads.clear()
        change = store.change_class("a-0/log", "GLACIER_IR", size=len(data), checksum=checksum)
        if wrong:
            with pytest.raises(ObjectCorrupt, match="other bytes"):
                await change
        else:
            await change
        assert {head.get(RANGE)[:6] for head in between.heads if head.get("x-amz-copy-source")} == {"bytes="}
        after = await store.head("a-0/log")
    assert after is not None
    assert (after.storage_class, after.sha256) == ("" if wrong else "GLACIER_IR", checksum.sha256)
    assert bucket.read("a-0/log") == data
    assert bucket.uploads() == []


async def test_in_a_versioned_bucket_the_version_before_stays(store: S3Store, bucket: Bucket) -> None:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    checksum = await put(store, "a-0/log", b"one")
    await store.change_class("a-0/log", "STANDARD_IA", size=3, checksum=checksum)
    versions = bucket.client.list_object_versions(Bucket=bucket.name, Prefix=f"{bucket.prefix}/a-0/")["Versions"]
    assert sorted((version["IsLatest"], version["StorageClass"]) for version in versions) == [
        (False, "STANDARD"),
        (True, "STANDARD_IA"),
    ]


@pytest.mark.parametrize("answer", ["refused", "ignored"])
async def test_a_server_without_classes_is_left_alone(broker: Broker, bucket: Bucket, answer: str) -> None:
    closed = broker.segments(count=2, age_hours=WARM, size=LARGE)
    async with proxy(bucket.endpoint) as between:
        settings = store_settings(
            broker, bucket, s3_endpoint=between.endpoint, warm_copy=True, s3_class_cold="STANDARD_IA"
        )
        async with TieredStorage.open(settings) as storage:
            await storage.run_cycle()

            def refuse(_method: str, _path: str, _query: str, head: Head) -> tuple[int, str] | None:
                if head.get("x-amz-storage-class") != "STANDARD_IA":
                    return None
                done = "<CopyObjectResult><ETag>x</ETag></CopyObjectResult>"
                return (400, "InvalidStorageClass") if answer == "refused" else (200, done)

            between.dialect = refuse
            pass_time(storage, lambda: 100 * HOUR)
            report = await storage.run_cycle()
            assert (report.evicted, report.failures) == (2, [])
            assert [path for path in closed if storage.segment(path).problem] == []
            assert copies(between) == []
            # Nor is it counted as if it had changed them.
            assert [(each.storage_class, each.segments) for each in storage.cost().classes] == [("STANDARD", 2)]
        assert {classes(bucket)[path] for path in closed} == {"STANDARD"}
        assert [key for key in classes(bucket) if "probe" in key] == []


async def test_rclones_server_has_no_classes(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    closed = broker.segments(count=1, age_hours=WARM, size=LARGE)
    with rclone_server(tmp_path / "served") as endpoint:
        settings = Settings(
            data_dir=broker.root, enabled=True, s3_bucket="bucket", s3_endpoint=endpoint, api_port=0, warm_copy=True,
            s3_class_cold="STANDARD_IA",
        )  # fmt: skip
        async with TieredStorage.open(settings) as storage:
            await storage.run_cycle()
            pass_time(storage, lambda: 100 * HOUR)
            assert (await storage.run_cycle()).evicted == 1
            await storage.restore_segment(closed[0])
    assert broker.is_whole(closed[0])


async def test_a_class_that_cannot_be_read_back_needs_a_checksum_of_the_servers(bucket: Bucket) -> None:
    opened = open_s3(
        bucket.name, region=REGION, prefix=bucket.prefix, endpoint=bucket.endpoint, demands=Demands(checksum="none")
    )
    async with opened as store:
        checksum = await put(store, "a-0/log", b"one")
        with pytest.raises(NotSupported, match="keeps no checksum"):
            await store.change_class("a-0/log", "GLACIER", size=3, checksum=checksum)
        await store.change_class("a-0/log", "STANDARD_IA", size=3, checksum=checksum)
    assert classes(bucket)["a-0/log"] == "STANDARD_IA"


async def test_a_directory_has_no_classes(broker: Broker, tmp_path: Path) -> None:
    broker.segments(count=1, size=LARGE)
    settings = directory_settings(broker, tmp_path / "store", s3_class_cold="STANDARD_IA")
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        assert (report.archived, report.failures) == (1, [])
    manifests = [json.loads(file.read_text()) for file in (tmp_path / "store").rglob("*.manifest.json")]
    assert len(manifests) == 1
