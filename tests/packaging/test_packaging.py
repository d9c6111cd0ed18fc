"""What ships besides the package agrees with it: example settings, unit, image, compose file."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from takhin_tiered import config, config_sources
from takhin_tiered.config import Settings
from takhin_tiered.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
TOKEN_VARIABLE = "TAKHIN_STORAGE_TIERED_API_TOKEN"
TOKEN = "a-token-0123456789"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TAKHIN_")]:
        monkeypatch.delenv(name)


def test_every_key_is_in_the_reference_file_with_its_default() -> None:
    written = config_sources.read_yaml(CONFIGS / "takhin.yaml", config._TABLES)
    settings = Settings.load(CONFIGS / "takhin.yaml")
    bare = Settings(data_dir="/var/lib/takhin/data")

    assert set(written) == set(keys()), "the file and Settings name other keys"
    assert written.pop("storage.data.dir") == "/var/lib/takhin/data"
    for key in written:
        name = keys()[key]
        assert shown(getattr(settings, name)) == shown(getattr(bare, name)), key


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

    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    settings = Settings.load(CONFIGS / "takhin-production.yaml")
    assert settings.enabled
    assert settings.has_store
    assert settings.api_token.get_secret_value() == TOKEN
    assert settings.source("storage.tiered.api.token") == TOKEN_VARIABLE


def test_the_unit_and_the_production_example_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
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
    assert set(services) == {"minio", "create-bucket", "takhin-tiered", "prometheus", "grafana"}
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


def keys() -> dict[str, str]:
    return {str(field.validation_alias): name for name, field in Settings.model_fields.items()}


def shown(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def read_yaml(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


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
