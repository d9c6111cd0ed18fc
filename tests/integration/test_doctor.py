"""``doctor``, ``config check --connect``, ``config example``, ``ls --problem`` and ``archive -n``."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import yaml

from takhin_tiered import Settings
from takhin_tiered.config_example import DESCRIPTIONS, example
from tests.support import (
    WARM,
    Broker,
    Bucket,
    command,
    daemon,
    directory_settings,
    free_port,
    store_settings,
    wait_until,
)

pytestmark = pytest.mark.long


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return directory_settings(broker, tmp_path / "store")


def findings(settings: Settings) -> dict[str, list[str]]:
    """Lines of ``doctor`` by their first word; the exit status has to agree."""
    began = time.monotonic()
    ended = command(settings, "doctor")
    assert time.monotonic() - began < 20
    assert "Traceback" not in ended.stdout + ended.stderr
    found: dict[str, list[str]] = {"ok": [], "warning": [], "FAILED": []}
    for line in ended.stdout.splitlines():
        if line.split(" ")[0] in found:
            found[line.split(" ")[0]].append(line)
    assert ended.returncode == (1 if found["FAILED"] else 0)
    return found


def test_all_is_well(broker: Broker, bucket: Bucket, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    settings = store_settings(broker, bucket)
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("cycle ended")
        running.wait_serving()
        keys = bucket.keys()
        found = findings(settings)
        assert found["FAILED"] == []
        output = "\n".join(found["ok"])
        for words in ("valid", "1 partition directories", "state directory", "free", "list, put, get and delete",
                      "agrees with the store's", f"process {running.process.pid}", "2 in the archive only",
                      "running", "last cycle"):  # fmt: skip
            assert words in output, words
        assert bucket.keys() == keys


def test_each_thing_that_is_wrong_is_told_with_what_to_do(broker: Broker, bucket: Bucket) -> None:
    wrong = store_settings(broker, bucket, s3_bucket="no-such-bucket-here")
    assert any("Create the bucket" in line for line in findings(wrong)["FAILED"])
    down = store_settings(broker, bucket, s3_endpoint=f"http://127.0.0.1:{free_port()}")
    assert any(line.split()[1] == "store" for line in findings(down)["FAILED"])
    nowhere = store_settings(broker, bucket, data_dir=broker.root / "nothing")
    assert any("data directory" in line for line in findings(nowhere)["FAILED"])


def test_a_store_and_a_broker_that_never_answer_are_not_waited_for(broker: Broker, bucket: Bucket) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        settings = store_settings(
            broker, bucket, s3_endpoint=f"http://127.0.0.1:{port}", broker_bootstrap=f"127.0.0.1:{port}"
        )
        failed = findings(settings)["FAILED"]
    assert any("store" in line and "no answer within" in line for line in failed)
    assert any(line.split()[1] == "broker" for line in failed)


def test_connect_fails_where_the_store_does(broker: Broker, bucket: Bucket, tmp_path: Path) -> None:
    assert command(store_settings(broker, bucket), "config", "check", "--connect").returncode == 0
    ended = command(store_settings(broker, bucket, s3_bucket="no-such-bucket-here"), "config", "check", "--connect")
    assert ended.returncode == 1
    assert "Create the bucket" in ended.stdout
    assert "is valid" not in ended.stdout
    gone = directory_settings(broker, tmp_path / "store")
    (tmp_path / "store").rmdir()
    ended = command(gone, "config", "check", "--connect")
    assert ended.returncode == 1
    assert "is not there" in ended.stdout


def test_the_example_has_every_key_with_words_and_its_default(broker: Broker, tmp_path: Path) -> None:
    keys = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert keys == set(DESCRIPTIONS)
    text = example()
    for key in keys:
        assert f"{key.removeprefix('storage.tiered.').removeprefix('storage.').removeprefix('logging.')}:" in text
    (tmp_path / "takhin.yaml").write_text(text)
    from_example, bare = Settings.load(tmp_path / "takhin.yaml"), Settings(data_dir="/var/lib/takhin/data")
    assert from_example.model_dump() == bare.model_dump()
    filled = yaml.safe_load(text)
    filled["storage"]["data.dir"] = str(broker.root)
    (tmp_path / "store").mkdir()
    filled["storage"]["tiered"] |= {"enabled": True, "directory.path": str(tmp_path / "store")}
    (tmp_path / "filled.yaml").write_text(yaml.safe_dump(filled))
    ended = command(Settings.load(tmp_path / "filled.yaml"), "config", "check", "--connect")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert command(bare, "config", "example").stdout == text


def test_only_problems_are_listed(broker: Broker, settings: Settings, tmp_path: Path) -> None:
    bad, good = broker.segments("orders-0", 2)
    assert command(settings, "run", "--once").returncode == 0
    assert bad not in command(settings, "ls", "--problem").stdout
    (tmp_path / "store" / bad).write_bytes(b"damaged")
    assert command(settings, "verify", "--deep").returncode == 1
    output = command(settings, "ls", "--problem").stdout
    assert bad in output
    assert good not in output


@pytest.mark.parametrize("held", [False, True])
def test_a_dry_run_of_archive_does_nothing(broker: Broker, settings: Settings, tmp_path: Path, held: bool) -> None:
    first, second = broker.segments("orders-0", 2, age_hours=WARM)

    def check() -> None:
        ended = command(settings, "archive", "orders-0", "-n")
        assert ended.returncode == 0, ended.stderr
        assert first in ended.stdout
        assert second in ended.stdout
        assert "2 segments to archive" in ended.stdout
        assert broker.is_whole(first)
        refused = command(settings, "archive", "-n", f"orders-0/{broker.next_offset['orders-0']:020d}.log")
        assert refused.returncode == 1
        assert "neither on disk nor in the archive" in refused.stdout

    if not held:
        check()
        return
    with daemon(settings, tmp_path / "log") as running:
        running.wait_logged("cycle ended")
        running.wait_serving()
        check()
    assert not any((tmp_path / "store").rglob("*.log"))


def test_a_prefix_of_another_data_directory_fails(broker: Broker, tmp_path: Path) -> None:
    other = Broker(tmp_path / "other")
    other.segments("orders-0", 1)
    broker.segments("orders-0", 1)
    theirs = directory_settings(other, tmp_path / "store")
    with daemon(theirs, tmp_path / "log") as running:
        wait_until(lambda: (tmp_path / "store" / "takhin-tiered.owner.json").exists())
        ended = command(directory_settings(broker, tmp_path / "store"), "doctor")
        assert ended.returncode == 1
        assert f"is held by process {running.process.pid}" in ended.stdout
        assert "FAILED" not in command(theirs, "doctor").stdout


def test_a_server_that_hangs_keeps_nobody_waiting(broker: Broker, bucket: Bucket) -> None:
    broker.segments("orders-0", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = store_settings(broker, bucket, s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        command(settings, "config", "show")
        start = time.monotonic() - began
        for looking in (["verify"], ["restore", "orders-0", "-n"], ["status"]):
            began = time.monotonic()
            ended = command(settings, *looking)
            assert time.monotonic() - began - start < 10, looking
            assert "does not answer" in ended.stdout + ended.stderr
            assert ended.returncode == (0 if looking == ["status"] else 1)
