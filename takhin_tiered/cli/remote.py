"""The storage of a running daemon, through its API."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp

from takhin_tiered.api.tokens import token_of_commands
from takhin_tiered.cli.requester import requester
from takhin_tiered.config import Settings
from takhin_tiered.cost.report import CostReport
from takhin_tiered.disk.lock import Holder
from takhin_tiered.errors import ConfigError, TakhinError
from takhin_tiered.formats.position import LogPosition
from takhin_tiered.reader.query import BATCHES, RecordQuery
from takhin_tiered.segments.choice import Wanted
from takhin_tiered.segments.events import SegmentEvent
from takhin_tiered.segments.results import (
    Hole,
    PlanResult,
    RebuildResult,
    RekeyResult,
    StatusHere,
    VerifiedSegment,
    from_json,
)

Result = TypeVar("Result")
_PAGE = 1000
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_OPERATION_SECONDS = 3600.0
_LOOK_SECONDS = 3.0
_ALIVE_SECONDS = 2.0
_READING = aiohttp.ClientTimeout(connect=_ALIVE_SECONDS, sock_read=300.0)
"""A slow store may take long for each piece."""
_BUFFER = 1 << 20
"""Bytes that may wait here: a stream of them takes fewer turns."""


class RemoteError(TakhinError):
    """An error that the daemon returned, with its code."""

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.next_offset: int | None = None


class DaemonUnresponsive(TakhinError):
    """The daemon that holds the data directory does not answer."""

    code = "daemon_silent"


class DaemonBrokeOff(TakhinError):
    """The daemon ended an answer before it was complete. ``next_offset``: behind the last whole batch, if any came."""

    code = "daemon_broke_off"

    def __init__(self, next_offset: int | None) -> None:
        super().__init__("the daemon broke off its answer", hint="Its log tells why")
        self.next_offset = next_offset


@asynccontextmanager
async def open_remote(holder: Holder, settings: Settings, *, changing: bool) -> AsyncIterator[Remote]:
    """A ``changing`` command waits up to an hour for a response, a read-only one for seconds.

    `ConfigError` where the certificate of the API cannot be read.
    """
    token = token_of_commands(settings)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    read = _OPERATION_SECONDS if changing else _LOOK_SECONDS
    timeout = aiohttp.ClientTimeout(connect=_ALIVE_SECONDS, sock_read=read)
    connector = aiohttp.TCPConnector(ssl=_trusted(settings))
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        yield Remote(session, holder)


def _trusted(settings: Settings) -> aiohttp.Fingerprint | bool:
    """Exactly the certificate that the configuration names: the command runs on the daemon's machine.

    Without one, what this machine trusts.
    """
    path = settings.api_tls_cert
    if path is None:
        return True
    try:
        # The first of the chain is the server's own.
        found = _CERTIFICATE.search(path.read_text("ascii"))
        der = ssl.PEM_cert_to_DER_cert(found[0]) if found else b""
    except (OSError, ValueError) as error:
        raise ConfigError(f"storage.tiered.api.tls.cert: {path} cannot be read: {error}") from error
    if not der:
        raise ConfigError(f"storage.tiered.api.tls.cert: {path} has no certificate in PEM")
    return aiohttp.Fingerprint(hashlib.sha256(der).digest())


class Remote:
    """Implements `Access`."""

    def __init__(self, session: aiohttp.ClientSession, holder: Holder) -> None:
        self._session = session
        self._holder = holder

    async def require_alive(self) -> None:
        """Raise `DaemonUnresponsive` if the process hangs. A long wait for its work would not show that."""
        url = f"{self._holder.api}/healthz"
        try:
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=_ALIVE_SECONDS)) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unresponsive(error) from error

    def _unresponsive(self, error: Exception) -> DaemonUnresponsive:
        if isinstance(error, aiohttp.ServerFingerprintMismatch):
            return DaemonUnresponsive(
                f"the data directory is held by {self._holder.description}, and its certificate is not the one that "
                "storage.tiered.api.tls.cert names",
                hint="Was it renewed? Then reload the daemon: kill -HUP or systemctl reload",
            )
        why = "timed out" if isinstance(error, TimeoutError) else str(error) or repr(error)
        return DaemonUnresponsive(
            f"the data directory is held by {self._holder.description}, and it does not answer: {why}",
            hint=f"Check process {self._holder.pid} and its log: it may be stopped (kill -CONT), hung, or starting. "
            "A restart loses nothing",
        )

    async def status(self) -> StatusHere:
        return self._read(StatusHere, await self._ask("GET", "status"))

    async def plan(self) -> PlanResult:
        return self._read(PlanResult, await self._ask("POST", "plan"))

    async def cost(self) -> CostReport:
        return self._read(CostReport, await self._ask("GET", "cost-analysis", room="tiers"))

    async def segments(self, *, tier: str | None, state: str | None) -> list[dict[str, Any]]:
        query: dict[str, str | int] = {"limit": _PAGE}
        query |= {name: value for name, value in (("tier", tier), ("state", state)) if value}
        found: list[dict[str, Any]] = []
        while True:
            page = await self._ask("GET", "segments", params=query)
            found += page["segments"]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    async def partitions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._ask("GET", "partitions"))["partitions"]
        return found

    async def history(self, path: str) -> list[SegmentEvent]:
        found = (await self._ask("GET", f"segments/{path}/history"))["events"]
        return [self._read(SegmentEvent, event) for event in found]

    async def verify(self, glob: str, *, deep: bool) -> AsyncIterator[VerifiedSegment | Hole]:
        """One line per result. The daemon may read for a long time before the next line."""
        url = f"{self._holder.api}/api/v1/tiered/verify"
        patient = aiohttp.ClientTimeout(connect=_ALIVE_SECONDS, sock_read=_OPERATION_SECONDS)
        try:
            async with self._session.post(url, json={"glob": glob, "deep": deep}, timeout=patient) as answer:
                if not answer.ok:
                    raise self._refused(answer, await answer.json(content_type=None))
                async for line in answer.content:
                    line_result = json.loads(line)
                    if "code" in line_result:
                        raise RemoteError(line_result["error"], code=line_result["code"])
                    if line_result.get("done"):
                        return
                    yield (
                        self._read(Hole, line_result)
                        if "offsets" in line_result
                        else self._read(VerifiedSegment, line_result)
                    )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, AttributeError) as error:
            raise self._unresponsive(error) from error
        raise self._unresponsive(EOFError("its response is incomplete"))

    async def records(self, query: RecordQuery, max_records: int) -> dict[str, Any]:
        parameters = _parameters(query) | {"max_records": max_records}
        return await self._ask("GET", "records", params=parameters, timeout=_READING)

    async def batches(self, query: RecordQuery) -> AsyncGenerator[bytes, None]:
        url, headers = f"{self._holder.api}/api/v1/tiered/records", {"Accept": BATCHES}
        how: dict[str, Any] = {"timeout": _READING, "read_bufsize": _BUFFER}
        position = LogPosition()
        try:
            async with self._session.get(url, params=_parameters(query), headers=headers, **how) as answer:
                if not answer.ok:
                    raise self._refused(answer, await answer.json(content_type=None))
                async for piece in answer.content.iter_any():
                    position.pass_by(piece)
                    yield piece
        except aiohttp.ClientPayloadError as error:
            raise DaemonBrokeOff(position.next_offset) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._unresponsive(error) from error

    @property
    def bytes_moved(self) -> Callable[[], int] | None:
        return None

    async def archive(self, path: str) -> None:
        await self._ask("POST", "archive", json={"segment_path": path})

    async def restore(
        self, path: str, *, force: bool, lease_hours: float | None, over_budget: bool, request_only: bool = False
    ) -> None:
        who = {"requested_by": requester(lease_hours), "over_budget": over_budget, "request_only": request_only}
        body = {"segment_path": path, "force": force, "lease_hours": lease_hours} | who
        await self._ask("POST", "restore", json=body)

    async def restore_plan(self, wanted: Wanted) -> dict[str, Any]:
        return await self._ask("POST", "restore/plan", json=asdict(wanted))

    async def rebuild(self, progress: Callable[[int, int], None]) -> RebuildResult:  # noqa: ARG002 - the daemon tells at the end
        return self._read(RebuildResult, await self._ask("POST", "rebuild"))

    async def rekey(self, progress: Callable[[int], None]) -> RekeyResult:  # noqa: ARG002 - the daemon tells at the end
        return self._read(RekeyResult, await self._ask("POST", "rekey"))

    async def scrub(self, path: str) -> bool:
        return bool((await self._ask("POST", "scrub", json={"segment_path": path}))["healed"])

    def _read(self, kind: type[Result], answer: dict[str, Any]) -> Result:
        try:
            return from_json(kind, answer)
        except ValueError as error:
            raise RemoteError(
                f"the data directory is held by {self._holder.description}, and its response is malformed: {error}",
                hint="It may run another release: restart it, which loses nothing",
                code="other_form",
            ) from error

    async def _ask(self, method: str, endpoint: str, *, room: str = "tiered", **arguments: Any) -> dict[str, Any]:
        url = f"{self._holder.api}/api/v1/{room}/{quote(endpoint)}"
        try:
            async with self._session.request(method, url, **arguments) as answer:
                body = await answer.json(content_type=None)
            if not isinstance(body, dict):
                raise TypeError(f"status {answer.status} without a JSON object")
        except (aiohttp.ClientError, TimeoutError, OSError, TypeError, ValueError) as error:
            raise self._unresponsive(error) from error
        if not answer.ok:
            raise self._refused(answer, body)
        return body

    def _refused(self, answer: aiohttp.ClientResponse, body: Any) -> RemoteError:
        if answer.status == 403:
            return RemoteError(
                f"the data directory is held by {self._holder.description}, and the API token of this command may "
                "only read",
                hint="Set TAKHIN_STORAGE_TIERED_API_TOKEN to one of an administrator",
                code="forbidden",
            )
        if answer.status != 401:
            return _refusal(answer, body)
        has_one = "Authorization" in self._session.headers
        wants = "refuses the API token of this command" if has_one else "requires its API token"
        return RemoteError(
            f"the data directory is held by {self._holder.description}, and it {wants}",
            hint="Run this command with the daemon's configuration (storage.tiered.api.token), or set "
            "TAKHIN_STORAGE_TIERED_API_TOKEN to one of its tokens",
            code="unauthorized",
        )


def _refusal(answer: aiohttp.ClientResponse, body: Any) -> RemoteError:
    told = body if isinstance(body, dict) else {}
    error = RemoteError(str(told.get("error", answer.reason)), code=str(told.get("code", "error")))
    error.next_offset = told.get("next_offset")
    return error


def _parameters(query: RecordQuery) -> dict[str, str | int]:
    wanted = asdict(query) | {"isolation": str(query.isolation)}
    return {name: value for name, value in wanted.items() if value is not None}
