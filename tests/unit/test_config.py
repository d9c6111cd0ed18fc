"""Settings: where a value comes from, and what is refused, with which words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from takhin_tiered.config import Settings
from takhin_tiered.errors import ConfigError

Load = Callable[[str], Settings]
DATA = "storage.data.dir: /srv/data\n"
BUCKET = DATA + "storage.tiered.s3.bucket: segments\n"

BROKER = """
server: {host: 0.0.0.0, port: 9092, tls: {enabled: false}}
kafka:
  broker: {id: 1}
  advertised: {host: localhost, port: 9092}
  max: {message: {bytes: 1048576}}
storage:
  data: {dir: /tmp/takhin-data}
  log: {segment: {size: 1073741824}, retention: {hours: 168}, cleanup: {interval: {ms: 300000}}}
  encryption: {enabled: false, algorithm: none, key: {dir: ""}}
  compaction: {interval: {ms: 600000}}
  tiered:
    enabled: true
    s3: {bucket: takhin-segments, region: eu-central-1, prefix: prod, endpoint: "http://minio:9000"}
    cold: {age: {hours: 168}}
    warm: {age: {hours: 72}}
    archive: {interval: {minutes: 60}}
    local: {cache: {size: {mb: 10240}}}
    auto: {archive: {enabled: true}}
    hot: {min: {access: {hz: 10.0, count: 100}}}
    tier: {check: {interval: {minutes: 30}}}
replication: {default: {replication: {factor: 1}}}
raft: {dir: /tmp/raft, address: "127.0.0.1:9093"}
logging: {level: info, format: json, output: stdout}
metrics: {enabled: true, host: 0.0.0.0, port: 9090, path: /metrics}
health: {enabled: true, port: 9091}
acl: {enabled: false, cache: {ttl: {ms: 60000}}}
sasl: {enabled: false, mechanisms: [PLAIN]}
throttle: {producer: {bytes: {per: {second: 10485760}}}}
audit: {enabled: false, file: {path: /var/log/audit.log}}
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(text: str) -> Settings:
        file = tmp_path / "takhin.yaml"
        file.write_text(text)
        return Settings.load(file)

    return loaded


def complaint(load: Load, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_nested_and_dotted_keys_are_the_same(load: Load) -> None:
    dotted = "storage.data.dir: /srv/data\nstorage.tiered.cold.age.hours: 9.5\nstorage.tiered.warm.age.hours: 1\n"
    nested = "storage:\n  data: {dir: /srv/data}\n  tiered:\n    cold: {age: {hours: 9.5}}\n    warm.age: {hours: 1}\n"
    assert dict(load(dotted).items()) == dict(load(nested).items())
    assert load(nested).cold_age_hours == 9.5
    assert load(nested).warm_age_hours == 1


def test_a_brokers_own_file_works_as_it_is(load: Load) -> None:
    settings = load(BROKER)
    assert settings.data_dir == Path("/tmp/takhin-data")
    assert settings.enabled
    assert (settings.s3_bucket, settings.s3_region, settings.s3_prefix, settings.s3_endpoint) == (
        "takhin-segments",
        "eu-central-1",
        "prod",
        "http://minio:9000",
    )


def test_the_defaults_are_those_of_the_contract(load: Load) -> None:
    shown = dict(load(DATA).items())
    contract = {
        "storage.tiered.enabled": "false",
        "storage.tiered.s3.bucket": "",
        "storage.tiered.s3.region": "us-east-1",
        "storage.tiered.s3.prefix": "takhin-segments",
        "storage.tiered.s3.endpoint": "",
        "storage.tiered.directory.path": "",
        "storage.tiered.cold.age.hours": "168",
        "storage.tiered.warm.age.hours": "72",
        "storage.tiered.archive.interval.minutes": "60",
        "storage.tiered.archive.mode": "move",
        "storage.tiered.archive.before.retention": "true",
        "storage.tiered.archive.superseded.keep.hours": "0",
        "storage.tiered.trim.ignore.groups": "",
        "storage.tiered.fleet.table": "",
        "storage.tiered.fleet.region": "",
        "storage.tiered.fleet.endpoint": "",
        "storage.tiered.fleet.mode": "local",
        "storage.tiered.fleet.replicas": "own",
        "storage.tiered.hybrid.tables": "",
        "storage.tiered.s3.prefixes.read": "",
        "storage.tiered.broker.bootstrap": "",
        "storage.tiered.broker.client": "",
        "storage.tiered.topics.compacted": "skip",
        "storage.tiered.archive.concurrency": "4",
        "storage.tiered.auto.archive.enabled": "true",
        "storage.tiered.local.cache.size.mb": "10240",
        "storage.tiered.restore.lease.hours": "24",
        "storage.tiered.hot.min.access.hz": "10",
        "storage.tiered.hot.min.access.count": "100",
        "storage.tiered.tier.check.interval.minutes": "30",
        "storage.tiered.topics.include": "*",
        "storage.tiered.topics.exclude": "__*",
        "storage.tiered.api.host": "127.0.0.1",
        "storage.tiered.api.port": "8080",
        "storage.tiered.state.dir": "/srv/data.takhin-tiered",
        "logging.level": "info",
        "logging.format": "json",
    }
    assert {key: shown[key] for key in contract} == contract


def test_a_variable_overrides_the_file(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_COLD_AGE_HOURS", "0.001")
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_WARM_AGE_HOURS", "0")
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_AUTO_ARCHIVE_ENABLED", "false")
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_S3_REGION", "")
    settings = load(DATA + "storage.tiered.cold.age.hours: 500\nstorage.tiered.s3.region: eu-west-1\n")
    assert settings.cold_age_hours == 0.001
    assert settings.policy.cold_age == pytest.approx(3.6)
    assert not settings.auto_archive_enabled
    assert settings.s3_region == "eu-west-1"  # an empty variable counts as not set


def test_variables_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKHIN_STORAGE_DATA_DIR", "/srv/data")
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_TOPICS_INCLUDE", "orders, events-*,")
    settings = Settings.load()
    assert settings.data_dir == Path("/srv/data")
    assert settings.topics_include == ("orders", "events-*")


def test_the_file_is_the_one_given_or_that_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("given", "variable"):
        (tmp_path / name).write_text(f"storage.data.dir: /srv/{name}\n")
    monkeypatch.setenv("TAKHIN_CONFIG", str(tmp_path / "variable"))
    assert Settings.load().data_dir == Path("/srv/variable")
    assert Settings.load(tmp_path / "given").data_dir == Path("/srv/given")


def test_every_value_tells_where_it_came_from(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_API_PORT", "0")
    settings = load(DATA + "storage.tiered.api.port: 9\n")
    assert settings.source("storage.tiered.api.port") == "TAKHIN_STORAGE_TIERED_API_PORT"
    assert settings.source("storage.data.dir") == str(tmp_path / "takhin.yaml")
    assert settings.source("storage.tiered.api.host") == "default"


def test_lists_are_lists_or_text_with_commas(load: Load) -> None:
    assert load(DATA + "storage.tiered.topics.include: [orders, events]\n").topics_include == ("orders", "events")
    assert load(DATA + "storage.tiered.topics.exclude: 'a , b'\n").topics_exclude == ("a", "b")
    assert load(DATA + "storage.tiered.topics.exclude: []\n").topics_exclude == ()


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("storage.tiered.cold.age.hour", "storage.tiered.cold.age.hours"),
        ("storage.tiered.s3.buckt", "storage.tiered.s3.bucket"),
        ("storage.tiered.enable", "storage.tiered.enabled"),
        ("storage.tiered.archive.intervall.minutes", "storage.tiered.archive.interval.minutes"),
        ("storage.tiered.warm.age", "storage.tiered.warm.age.hours"),
    ],
)
def test_a_misspelt_key_names_the_nearest(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, nearest: str
) -> None:
    told = complaint(load, DATA + f"{key}: 5\n")
    assert f"unknown key {key} (in {tmp_path / 'takhin.yaml'}); the nearest known key is {nearest}" in told
    variable = "TAKHIN_" + key.replace(".", "_").upper()
    monkeypatch.setenv(variable, "5")
    told = complaint(load, DATA)
    assert f"unknown key {variable} (in the environment)" in told
    assert told.endswith("TAKHIN_" + nearest.replace(".", "_").upper())


def test_every_misspelt_key_is_told_at_once(load: Load) -> None:
    told = complaint(load, DATA + "storage.tiered.s3.buckt: a\nstorage.tiered.enable: true\n")
    assert "storage.tiered.s3.buckt" in told
    assert "storage.tiered.enable " in told


@pytest.mark.parametrize("text", ["storage.tiered: 5\n", "storage: {tiered: yes}\n", "storage.tiered: [a]\n"])
def test_the_section_itself_has_no_value(load: Load, text: str) -> None:
    assert "unknown key storage.tiered " in complaint(load, DATA + text)


NONSENSE = [
    ("cold.age.hours", "0"), ("cold.age.hours", "-1"), ("cold.age.hours", ".nan"), ("cold.age.hours", ".inf"),
    ("cold.age.hours", "soon"), ("warm.age.hours", "-1"), ("warm.age.hours", ".nan"),
    ("archive.interval.minutes", "0"), ("archive.interval.minutes", "-5"), ("archive.interval.minutes", ".nan"),
    ("tier.check.interval.minutes", "0"), ("archive.concurrency", "0"), ("archive.concurrency", "1.5"),
    ("archive.concurrency", "100000"), ("local.cache.size.mb", "-1"), ("local.cache.size.mb", ".inf"),
    ("restore.lease.hours", "-1"), ("restore.lease.hours", ".nan"), ("restore.reserve.mb", "-1"),
    ("reconcile.interval.hours", "0"), ("scrub.interval.hours", "-1"), ("scrub.mbps", "0"),
    ("hot.min.access.count", "-1"), ("api.port", "-1"), ("api.port", "65536"), ("api.port", "http"),
    ("enabled", "perhaps"), ("archive.mode", "delete"), ("archive.corrupt", "ignore"), ("topics.include", "5"),
    ("retention.hours", "0"), ("retention.hours", "-1"), ("retention.hours", ".nan"), ("retention.hours", ".inf"),
    ("retention.hours", "orders"), ("retention.hours", "orders=x"), ("retention.hours", "true"),
    ("archive.superseded.keep.hours", "-1"),
    ("archive.before.retention", "sometimes"), ("topics.compacted", "take"), ("trim.ignore.groups", "5"),
    ("compression.codec", "gzip"), ("compression.level", "0"), ("compression.level", "23"),
    ("compression.topics", "{orders: lz4}"), ("compression.topics", "orders"), ("chunk.size.mb", "0.01"),
    ("chunk.size.mb", "65"), ("chunk.size.mb", ".nan"), ("encryption.key.file", "[a, b]"),
    ("fleet.mode", "remote"), ("fleet.replicas", "share"), ("fleet.table", "a b"),
    ("fleet.endpoint", "localhost"), ("fleet.node", "a/b"), ("hybrid.tables", "orders"),
    ("hybrid.tables", "[{name: orders}]"),
    ("hybrid.tables", "[{name: orders, partition_key: id, timestamp: at, key_template: '{sortKey}'}]"),
    ("hybrid.tables", "[{name: takhin-tiered.tables, partition_key: id, timestamp: at}]"),
    ("s3.prefixes.read", "5"), ("retention.bytes", "{orders: -5}"), ("retention.bytes", "{orders: {eu: 5}}"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), NONSENSE)
def test_a_value_that_makes_no_sense_is_told_with_its_key_and_place(
    load: Load, tmp_path: Path, key: str, value: str
) -> None:
    told = complaint(load, DATA + f"storage.tiered.{key}: {value}\n")
    assert f"storage.tiered.{key} (in {tmp_path / 'takhin.yaml'})" in told


def test_codecs_by_topic_have_the_same_forms_everywhere(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = (("orders-*", "zstd"), ("*", "none"))
    assert Settings(data_dir="/data").compression_topics == ()
    assert load(DATA + "storage.tiered.compression.topics: {orders-*: zstd, '*': none}\n").compression_topics == wanted
    assert load(DATA + "storage.tiered.compression.topics: orders-*=zstd, *=none\n").compression_topics == wanted
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_COMPRESSION_TOPICS", "orders-*=zstd,*=none")
    settings = load(DATA)
    assert settings.compression_topics == wanted
    assert dict(settings.items())["storage.tiered.compression.topics"] == "orders-*=zstd,*=none"


def test_a_wrong_variable_is_told_by_its_name(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_ARCHIVE_INTERVAL_MINUTES", "nan")
    told = complaint(load, DATA)
    assert "storage.tiered.archive.interval.minutes (in TAKHIN_STORAGE_TIERED_ARCHIVE_INTERVAL_MINUTES)" in told


def test_an_unknown_level_of_logging_is_refused(load: Load) -> None:
    assert "logging.level" in complaint(load, DATA + "logging.level: loud\n")


@pytest.mark.parametrize("warm", [168, 169])
def test_warm_must_come_before_cold(load: Load, warm: int) -> None:
    told = complaint(load, DATA + f"storage.tiered.warm.age.hours: {warm}\n")
    assert f"storage.tiered.warm.age.hours ({warm}) must be less than storage.tiered.cold.age.hours (168)" in told


def test_there_is_one_store(load: Load) -> None:
    both = BUCKET + "storage.tiered.directory.path: /srv/archive\n"
    assert "not both" in complaint(load, both)
    assert "needs a store" in complaint(load, DATA + "storage.tiered.enabled: true\n")
    assert not load(DATA).has_store
    assert load(BUCKET).has_store
    assert load(DATA + "storage.tiered.directory.path: /srv/archive\n").has_store


def test_the_archive_is_not_inside_the_data_directory(load: Load) -> None:
    for inside in ("/srv/data", "/srv/data/archive", "/srv/x/../data/archive"):
        told = complaint(load, DATA + f"storage.tiered.directory.path: {inside}\n")
        assert "must not be inside storage.data.dir" in told
    assert load(DATA + "storage.tiered.directory.path: /srv/data-archive\n").has_store


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "10.0.0.5", "broker.example.com"])
def test_an_api_that_others_can_reach_needs_a_token(load: Load, host: str) -> None:
    text = DATA + f"storage.tiered.api.host: {host}\n"
    assert "set storage.tiered.api.token" in complaint(load, text)
    assert load(text + f"storage.tiered.api.token: {'x' * 16}\n").api_token.get_secret_value() == "x" * 16
    assert load(f"{text}storage.tiered.api.token: short-secret-01\n").has_short_token
    assert load(f"{text}storage.tiered.api.tokens.file: /etc/takhin/tokens\n").api_token.get_secret_value() == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "'::1'", "localhost"])
def test_loopback_needs_no_token(load: Load, host: str) -> None:
    text = DATA + f"storage.tiered.api.host: {host}\n"
    assert load(text).api_token.get_secret_value() == ""
    assert load(text + "storage.tiered.api.token: short\n").api_token.get_secret_value() == "short"


@pytest.mark.parametrize("endpoint", ["minio:9000", "ftp://minio", "http://", "http:///path", "//minio"])
def test_an_endpoint_is_a_url(load: Load, endpoint: str) -> None:
    assert "storage.tiered.s3.endpoint" in complaint(load, BUCKET + f"storage.tiered.s3.endpoint: {endpoint}\n")


def test_an_endpoint_loses_its_last_slash(load: Load) -> None:
    assert load(BUCKET + "storage.tiered.s3.endpoint: http://minio:9000/\n").s3_endpoint == "http://minio:9000"


@pytest.mark.parametrize("bucket", ["A", "Upper-Case", "ab", "under_score", "x" * 64, "-a-b", "s3://bucket", "a/b"])
def test_a_bucket_is_a_name(load: Load, bucket: str) -> None:
    assert "must be a bucket name" in complaint(load, DATA + f"storage.tiered.s3.bucket: {bucket}\n")


def test_credentials_in_an_endpoint_are_refused_and_not_repeated(load: Load) -> None:
    told = complaint(load, BUCKET + "storage.tiered.s3.endpoint: http://admin:hunter2@minio:9000\n")
    assert "without credentials" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("token", ["12345678", "[hunter2-12345678]", "{secret: hunter2-12345678}"])
def test_a_token_that_is_no_text_is_not_repeated(load: Load, token: str) -> None:
    assert "12345678" not in complaint(load, DATA + f"storage.tiered.api.token: {token}\n")


def test_secrets_are_masked_wherever_settings_are_shown(load: Load) -> None:
    settings = load(DATA + "storage.tiered.api.token: hunter2\n")
    assert dict(settings.items())["storage.tiered.api.token"] == "**********"
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert dict(load(DATA).items())["storage.tiered.api.token"] == ""


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("720", (("*", 720.0),)),
        ("{orders-*: 720, my.topic: 5, '*': 8760}", (("orders-*", 720.0), ("my.topic", 5.0), ("*", 8760.0))),
        ("orders-*=720, *=8760", (("orders-*", 720.0), ("*", 8760.0))),
        ("'720'", (("*", 720.0),)),
        ("{}", ()),
        ("''", ()),
    ],
)
def test_retention_is_a_number_a_mapping_or_text(
    load: Load, monkeypatch: pytest.MonkeyPatch, value: str, limits: tuple[tuple[str, float], ...]
) -> None:
    settings = load(DATA + f"storage.tiered.retention.hours: {value}\nstorage.tiered.retention.bytes: {value}\n")
    assert settings.retention_hours == settings.retention_bytes == limits
    assert settings.policy.retention_age == tuple((glob, hours * 3600) for glob, hours in limits)
    # What `config show` prints is what a variable takes.
    shown = dict(settings.items())["storage.tiered.retention.hours"]
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_RETENTION_HOURS", shown)
    assert load(DATA).retention_hours == limits


def test_a_large_limit_is_shown_exactly(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = dict(load(DATA + "storage.tiered.retention.bytes: 1234567890123\n").items())
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_RETENTION_BYTES", shown["storage.tiered.retention.bytes"])
    assert load(DATA).policy.retention_size == (("*", 1234567890123),)


def test_retention_of_less_than_a_byte_is_refused(load: Load) -> None:
    """As a whole number of bytes it would be none, and nothing would stay."""
    assert "storage.tiered.retention.bytes" in complaint(load, DATA + "storage.tiered.retention.bytes: 0.5\n")


def test_units_reach_the_policy_as_seconds_and_bytes(load: Load) -> None:
    policy = load(DATA + "storage.tiered: {local.cache.size.mb: 1.5, archive.mode: copy, restore.lease.hours: 0.5}\n")
    assert (policy.policy.cache_size, policy.policy.keep_local, policy.policy.lease) == (1_572_864, True, 1800)
    assert (policy.policy.warm_age, policy.policy.cold_age) == (72 * 3600, 168 * 3600)


def test_the_data_directory_is_required(load: Load) -> None:
    told = complaint(load, "storage.tiered.enabled: false\n")
    assert "storage.data.dir is required: set it in the configuration file, or TAKHIN_STORAGE_DATA_DIR" in told
    for nothing in ("", "# only a comment\n", "---\n", "null\n", "storage.data.dir:\n"):
        assert "storage.data.dir is required" in complaint(load, nothing)


def test_an_empty_data_directory_is_not_the_working_directory(load: Load) -> None:
    assert "storage.data.dir" in complaint(load, "storage.data.dir: ''\n")


@pytest.mark.parametrize("text", ["- a\n- b\n", "text", "5"])
def test_a_file_that_is_no_mapping_is_refused(load: Load, text: str) -> None:
    assert "is not a mapping" in complaint(load, text)


@pytest.mark.parametrize(
    "data", [b"a: [", b"a: b: c", b"\t- a", b"\xff\xfe\0", b"\0", b"a: !!python/object:os.system {}"]
)
def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"bad\.yaml is not valid YAML"):
        Settings.load(tmp_path / "bad.yaml")


def test_a_file_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"cannot read the configuration.*{missing}"):
            Settings.load(missing)
    monkeypatch.setenv("TAKHIN_CONFIG", str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        Settings.load()


def test_the_state_stands_beside_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one that is empty, or not there yet: it may become Kafka's, which accepts no directory of ours inside."""
    data, beside = tmp_path / "data", tmp_path / "data.takhin-tiered"
    assert Settings(data_dir=data).state_dir == beside
    data.mkdir()
    assert Settings(data_dir=data).state_dir == beside
    assert Settings(data_dir=tmp_path / "x" / ".." / "data").state_dir == beside
    (data / "meta.properties").touch()
    assert Settings(data_dir=data).state_dir == beside
    assert Settings(data_dir=data, state_path=tmp_path / "state").state_dir == tmp_path / "state"
    monkeypatch.chdir(data)
    assert Settings(data_dir=Path("../data")).state_dir == beside


@pytest.mark.parametrize("name", ["catalog.db", "lock"])
def test_a_state_directory_that_an_earlier_release_made_inside_is_used_on(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    inside = data / ".takhin-tiered"
    inside.mkdir(parents=True)
    assert Settings(data_dir=data).state_dir == tmp_path / "data.takhin-tiered"
    (inside / name).touch()
    assert Settings(data_dir=data).state_dir == inside
    (data / "meta.properties").touch()
    assert Settings(data_dir=data).state_dir == tmp_path / "data.takhin-tiered"


STATE = "storage.tiered.state.dir: /srv/state\n"


@pytest.mark.parametrize("value", ["[/srv/a, /srv/b]", "/srv/a,/srv/b", "'/srv/a , /srv/b,'"])
def test_several_data_directories_are_a_list_or_text_with_commas(load: Load, value: str) -> None:
    settings = load(f"storage.data.dir: {value}\n{STATE}")
    assert settings.data_dirs == (Path("/srv/a"), Path("/srv/b"))
    assert settings.data_dir == Path("/srv/a")
    assert dict(settings.items())["storage.data.dir"] == "/srv/a,/srv/b"


def test_several_data_directories_in_the_environment_and_in_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = (tmp_path / "a", tmp_path / "b")
    assert Settings(data_dir=wanted, state_path=tmp_path).data_dirs == wanted
    assert Settings(data_dirs=[*map(str, wanted)], state_path=tmp_path).data_dirs == wanted
    assert Settings(data_dir=str(tmp_path)).data_dirs == Settings(data_dir=tmp_path).data_dirs == (tmp_path,)
    monkeypatch.setenv("TAKHIN_STORAGE_DATA_DIR", ",".join(map(str, wanted)))
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_STATE_DIR", str(tmp_path))
    assert Settings.load().data_dirs == wanted


def test_a_directory_may_have_a_comma_in_its_name(load: Load, tmp_path: Path) -> None:
    odd = tmp_path / "a,b"
    odd.mkdir()
    assert load(f"storage.data.dir: '{odd}'\n").data_dirs == (odd,)
    assert load(f"storage.data.dir: ['{odd}-new']\n").data_dirs == (tmp_path / "a,b-new",)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[/srv/a, /srv/a/]", "/srv/a and /srv/a are the same directory"),
        ("/srv/a,/srv/x/../a", "are the same directory"),
        ("[/srv/a, /srv/b, /srv/a/orders-0]", "/srv/a/orders-0 is inside /srv/a"),
        ("/srv/a/b,/srv/a", "/srv/a/b is inside /srv/a"),
        ("[]", "must name the broker's segment directory"),
        ("','", "must name the broker's segment directory"),
        ("[/srv/a, '']", "must name the broker's segment directory"),
        ("/", "must name the broker's segment directory"),
        ("[[/srv/a]]", ""),
        ("{a: b}", ""),
        ("5", ""),
    ],
)
def test_data_directories_that_make_no_sense_are_told(load: Load, value: str, told: str) -> None:
    text = complaint(load, f"storage.data.dir: {value}\n{STATE}")
    assert "storage.data.dir" in text
    assert told in text


def test_links_to_one_directory_are_one_directory(load: Load, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    told = complaint(load, f"storage.data.dir: ['{tmp_path}/real', '{tmp_path}/link']\n{STATE}")
    assert "are the same directory" in told


def test_several_data_directories_need_a_state_directory_of_their_own(load: Load) -> None:
    assert "set storage.tiered.state.dir" in complaint(load, "storage.data.dir: [/srv/a, /srv/b]\n")


def test_the_archive_is_inside_none_of_the_data_directories(load: Load) -> None:
    text = f"storage.data.dir: [/srv/a, /srv/b]\n{STATE}storage.tiered.directory.path: /srv/b/archive\n"
    assert "must not be inside storage.data.dir" in complaint(load, text)


@pytest.mark.parametrize(
    ("mode", "beside_kafka", "elsewhere"), [("''", "copy", "move"), ("move", "move", "move"), ("copy", "copy", "copy")]
)
def test_the_mode_is_the_one_that_is_set_or_the_safe_one(
    load: Load, mode: str, beside_kafka: str, elsewhere: str
) -> None:
    settings = load(DATA + f"storage.tiered.archive.mode: {mode}\n")
    assert (settings.mode(kafka=True), settings.mode(kafka=False)) == (beside_kafka, elsewhere)
    assert settings.policy_for(kafka=True).keep_local == (beside_kafka == "copy")
    assert settings.policy.keep_local == (elsewhere == "copy")


def test_trim_needs_a_broker_to_ask(load: Load) -> None:
    text = DATA + "storage.tiered.archive.mode: trim\n"
    told = complaint(load, text)
    assert "storage.tiered.archive.mode" in told
    assert "storage.tiered.broker.bootstrap" in told
    settings = load(text + "storage.tiered.broker.bootstrap: 'b-1:9092, [::1]:9093'\n")
    assert (settings.mode(kafka=True), settings.broker_bootstrap) == ("trim", "b-1:9092,[::1]:9093")
    assert settings.policy_for(kafka=True).keep_local


@pytest.mark.parametrize("address", ["broker", "http://broker:9092", "broker:port", "a:1 b:2", "::1:9092:"])
def test_a_broker_is_an_address(load: Load, address: str) -> None:
    assert "must be like broker-1:9092" in complaint(load, DATA + f"storage.tiered.broker.bootstrap: '{address}'\n")


CLIENT = """
storage.tiered.broker.client:
  security_protocol: SASL_SSL
  sasl_plain_username: takhin
  sasl_plain_password: hunter2
  ssl: {key.password: 5}
"""


def test_the_brokers_client_is_a_mapping_whose_passwords_are_masked(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(DATA + CLIENT.replace("ssl: {key.password: 5}", "SSL_PASSWORD: 12345"))
    shown = dict(settings.items())["storage.tiered.broker.client"]
    assert "hunter2" not in shown + repr(settings) + settings.model_dump_json()
    assert "12345" not in shown
    assert '"sasl_plain_username": "takhin"' in shown
    plain = {
        "security_protocol": "SASL_SSL",
        "sasl_plain_username": "takhin",
        "sasl_plain_password": "hunter2",
        "SSL_PASSWORD": "12345",
    }
    assert settings.broker_arguments == plain
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_BROKER_CLIENT", json.dumps(plain))
    assert load(DATA).broker_arguments == plain
    assert Settings(data_dir="/srv/data", broker_client=plain).broker_arguments == plain
    assert load(DATA).source("storage.tiered.broker.client") == "TAKHIN_STORAGE_TIERED_BROKER_CLIENT"


@pytest.mark.parametrize("value", ["hunter2", "[hunter2]", "'{\"password\": hunter2'", "5"])
def test_a_client_that_is_no_mapping_is_told_and_not_repeated(load: Load, value: str) -> None:
    told = complaint(load, DATA + f"storage.tiered.broker.client: {value}\n")
    assert "must be a mapping, or JSON text of one" in told
    assert "hunter2" not in told


def test_prefixes_to_be_read_are_others_than_the_one_written_to(load: Load, tmp_path: Path) -> None:
    key = "storage.tiered.s3.prefixes.read"
    assert load(BUCKET + f"{key}: [old/one/, /two]\n").read_prefixes == ("old/one", "two")
    assert load(BUCKET + f"{key}: old/one,two\n").s3_prefixes_read == ("old/one", "two")
    for same in ("takhin-segments", "/takhin-segments/"):
        assert "the prefix that this daemon writes to" in complaint(load, BUCKET + f"{key}: [{same}]\n")
    assert key in complaint(load, BUCKET + f"{key}: ['']\n")
    assert "twice" in complaint(load, BUCKET + f"{key}: [a, b, a/]\n")
    directory = DATA + f"storage.tiered.directory.path: {tmp_path}/now\n"
    assert load(directory + f"{key}: [old, /mnt/older]\n").read_prefixes == (f"{tmp_path}/old", "/mnt/older")
    assert "the prefix that this daemon writes to" in complaint(load, directory + f"{key}: [x/../now]\n")


def test_a_program_may_name_fields_or_keys_and_no_others(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"storage.data.dir": tmp_path, "storage.tiered.api.port": 5}
    by_key = Settings(**keys)
    assert by_key.api_port == Settings(data_dir=tmp_path, api_port=5).api_port == 5
    with pytest.raises(ValidationError, match="bogus"):
        Settings(**{**keys, "bogus": 1})
    with pytest.raises(ValidationError):
        by_key.api_port = 6


def test_the_files_that_are_shipped_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(__file__).parents[2] / "configs"
    every_key = Settings.load(shipped / "takhin.yaml")
    assert dict(every_key.items()) == dict(Settings(data_dir=every_key.data_dir).items())
    assert complaint_of(shipped / "takhin-production.yaml").endswith(
        "set storage.tiered.api.token (TAKHIN_STORAGE_TIERED_API_TOKEN) or storage.tiered.api.tokens.file"
    )
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_API_TOKEN", "long-and-secret-0")
    assert Settings.load(shipped / "takhin-production.yaml").has_store


def complaint_of(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Settings.load(file)
    return str(caught.value)


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    """One of the two would be dropped, and with it what somebody excluded."""
    file = tmp_path / "takhin.yaml"
    file.write_text(
        f"storage:\n  data: {{dir: {tmp_path}}}\n  tiered:\n    topics: {{exclude: [secret]}}\n"
        "    topics: {include: [orders]}\n"
    )
    with pytest.raises(ConfigError, match=r"duplicate key 'topics'(.|\n)*line 5"):
        Settings.load(file)


def test_words_and_numbers_are_topics(tmp_path: Path) -> None:
    file = tmp_path / "takhin.yaml"
    tiered = "\r\n    auto: {archive: {enabled: off}}\r\n    topics: {include: [no, 2024]}\r\n"
    text = f"storage:\r\n  data: {{dir: {tmp_path}}}\r\n  tiered:{tiered}"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    settings = Settings.load(file)
    assert settings.topics_include == ("no", "2024")
    assert not settings.auto_archive_enabled


@pytest.mark.parametrize("section", ["teired", "tierd", "Tiered"])
def test_a_misspelt_section_is_not_taken_for_the_brokers(tmp_path: Path, section: str) -> None:
    file = tmp_path / "takhin.yaml"
    file.write_text(f"storage:\n  data: {{dir: {tmp_path}}}\n  {section}: {{enabled: true}}\n")
    with pytest.raises(ConfigError, match=rf"storage\.{section} .*did you mean storage\.tiered"):
        Settings.load(file)


def test_variables_of_kubernetes_are_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Services named takhin-storage-tiered and takhin-storage-tiered-api: the second's has the name of a key."""
    address = "tcp://10.3.1.2:8080"
    for name, value in {
        "SERVICE_HOST": "10.3.1.2", "SERVICE_PORT": "8080", "SERVICE_PORT_HTTP": "8080", "PORT": address,
        "PORT_8080_TCP": address, "PORT_8080_TCP_ADDR": "10.3.1.2", "PORT_8080_TCP_PORT": "8080",
        "PORT_8080_TCP_PROTO": "tcp", "API_PORT": address, "API_SERVICE_HOST": "10.3.1.2",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"TAKHIN_STORAGE_TIERED_{name}", value)
    monkeypatch.setenv("TAKHIN_STORAGE_DATA_DIR", str(tmp_path))
    assert Settings.load().api_port == 8080
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_ENABLD", "true")
    with pytest.raises(ConfigError, match="ENABLD"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "sse", "key"),
    [
        ("sse: AES256", "AES256", ""),
        ("sse: aes256", "AES256", ""),
        ("sse: aws:kms", "aws:kms", ""),
        ("sse: {kms: {key: 'arn:aws:kms:eu-west-1:1:key/2'}}", "aws:kms", "arn:aws:kms:eu-west-1:1:key/2"),
        ("sse: aws:kms\n      sse.kms.key: k", "aws:kms", "k"),
        ("sse: aws:kms:dsse\n      sse.kms: {key: k}", "aws:kms:dsse", "k"),
        ("sse.kms.key: k", "aws:kms", "k"),
        ("prefix: p", "", ""),
    ],
)
def test_encryption_is_a_value_or_a_section(tmp_path: Path, text: str, sse: str, key: str) -> None:
    file = tmp_path / "takhin.yaml"
    file.write_text(
        f"storage:\n  data: {{dir: {tmp_path}}}\n  tiered:\n    s3:\n      bucket: segments\n      {text}\n"
    )
    settings = Settings.load(file)
    assert (settings.sse, settings.s3_sse_kms_key) == (sse, key)


def test_what_a_bucket_demands_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "SSE": "aws:kms",
        "SSE_KMS_KEY": "k",
        "CHECKSUM": "md5",
        "REQUESTER_PAYS": "true",
        "CLASS_COLD": "STANDARD_IA",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"TAKHIN_STORAGE_TIERED_S3_{name}", value)
    settings = Settings(data_dir=tmp_path)
    found = (settings.sse, settings.s3_sse_kms_key, settings.s3_checksum, settings.s3_class_cold)
    assert (*found, settings.s3_requester_pays) == ("aws:kms", "k", "md5", "STANDARD_IA", True)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("s3.sse", "rot13", "AES256"),
        ("s3.sse", "AES256\nstorage.tiered.s3.sse.kms.key: k", "aws:kms or aws:kms:dsse, not AES256"),
        ("s3.checksum", "crc32", "sha256"),
        ("s3.class.cold", "standard ia", "STANDARD_IA"),
        ("s3.region", "eu central 1", "like eu-central-1"),
        ("s3.endpoint", "http://minio_server:9000", "refuses"),
        ("s3.endpoint", "http://-minio:9000", "refuses"),
    ],
)
def test_what_no_server_would_take_is_refused(tmp_path: Path, key: str, value: str, words: str) -> None:
    file = tmp_path / "takhin.yaml"
    file.write_text(f"{BUCKET}storage.tiered.{key}: {value}\n")
    assert words in complaint_of(file)


@pytest.mark.parametrize(
    "host", ["minio", "minio.example.com", "10.0.0.1:9000", "[::1]:9000", "s3.example.com.", "MinIO-1"]
)
def test_hosts_that_are_taken(tmp_path: Path, host: str) -> None:
    assert Settings(data_dir=tmp_path, s3_endpoint=f"https://{host}").s3_endpoint == f"https://{host}"


def test_hybrid_tables_are_a_list_in_yaml_and_json_in_the_environment(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[{name: orders, partition_key: customer, sort_key: id, timestamp: created_at, archive_after_days: 30}]"
    (table,) = load(DATA + f"storage.tiered.hybrid.tables: {text}\n").hybrid_tables
    assert (table.name, table.archive_after_days, table.template) == (
        "orders",
        30,
        "{tableName}/{partitionKey}/{sortKey}",
    )
    shown = dict(load(DATA + f"storage.tiered.hybrid.tables: {text}\n").items())["storage.tiered.hybrid.tables"]
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_HYBRID_TABLES", shown)
    assert load(DATA).hybrid_tables == (table,)


def test_a_node_is_named_like_its_host(load: Load) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", load(DATA).fleet_node)
    assert load(DATA + "storage.tiered.fleet.node: broker-1\n").fleet_node == "broker-1"
