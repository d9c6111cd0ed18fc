"""What is set for single topics: validated, resolved once by the first glob per key, and named where it decided."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.config import Settings
from takhin_tiered.config_sources import variable
from takhin_tiered.errors import ConfigError
from takhin_tiered.segments import policy as policies
from takhin_tiered.segments.model import NO_FILES, Archive, FileStat, LocalFiles, Segment, Tier
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Step, Verb, make_plan
from takhin_tiered.segments.policy import Policy, TopicRules, classify
from takhin_tiered.vault.codecs import Codecs

NOW = 1_700_000_000.0
BASE = Policy(True, True, False, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=10_000)
KEY = "storage.tiered.topics.overrides"
Load = Callable[[str], Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(overrides: str) -> Settings:
        file = tmp_path / "takhin.yaml"
        file.write_text(f"storage.data.dir: {tmp_path}\nstorage:\n  tiered:\n{overrides}")
        return Settings.load(file)

    return load


def segment(topic: str, *, age: float = 500, offset: int = 0, proven: bool = False) -> Segment:
    files = LocalFiles(FileStat(100, round((NOW - age) * 1e9), 1))
    archive = Archive(1, 100, round((NOW - age) * 1e9), NOW, proven=files) if proven else None
    return Segment(SegmentId(topic, 0, offset), files, archive=archive)


def decided(one: Segment, policy: Policy) -> Step:
    return make_plan([one], [], policy, NOW).steps[0]


FORMS = [
    '    topics.overrides: {"orders-*": {cold.age.hours: 24, warm.age.hours: 1, archive.mode: copy}}\n',
    '    topics: {overrides: {"orders-*": {cold: {age.hours: 24}, warm.age: {hours: 1}, archive: {mode: copy}}}}\n',
]


@pytest.mark.parametrize("text", FORMS)
def test_keys_have_dots_or_are_nested_as_everywhere(load: Load, text: str) -> None:
    settings = load(text)
    rules = TopicRules(warm_age=3600.0, cold_age=86400.0, mode="copy")
    assert settings.policy.overrides == (("orders-*", rules),)


def test_the_environment_has_it_as_json_and_show_prints_that_form(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {"orders-*": {"s3.class.cold": "GLACIER_IR", "retention.hours": 0.0}, "*": {"compression.codec": "zstd"}}
    monkeypatch.setenv(variable(KEY), json.dumps(written))
    settings = load("    cold.age.hours: 100\n")
    assert json.loads(dict(settings.items())[KEY]) == written
    monkeypatch.setenv(variable(KEY), dict(settings.items())[KEY])
    assert load("    cold.age.hours: 100\n").topics_overrides == settings.topics_overrides
    assert settings.with_changes(settings, ["topics_overrides"]).topics_overrides == settings.topics_overrides


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{cold.age.hours: -1}", ["orders-*, cold.age.hours", "greater than 0"]),
        ("{cold.age.hours: soon}", ["orders-*, cold.age.hours", "number"]),
        ("{cold.age.hours: .nan}", ["orders-*, cold.age.hours", "finite"]),
        ("{cold.age.hour: 2}", ["orders-*", "unknown key cold.age.hour", "cold.age.hours"]),
        ("{enabled: true}", ["orders-*", "unknown key enabled"]),
        ("{archive.mode: delete}", ["orders-*, archive.mode", "'copy', 'trim' or 'move'"]),
        ("{s3.class.cold: cheap}", ["orders-*, s3.class.cold", "must be a storage class"]),
        ("{compression.codec: gzip}", ["orders-*, compression.codec"]),
        ("{retention.bytes: 0.5}", ["orders-*, retention.bytes"]),
        ("5", ["orders-*", "dictionary"]),
        ("{cold.age.hours: 24}", ["orders-*: warm.age.hours (72) must be less than cold.age.hours (24)"]),
        ("{warm.age.hours: 200}", ["orders-*: warm.age.hours (200) must be less than cold.age.hours (168)"]),
        ("{archive.mode: trim}", ["orders-*: archive.mode trim", "storage.tiered.broker.bootstrap"]),
    ],
)
def test_an_error_names_the_glob_and_the_key(load: Load, text: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as found:
        load(f'    topics.overrides: {{"orders-*": {text}}}\n')
    assert KEY in str(found.value)
    assert all(each in str(found.value) for each in told), str(found.value)


@pytest.mark.parametrize("text", ["[a]", "5", "'{broken'"])
def test_what_is_no_mapping_is_refused(load: Load, text: str) -> None:
    with pytest.raises(ConfigError, match=r"topics\.overrides"):
        load(f"    topics.overrides: {text}\n")


def test_the_first_glob_that_sets_a_key_counts_for_that_key() -> None:
    policy = replace(
        BASE,
        overrides=(
            ("orders-eu", TopicRules(cold_age=400.0)),
            ("orders-*", TopicRules(cold_age=700.0, mode="copy", retention_age=50.0)),
            ("*", TopicRules(warm_age=10.0, mode="trim", retention_size=5)),
        ),
    )
    eu, us, other = policy.of("orders-eu"), policy.of("orders-us"), policy.of("clicks")
    assert (eu.cold_age, eu.warm_age, eu.keep_local, eu.trims) == (400.0, 10.0, True, False)
    assert (us.cold_age, us.warm_age, us.keep_local, us.trims) == (700.0, 10.0, True, False)
    assert (other.cold_age, other.warm_age, other.keep_local, other.trims) == (1000.0, 10.0, True, True)
    assert (eu.max_age("orders-eu"), eu.max_size("orders-eu"), other.max_age("clicks")) == (50.0, 5, None)
    assert eu.origins == {
        "cold.age.hours": "orders-eu", "archive.mode": "orders-*", "retention.hours": "orders-*",
        "warm.age.hours": "*", "retention.bytes": "*",
    }  # fmt: skip
    assert (policy.trims_somewhere, policy.unlinks_somewhere) == (True, True)
    assert not replace(policy, broker_running=True).of("orders-eu").may_unlink


def test_a_retention_of_0_keeps_what_the_general_one_would_remove() -> None:
    rules = TopicRules(retention_age=0, retention_size=0)
    policy = replace(BASE, retention_age=(("*", 10.0),), retention_size=(("*", 1),), overrides=(("kept", rules),))
    kept = replace(segment("kept", age=5000, proven=True), local=NO_FILES)
    gone = replace(segment("other", age=5000, proven=True), local=NO_FILES)
    assert decided(kept, policy).verb is Verb.KEEP
    assert decided(gone, policy).verb is Verb.EXPIRE


def test_a_plan_of_many_segments_resolves_each_topic_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def counted(name: str, pattern: str) -> bool:
        asked.append((name, pattern))
        return fnmatch.fnmatchcase(name, pattern)

    monkeypatch.setattr(policies, "fnmatchcase", counted)
    policy = replace(BASE, overrides=(("a*", TopicRules(cold_age=5.0)),))
    some = [segment(topic, offset=offset) for topic in ("a", "b") for offset in range(500)]
    tiers = [classify(each, policy, NOW, sure=NOW) for each in some]
    assert (tiers.count(Tier.COLD), tiers.count(Tier.WARM)) == (500, 500)
    assert asked == [("a", "a*"), ("b", "a*")]


def test_the_reason_names_the_override_that_decided() -> None:
    def rules(**of: object) -> Policy:
        return replace(BASE, overrides=(("or*", TopicRules(**of)),))  # type: ignore[arg-type]

    def reason(policy: Policy, *, age: float = 500, proven: bool = False) -> str:
        return decided(segment("orders", age=age, proven=proven), policy).reason

    cold = rules(cold_age=400.0)
    assert reason(cold) == "cold, last modified 8 min ago (cold.age.hours of topics.overrides, or*)"
    assert reason(rules(cold_age=9000.0), age=5000) == (
        "warm, last modified 83 min ago (cold.age.hours of topics.overrides, or*)"
    )
    assert reason(rules(warm_age=900.0)) == "hot, last modified 8 min ago (warm.age.hours of topics.overrides, or*)"
    assert reason(rules(mode="copy"), age=5000, proven=True) == (
        "copied to the archive; mode copy keeps local files (archive.mode of topics.overrides, or*)"
    )
    assert "overrides" not in decided(segment("clicks", age=5000), cold).reason
    expired = replace(segment("orders", age=5000, proven=True), local=NO_FILES)
    assert "(retention.hours of topics.overrides, or*) is over" in decided(expired, rules(retention_age=9.0)).reason
    assert decided(expired, rules(retention_size=0)).verb is Verb.KEEP


def test_the_mode_of_a_topic_decides_what_is_done_with_it() -> None:
    policy = replace(BASE, overrides=(("kept", TopicRules(mode="copy")),))
    assert decided(segment("kept", age=5000), policy).verb is Verb.COPY
    assert decided(segment("other", age=5000), policy).verb is Verb.ARCHIVE
    assert decided(segment("kept", age=5000, proven=True), policy).reason_code == "copied"
    assert decided(segment("other", age=5000, proven=True), policy).verb is Verb.EVICT


def test_codec_and_class_are_those_of_the_topic(load: Load) -> None:
    settings = load(
        "    compression.topics: {clicks: zstd}\n"
        "    s3.class.cold: STANDARD_IA\n"
        '    topics.overrides: {"orders-*": {compression.codec: zstd, s3.class.cold: GLACIER_IR}, clicks: '
        "{compression.codec: none, s3.class.cold: ''}}\n"
    )
    codecs = Codecs()
    codecs.apply(settings, KeyRing())
    levels = {topic: codecs.level_for(topic) for topic in ("orders-eu", "clicks", "other")}
    assert levels == {"orders-eu": 3, "clicks": 0, "other": 0}
    classes = {topic: settings.policy.of(topic).class_of(Tier.COLD) for topic in ("orders-eu", "clicks", "other")}
    assert classes == {"orders-eu": "GLACIER_IR", "clicks": "", "other": "STANDARD_IA"}


def test_the_catalog_counts_tiers_by_the_ages_of_each_topic() -> None:
    policy = replace(
        BASE, overrides=(("a*", TopicRules(cold_age=5.0, warm_age=1.0)), ("w", TopicRules(warm_age=600.0)))
    )

    def counts(catalog: Catalog, policy: Policy) -> tuple[int, int, int]:
        found = catalog.stats(policy, NOW, sure=NOW)
        return found.hot_segments, found.warm_segments, found.cold_segments

    catalog = Catalog(None, policy.ages_of)
    for topic in ("a", "a2", "b", "w"):
        catalog.put(segment(topic))
    assert counts(catalog, policy) == (1, 1, 2)
    catalog.put(segment("a", age=3))
    assert counts(catalog, policy) == (1, 2, 1)
    catalog.remove(SegmentId("a2", 0, 0))
    assert counts(catalog, policy) == (1, 2, 0)
    catalog.put(segment("a", age=6))
    catalog.group_ages(BASE.ages_of)
    assert counts(catalog, BASE) == (1, 2, 0)
    catalog.group_ages(policy.ages_of)
    assert counts(catalog, policy) == (1, 1, 1)
    assert [each.id.topic for each in catalog.may_have_work(policy, NOW)] == ["a"]
