"""What stands in the SDK's surroundings: credentials that come late or are renewed, and settings that are wrong."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from takhin_tiered import StoreDenied, StoreError
from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.store.s3 import S3Store, open_s3
from tests.faults.proxy import Head, proxy
from tests.support import REGION, Broker, Bucket, command, daemon, free_port, store_settings, wait_until

pytestmark = pytest.mark.long


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Bucket) -> Path:
    """A file of credentials that is not there yet, and nothing else in the environment, once the bucket is made."""
    file = tmp_path / "aws" / "credentials"
    file.parent.mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file.with_name("config")))
    return file


def write(file: Path, key: str) -> None:
    """As an agent does: a new file in the place of the old one."""
    new = file.with_name("new")
    new.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t\n")
    new.replace(file)


def only(good: Callable[[], str]) -> Any:
    """A server that knows one key, and calls all others expired."""

    def refuse(_method: str, _path: str, _query: str, head: Head) -> tuple[int, str] | None:
        return None if f"Credential={good()}/" in head.get("authorization") else (400, "ExpiredToken")

    return refuse


async def put(store: S3Store, key: str) -> None:
    await store.put(key, bytes_source(b"x"), size=1, checksum=checksum_of(bytes_source(b"x"), 1))


async def until_it_answers(store: S3Store) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.check()
            except StoreDenied:
                await asyncio.sleep(0.1)


async def test_credentials_that_come_late_are_taken_up(credentials: Path, bucket: Bucket) -> None:
    async with open_s3(bucket.name, region=REGION, prefix="p", endpoint=bucket.endpoint) as store:
        with pytest.raises(StoreDenied, match="Unable to locate credentials"):
            await store.check()
        write(credentials, "AKIALATE")
        await until_it_answers(store)
        for key in ("by-the-sdk", "straight"):
            await put(store, key)


async def test_renewed_credentials_are_taken_up_at_once(credentials: Path, bucket: Bucket) -> None:
    good = "AKIAFIRST"
    write(credentials, good)
    async with proxy(bucket.endpoint) as between:
        between.dialect = only(lambda: good)
        async with open_s3(bucket.name, region=REGION, prefix="p", endpoint=between.endpoint) as store:
            for key in ("by-the-sdk", "straight"):
                await put(store, key)
            await use(store)
            good = "AKIASECOND"
            write(credentials, good)
            await use(store)
            # What is half written changes nothing.
            credentials.write_text("[default]\naws_access_key_id = AKIATHIRD\n")
            await use(store)


async def use(store: S3Store) -> None:
    await put(store, "again")
    assert await store.head("again") is not None
    await store.check()
    await store.delete(["again"])


async def test_a_program_is_asked_anew_when_its_keys_are_refused(credentials: Path, bucket: Bucket) -> None:
    """Keys without an end, which nothing on the disk tells to be old."""
    current, script = credentials.with_name("current"), credentials.with_name("keys.sh")
    keys = '{"Version": 1, "AccessKeyId": "\'$(cat "$(dirname "$0")/current")\'", "SecretAccessKey": "s"}'
    script.write_text(f"#!/bin/sh\necho '{keys}'\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    current.write_text("AKIAFIRST")
    credentials.with_name("config").write_text(f"[default]\ncredential_process = {script}\n")
    async with proxy(bucket.endpoint) as between:
        between.dialect = only(current.read_text)
        async with open_s3(bucket.name, region=REGION, prefix="p", endpoint=between.endpoint) as store:
            await put(store, "first")
            current.write_text("AKIASECOND")
            await until_it_answers(store)
            await put(store, "second")


async def test_a_file_that_cannot_be_read_is_named(
    credentials: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(credentials, "AKIA")
    # To root every file is readable.
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != credentials)
    credentials.write_text("[other]\n")
    async with open_s3(bucket.name, region=REGION, prefix="p", endpoint=bucket.endpoint) as store:
        with pytest.raises(StoreDenied, match=rf"{credentials} cannot be read"):
            await store.check()


WRONG: dict[str, dict[str, str]] = {
    "a profile that is not there": {"AWS_PROFILE": "nope"},
    "a broken file": {"AWS_CONFIG_FILE": "{broken}"},
    "no token file": {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nope", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x"},
    "a program that fails": {"AWS_CONFIG_FILE": "{process}"},
    "a host that is none": {"AWS_ENDPOINT_URL_S3": "http://minio_server:9000", "TAKHIN_STORAGE_TIERED_S3_ENDPOINT": ""},
    "an unknown defaults mode": {"AWS_DEFAULTS_MODE": "x"},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_sentence(
    credentials: Path, broker: Broker, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    broker.segments("orders-0", 1)
    places = {"broken": credentials.with_name("broken"), "process": credentials.with_name("process")}
    places["broken"].write_text("[default\naws_access_key_id = x\n")
    places["process"].write_text("[default]\ncredential_process = /bin/false\n")
    settings = store_settings(broker, bucket)
    for variable, value in WRONG[name].items():
        if variable.startswith("TAKHIN"):
            settings = store_settings(broker, bucket, s3_endpoint=value)
        else:
            monkeypatch.setenv(variable, value.format(**places))
    status = command(settings, "status")
    assert "NOT reachable" in status.stdout
    for arguments in (("run", "--once"), ("rebuild",)):
        done = command(settings, *arguments)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert "Error:" in done.stderr
    assert broker.is_whole(next(name for name in broker.files if name.endswith(".log")))


def test_a_daemon_waits_for_what_is_mended(
    credentials: Path, broker: Broker, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = broker.segments("orders-0", 1)
    monkeypatch.setenv("AWS_PROFILE", "archive")
    settings = store_settings(broker, bucket, api_port=free_port(), archive_interval_minutes=0.02)
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("could not be found")
        ready = running.request("GET", "/readyz")
        assert ready.status_code == 503
        assert "archive" in ready.text
        keys = "aws_access_key_id = AKIA\naws_secret_access_key = s\n"
        credentials.write_text(f"[archive]\n{keys}")
        wait_until(lambda: broker.on_disk(closed[0]) == [], seconds=40, what="the segment archived")
        began = time.monotonic()
        wait_until(lambda: running.request("GET", "/readyz").status_code == 200, what="ready")
        assert time.monotonic() - began < 30


async def test_a_client_that_cannot_be_made_is_tried_again(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nope")
    async with open_s3(bucket.name, region=REGION, prefix="p", endpoint=bucket.endpoint) as store:
        with pytest.raises(StoreError, match="AWS SDK cannot be used"):
            await put(store, "k")
        monkeypatch.delenv("AWS_PROFILE")
        await put(store, "k")
