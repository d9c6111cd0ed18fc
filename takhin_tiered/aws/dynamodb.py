"""DynamoDB, as the tables and the fleet use it: every wait is bounded, every failure has a class.

Items have the service's own form, ``{"id": {"S": "x"}, "n": {"N": "1.50"}}``: numbers stay text, and exact.
Source: Amazon DynamoDB API Reference, and its Developer Guide, "Error handling with DynamoDB".
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiobotocore.config import AioConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as NotConnected
from botocore.parsers import ResponseParserError

from takhin_tiered import logs
from takhin_tiered.aws.breaker import Breaker, Circuit
from takhin_tiered.aws.credentials import LiveCredentials
from takhin_tiered.aws.outcomes import Item, Outcome, is_refused_key, judged
from takhin_tiered.aws.parsing import ItemParsers
from takhin_tiered.aws.session import UNUSABLE, USER_AGENT, new_sdk_session, verify_option, wrap
from takhin_tiered.batches import in_batches
from takhin_tiered.errors import TableDenied, TableError, TableThrottled, TableUnavailable

DEADLINE = 30.0
"""Seconds for which a call is tried again."""
PATIENCE = 10.0
"""Seconds for which a server may be away before callers are refused at once: a restart of it breaks nothing off."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_CONNECT, _READ = 3.0, 10.0
_READ_AT_ONCE, _WRITTEN_AT_ONCE = 100, 25
_WITH_CAPACITY = {
    "get_item", "put_item", "update_item", "delete_item", "query", "scan", "batch_get_item", "batch_write_item",
    "transact_write_items", "transact_get_items",
}  # fmt: skip
_ALWAYS = {"describe_table": "Table", "query": "Items", "scan": "Items"}
"""What each answer has: another service's may be JSON too."""
_NETWORK = (NotConnected, HTTPClientError, ResponseStreamingError, IncompleteReadError, TimeoutError, OSError)
# What the SDK's parser raises for the page of a proxy, in another character set, or for JSON of another form.
_UNREADABLE = (ResponseParserError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that ended: seconds with all attempts, and capacity units as the server counted them."""

    operation: str
    table: str
    seconds: float
    capacity: float
    attempts: int
    outcome: str
    correlation_id: str


def _untold(_: Call) -> None:
    """Nobody listens."""


class DynamoDB:
    """Made by `open_dynamodb`. ``breaker`` tells whether the server answers."""

    def __init__(
        self,
        client: Any,
        credentials: LiveCredentials,
        listener: Callable[[Call], None],
        deadline: float,
        breaker: Breaker,
    ) -> None:
        self._client, self._credentials = client, credentials
        self._listener, self._deadline = listener, deadline
        self.breaker = breaker

    async def call(self, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """``operation`` in the SDK's words: ``get_item``, ``update_item``, ``transact_write_items``.

        What was throttled, and what the network broke, is tried again with full jitter until the deadline: a write must
        be one that may be done twice, by its condition. Raises `ConditionFailed`, `TransactionCancelled` and
        `TableError`.
        """
        return await self._call(operation, parameters, once=False)

    async def call_once(self, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """For a write that must not arrive twice: only what was throttled is tried again, as it was not done."""
        return await self._call(operation, parameters, once=True)

    async def _call(self, operation: str, parameters: dict[str, Any], *, once: bool) -> dict[str, Any]:
        table = table_of(parameters)
        if operation in _WITH_CAPACITY:
            parameters.setdefault("ReturnConsumedCapacity", "TOTAL")
        began = time.monotonic()
        attempts, outcome = 0, "cancelled"
        answer: dict[str, Any] = {}
        try:
            while True:
                attempts += 1
                result = await self._attempt(operation, table, parameters)
                outcome = result.word
                if result.error is None:
                    answer = result.answer
                    return answer
                pause = random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempts))  # noqa: S311 - no secret
                is_unknown = once and not isinstance(result.error, TableThrottled)
                if is_unknown or not result.is_to_be_tried_again or time.monotonic() + pause - began > self._deadline:
                    raise result.error
                await asyncio.sleep(pause)
        except TableError as error:
            outcome = error.code
            raise
        finally:
            self._tell(
                Call(
                    operation,
                    table,
                    time.monotonic() - began,
                    _capacity(answer),
                    attempts,
                    outcome,
                    logs.correlation_id(),
                )
            )

    async def pages(self, operation: str, /, **parameters: Any) -> AsyncIterator[dict[str, Any]]:
        """The answers of ``query`` or ``scan``, page by page."""
        while True:
            page = await self.call(operation, **parameters)
            yield page
            if not page.get("LastEvaluatedKey"):
                return
            parameters["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    async def batch_get(self, table: str, keys: Sequence[Item], *, consistent: bool = True) -> list[Item]:
        """Items by their keys, which must differ, in no order; those that do not exist are left out."""
        found: list[Item] = []
        for some in in_batches(keys, _READ_AT_ONCE):
            wanted: Mapping[str, Any] = {table: {"Keys": list(some), "ConsistentRead": consistent}}
            async for answer in self._until_done("batch_get_item", wanted, "UnprocessedKeys"):
                found += answer.get("Responses", {}).get(table, [])
        return found

    async def batch_write(self, table: str, *, puts: Sequence[Item] = (), deletes: Sequence[Item] = ()) -> None:
        """Put items and delete keys, 25 in a request. A key must not occur twice. There are no conditions."""
        requests = [{"PutRequest": {"Item": item}} for item in puts]
        requests += [{"DeleteRequest": {"Key": key}} for key in deletes]
        for some in in_batches(requests, _WRITTEN_AT_ONCE):
            async for _ in self._until_done("batch_write_item", {table: list(some)}, "UnprocessedItems"):
                pass

    async def _until_done(self, operation: str, wanted: Mapping[str, Any], left: str) -> AsyncIterator[dict[str, Any]]:
        """Ask again for what the server left out: it is throttled by that. `TableThrottled` where it is too often."""
        began, pause = time.monotonic(), _FIRST_PAUSE
        while wanted:
            answer = await self.call(operation, RequestItems=wanted)
            yield answer
            remaining = answer.get(left) or {}
            # By their number: a server may put them in another order, and numbers in another form.
            is_less = _count(remaining) < _count(wanted)
            if remaining and not is_less and time.monotonic() - began > self._deadline:
                table = next(iter(remaining))
                raise TableThrottled(f"{table}: the server left items out for {self._deadline:.0f} s", table=table)
            if is_less:
                began, pause = time.monotonic(), _FIRST_PAUSE
            if remaining:
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
                pause = min(_LONGEST_PAUSE, pause * 2)
            wanted = remaining

    async def _attempt(self, operation: str, table: str, parameters: Mapping[str, Any]) -> Outcome:
        """One request, or two where the credentials were renewed between. Raises only what is not of the service."""
        if not self.breaker.admit():
            words = f"{_place(table)} is down: {self.breaker.last_error}. The next try is made within seconds"
            return Outcome.failed(TableUnavailable(words, table=table), again=False)
        outcome: Outcome | None = None
        try:
            outcome = await self._request(operation, table, parameters)
        finally:
            if outcome is None:
                self.breaker.abandoned()
        if outcome.is_answer:
            self.breaker.succeeded()
        else:
            self.breaker.failed(str(outcome.error.message if isinstance(outcome.error, TableError) else outcome.error))
            # The circuit has just opened: the caller need not wait for what others find out.
            if self.breaker.state is Circuit.OPEN:
                return Outcome.failed(outcome.error, again=False)
        return outcome

    async def _request(self, operation: str, table: str, parameters: Mapping[str, Any]) -> Outcome:
        send = getattr(self._client, operation)
        for is_last in (False, True):
            version = self._credentials.version
            try:
                answer = await send(**parameters)
            except ClientError as error:
                if not is_last and is_refused_key(error.response) and await self._credentials.refused(version):
                    continue
                return judged(error.response, operation, table, _place(table))
            except (NoCredentialsError, PartialCredentialsError) as error:
                hint = "Give the AWS SDK credentials: variables, a profile or a role"
                return Outcome.failed(TableDenied(f"{_place(table)}: {error}", table=table, hint=hint), again=False)
            except _NETWORK as error:
                words = f"{_place(table)} does not answer: {error or type(error).__name__}"
                return Outcome.failed(TableUnavailable(words, table=table), again=True, is_answer=False)
            except BotoCoreError as error:
                return Outcome.failed(TableDenied(f"{_place(table)}: {error}", table=table), again=False)
            except _UNREADABLE as error:
                return _unreadable(table, str(error) or type(error).__name__)
            # The SDK takes a page of words for an answer with nothing in it: no item, and a write that was done.
            kind = str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-type", ""))
            if kind.startswith("text/"):
                return _unreadable(table, f"a page, {kind}")
            lacks = _ALWAYS.get(operation, "ResponseMetadata")
            return Outcome.answered(answer) if lacks in answer else _unreadable(table, f"an answer without {lacks}")
        raise AssertionError

    def _tell(self, call: Call) -> None:
        if logs.is_debug():
            logs.logger().debug(
                "dynamodb",
                operation=call.operation,
                table=call.table,
                outcome=call.outcome,
                attempts=call.attempts,
                capacity=call.capacity,
                seconds=round(call.seconds, 4),
            )
        self._listener(call)


@asynccontextmanager
async def open_dynamodb(
    region: str,
    endpoint: str,
    *,
    listener: Callable[[Call], None] | None = None,
    connections: int = 32,
    deadline: float = DEADLINE,
    breaker: Breaker | None = None,
) -> AsyncIterator[DynamoDB]:
    """``endpoint`` empty: Amazon's, or the one that the SDK's own variables name. `TableDenied` where the SDK cannot
    be used as its environment is now.
    """
    credentials = LiveCredentials(region)
    config = AioConfig(
        connect_timeout=_CONNECT,
        read_timeout=_READ,
        max_pool_connections=connections,
        # Retried here: the SDK has no deadline, and its quota gives up where a whole fleet is throttled.
        retries={"mode": "standard", "total_max_attempts": 1},
        user_agent=USER_AGENT,
        # Arguments are this project's own.
        parameter_validation=False,
    )
    try:
        sdk = new_sdk_session(credentials)
        sdk.register_component("response_parser_factory", ItemParsers())
        session = wrap(sdk, region)
        connect = session.client(
            "dynamodb", endpoint_url=endpoint or None, verify=verify_option(endpoint), config=config
        )
        client = await connect.__aenter__()
    except UNUSABLE as error:
        hint = "Check the AWS_ variables, ~/.aws, storage.tiered.fleet.region and .endpoint"
        raise TableDenied(f"the AWS SDK cannot be used: {error}", hint=hint) from error
    try:
        yield DynamoDB(client, credentials, listener or _untold, deadline, breaker or Breaker(patience=PATIENCE))
    finally:
        await connect.__aexit__(None, None, None)


def table_of(parameters: Mapping[str, Any]) -> str:
    """The table that a call is about; the first one of several."""
    if "TableName" in parameters:
        return str(parameters["TableName"])
    if "RequestItems" in parameters:
        return str(next(iter(parameters["RequestItems"]), ""))
    for item in parameters.get("TransactItems", ()):
        return str(next(iter(item.values()))["TableName"])
    return ""


def _unreadable(table: str, what: str) -> Outcome:
    words = f"{_place(table)} does not answer as DynamoDB does: {what}"
    return Outcome.failed(TableUnavailable(words, table=table), again=True, is_answer=False)


def _place(table: str) -> str:
    return f"DynamoDB table {table}" if table else "DynamoDB"


def _capacity(answer: Mapping[str, Any]) -> float:
    consumed = answer.get("ConsumedCapacity") or ()
    each = consumed if isinstance(consumed, list) else [consumed]
    return sum(float(one.get("CapacityUnits", 0.0)) for one in each if one)


def _count(wanted: Mapping[str, Any]) -> int:
    """Of keys or writes, in a request of a batch."""
    return sum(len(each["Keys"] if isinstance(each, Mapping) else each) for each in wanted.values())
