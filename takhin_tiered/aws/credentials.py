"""Credentials that are looked for again: a daemon lives longer than the keys that stood in a file when it began.

The SDK looks once, and keeps a client without credentials for ever if there were none. Here its whole chain is asked
anew where nothing was found yet, where a file of credentials was written since, and where the server refused what
was found. Source: AWS SDKs and Tools Reference Guide, "Standardized credential providers".
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiobotocore.credentials import create_credential_resolver
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError

_LOOK_EVERY = 1.0
_ASK_EVERY = 3.0
_BROKEN = (BotoCoreError, OSError, ValueError, LookupError, TypeError, RuntimeError)


def _in_one_line(record: logging.LogRecord) -> bool:
    """The SDK's warning that a renewal failed, without its traceback: the words follow in an error of ours."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        record.msg, record.args, record.exc_info = f"{record.getMessage()} {error}", (), None
    return True


logging.getLogger("aiobotocore.credentials").addFilter(_in_one_line)


class LiveCredentials:
    """As the SDK's client and signer want them. ``version`` grows when others are found."""

    method = "takhin-tiered"

    def __init__(self, region: str) -> None:
        self._region = region
        self._found: Any = None
        self._files: tuple[Path, ...] = ()
        # How the files stood when they were last read, and when what is used was found.
        self._asked: object = ()
        self._seen: object = None
        self._look_at = self._ask_at = 0.0
        self._asking = asyncio.Lock()
        self.version = 0

    async def load_credentials(self) -> LiveCredentials:
        """The SDK's component "credential_provider" is asked for its credentials by this name."""
        return self

    async def get_frozen_credentials(self) -> Any:
        """Those of now. `NoCredentialsError` where there are none, and what the SDK raises where they are broken."""
        now = time.monotonic()
        if self._found is None or now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            if self._found is None or self._stamp() != self._seen:
                await self._look_again()
        if self._found is None:
            raise NoCredentialsError
        try:
            return await self._found.get_frozen_credentials()
        except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
            # A token file that is not there, or what a program printed that is no JSON.
            raise CredentialRetrievalError(provider=self._found.method, error_msg=str(error)) from error

    async def get_account_id(self) -> Any:
        return None

    def get_deferred_property(self, _name: str) -> Any:
        return self.get_account_id

    async def refused(self, version: int) -> bool:
        """The server refused those of this version; True if there are others now."""
        if self.version == version and self._found is not None:
            with suppress(*_BROKEN):
                await self._look_again()
        return self.version != version

    async def _look_again(self) -> None:
        """Ask the whole chain: at once where a file was written, else at its own pace.

        A part of it may be an address that does not answer.
        """
        async with self._asking:
            if time.monotonic() < self._ask_at and self._stamp() == self._asked:
                return
            try:
                await self._ask()
            finally:
                self._ask_at = time.monotonic() + _ASK_EVERY

    async def _ask(self) -> None:
        # A session remembers the files as it read them first.
        session = get_session()
        names = (session.get_config_variable("credentials_file"), session.get_config_variable("config_file"))
        self._files = tuple(Path(name).expanduser() for name in names if name)
        stamp = self._asked = self._stamp()
        try:
            found = await create_credential_resolver(session, region_name=self._region).load_credentials()
            # The values of those that are fetched are not known before they are used.
            changed = found is not None and not _same(found, self._found)
        except _BROKEN:
            # It may be half written: what was found before is used on.
            if self._found is None:
                raise
            return
        if changed:
            self._found, self._seen = found, stamp
            self.version += 1
        elif found is not None:
            self._seen = stamp

    def _stamp(self) -> object:
        return tuple(_stamp_of(path) for path in self._files)

    def unreadable(self) -> str:
        """The first file of credentials that is there, and that this process may not read."""
        return next((str(path) for path in self._files if path.exists() and not os.access(path, os.R_OK)), "")


def _same(one: Any, other: Any) -> bool:
    """Whether two are plain keys, and the same ones."""
    values = [_plain(each) for each in (one, other)]
    return values[0] is not None and values[0] == values[1]


def _plain(credentials: Any) -> tuple[Any, ...] | None:
    """The keys themselves; None of those that the SDK fetches and renews."""
    if credentials is None or hasattr(credentials, "refresh_needed"):
        return None
    return (credentials.access_key, credentials.secret_key, credentials.token)


def _stamp_of(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
