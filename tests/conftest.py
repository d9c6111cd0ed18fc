"""Fixtures: each test has a data directory and a bucket of its own; the server is shared by a session."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings

from takhin_tiered import points
from tests.models import share_models
from tests.support import REGION, AtPoint, Broker, Bucket, find_minio, minio, ministack
from tests.tables import Dynamo

# How long an example takes says more of the machine than of the code.
settings.register_profile("takhin", deadline=None)
settings.load_profile("takhin")
share_models()

# A shell starts what it runs in the background with the first ignored, and nohup with the second: whatever a test
# starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# For every process that a test starts, and for the SDK in this one.
os.environ.setdefault("AWS_ACCESS_KEY_ID", "takhintest")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "takhintest")
os.environ["AWS_DEFAULT_REGION"] = REGION
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
for name in [name for name in os.environ if name.startswith("TAKHIN_") and not name.startswith("TAKHIN_TEST_")]:
    del os.environ[name]


@pytest.fixture(scope="session")
def s3_endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """A real S3 server: ``$TAKHIN_TEST_S3_ENDPOINT``, MinIO if asked for, else ministack in a process of its own."""
    given = os.environ.get("TAKHIN_TEST_S3_ENDPOINT")
    if given:
        yield given
        return
    if os.environ.get("TAKHIN_TEST_SERVER") == "minio":
        yield request.getfixturevalue("minio_endpoint")
        return
    with ministack() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def minio_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = find_minio()
    assert binary is not None
    with minio(binary, tmp_path_factory.mktemp("minio")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str) -> Iterator[Bucket]:
    """A new bucket on the shared server."""
    yield from new_bucket(s3_endpoint)


def new_bucket(endpoint: str) -> Iterator[Bucket]:
    made = Bucket(endpoint, f"takhin-test-{uuid4().hex[:20]}")
    made.client.create_bucket(Bucket=made.name)
    yield made
    made.close()


@pytest.fixture(scope="session")
def dynamodb_endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """A real DynamoDB server: ``$TAKHIN_TEST_DYNAMODB_ENDPOINT``, such as of moto, else ministack, shared with S3."""
    given = os.environ.get("TAKHIN_TEST_DYNAMODB_ENDPOINT")
    if given:
        yield given
    elif os.environ.get("TAKHIN_TEST_SERVER") == "minio" or os.environ.get("TAKHIN_TEST_S3_ENDPOINT"):
        with ministack() as endpoint:
            yield endpoint
    else:
        yield request.getfixturevalue("s3_endpoint")


@pytest.fixture
def dynamo(dynamodb_endpoint: str) -> Iterator[Dynamo]:
    made = Dynamo(dynamodb_endpoint)
    yield made
    made.close()


@pytest.fixture
def at_point() -> Iterator[AtPoint]:
    """Do something once, when a verb reaches a named point."""

    def install(name: str, action: Callable[[], object]) -> list[str]:
        seen: list[str] = []

        def hook(point: str) -> None:
            if point == name:
                points.hook = None
                seen.append(point)
                action()

        points.hook = hook
        return seen

    yield install
    points.hook = None


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    """A broker's data directory, empty."""
    root = tmp_path / "data"
    root.mkdir()
    return Broker(root)
