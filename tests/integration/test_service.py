"""The daemon as a process: start, stop, kill, restart, faults that heal."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

import takhin_tiered
from takhin_tiered import Settings
from takhin_tiered.concurrency import in_thread
from tests.faults.proxy import Fault, Kind, proxy
from tests.support import (
    COLD,
    Broker,
    Bucket,
    Daemon,
    command,
    daemon,
    directory_settings,
    free_port,
    ministack,
    store_settings,
    wait_until,
)

ORIGINAL = """
server: {{host: "0.0.0.0", port: 9092, tls: {{enabled: false, cert: {{file: ""}}}}}}
kafka:
  broker: {{id: 1}}
  listeners: ["tcp://0.0.0.0:9092"]
storage:
  data:
    dir: "{data}"
  log:
    segment: {{size: 1073741824}}
    retention: {{hours: 168, bytes: 0}}
  encryption: {{enabled: false, algorithm: "none", key: {{dir: ""}}}}
  tiered:
    enabled: true
    s3:
      bucket: "{bucket}"
      region: "us-east-1"
      prefix: "takhin-segments"
      endpoint: "{endpoint}"
    cold: {{age: {{hours: 168}}}}
    warm: {{age: {{hours: 72}}}}
    archive: {{interval: {{minutes: {minutes}}}}}
    local: {{cache: {{size: {{mb: 10240}}}}}}
    auto: {{archive: {{enabled: true}}}}
    hot: {{min: {{access: {{hz: 10.0, count: 100}}}}}}
    api: {{port: 0}}
replication: {{default: {{replication: {{factor: 1}}}}}}
raft: {{heartbeat: {{timeout: {{ms: 1000}}}}}}
logging: {{level: "info", format: "json"}}
metrics: {{enabled: true, host: "0.0.0.0", port: 9090}}
throttle: {{producer: {{burst: 20971520}}}}
audit: {{enabled: false}}
"""


def metric(running: Daemon, name: str) -> float:
    lines = running.request("GET", "/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


def cycles(running: Daemon) -> float:
    return metric(running, 'tiered_storage_cycles_total{result="success"}')


def test_an_original_configuration_archives_restarts_and_restores(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    closed = broker.segments("orders-0", 4) + broker.segments("my.topic-with-dashes-3", 2)
    others = {"orders-0/00000000000000099999.snapshot": b"s", "orders-0/leader-epoch-checkpoint": b"0\n", "x.log": b"x"}
    for name, content in others.items():
        (broker.root / name).write_bytes(content)
    config = tmp_path / "takhin.yaml"
    config.write_text(ORIGINAL.format(data=broker.root, bucket=bucket.name, endpoint=bucket.endpoint, minutes="0.01"))
    times = {name: (broker.root / name).stat().st_mtime_ns for path in closed for name in broker.triple(path)}
    # Nothing but the file counts, and where the log goes.
    settings = Settings(data_dir=broker.root)
    path = closed[1]
    with daemon(settings, tmp_path / "log", "--config", str(config), "run") as running:
        wait_until(lambda: not any(broker.on_disk(path) for path in closed), what="the archive of all closed segments")
        for name in (name for path in closed for name in broker.triple(path)):
            assert bucket.read(name) == broker.files[name]
        assert len(bucket.manifests()) == len(closed)
        assert {name: (broker.root / name).read_bytes() for name in others} == others
        assert running.stop() == 0
    assert "no effect" not in (tmp_path / "log").read_text()

    with daemon(settings, tmp_path / "log", "--config", str(config), "run") as running:
        for form in (path, path.replace("/", "%2F")):
            answer = running.request("GET", f"/api/v1/tiered/segments/{form}").json()
            assert (answer["segment_path"], answer["is_archived"]) == (path, True)
        assert running.request("POST", "/api/v1/tiered/restore", json={"segment_path": path}).json() == {
            "status": "success",
            "message": "segment restored successfully",
        }
        assert broker.is_whole(path)
        assert all((broker.root / name).stat().st_mtime_ns == times[name] for name in broker.triple(path))
        before = cycles(running)
        wait_until(lambda: cycles(running) >= before + 3, what="three more cycles")
        assert broker.is_whole(path)
        assert metric(running, "tiered_storage_s3_bytes_uploaded_total") == 0


@pytest.mark.long
async def test_a_kill_during_the_archive_loses_nothing_and_repeats_nothing(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    closed = [path for number in range(4) for path in broker.segments(f"orders-{number}", 5, size=400_000)]
    settings = store_settings(broker, bucket, archive_concurrency=2)
    # The sixth commit is held: a kill after so many milliseconds would come too late on a fast machine.
    held = Fault(Kind.HELD, "PUT", ".manifest.json", skip=5)
    async with proxy(bucket.endpoint) as between:
        between.faults.append(held)
        with daemon(settings.model_copy(update={"s3_endpoint": between.endpoint}), tmp_path / "log") as running:
            await in_thread(wait_until, lambda: held.hits and len(bucket.manifests()) == 5)
            running.kill()
    committed = bucket.manifests()
    assert len(committed) == 5
    stems = tuple(f"{bucket.prefix}/{key.removesuffix('.manifest.json')}" for key in committed)
    written = {key: at for key, at in bucket.times().items() if key.startswith(stems)}
    assert len(written) == 4 * len(committed)
    with daemon(settings, tmp_path / "log") as running:
        wait_until(lambda: not any(broker.on_disk(path) for path in closed), what="the rest of the archive")
        wait_until(lambda: cycles(running) >= 1)
        found = running.request("GET", "/api/v1/tiered/segments?state=archived").json()["segments"]
        assert {info["segment_path"] for info in found} == set(closed)
    now = bucket.times()
    assert {key: now[key] for key in written} == written
    for name in (name for path in closed for name in broker.triple(path)):
        assert bucket.read(name) == broker.files[name]
    assert len(bucket.keys()) == 4 * len(closed)
    assert bucket.uploads() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_in_order(broker: Broker, bucket: Bucket, tmp_path: Path, number: int) -> None:
    closed = [path for topic in range(3) for path in broker.segments(f"orders-{topic}", 10, size=100_000)]
    with daemon(store_settings(broker, bucket), tmp_path / "log") as running:
        wait_until(lambda: len(bucket.manifests()) >= 2)
        running.process.send_signal(number)
        assert running.process.wait(35) == 0
    assert '"event": "stopped"' in (tmp_path / "log").read_text()
    for path in closed:
        assert broker.is_whole(path) or all(bucket.read(name) == broker.files[name] for name in broker.triple(path))
    assert not list(broker.root.rglob("*.takhin-tmp"))
    assert bucket.uploads() == []
    # The claim was given back: another data directory may have the prefix now.
    assert "takhin-tiered.owner.json" not in str(bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents"))


def test_a_second_signal_skips_the_wait(broker: Broker, tmp_path: Path, bucket: Bucket) -> None:
    """The store accepts connections and says nothing: what is in flight would take its whole deadline."""
    closed = broker.segments("orders-0", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = store_settings(broker, bucket, s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with daemon(settings, tmp_path / "log") as running:
            running.wait_serving()
            running.process.send_signal(signal.SIGTERM)
            running.wait_logged('"event": "stopping"')
            started = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(15) == 0
            assert time.monotonic() - started < 10
    assert all(broker.is_whole(path) for path in closed)


@pytest.mark.long
def test_a_second_daemon_on_the_same_directory_is_refused(broker: Broker, bucket: Bucket, tmp_path: Path) -> None:
    settings = store_settings(broker, bucket)
    with daemon(settings, tmp_path / "log") as first:
        first.wait_serving()
        for other in (settings, store_settings(broker, bucket, state_path=tmp_path / "elsewhere")):
            second = command(other, "run")
            assert second.returncode == 2
            assert "is held by" in second.stderr
        assert f"process {first.process.pid}" in command(settings, "run").stderr


@pytest.mark.long
def test_a_port_that_is_the_running_daemons_hides_nothing(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store", api_port=free_port())
    with daemon(settings, tmp_path / "log") as first:
        first.wait_serving()
        for other in (settings, settings.model_copy(update={"state_path": tmp_path / "elsewhere"})):
            second = command(other, "run")
            assert (second.returncode, "is held by" in second.stderr) == (2, True)
            assert "cannot listen" not in second.stderr
    (tmp_path / "other").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = directory_settings(Broker(tmp_path / "other"), tmp_path / "store", api_port=port)
        third = command(free, "run")
        assert (third.returncode, f"cannot listen on 127.0.0.1:{port}" in third.stderr) == (2, True)


def test_the_start_tells_what_starts_where(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store", archive_mode="copy")
    with daemon(settings, tmp_path / "log") as running:
        api = running.wait_serving()
        running.wait_logged('"event": "started"')
        (started,) = (
            line for line in map(json.loads, running.log.read_text().splitlines()) if line["event"] == "started"
        )
    assert (started["version"], started["api"], started["mode"]) == (takhin_tiered.__version__, api, "copy")
    assert (started["store"], started["data_dirs"]) == (str(tmp_path / "store"), [str(broker.root)])
    assert (started["enabled"], started["state_dir"]) == (True, str(settings.state_dir))


@pytest.mark.long
def test_a_command_without_the_token_says_where_the_token_stands(broker: Broker, tmp_path: Path) -> None:
    settings = directory_settings(broker, tmp_path / "store", api_token="right")
    with daemon(settings, tmp_path / "log") as running:
        running.wait_serving()
        for token, words in (("", "requires its API token"), ("wrong", "refuses the API token")):
            ended = command(settings.model_copy(update={"api_token": SecretStr(token)}), "status")
            assert ended.returncode == 1
            assert words in ended.stderr
            assert "storage.tiered.api.token" in ended.stderr
            assert "TAKHIN_STORAGE_TIERED_API_TOKEN" in ended.stderr


@pytest.mark.long
def test_a_second_data_directory_on_the_same_prefix_is_refused(broker: Broker, bucket: Bucket, tmp_path: Path) -> None:
    broker.segments("orders-0", 1)
    (tmp_path / "other").mkdir()
    other = Broker(tmp_path / "other")
    closed = other.segments("orders-0", 1)
    settings = store_settings(other, bucket)
    with daemon(store_settings(broker, bucket), tmp_path / "log") as first:
        wait_until(lambda: len(bucket.keys()) >= 4)
        second = command(settings, "run")
        assert second.returncode == 2
        assert f"is held by process {first.process.pid}" in second.stderr
        assert other.is_whole(closed[0])
        first.kill()
    # Its process is known to be dead: the claim is taken over at once.
    assert command(settings, "run", "--once").returncode == 0


@pytest.mark.long
def test_an_unreachable_store_is_waited_for(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 2)
    port = free_port()
    bucket = Bucket(f"http://127.0.0.1:{port}", "late-bucket")
    settings = store_settings(broker, bucket)
    with daemon(settings, tmp_path / "log") as running:

        def not_ready() -> bool:
            answer = running.request("GET", "/readyz")
            return answer.status_code == 503 and f"127.0.0.1:{port}" in answer.json()["checks"]["store"]

        wait_until(not_ready, what="a readiness that names the store")
        assert metric(running, "tiered_storage_store_up") == 0
        assert metric(running, "tiered_storage_store_down_since_timestamp_seconds") > 0
        assert running.request("GET", "/healthz").status_code == 200
        refused = running.request("POST", "/api/v1/tiered/archive", json={"segment_path": closed[0]})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert all(broker.is_whole(path) for path in closed)
        with ministack(port):
            # The server is there, and the bucket is not.
            wait_until(lambda: "bucket" in running.request("GET", "/readyz").text.lower(), seconds=60)
            bucket.client.create_bucket(Bucket=bucket.name)
            wait_until(lambda: not any(broker.on_disk(path) for path in closed), seconds=90, what="the recovery")
            wait_until(lambda: running.request("GET", "/readyz").status_code == 200, seconds=60)
            running.stop()
    bucket.close()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"COLD_AGE_HOURS": "1", "WARM_AGE_HOURS": "2"}, "must be less than"),
        ({"ARCHIVE_INTERVAL_MINUTES": "0"}, "storage.tiered.archive.interval.minutes"),
        ({"COLD_AGE_HOUR": "1"}, "nearest known key is TAKHIN_STORAGE_TIERED_COLD_AGE_HOURS"),
        ({"S3_ENDPOINT": "localhost:9000"}, "must be a URL like http://minio:9000"),
        ({"API_HOST": "0.0.0.0"}, "set storage.tiered.api.token"),
        ({"API_HOST": "192.0.2.1", "API_TOKEN": "t" * 16}, "cannot listen on 192.0.2.1"),
        ({"S3_BUCKET": "", "ENABLED": "true"}, "needs a store"),
        ({"API_TLS_CERT": "cert.pem"}, "storage.tiered.api.tls.cert and storage.tiered.api.tls.key belong together"),
        ({"COMPRESSION_CODEC": "gzip"}, "storage.tiered.compression.codec"),
        ({"ENCRYPTION_KEY_FILE": "/nowhere"}, "storage.tiered.encryption.key.file: /nowhere cannot be read"),
    ],
)
def test_a_wrong_configuration_ends_the_start_with_2(
    broker: Broker,
    bucket: Bucket,
    variables: dict[str, str],
    message: str,
) -> None:
    path = broker.segments("orders-0", 1)[0]
    values = {"S3_BUCKET": bucket.name, "S3_ENDPOINT": bucket.endpoint, "ENABLED": "true", "API_PORT": "0", **variables}
    environment = {
        **os.environ,
        "TAKHIN_STORAGE_DATA_DIR": str(broker.root),
        **{f"TAKHIN_STORAGE_TIERED_{name}": value for name, value in values.items()},
    }
    ended = subprocess.run(
        [sys.executable, "-m", "takhin_tiered", "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert broker.is_whole(path)


def test_a_missing_data_directory_ends_the_start_with_2(tmp_path: Path) -> None:
    ended = command(directory_settings(Broker(tmp_path / "nowhere"), tmp_path / "store"), "run")
    assert ended.returncode == 2
    assert "storage.data.dir" in ended.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_fraction_of_an_hour_from_the_environment_overrides_the_file(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broker.segments("orders-0", 1, age_hours=0.01)[0]
    settings = directory_settings(broker, tmp_path / "store", cold_age_hours=0.001, warm_age_hours=0.0005)
    config = tmp_path / "takhin.yaml"
    config.write_text("storage: {tiered: {cold: {age: {hours: 500}}}}")
    assert command(settings, "--config", str(config), "run", "--once").returncode == 0
    assert broker.on_disk(path) == []


def test_systemd_is_told(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        with daemon(directory_settings(broker, tmp_path / "store"), tmp_path / "log") as running:
            heard = [systemd.recv(4096).decode() for _ in range(4)]
            assert any("READY=1" in message for message in heard)
            assert any("WATCHDOG=1" in message for message in heard)
            running.process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in heard[-1]:
                heard.append(systemd.recv(4096).decode())
            assert running.process.wait(30) == 0


@pytest.mark.long
def test_no_secret_is_logged(broker: Broker, bucket: Bucket, tmp_path: Path) -> None:
    broker.segments("orders-0", 2)
    settings = store_settings(broker, bucket, api_token="the-token-of-this-test", log_level="debug")
    with daemon(settings, tmp_path / "log") as running:
        wait_until(lambda: len(bucket.keys()) >= 8)
        assert running.request("GET", "/api/v1/tiered/stats").status_code == 401
        running.stop()
    shown = command(settings, "config", "show").stdout
    for text in ((tmp_path / "log").read_text(), shown):
        assert "the-token-of-this-test" not in text
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text.replace(os.environ["AWS_ACCESS_KEY_ID"] + "/", "")
    assert "****" in shown


def test_each_segments_operation_can_be_followed_in_the_log(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 2, age_hours=COLD)
    with daemon(directory_settings(broker, tmp_path / "store"), tmp_path / "log") as running:
        running.wait_logged("cycle ended")
        answer = running.request(
            "POST", "/api/v1/tiered/restore", json={"segment_path": closed[0]}, headers={"X-Correlation-ID": "my-id.1"}
        )
        assert answer.headers["X-Correlation-ID"] == "my-id.1"
        running.stop()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    archived = [line for line in lines if line["event"] == "archived"]
    assert {line["segment"] for line in archived} == set(closed)
    assert all(re.fullmatch("[0-9a-f]{16}", line["correlation_id"]) for line in archived)
    assert [line["correlation_id"] for line in lines if line["event"] == "restored"] == ["my-id.1"]


@pytest.mark.long
def test_an_outage_of_many_cycles_takes_no_memory_and_heals_in_one(broker: Broker, tmp_path: Path) -> None:
    closed = broker.segments("orders-0", 20, age_hours=COLD)
    store = tmp_path / "store"
    settings = directory_settings(broker, store, archive_interval_minutes=0.0002)
    store.rename(tmp_path / "away")
    with daemon(settings, tmp_path / "log") as running:
        running.wait_serving()

        def failed() -> float:
            return metric(running, 'tiered_storage_cycles_total{result="failure"}')

        def resident() -> int:
            status = Path(f"/proc/{running.process.pid}/status").read_text()
            (kibibytes,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
            return int(kibibytes)

        wait_until(lambda: failed() >= 50, seconds=60)
        early = resident()
        wait_until(lambda: failed() >= 250, seconds=60)
        assert resident() - early < 10_000
        assert all(broker.is_whole(path) for path in closed)
        (tmp_path / "away").rename(store)
        wait_until(lambda: not any(broker.on_disk(path) for path in closed), seconds=30)
