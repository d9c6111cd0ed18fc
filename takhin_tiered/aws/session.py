"""A session of the SDK, with credentials that are looked for again."""

from __future__ import annotations

import aioboto3
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError

from takhin_tiered.aws.credentials import LiveCredentials

USER_AGENT = "takhin-tiered"

UNUSABLE = (BotoCoreError, ValueError, LookupError, TypeError, OSError)
"""What the SDK raises where its environment, its files or an address make no sense."""


def new_sdk_session(credentials: LiveCredentials) -> AioSession:
    sdk = get_session()
    sdk.register_component("credential_provider", credentials)
    return sdk


def wrap(sdk: AioSession, region: str) -> aioboto3.Session:
    """``region`` may be empty: then the SDK looks for one."""
    return aioboto3.Session(region_name=region or None, botocore_session=sdk)


def verify_option(endpoint: str) -> bool | None:
    """In the clear there are no certificates to be loaded: that takes a twentieth of a start."""
    return False if endpoint.startswith("http://") else None
