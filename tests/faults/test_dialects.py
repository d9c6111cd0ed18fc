"""Servers that speak another dialect of S3: a real one behind a proxy that refuses what such a server does not know.

What lacks has a fallback, what was uploaded is proven all the same, and what was found out is remembered.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import ObjectCorrupt, ObjectExists, StoreDenied, StoreUnavailable, TakhinError, TieredStorage
from takhin_tiered.codec.checksums import Checksum, bytes_source, checksum_of
from takhin_tiered.store.base import PROBE_KEY, Check
from takhin_tiered.store.s3 import S3Store, open_s3
from takhin_tiered.store.s3.calls import Demands
from takhin_tiered.vault.proof import prove
from tests.conftest import new_bucket
from tests.faults.proxy import Head, Proxy, proxy
from tests.faults.truth import truth_in
from tests.support import REGION, Broker, Bucket, rclone_server, store_settings

pytestmark = pytest.mark.long

PART = 5 << 20
CHECKSUMS = ("x-amz-checksum-", "x-amz-sdk-checksum-algorithm")


@pytest.fixture(scope="module")
def weak_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint


@pytest.fixture(params=["strong", "weak"])
def there(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    """A bucket on a server that checks SHA-256, and on one that checks MD5 only, and no condition."""
    name = "s3_endpoint" if request.param == "strong" else "weak_endpoint"
    yield from new_bucket(request.getfixturevalue(name))


class Kept:
    """What a catalog's journal keeps."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get_meta(self, name: str) -> str | None:
        return self.values.get(name)

    async def set_meta(self, name: str, value: str) -> None:
        self.values[name] = value


@asynccontextmanager
async def opened(bucket: Bucket, between: Proxy, **how: Any) -> AsyncIterator[S3Store]:
    how = {"prefix": bucket.prefix, **how}
    async with open_s3(bucket.name, region=REGION, endpoint=between.endpoint, **how) as store:
        yield store


async def put(store: S3Store, key: str, data: bytes, *, part_size: int = 0, **how: Any) -> str | None:
    """What the store says of its SHA-256."""
    source = bytes_source(data)
    checksum = checksum_of(source, len(data), part_size)
    info = await store.put(key, source, size=len(data), checksum=checksum, **how)
    assert info.sha256 in {None, checksum.sha256}
    return info.sha256


async def word(store: S3Store, key: str) -> str | None:
    """The server's word for an object's SHA-256, where it is taken for one."""
    info = await store.head(key)
    assert info is not None
    return info.sha256


def is_batch(method: str, query: str) -> bool:
    return method == "POST" and "delete" in query.split("&")


async def require_archived(broker: Broker, bucket: Bucket, between: Proxy, **changes: Any) -> None:
    """The main job, through the proxy: archived, proven, gone from the disk, and back."""
    closed = broker.segments("orders-0", 2)
    truth = truth_in(broker, bucket)
    settings = store_settings(broker, bucket, s3_endpoint=between.endpoint, **changes)
    async with TieredStorage.open(settings) as storage:
        report = await storage.run_cycle()
        assert report.failures == []
        assert all(truth.whole_in_store(path) and broker.on_disk(path) == [] for path in closed)
        for path in closed:
            await storage.restore_segment(path)
            assert truth.whole_on_disk(path)


# --- Deletes ---------------------------------------------------------------------------------------------------------


async def test_a_batch_of_deletes_carries_its_md5(there: Bucket) -> None:
    def wants_md5(method: str, _path: str, query: str, head: Head) -> tuple[int, str] | None:
        strange = any(name.lower().startswith(CHECKSUMS) for name, _ in head.headers)
        return (400, "InvalidRequest") if is_batch(method, query) and (strange or not head.get("content-md5")) else None

    async with proxy(there.endpoint) as between, opened(there, between) as store:
        between.dialect = wants_md5
        for key in "abc":
            await put(store, key, b"x")
        between.seen.clear()
        await store.delete(["a", "b", "not-there"])
        assert [info.key async for info in store.list()] == ["c"]
        assert "DELETE" not in {method for method, _ in between.seen}


@pytest.mark.parametrize(
    ("status", "code"),
    [(405, "MethodNotAllowed"), (501, "NotImplemented"), (400, "InvalidArgument"), (403, "AccessDenied"), (404, "404")],
)
async def test_without_batches_deletes_go_one_by_one(bucket: Bucket, status: int, code: str) -> None:
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = lambda method, _path, query, _head: (status, code) if is_batch(method, query) else None
        for key in "abcd":
            await put(store, key, b"x")
        await store.delete(["a", "b"])
        assert [info.key async for info in store.list()] == ["c", "d"]
        # It is not asked again for each batch.
        between.seen.clear()
        await store.delete(["c", "d", "not-there"])
        assert [info.key async for info in store.list()] == []
        assert "POST" not in {method for method, _ in between.seen}
        found = await store.capabilities()
        assert found.batch_delete is False


async def test_what_a_batch_leaves_is_deleted_by_itself(bucket: Bucket) -> None:
    left = f"<Error><Key>{bucket.prefix}/a</Key><Code>InternalError</Code><Message>no</Message></Error>"
    gone = f"<Error><Key>{bucket.prefix}/b</Key><Code>NoSuchKey</Code><Message>no</Message></Error>"
    answered = f"<DeleteResult>{left}{gone}</DeleteResult>"
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        await put(store, "a", b"x")
        between.dialect = lambda method, _path, query, _head: (200, answered) if is_batch(method, query) else None
        await store.delete(["a", "b"])
        assert await store.head("a") is None


async def test_keys_that_may_not_delete_are_told_so_once(bucket: Bucket) -> None:
    def deny(method: str, _path: str, query: str, _head: Head) -> tuple[int, str] | None:
        return (403, "AccessDenied") if method == "DELETE" or is_batch(method, query) else None

    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = deny
        keys = [f"k{number}" for number in range(50)]
        await put(store, keys[0], b"x")
        between.seen.clear()
        with pytest.raises(StoreDenied, match="AccessDenied"):
            await store.delete(keys)
        assert len(between.seen) <= 2
        assert await store.head(keys[0]) is not None


async def test_a_weak_server_that_lets_nobody_delete_is_asked_once(broker: Broker, weak_endpoint: str) -> None:
    def deny(method: str, _path: str, query: str, _head: Head) -> tuple[int, str] | None:
        return (403, "AccessDenied") if method == "DELETE" or is_batch(method, query) else None

    for weak in new_bucket(weak_endpoint):
        async with proxy(weak.endpoint) as between:
            between.dialect = deny
            await require_archived(broker, weak, between)
            # Two questions, each of which may take two requests; and the second one once more, under a key of its own.
            assert probes(between) <= 7


# --- Checksums -------------------------------------------------------------------------------------------------------


def no_checksum_headers(status: int, code: str) -> Any:
    def refuse(_method: str, _path: str, _query: str, head: Head) -> tuple[int, str] | None:
        return (status, code) if any(name.lower().startswith(CHECKSUMS) for name, _ in head.headers) else None

    return refuse


REFUSALS = [(400, "InvalidArgument"), (501, "NotImplemented"), (403, "SignatureDoesNotMatch")]


@pytest.mark.parametrize(("status", "code"), REFUSALS)
async def test_without_checksum_headers_uploads_are_proven(
    broker: Broker, there: Bucket, status: int, code: str
) -> None:
    async with proxy(there.endpoint) as between:
        between.dialect = no_checksum_headers(status, code)
        await require_archived(broker, there, between)


async def test_parts_without_checksum_headers(there: Bucket) -> None:
    data = os.urandom(2 * PART + 1000)
    good = checksum_of(bytes_source(data), len(data), PART)
    async with proxy(there.endpoint) as between, opened(there, between) as store:
        between.dialect = no_checksum_headers(400, "InvalidArgument")
        assert await put(store, "big", data, part_size=PART) == good.sha256
        assert there.read("big") == data
        wrong = Checksum(good.sha256, PART, good.parts, (*good.md5[:2], good.md5[0]))
        with pytest.raises(ObjectCorrupt):
            await store.put("bad", bytes_source(data), size=len(data), checksum=wrong)
        assert await store.head("bad") is None
        found = await store.capabilities()
        assert (found.checks, found.checksum_headers) == (Check.MD5, False)


async def test_a_head_that_may_not_ask_for_a_checksum(bucket: Bucket) -> None:
    def refuse(_method: str, _path: str, _query: str, head: Head) -> tuple[int, str] | None:
        return (400, "InvalidArgument") if head.get("x-amz-checksum-mode") else None

    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = refuse
        bucket.write("k", b"data")
        for _ in range(2):
            between.heads.clear()
            info = await store.head("k")
            assert info is not None
            assert (info.size, info.sha256) == (4, None)
        assert [head.get("x-amz-checksum-mode") for head in between.heads] == [""]


@pytest.mark.parametrize("where", ["uploads", "partNumber"])
async def test_checksum_headers_that_are_refused_in_parts_only(bucket: Bucket, where: str) -> None:
    def refuse(_method: str, _path: str, query: str, head: Head) -> tuple[int, str] | None:
        strange = any(name.lower().startswith(CHECKSUMS) for name, _ in head.headers)
        return (400, "InvalidArgument") if strange and where in query else None

    data = os.urandom(PART + 1000)
    good = checksum_of(bytes_source(data), len(data), PART)
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = refuse
        answered = await store.put("k", bytes_source(data), size=len(data), checksum=good, if_absent=True)
        # It was not seen to compare anything in parts.
        assert answered.sha256 is None
        await prove(store, "k", len(data), good, answer=answered, segment="")
        assert bucket.read("k") == data
        assert bucket.uploads() == []


async def test_what_begins_to_refuse_headers_is_asked_anew(bucket: Bucket) -> None:
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        await put(store, "before", b"x")
        between.dialect = no_checksum_headers(501, "NotImplemented")
        await put(store, "after", b"y")
        await put(store, "absent", b"z", if_absent=True)
        assert (bucket.read("after"), bucket.read("absent")) == (b"y", b"z")
        assert (await store.capabilities()).checks is Check.MD5


@pytest.mark.parametrize("algorithm", ["md5", "none"])
async def test_an_algorithm_is_not_asked_of_the_server(broker: Broker, there: Bucket, algorithm: str) -> None:
    async with proxy(there.endpoint) as between:
        await require_archived(broker, there, between, s3_checksum=algorithm)
        assert not [head for head in between.heads if head.get("x-amz-checksum-sha256")]
        has_md5 = [head for head in between.heads if head.first.startswith("PUT") and head.get("content-md5")]
        assert bool(has_md5) == (algorithm == "md5")


async def test_bytes_that_change_on_their_way_are_found_without_any_check(bucket: Bucket) -> None:
    async with proxy(bucket.endpoint) as between, opened(bucket, between, demands=Demands(checksum="none")) as store:
        assert await put(store, "k", b"x") is None
        assert (await store.capabilities()).checks is Check.NOTHING


# --- Expect ----------------------------------------------------------------------------------------------------------


async def test_nobody_waits_long_for_a_server_that_asks_for_no_body(bucket: Bucket) -> None:
    data = os.urandom(2 << 20)
    kept = Kept()
    async with proxy(bucket.endpoint) as between:
        between.ignores_expect = True
        async with opened(bucket, between, notes=kept) as store:
            await put(store, "first", b"x")
            began = time.monotonic()
            await put(store, "large", data)
            assert time.monotonic() - began < 10
            assert bucket.read("large") == data
            between.heads.clear()
            await put(store, "larger", data)
            assert not [head for head in between.heads if head.get("expect")]
            assert (await store.capabilities()).expect is False
        between.heads.clear()
        async with opened(bucket, between, notes=kept) as store:
            await put(store, "largest", data)
        assert not [head for head in between.heads if head.get("expect")]


async def test_a_refused_expectation_is_not_repeated(bucket: Bucket) -> None:
    data = os.urandom(2 << 20)
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = lambda _method, _path, _query, head: (
            (417, "ExpectationFailed") if head.get("expect") else None
        )
        await put(store, "large", data)
        assert bucket.read("large") == data


# --- Conditional writes ----------------------------------------------------------------------------------------------


def on_condition(status: int, code: str, *, times: int = 1 << 30) -> Any:
    left = [times]

    def refuse(_method: str, _path: str, _query: str, head: Head) -> tuple[int, str] | None:
        if not head.get("if-none-match") or not left[0]:
            return None
        left[0] -= 1
        return status, code

    return refuse


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (409, "ConditionalRequestConflict")])
async def test_without_conditions_all_is_archived(broker: Broker, there: Bucket, status: int, code: str) -> None:
    async with proxy(there.endpoint) as between:
        between.dialect = on_condition(status, code)
        await require_archived(broker, there, between)


@pytest.mark.parametrize("part_size", [0, PART])
@pytest.mark.parametrize(
    ("status", "code"),
    [(501, "NotImplemented"), (400, "InvalidArgument"), (409, "ConditionalRequestConflict")],
)
async def test_without_conditions_what_is_there_is_not_written_over(
    bucket: Bucket, status: int, code: str, part_size: int
) -> None:
    data = os.urandom(PART + 1000) if part_size else b"first"
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = on_condition(status, code)
        await put(store, "k", data, part_size=part_size, if_absent=True)
        with pytest.raises(ObjectExists):
            await put(store, "k", b"second", if_absent=True)
        assert bucket.read("k") == data
        assert (await store.capabilities()).conditional_writes is False


async def test_a_probe_that_another_process_left_says_nothing_of_the_server(bucket: Bucket) -> None:
    """Daemons that start together ask at the same moment, and keys that may not delete leave their probe there."""
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        bucket.write(PROBE_KEY, b"?")
        assert (await store.capabilities()).conditional_writes is True


async def test_a_question_that_gets_no_answer_says_nothing_of_the_server(bucket: Bucket) -> None:
    def taken_away(_method: str, path: str, _query: str, head: Head) -> tuple[int, str] | None:
        if not head.get("if-none-match"):
            return None
        if PROBE_KEY in path:
            return (403, "AccessDenied")
        # Before its second write: as another process does.
        bucket.delete("k")
        return None

    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = taken_away
        await put(store, "k", b"first", if_absent=True)
        between.dialect = lambda *_: None
        assert (await store.capabilities()).conditional_writes is True


async def test_a_conflict_is_tried_again(bucket: Bucket) -> None:
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = on_condition(409, "ConditionalRequestConflict", times=3)
        await put(store, "k", b"first", if_absent=True)
        assert bucket.read("k") == b"first"
        assert (await store.capabilities()).conditional_writes is True


async def test_a_conflict_on_a_server_that_knows_conditions_is_no_leave_to_write_over(bucket: Bucket) -> None:
    def busy(_method: str, path: str, _query: str, head: Head) -> tuple[int, str] | None:
        return (409, "ConditionalRequestConflict") if path.endswith("/k") and head.get("if-none-match") else None

    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.dialect = busy
        with pytest.raises(StoreUnavailable, match="ConditionalRequestConflict"):
            await put(store, "k", b"data", if_absent=True)
        assert await store.head("k") is None
        bucket.write("k", b"the other's")
        with pytest.raises(ObjectExists):
            await put(store, "k", b"data", if_absent=True)
        assert bucket.read("k") == b"the other's"


# --- Listings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed"), (403, "AccessDenied")]
)
async def test_without_a_listing_of_uploads_all_is_archived(
    broker: Broker, bucket: Bucket, status: int, code: str
) -> None:
    async with proxy(bucket.endpoint) as between:
        between.dialect = lambda method, _path, query, _head: (
            (status, code) if method == "GET" and "uploads" in query.split("&") else None
        )
        await require_archived(broker, bucket, between)
        async with opened(bucket, between) as store:
            assert await store.remove_stale_uploads(0) == 0
            assert (await store.capabilities()).lists_uploads is False


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument"), (0, "")])
async def test_without_version_2_of_the_listing_every_object_is_listed(bucket: Bucket, status: int, code: str) -> None:
    """Refused, or answered as if it had been asked for in the older form."""
    names = [f"dir/ä {number}" for number in range(5)]
    for name in names:
        bucket.write(name, b"x")
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.page_size = 2
        if status:
            between.dialect = lambda _method, _path, query, _head: (status, code) if "list-type=2" in query else None
        else:
            between.overlooks = ("list-type=", "continuation-token=", "start-after=")
        assert [info.key async for info in store.list("dir/")] == names
        await store.check()
        assert (await store.capabilities()).lists_v2 is False


async def test_a_listing_that_does_not_go_on_is_an_error(bucket: Bucket) -> None:
    for number in range(5):
        bucket.write(f"k{number}", b"x")
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.page_size = 2
        between.overlooks = ("list-type=", "continuation-token=", "start-after=", "marker=")
        with pytest.raises(StoreUnavailable, match="same page"):
            assert [info.key async for info in store.list()] == []


# --- What is remembered ----------------------------------------------------------------------------------------------


def probes(between: Proxy) -> int:
    return len([target for method, target in between.seen if method == "PUT" and "probe" in target])


async def test_what_was_found_is_remembered_for_its_address(there: Bucket, tmp_path: Path) -> None:
    kept = Kept()
    async with proxy(there.endpoint) as between, proxy(there.endpoint) as other:
        async with opened(there, between, notes=kept) as store:
            await put(store, "a", b"x", if_absent=True)
            first = await store.capabilities()
        asked = probes(between)
        assert asked
        async with opened(there, between, notes=kept) as store:
            await put(store, "b", b"x", if_absent=True)
            assert await store.capabilities() == first
        assert probes(between) == asked
        # Another server, bucket, prefix or algorithm is asked itself.
        async with opened(there, other, notes=kept) as store:
            await put(store, "c", b"x")
        assert probes(other)
        async with opened(there, between, notes=kept, prefix=str(tmp_path)) as store:
            await put(store, "d", b"x")
        assert probes(between) > asked


async def test_a_restart_asks_nothing_again(broker: Broker, there: Bucket) -> None:
    broker.segments("orders-0", 2)
    async with proxy(there.endpoint) as between:
        settings = store_settings(broker, there, s3_endpoint=between.endpoint)
        for expected in (True, False):
            between.seen.clear()
            async with TieredStorage.open(settings) as storage:
                await storage.run_cycle()
                broker.segment("orders-0")
            assert bool(probes(between)) == expected
        # Who only looks has the same word, and keeps it to himself.
        between.seen.clear()
        async with TieredStorage.open(settings, read_only=True) as storage:
            assert [verdict.problem async for verdict in storage.verify()] == ["", "", ""]
        assert not probes(between)


async def test_a_server_of_another_name_behind_the_address_is_asked(bucket: Bucket) -> None:
    kept = Kept()
    async with proxy(bucket.endpoint) as between:
        between.named = "Strong/1"
        async with opened(bucket, between, notes=kept) as store:
            await put(store, "a", b"x")
            assert await word(store, "a") is not None
        between.named, between.checks_nothing = "Weak/1", True
        async with opened(bucket, between, notes=kept) as store:
            await put(store, "b", b"x")
            # It has the checksum that was claimed, and nobody looked.
            assert await word(store, "b") is None
            assert (await store.capabilities()).checks is Check.NOTHING


async def test_a_server_that_is_replaced_while_we_run_is_asked(bucket: Bucket) -> None:
    async with proxy(bucket.endpoint) as between, opened(bucket, between) as store:
        between.named = "Strong/1"
        await put(store, "a", b"x")
        assert await word(store, "a") is not None
        between.named, between.checks_nothing = "Weak/1", True
        await store.check()
        await put(store, "b", b"x")
        assert await word(store, "b") is None
        # There may be both behind one address.
        between.named, between.checks_nothing = "Strong/1", False
        await store.check()
        await put(store, "c", b"x")
        assert await word(store, "c") is None


async def test_what_is_remembered_is_asked_again_after_a_day(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    async with proxy(bucket.endpoint) as between:
        async with opened(bucket, between, notes=kept) as store:
            await put(store, "a", b"x")
            asked = probes(between)
            monkeypatch.setattr("takhin_tiered.store.s3.server._ASK_AGAIN", 0.0)
        async with opened(bucket, between, notes=kept) as store:
            await put(store, "b", b"x")
        assert probes(between) > asked


# --- What a bucket's policy demands ----------------------------------------------------------------------------------


def is_new(head: Head) -> bool:
    method, target, _ = head.first.split(" ", 2)
    return (method == "PUT" and "partNumber" not in target) or (method == "POST" and target.endswith("?uploads"))


def wants(name: str, value: str) -> Any:
    def refuse(_method: str, _path: str, _query: str, head: Head) -> tuple[int, str] | None:
        return (403, "AccessDenied") if is_new(head) and head.get(name) != value else None

    return refuse


async def test_a_policy_that_demands_encryption_names_the_setting(broker: Broker, bucket: Bucket) -> None:
    async with proxy(bucket.endpoint) as between:
        between.dialect = wants("x-amz-server-side-encryption", "AES256")
        broker.segments("orders-0", 1)
        async with TieredStorage.open(store_settings(broker, bucket, s3_endpoint=between.endpoint)) as storage:
            with pytest.raises(StoreDenied, match=r"storage\.tiered\.s3\.sse"):
                await storage.run_cycle()
        await require_archived(broker, bucket, between, s3_sse="AES256")


async def test_every_new_object_has_what_is_demanded(bucket: Bucket) -> None:
    demands = Demands(sse="aws:kms", kms_key="arn:key", requester_pays=True)
    segment, manifest = "orders-0/00000000000000000000.log", "orders-0/00000000000000000000.manifest.json"
    async with proxy(bucket.endpoint) as between, opened(bucket, between, demands=demands) as store:
        # The first goes by the SDK, the others straight.
        await put(store, segment, b"x", if_absent=True, storage_class="STANDARD_IA")
        await put(store, manifest, b"x", if_absent=True)
        await put(store, segment + "2", os.urandom(PART + 10), part_size=PART, storage_class="GLACIER_IR")
        await store.head(segment)
        await store.delete([segment, manifest])
        new = [head for head in between.heads if is_new(head)]
        assert {head.get("x-amz-server-side-encryption") for head in new} == {"aws:kms"}
        assert {head.get("x-amz-server-side-encryption-aws-kms-key-id") for head in new} == {"arn:key"}
        assert {head.get("x-amz-request-payer") for head in between.heads} == {"requester"}
        classes = {head.first.split(" ")[1].rpartition("/")[2]: head.get("x-amz-storage-class") for head in new}
        assert classes["00000000000000000000.log"] == "STANDARD_IA"
        assert classes["00000000000000000000.log2?uploads"] == "GLACIER_IR"
        assert classes["00000000000000000000.manifest.json"] == ""


@pytest.mark.parametrize(
    "lacks", ["ETag", "UploadId", "Last-Modified", "Content-Length", "LastModified", "Size", "Initiated", "Key", "Date"]
)
async def test_an_answer_that_lacks_something_is_an_error_of_the_store_and_stops_no_other_segment(
    broker: Broker, bucket: Bucket, between: Proxy, lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost by it, and nothing ends in what was not foreseen."""
    monkeypatch.setattr("takhin_tiered.vault.stored.MULTIPART_THRESHOLD", 6 << 20)
    monkeypatch.setattr("takhin_tiered.vault.stored.PART_SIZE", 5 << 20)
    small = broker.segments("orders-0", 2)
    large = broker.segments("large-0", 1, size=(6 << 20) + 5)
    settings = store_settings(broker, bucket, s3_endpoint=between.endpoint)
    between.lacks = lacks
    async with TieredStorage.open(settings) as storage:
        for _ in range(2):
            with suppress(TakhinError):
                await storage.run_cycle()
        with suppress(TakhinError):
            await storage.rebuild()
        with suppress(TakhinError):
            _ = [verdict async for verdict in storage.verify(deep=True)]
        for path in (*small, *large):
            assert broker.is_whole(path) or all(bucket.read(name) == broker.files[name] for name in broker.triple(path))
        between.lacks = ""
        await storage.run_cycle()
        for path in (*small, *large):
            assert not broker.on_disk(path)
            assert all(bucket.read(name) == broker.files[name] for name in broker.triple(path))
