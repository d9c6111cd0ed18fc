"""The policy of docs/security.md is enough, and is enforced: on MinIO, where there is one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import botocore.session
import pytest
from botocore.exceptions import ClientError

from takhin_tiered.formats.sample import make_segment
from tests.support import REGION, Bucket, find_minio

pytestmark = pytest.mark.skipif(find_minio() is None, reason="there is no MinIO")

_PAGE = Path(__file__).parents[2] / "docs/security.md"
_BUCKET, _PREFIX = "my-segments", "takhin-segments"


@pytest.fixture
def limited(minio_endpoint: str) -> dict[str, str]:
    """Variables with credentials that may do what the policy of the page allows, and nothing else."""
    (policy,) = re.findall(r"```json\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    client = botocore.session.get_session().create_client("sts", region_name=REGION, endpoint_url=minio_endpoint)
    answer = client.assume_role(
        RoleArn="arn:aws:iam::123456789012:role/any", RoleSessionName="limited", Policy=json.dumps(json.loads(policy))
    )
    given = answer["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
        "AWS_SESSION_TOKEN": given["SessionToken"],
    }


def test_the_policy_of_the_page_is_enough(minio_endpoint: str, limited: dict[str, str], tmp_path: Path) -> None:
    Bucket(minio_endpoint, _BUCKET, _PREFIX).client.create_bucket(Bucket=_BUCKET)
    _refuses_the_rest(minio_endpoint, limited)
    data = tmp_path / "data"
    (data / "orders-0").mkdir(parents=True)
    base = 0
    for size in (300_000, 70 << 20, 300_000):  # the second one is uploaded in parts
        made = make_segment(base, size)
        for kind, content in (("log", made.log), ("index", made.index), ("timeindex", made.timeindex)):
            file = data / "orders-0" / f"{base:020d}.{kind}"
            file.write_bytes(content)
            os.utime(file, (1_700_000_000, 1_700_000_000))
        base = made.next_offset
    (tmp_path / "takhin.yaml").write_text(
        json.dumps(
            {
                "storage.data.dir": str(data),
                "storage.tiered.enabled": True,
                "storage.tiered.s3.bucket": _BUCKET,
                "storage.tiered.s3.prefix": _PREFIX,
                "storage.tiered.s3.endpoint": minio_endpoint,
            }
        )
    )
    logs = {file.name: file.read_bytes() for file in data.rglob("*.log")}

    def run(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "takhin_tiered", "--config", str(tmp_path / "takhin.yaml"), *arguments],
            env={**os.environ, **limited}, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    assert "list, put, get and delete are allowed" in run("doctor")
    run("run", "--once")
    assert len(list(data.rglob("*.log"))) == 1
    run("verify", "--deep")
    run("restore", "orders-0/*")
    run("rebuild")
    assert {file.name: file.read_bytes() for file in data.rglob("*.log")} == logs


def _refuses_the_rest(endpoint: str, limited: dict[str, str]) -> None:
    client = botocore.session.get_session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=limited["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=limited["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=limited["AWS_SESSION_TOKEN"],
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket=_BUCKET, Key="elsewhere", Body=b"x")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.get_bucket_policy(Bucket=_BUCKET)
