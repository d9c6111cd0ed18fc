"""What an S3 server's error answers mean, and what a person is told to do."""

from __future__ import annotations

import pytest

from takhin_tiered.errors import StoreDenied
from takhin_tiered.store.s3.answers import meaning


def answer(code: str, status: int = 403) -> dict[str, dict[str, object]]:
    return {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"])
def test_a_request_at_a_wrong_time_is_a_matter_of_the_clock(code: str) -> None:
    error = meaning(answer(code), "get", "a-0/0.log", "s3://bucket")
    assert isinstance(error, StoreDenied)
    assert "clock" in error.hint
    assert "Check the credentials" not in str(error)


def test_a_refused_key_is_a_matter_of_the_credentials() -> None:
    assert "Check the credentials" in meaning(answer("InvalidAccessKeyId"), "get", "a-0/0.log", "s3://bucket").hint
