"""Broker responses: the error codes of the protocol and the library's errors, as this project's errors.

Source: Kafka protocol guide, "Error Codes".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, RequestTimedOutError, for_code

from takhin_tiered.errors import BrokerDenied, BrokerError, BrokerUnavailable, TrimRefused

NO_TOPIC, INVALID_TOPIC, NO_GROUP = 3, 17, 69
DENIED = frozenset({29, 30, 31})
"""Authorization failed: topic, group, cluster."""
NO_RESPONSE = (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError)
"""What the library raises when no response arrives. The broker may still have carried out the request."""

_OPERATION_SECONDS = 60.0
_REFUSED = {
    1: "the offset is beyond the end of the log",
    17: "Kafka deletes no records of an internal topic",
    44: "Kafka deletes no records of a topic that is compacted only",
}


@asynccontextmanager
async def bounded(trouble: str) -> AsyncIterator[None]:
    """Bound a whole operation in time. The library's errors and a timeout leave as `BrokerError`."""
    try:
        async with asyncio.timeout(_OPERATION_SECONDS):
            yield
    except TimeoutError as error:
        raise BrokerUnavailable(f"{trouble}: no answer in {_OPERATION_SECONDS:.0f} s") from error
    except KafkaError as error:
        kind = BrokerUnavailable if error.retriable else BrokerError
        raise kind(f"{trouble}: {error}") from error
    except (NotImplementedError, ValueError) as error:
        # A request version that the library does not know, or a malformed response.
        raise BrokerError(f"{trouble}: {error}") from error


def error_for(code: int, what: str) -> BrokerError | None:
    """The error for a code; ``what``, a noun, is what was requested. None for code 0, success."""
    if not code:
        return None
    name = f"{getattr(for_code(code), 'message', 'UNKNOWN')}, {code}"
    if code in DENIED:
        return BrokerDenied(f"the broker denies {what} ({name})", hint="Give this client the ACLs that it needs")
    kind = BrokerUnavailable if for_code(code).retriable else BrokerError
    return kind(f"the broker returned an error for {what} ({name})")


def trim_error(code: int, what: str) -> BrokerError | None:
    """The same for DeleteRecords, which some topics refuse."""
    if code in _REFUSED:
        name = getattr(for_code(code), "message", "UNKNOWN")
        return TrimRefused(f"the broker refuses {what}: {_REFUSED[code]} ({name}, {code})")
    return error_for(code, what)


def raise_for(code: int, what: str) -> None:
    """Raise the error for a code other than 0."""
    if error := error_for(code, what):
        raise error


def trim_result(reported: int | BrokerError, start: int | None, target: int) -> int | BrokerError:
    """The result of a trim: what DeleteRecords ``reported``, and the log start as read afterwards, None if unknown.

    The log start outweighs a retriable error: the leader may have trimmed after all. A refusal stands.
    """
    if start is None:
        return reported
    if isinstance(reported, BrokerUnavailable) and start >= target:
        return start
    return reported if isinstance(reported, BrokerError) else start
