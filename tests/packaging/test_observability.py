"""Dashboard and alerts name what the daemon exports, and every problem that ``status --check`` reports has an alert."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from takhin_tiered.metrics import Metrics
from tests.promql import OF_PROMETHEUS, exported_names, metric_names, openmetrics
from tests.support import Broker, daemon, directory_settings
from tests.unit.test_docs import headings

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SEVERITIES = {"critical", "warning"}


def test_prometheus_scrapes_the_job_that_the_alerts_watch() -> None:
    config = read_yaml(CONFIGS / "prometheus.yml")
    for rules in config["rule_files"]:
        assert (CONFIGS / rules).is_file()
    [job] = config["scrape_configs"]
    [expression] = [rule["expr"] for rule in read_rules() if rule["alert"] == "TakhinTieredDown"]
    assert f'job="{job["job_name"]}"' in expression


def test_every_metric_in_the_alerts_is_exported() -> None:
    exported = exported_names(Metrics().render().decode())
    for rule in read_rules():
        used = metric_names(rule["expr"])
        assert used, rule["alert"]
        assert used <= exported | OF_PROMETHEUS, f"{rule['alert']}: {used - exported - OF_PROMETHEUS}"


def test_every_problem_of_the_status_has_an_alert_and_no_alert_names_another() -> None:
    alerts = {rule["labels"].get("problem") for rule in read_rules()}
    assert alerts - {None} == codes()


def test_the_page_explains_every_problem() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.partition("| line begins with | label `problem`")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\|[^|]+\| `(\w+)` \|", table, re.MULTILINE)) == codes()


def test_every_alert_says_what_to_do_and_where_it_is_written() -> None:
    anchors = headings(ROOT / "docs" / "runbooks.md")
    for rule in read_rules():
        annotations = rule["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}, rule["alert"]
        assert rule["labels"]["severity"] in SEVERITIES
        page, _, anchor = annotations["runbook_url"].partition("#")
        assert page == "docs/runbooks.md"
        assert anchor in anchors, rule["alert"]


def test_every_alert_is_tested_by_promtool_both_ways() -> None:
    cases = [
        case for test in read_yaml(CONFIGS / "alerts_test.yml")["tests"] for case in test.get("alert_rule_test", ())
    ]
    alerts = {rule["alert"] for rule in read_rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


@pytest.mark.long
def test_promtool_accepts_the_alerts_and_their_tests() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_names_are_found_in_expressions() -> None:
    expression = 'sum by (job) (increase(tiered_a_total{result="failure"}[3h])) > 1.5e3 and tiered_b offset 6h'
    assert metric_names(expression) == {"tiered_a_total", "tiered_b"}


def test_every_metric_on_the_dashboard_is_exported() -> None:
    exported = exported_names(Metrics().render().decode())
    used = {name for expression in expressions() for name in metric_names(expression)}
    assert len(used) > 40
    assert used - exported == set()


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_panels_have_titles_units_and_a_place_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in read_dashboard()["panels"]:
        assert panel["title"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]


def test_the_panels_ask_the_data_source_that_a_person_chooses() -> None:
    variables = {variable["name"] for variable in read_dashboard()["templating"]["list"]}
    assert variables == {"datasource", "job", "instance"}
    for panel in read_dashboard()["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"


def test_grafana_finds_in_the_compose_file_what_it_is_given() -> None:
    services = read_yaml(ROOT / "docker-compose.yml")["services"]
    mounted = {
        inside: ROOT / outside
        for outside, inside, mode in (volume.split(":") for volume in services["grafana"]["volumes"])
        if mode == "ro"
    }
    assert all(path.is_file() for path in mounted.values())
    [provider] = read_yaml(CONFIGS / "grafana-provider.yml")["providers"]
    boards = [inside for inside, path in mounted.items() if path.name == "grafana-dashboard.json"]
    assert [Path(inside).parent for inside in boards] == [Path(provider["options"]["path"])]
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in boards
    [source] = read_yaml(CONFIGS / "grafana-datasource.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    assert "--enable-feature=exemplar-storage" in services["prometheus"]["command"]


@pytest.mark.long
def test_a_real_daemon_exports_all_of_it_with_exemplars_that_its_log_has(broker: Broker, tmp_path: Path) -> None:
    [path, *_] = broker.segments("orders-0", 3)
    settings = directory_settings(broker, tmp_path / "store", api_port=0)
    log = tmp_path / "log"
    with daemon(settings, log) as running:
        running.wait_logged("cycle ended")
        answer = running.request("POST", "/api/v1/tiered/restore", json={"segment_path": path})
        assert answer.status_code == 200, answer.text
        asked = answer.headers["x-correlation-id"]
        plain = running.request("GET", "/metrics")
        scraped = running.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
        assert running.stop() == 0

    exported = exported_names(plain.text)
    named = {name for rule in read_rules() for name in metric_names(rule["expr"])}
    named |= {name for expression in expressions() for name in metric_names(expression)}
    assert named - exported - OF_PROMETHEUS == set()

    assert scraped.headers["content-type"].startswith("application/openmetrics-text")
    exemplars = {
        sample.name: sample.exemplar.labels["correlation_id"]
        for family in openmetrics(scraped.text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert exemplars["tiered_storage_restore_duration_seconds_bucket"] == asked
    assert exemplars["tiered_storage_restore_operations_total"] == asked
    logged = log.read_text()
    for name in ("archive_duration_seconds_bucket", "archive_operations_total", "cycle_duration_seconds_bucket"):
        assert f'"correlation_id": "{exemplars[f"tiered_storage_{name}"]}"' in logged

    said = promtool("check", "metrics", given=plain.text, may_fail=True)
    # The two gauges keep the names that dashboards of earlier systems use.
    lines = [line for line in said.splitlines() if line.strip()]
    allowed = ("tiered_storage_segments_total", "tiered_storage_archived_segments_total")
    assert [line for line in lines if not line.startswith(allowed)] == []


def codes() -> set[str]:
    """Of all problems that the status may have."""
    source = (ROOT / "takhin_tiered/segments/troubles.py").read_text()
    made = [
        node.args[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Trouble"
    ]
    found = {node.value for node in made if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert len(made) >= len(found) >= 10
    assert all(isinstance(node, ast.Constant) for node in made), "a code is written where the problem is"
    return found


def promtool(*arguments: str, given: str | None = None, may_fail: bool = False) -> str:
    """What it says. Without promtool (Debian: prometheus) the test is skipped."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool: `apt-get install prometheus` brings it")
    ended = subprocess.run(
        [program, *arguments], cwd=CONFIGS, input=given, capture_output=True, text=True, check=False, timeout=110
    )
    assert may_fail or ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stderr if given is not None else ended.stdout


def read_dashboard() -> dict[str, Any]:
    found = json.loads((CONFIGS / "grafana-dashboard.json").read_text())
    assert isinstance(found, dict)
    return found


def expressions() -> Iterator[str]:
    dashboard = read_dashboard()
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        if asked := re.fullmatch(r"label_values\((.*), \w+\)", variable.get("definition", "")):
            yield asked[1]


def read_yaml(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


def read_rules() -> list[dict[str, Any]]:
    return [rule for group in read_yaml(CONFIGS / "alerts.yml")["groups"] for rule in group["rules"]]
