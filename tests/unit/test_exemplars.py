"""Metrics lead to the log: exemplars with correlation IDs, for scrapers that ask for OpenMetrics."""

from __future__ import annotations

import pytest

from takhin_tiered import logs
from takhin_tiered.metrics import CONTENT_TYPE, Metrics
from tests.promql import openmetrics

# What Prometheus 3 sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def test_an_exemplar_has_the_id_of_the_operation() -> None:
    assert logs.exemplar() is None, "an ID that no log line has leads nowhere"
    with logs.operation("archive", "orders-0/0.log", "abc"):
        assert logs.exemplar() == {"correlation_id": "abc"}
        assert logs.exemplar("of-another") == {"correlation_id": "of-another"}


def test_an_id_of_any_length_may_be_observed() -> None:
    metrics = Metrics()
    with logs.operation("archive", "", "x" * 5000):
        metrics.archive_seconds.observe(0.2, logs.exemplar())
    body, _ = metrics.render_for(PROMETHEUS)
    assert b'# {correlation_id="' + b"x" * 100 + b'"} 0.2 ' in body


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "text/html"])
def test_whoever_asks_for_no_openmetrics_gets_the_text_format(accept: str) -> None:
    metrics = Metrics()
    metrics.archives.labels("success").inc(1, {"correlation_id": "abc"})
    body, content_type = metrics.render_for(accept)
    assert content_type == CONTENT_TYPE
    assert b"correlation_id" not in body
    assert b'tiered_storage_archive_operations_total{result="success"} 1.0\n' in body


def test_openmetrics_has_the_exemplars_and_the_same_samples() -> None:
    metrics = Metrics()
    metrics.archives.labels("success").inc(1, {"correlation_id": "abc"})
    metrics.restore_seconds.observe(3, {"correlation_id": "def"})
    body, content_type = metrics.render_for(PROMETHEUS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert body.endswith(b"# EOF\n")
    found = {
        (sample.name, sample.labels.get("le")): sample.exemplar.labels
        for family in openmetrics(body.decode())
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert found == {
        ("tiered_storage_archive_operations_total", None): {"correlation_id": "abc"},
        ("tiered_storage_restore_duration_seconds_bucket", "5.0"): {"correlation_id": "def"},
    }
    plain = {line for line in metrics.render().decode().splitlines() if line.startswith("tiered_storage")}
    exact = {line.partition(" # ")[0] for line in body.decode().splitlines() if line.startswith("tiered_storage")}
    assert exact == plain
