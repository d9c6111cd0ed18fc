"""What a broker's answers mean: the error codes of the protocol, and the library's errors, in this project's words.

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
"""A topic, a group, the cluster: an ACL says no."""
UNHEARD = (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError)
"""What the library raises where no answer came: what was asked may have been done."""

_OPERATION_SECONDS = 60.0
_REFUSED = {
    1: "that is beyond the end of the log",
    17: "Kafka deletes no records of an internal topic",
    44: "Kafka deletes no records of a topic that is compacted only",
}


@asynccontextmanager
async def answer(trouble: str) -> AsyncIterator[None]:
    """Bound a whole question; the library's errors, and no answer in a minute, leave as `BrokerError`."""
    try:
        async with asyncio.timeout(_OPERATION_SECONDS):
            yield
    except TimeoutError as error:
        raise BrokerUnavailable(f"{trouble}: no answer in {_OPERATION_SECONDS:.0f} s") from error
    except KafkaError as error:
        kind = BrokerUnavailable if error.retriable else BrokerError
        raise kind(f"{trouble}: {error}") from error
    except (NotImplementedError, ValueError) as error:
        # A version of the request that the library does not know, or an answer that makes no sense.
        raise BrokerError(f"{trouble}: {error}") from error


def meaning(code: int, what: str) -> BrokerError | None:
    """What an error code means for ``what``, a noun; None for 0, which is success."""
    if not code:
        return None
    word = f"{getattr(for_code(code), 'message', 'UNKNOWN')}, {code}"
    if code in DENIED:
        return BrokerDenied(f"the broker denies {what} ({word})", hint="Give this client the ACLs that it needs")
    kind = BrokerUnavailable if for_code(code).retriable else BrokerError
    return kind(f"the broker has an error for {what} ({word})")


def trim_meaning(code: int, what: str) -> BrokerError | None:
    """The same for DeleteRecords, which some topics refuse."""
    if code in _REFUSED:
        word = getattr(for_code(code), "message", "UNKNOWN")
        return TrimRefused(f"the broker refuses {what}: {_REFUSED[code]} ({word}, {code})")
    return meaning(code, what)


def check(code: int, what: str) -> None:
    """Raise what an error code means."""
    if error := meaning(code, what):
        raise error


def outcome(told: int | BrokerError, start: int | None, target: int) -> int | BrokerError:
    """What a trim came to: ``told`` by DeleteRecords, and the log start that was asked for afterwards, if it is known.

    The log start is believed before an error that may not have been the last word; a refusal stays one.
    """
    if start is None:
        return told
    if isinstance(told, BrokerUnavailable) and start >= target:
        return start
    return told if isinstance(told, BrokerError) else start
