"""The object store that everybody is measured against: one that is started here, or one that is there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

from benchmarks.measure import Failed, require, tail

BUCKET = "takhin-bench"
REGION = "us-east-1"
_CHUNK = 1 << 20


class Server:
    """An endpoint, and an independent look at its bucket with the plain SDK."""

    def __init__(self, endpoint: str, words: str, trash: Path | None = None) -> None:
        self.endpoint, self.words, self._trash = endpoint, words, trash
        self._client: Any = botocore.session.get_session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=endpoint,
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}),
        )
        try:
            self._client.head_bucket(Bucket=BUCKET)
        except ClientError:
            self._client.create_bucket(Bucket=BUCKET)

    def objects(self, prefix: str) -> dict[str, int]:
        """Sizes by key, without the prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        return {
            entry["Key"].removeprefix(f"{prefix}/"): entry["Size"]
            for page in pages
            for entry in page.get("Contents", ())
        }

    def same(self, key: str, file: Path) -> bool:
        """Whether an object holds the bytes of a file."""
        body = self._client.get_object(Bucket=BUCKET, Key=key)["Body"]
        with file.open("rb") as local:
            while chunk := body.read(_CHUNK):
                if chunk != local.read(len(chunk)):
                    return False
            return not local.read(1)

    def clear(self, prefix: str) -> None:
        keys = list(self.objects(prefix))
        for at in range(0, len(keys), 1000):
            names = [{"Key": f"{prefix}/{key}"} for key in keys[at : at + 1000]]
            self._client.delete_objects(Bucket=BUCKET, Delete={"Objects": names, "Quiet": True})
        for deleted in self._trash.iterdir() if self._trash is not None and self._trash.is_dir() else ():
            shutil.rmtree(deleted, ignore_errors=True)


@contextmanager
def open_server(choice: str, peers: Path, directory: Path) -> Iterator[Server]:
    """``rclone``, ``minio``, or the URL of an endpoint that runs already, with credentials in the environment."""
    if "://" in choice:
        known = botocore.session.get_session().get_credentials() is not None
        require(known, f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to what {choice} takes")
        yield Server(choice, f"the server at {choice}")
        return
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "benchmark")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "benchmark-secret")
    user, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    directory.mkdir(parents=True)
    port = free_port()
    address = f"127.0.0.1:{port}"
    if choice == "minio":
        command = [_find_minio(), "server", str(directory), "--address", address, "--quiet"]
    else:
        command = [str(peers / "rclone"), "serve", "s3", str(directory), "--addr", address]
        command += ["--auth-key", f"{user},{secret}"]
    env = {**os.environ, "MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": secret, "MINIO_BROWSER": "off"}
    log = directory.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            require(process.poll() is None and time.monotonic() < deadline, f"{choice} does not serve:\n{tail(log)}")
            time.sleep(0.05)
        name = "MinIO" if choice == "minio" else "rclone serve s3"
        # MinIO keeps what was deleted for minutes, and these stores stand in memory: a race would run out of it.
        trash = directory / ".minio.sys/tmp/.trash" if choice == "minio" else None
        yield Server(f"http://{address}", f"{name} on {directory}, a process of this machine", trash)
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _find_minio() -> str:
    built = Path(__file__).parents[1] / ".make/bin/minio"
    found = os.environ.get("TAKHIN_TEST_MINIO") or shutil.which("minio") or (str(built) if built.exists() else None)
    if found is None:
        raise Failed("there is no minio: set TAKHIN_TEST_MINIO, or let `make test-minio` build one")
    return found
