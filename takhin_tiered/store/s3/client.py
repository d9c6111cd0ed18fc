"""The SDK's client: made when it is first needed, and tried again where it could not be made.

What stands in its environment may be wrong today and right tomorrow: a profile, a file of settings, a host's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from aiobotocore.config import AioConfig
from botocore.utils import parse_timestamp

from takhin_tiered.aws.credentials import LiveCredentials
from takhin_tiered.aws.session import UNUSABLE, USER_AGENT, new_sdk_session, verify_option, wrap
from takhin_tiered.errors import StoreDenied
from takhin_tiered.store.deadlines import Deadlines

_HINT = (
    "Check AWS_PROFILE and the other AWS_ variables, the files ~/.aws/config and ~/.aws/credentials, "
    "storage.tiered.s3.endpoint and .region; it is tried again at the next request"
)


class Client:
    """``get`` is the SDK's client; ``credentials`` are those that it signs with."""

    def __init__(self, region: str, endpoint: str, connections: int, deadlines: Deadlines) -> None:
        self._region, self._endpoint = region, endpoint
        self._connections, self._deadlines = connections, deadlines
        self._stack = AsyncExitStack()
        self._making = asyncio.Lock()
        self._made: Any = None
        self.credentials = LiveCredentials(region)

    async def get(self, http_session_cls: Callable[..., Any], use: Callable[[Any], None]) -> Any:
        """Raises `StoreDenied` where the SDK cannot be used as its environment is now."""
        if self._made is None:
            async with self._making:
                if self._made is None:
                    client = await self._make(http_session_cls)
                    use(client)
                    self._made = client
        return self._made

    async def close(self) -> None:
        await self._stack.aclose()

    async def _make(self, http_session_cls: Callable[..., Any]) -> Any:
        try:
            sdk = new_sdk_session(self.credentials)
            sdk.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
            session, verify = wrap(sdk, self._region), verify_option(self._endpoint)
            config = self._config(http_session_cls)
            connect = session.client("s3", endpoint_url=self._endpoint or None, verify=verify, config=config)
            return await self._stack.enter_async_context(connect)
        except UNUSABLE as error:
            raise StoreDenied(f"the AWS SDK cannot be used: {error}", hint=_HINT) from error

    def _config(self, http_session_cls: Callable[..., Any]) -> AioConfig:
        return AioConfig(
            http_session_cls=http_session_cls,
            connect_timeout=self._deadlines.connect,
            read_timeout=self._deadlines.read,
            max_pool_connections=self._connections,
            retries={"mode": "standard", "total_max_attempts": 4},
            user_agent=USER_AGENT,
            # Arguments are this project's own.
            parameter_validation=False,
            # The checksum header, which is signed, says which bytes are meant; signing them as well reads them twice.
            s3={"payload_signing_enabled": False, "addressing_style": "path" if self._endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )


def _time(text: str | float) -> datetime:
    """As the SDK reads it; a header's and a listing's form without a try of all others.

    That takes a tenth of a small GET, and holds the loop up for 0.1 s at each page of a listing.
    """
    if isinstance(text, str):
        with suppress(ValueError):
            if text.endswith("GMT"):
                return parsedate_to_datetime(text)
            if text.endswith("Z"):
                return datetime.fromisoformat(text)
    found: datetime = parse_timestamp(text)
    return found
