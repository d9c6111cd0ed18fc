"""What ships besides the package agrees with it: example settings, unit, image, compose file, alerts."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from takhin_tiered.config import Settings
from takhin_tiered.errors import ConfigError
from takhin_tiered.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
TOKEN_VARIABLE = "TAKHIN_STORAGE_TIERED_API_TOKEN"
PROMQL_WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool"}
# Prometheus makes this one itself, for each scrape.
PROMETHEUS_OWN = {"up"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TAKHIN_")]:
        monkeypatch.delenv(name)


def test_every_key_is_in_the_reference_file_with_its_default() -> None:
    written = dict(flatten(read_yaml(CONFIGS / "takhin.yaml")))
    settings = Settings.load(CONFIGS / "takhin.yaml")

    assert set(written) == set(keys()), "the file and Settings name other keys"
    assert written.pop("storage.data.dir") == "/var/lib/takhin/data"
    for key in written:
        name = keys()[key]
        assert shown(getattr(settings, name)) == shown(Settings.model_fields[name].default), key


def test_the_reference_file_moves_nothing() -> None:
    assert not Settings.load(CONFIGS / "takhin.yaml").enabled


def test_every_key_of_the_reference_file_is_explained() -> None:
    lines = (CONFIGS / "takhin.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r" *[a-z0-9]+: +\S", line):
            assert before.lstrip().startswith("#"), f"no comment above: {line.strip()}"


def test_the_production_example_takes_its_token_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"storage\.tiered\.api\.token"):
        Settings.load(CONFIGS / "takhin-production.yaml")

    monkeypatch.setenv(TOKEN_VARIABLE, "a-token")
    settings = Settings.load(CONFIGS / "takhin-production.yaml")
    assert settings.enabled
    assert settings.has_store
    assert settings.api_token.get_secret_value() == "a-token"
    assert settings.source("storage.tiered.api.token") == TOKEN_VARIABLE
    assert not settings.without_effect()


def test_the_unit_and_the_production_example_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token")
    settings = Settings.load(CONFIGS / "takhin-production.yaml")
    unit = read_unit()
    [writable] = unit["ReadWritePaths"]
    assert settings.data_dir.is_relative_to(writable.removeprefix("-"))
    assert settings.state_dir == Path("/var/lib", *unit["StateDirectory"])


def test_the_unit_starts_a_command_of_this_package() -> None:
    [command] = read_unit()["ExecStart"]
    program, *arguments = shlex.split(command)
    assert Path(program).is_absolute()
    assert Path(program).name in read_scripts()
    assert arguments == ["run"]


def test_the_unit_speaks_as_the_daemon_does() -> None:
    unit = read_unit()
    assert unit["Type"] == ["notify"]
    assert unit["RestartPreventExitStatus"] == [str(ConfigError.exit_code)]
    assert unit["User"] not in ([], ["root"])


def test_the_image_runs_a_command_of_this_package_as_an_ordinary_user() -> None:
    final = final_stage()
    (entry,) = re.findall(r"^ENTRYPOINT \[\"([a-z-]+)\"\]$", final, re.MULTILINE)
    assert entry in read_scripts()
    assert re.search(r"^CMD \[\"run\"\]$", final, re.MULTILINE)

    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", final, re.MULTILINE))
    user = re.findall(r"^USER (\S+)$", final, re.MULTILINE)[-1]
    number, _, group = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], user).partition(":")
    assert number.isdigit(), "by number: only so can an orchestrator see that it is not root"
    assert int(number) > 0
    assert int(group) > 0


def test_what_the_image_copies_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == allowed


def test_the_services_of_the_compose_file() -> None:
    services = read_yaml(ROOT / "docker-compose.yml")["services"]
    assert set(services) == {"minio", "create-bucket", "takhin-tiered", "prometheus"}
    for name, service in services.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to other machines"
        for needed in service.get("depends_on", {}):
            assert needed in services


def test_the_settings_of_the_compose_file_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = read_yaml(ROOT / "docker-compose.yml")["services"]["takhin-tiered"]["environment"]
    for name, value in variables.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
    settings = Settings.load()
    assert settings.enabled
    assert settings.s3_endpoint == "http://minio:9000"
    assert settings.api_token.get_secret_value()


def test_prometheus_scrapes_the_job_that_the_alerts_watch() -> None:
    config = read_yaml(CONFIGS / "prometheus.yml")
    for rules in config["rule_files"]:
        assert (CONFIGS / rules).is_file()
    [job] = config["scrape_configs"]
    [expression] = [rule["expr"] for rule in read_rules() if rule["alert"] == "TakhinTieredDown"]
    assert f'job="{job["job_name"]}"' in expression


def test_every_metric_in_the_alerts_is_exported() -> None:
    exported = exported_names()
    for rule in read_rules():
        used = metric_names(rule["expr"])
        assert used, rule["alert"]
        assert used <= exported | PROMETHEUS_OWN, f"{rule['alert']}: {used - exported - PROMETHEUS_OWN}"


def test_every_alert_is_tested_by_promtool_both_ways() -> None:
    cases = [
        case for test in read_yaml(CONFIGS / "alerts_test.yml")["tests"] for case in test.get("alert_rule_test", ())
    ]
    alerts = {rule["alert"] for rule in read_rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_names_are_found_in_expressions() -> None:
    expression = 'sum by (job) (increase(tiered_a_total{result="failure"}[3h])) > 1.5e3 and tiered_b offset 6h'
    assert metric_names(expression) == {"tiered_a_total", "tiered_b"}


def keys() -> dict[str, str]:
    return {str(field.validation_alias): name for name, field in Settings.model_fields.items()}


def shown(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def read_yaml(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


def flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from flatten(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def read_unit() -> dict[str, list[str]]:
    """Each directive with its values: a unit file may say one twice."""
    found: dict[str, list[str]] = {}
    for line in (CONFIGS / "takhin-tiered.service").read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def read_scripts() -> dict[str, str]:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert isinstance(scripts, dict)
    return scripts


def final_stage() -> str:
    return re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[-1]


def read_rules() -> list[dict[str, Any]]:
    return [rule for group in read_yaml(CONFIGS / "alerts.yml")["groups"] for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    """The metrics that a PromQL expression names: what is neither label, range, number, function nor operator."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    bare = re.sub(r"\boffset\s+\w+", " ", bare)
    words = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\w|\s*\()", bare)
    return {word for word in words if word not in PROMQL_WORDS}


def exported_names() -> set[str]:
    """Every name that may have samples: those that it has now, and those of labelled metrics without any yet."""
    text = Metrics().render().decode()
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | set(re.findall(r"^([a-z]\w*)", text, re.MULTILINE))
