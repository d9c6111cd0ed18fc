"""Whatever the API's own description allows, and what it does not: never an answer of 500, on a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support import Broker, daemon, directory_settings

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# Paths that there are: else nearly every request would end at its first check.
KNOWN = [f"orders-0/{offset:020d}.log" for offset in (0, 20, 40, 60)]


@pytest.fixture(scope="module")
def broker_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, str]]:
    home = tmp_path_factory.mktemp("api")
    broker = Broker(home / "data")
    broker.root.mkdir()
    broker.segments("orders-0", 3)
    settings = directory_settings(broker, home / "store", archive_mode="copy")
    with daemon(settings, home / "log") as running:
        yield broker, running.wait_serving()
        running.require_alive()
        assert "Traceback" not in Path(home / "log").read_text()


@pytest.mark.long
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
def test_no_request_makes_the_daemon_fail(broker_served: tuple[Broker, str], mode: GenerationMode) -> None:
    broker, address = broker_served
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    tried = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode), known=st.sampled_from([None, *KNOWN]))
        @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def ask(case: schemathesis.Case[Any], known: str | None) -> None:
            nonlocal tried
            if known and isinstance(case.body, dict) and "segment_path" in case.body:
                case.body["segment_path"] = known
            if known and "segment_path" in (case.path_parameters or {}):
                case.path_parameters["segment_path"] = known
            case.call_and_validate(checks=CHECKS)
            tried += 1

        # An operation without any parameter has nothing that could be wrong.
        with suppress(Unsatisfiable):
            ask()
    assert tried >= 100
    assert all((broker.root / name).read_bytes() == content for name, content in broker.files.items())
