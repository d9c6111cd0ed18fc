"""The Kubernetes example and the Helm chart agree with the program: keys, variables, commands, ports, paths, rights."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from takhin_tiered.cli.main import app
from takhin_tiered.config import Settings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "configs/helm/takhin-tiered"
SIDECAR = ROOT / "configs/kubernetes/sidecar.yaml"
BROKER = ["--set", "brokers[0].name=kafka-0", "--set", "brokers[0].claim=data-kafka-0"]
TOKEN = ["--set", "secret.apiToken=a-token"]
BUCKET = ["--set", "config.storage.tiered.s3.bucket=my-segments"]
ALL = [
    *BROKER, *TOKEN, *BUCKET, "--set", "brokers[1].name=kafka-1", "--set", "brokers[1].claim=data-kafka-1",
    "--set", "serviceMonitor.enabled=true", "--set", "prometheusRule.enabled=true", "--set", "data.subdirectory=logs",
    "--set", "encryptionKeysSecret=keys", "--set", "state.storageClassName=fast", "--set", "priorityClassName=low",
    "--set", "env[0].name=AWS_REGION", "--set", "env[0].value=eu-central-1", "--set", "podAnnotations.a=b",
]  # fmt: skip
NAMES = {f"TAKHIN_{str(field.validation_alias).upper().replace('.', '_')}" for field in Settings.model_fields.values()}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TAKHIN_")]:
        monkeypatch.delenv(name)


def test_the_sidecar_is_set_up_as_the_program_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = list(yaml.safe_load_all(SIDECAR.read_text()))
    [workload] = of_kind(documents, "StatefulSet")
    containers = workload["spec"]["template"]["spec"]["containers"]
    [broker, ours] = containers
    settings = check_pod(documents, workload, ours, tmp_path, monkeypatch)
    assert settings.mode(kafka=True) == "trim"
    assert settings.broker_bootstrap
    logs = {each["name"]: each.get("value") for each in broker["env"]}["KAFKA_LOG_DIRS"]
    assert settings.data_dir == Path(logs)
    # A Pod of a broker must not become unready because the store is down.
    assert "readinessProbe" not in ours


def test_every_variable_in_the_chart_is_a_setting() -> None:
    text = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = set(re.findall(r"\bTAKHIN_STORAGE_\w+", text))
    assert used
    assert used - NAMES == set()


def test_the_values_have_settings_that_there_are(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    file = tmp_path / "takhin.yaml"
    given = {"storage.data.dir": str(tmp_path), "storage.tiered.s3.bucket": "my-segments"}
    del values["config"]["storage"]["tiered"]["s3"]["bucket"]
    file.write_text(yaml.safe_dump({**values["config"], **given}))
    settings = Settings.load(file)
    assert settings.enabled


def test_the_chart_is_of_this_version() -> None:
    import takhin_tiered

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == takhin_tiered.__version__


@pytest.mark.parametrize("values", [[*BROKER, *TOKEN, *BUCKET], ALL], ids=["least", "most"])
def test_the_chart_is_set_up_as_the_program_expects(
    values: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = render(values)
    workloads = of_kind(documents, "StatefulSet")
    prefixes = set()
    for number, workload in enumerate(workloads):
        pod = workload["spec"]["template"]["spec"]
        [ours] = pod["containers"]
        settings = check_pod(documents, workload, ours, tmp_path, monkeypatch)
        assert ours["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == f"data-kafka-{number}"
        wanted = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["labelSelector"]
        assert wanted["matchLabels"] == {"statefulset.kubernetes.io/pod-name": f"kafka-{number}"}
        prefixes.add(settings.s3_prefix)
    assert len(prefixes) == len(workloads), "each broker has its own prefix"
    [service] = of_kind(documents, "Service")
    [account] = of_kind(documents, "ServiceAccount")
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    if values is ALL:
        [monitor] = of_kind(documents, "ServiceMonitor")
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "takhin-tiered"
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
        [rules] = of_kind(documents, "PrometheusRule")
        assert rules["spec"] == yaml.safe_load((ROOT / "configs/alerts.yml").read_text())


def test_the_chart_has_the_alerts() -> None:
    """A chart is packed by itself, so it has a copy; `make configuration` makes it anew."""
    assert (CHART / "alerts.yml").read_bytes() == (ROOT / "configs/alerts.yml").read_bytes()


@pytest.mark.parametrize(
    ("values", "words"),
    [([*TOKEN, *BUCKET], "brokers is empty"), ([*BROKER, *BUCKET], "secret.apiToken is empty")],
)
def test_the_chart_says_what_is_missing(values: list[str], words: str) -> None:
    assert words in helm(values).stderr


def check_pod(
    documents: list[dict[str, Any]],
    workload: dict[str, Any],
    ours: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """The settings that the daemon would have in a container, which must find all that they name."""
    pod = workload["spec"]["template"]["spec"]
    assert set(ours["args"]) <= set(typer.main.get_group(app).commands)
    assert "command" not in ours, "the image's own entry point"

    [config] = of_kind(documents, "ConfigMap")
    file = tmp_path / "takhin.yaml"
    file.write_text(config["data"]["takhin.yaml"])
    for each in ours["env"]:
        if each["name"].startswith("TAKHIN_"):
            assert each["name"] in NAMES
            monkeypatch.setenv(each["name"], each["value"].replace("$(POD_NAME)", "kafka-0"))
    monkeypatch.setenv("TAKHIN_STORAGE_TIERED_API_TOKEN", "a-token")
    settings = Settings.load(file)
    assert settings.enabled
    assert settings.has_store

    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in ours["volumeMounts"]}
    assert settings.data_dir.is_relative_to(mounts["data"])
    assert settings.state_dir == mounts["state"]
    assert mounts["config"] == Path("/etc/takhin")
    assert mounts["tmp"] == Path("/tmp")
    claimed = {claim["metadata"]["name"] for claim in workload["spec"]["volumeClaimTemplates"]}
    assert "state" in claimed, "the identity of the owner survives the Pod"
    assert set(mounts) == claimed & set(mounts) | {volume["name"] for volume in pod["volumes"]}

    [port] = ours["ports"]
    assert port["containerPort"] == settings.api_port
    for name in ("startupProbe", "livenessProbe"):
        assert ours[name]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    ports = [each for service in of_kind(documents, "Service") for each in service["spec"]["ports"]]
    assert settings.api_port in {each["port"] for each in ports}

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert ours["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    # A Service named takhin-… would else set TAKHIN_… variables.
    assert pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert ours["resources"]["limits"]["memory"]
    return settings


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def helm(values: list[str]) -> subprocess.CompletedProcess[str]:
    """Of the path, or as `.ci/check-packaging.sh` builds it. Without one the test is skipped."""
    places = os.pathsep.join([str(ROOT / ".make/packaging/bin"), os.environ["PATH"]])
    program = shutil.which("helm", path=places)
    if program is None:
        pytest.skip("there is no helm: BUILD_HELM=1 .ci/check-packaging.sh builds one, where Go is")
    return subprocess.run(
        [program, "template", "archive", str(CHART), "--kube-version", "1.30", *values],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def render(values: list[str]) -> list[dict[str, Any]]:
    ended = helm(values)
    assert ended.returncode == 0, ended.stderr
    return [document for document in yaml.safe_load_all(ended.stdout) if document]
