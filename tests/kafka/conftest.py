"""Fixtures: a broker of each release for each test, which ends with the test, however that ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="make test-kafka installs the Kafka clients")

from tests.kafka.broker import VERSIONS, Kafka, find_jars
from tests.kafka.clients import Clients
from tests.kafka.program import Program
from tests.kafka.recorded import Recording, shared

NewKafka = Callable[..., Kafka]
NewProgram = Callable[..., Program]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/kafka/" in str(item.path):
            item.add_marker(pytest.mark.timeout(480))


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    wanted = str(request.param)
    if shutil.which("java") is None or find_jars(wanted) is None:
        pytest.skip(f"there is no Java, or there are no jars of Kafka {wanted}: see make test-kafka")
    return wanted


@pytest.fixture
def new_kafka(tmp_path: Path, version: str) -> Iterator[NewKafka]:
    """Make brokers: `new_kafka(log_dirs=2, log_roll_ms=2000)`. They are not started."""
    made: list[Kafka] = []

    def make(**settings: Any) -> Kafka:
        made.append(Kafka(tmp_path / f"kafka{len(made) or ''}", version, **settings))
        return made[-1]

    yield make
    for broker in made:
        broker.kill()
        for directory in broker.log_dirs:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def kafka(new_kafka: NewKafka) -> Kafka:
    """A running broker, with nothing in it."""
    broker = new_kafka()
    broker.start()
    return broker


@pytest.fixture
def clients(kafka: Kafka) -> Clients:
    return Clients(kafka.bootstrap)


@pytest.fixture
def new_program(tmp_path: Path, kafka: Kafka) -> NewProgram:
    """The program beside the broker, with keys as `Program` takes them."""

    def make(**keys: object) -> Program:
        return Program(tmp_path, kafka, **keys)

    return make


@pytest.fixture(scope="session", params=VERSIONS)
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """Topics of a broker of this release, for the tests of the endpoint. All processes of a run share it."""
    wanted = str(request.param)
    if shutil.which("javac") is None or find_jars(wanted) is None:
        pytest.skip(f"there is no JDK, or there are no jars of Kafka {wanted}: see make test-kafka")
    place = tmp_path_factory.getbasetemp()
    with shared((place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "recorded", wanted) as found:
        yield found
