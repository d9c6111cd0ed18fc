"""What botocore reads of its service models: once in a process. It takes longer than what most tests do."""

from __future__ import annotations

from functools import cache

import botocore.session
from botocore.loaders import create_loader


def share_models() -> None:
    """Let all sessions share one loader for each search path. A loader keeps what it read, and nobody changes that."""
    botocore.session.create_loader = cache(create_loader)


def load_models() -> None:
    """Read now what clients of these services will ask for."""
    session = botocore.session.get_session()
    for service in ("s3", "dynamodb"):
        session.create_client(service, "us-east-1", aws_access_key_id="a", aws_secret_access_key="a").close()
