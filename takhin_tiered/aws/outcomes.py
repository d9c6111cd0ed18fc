"""What an answer of DynamoDB means. Source: Amazon DynamoDB Developer Guide, "Error handling with DynamoDB"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from takhin_tiered.errors import (
    TableDenied,
    TableError,
    TableMissing,
    TableRejected,
    TableThrottled,
    TableUnavailable,
)

Item = dict[str, dict[str, Any]]
"""Attributes by name, each as ``{type: value}``. Numbers are text, binary values are bytes."""

_THROTTLED = {
    "ProvisionedThroughputExceededException", "ThrottlingException", "Throttling", "RequestLimitExceeded",
    "TooManyRequestsException", "LimitExceededException", "ThrottledException", "SlowDown",
}  # fmt: skip
_LATER = {
    "InternalServerError", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException",
    "TransactionInProgressException", "TransactionConflictException", "ReplicatedWriteConflictException",
    "ResourceInUseException", "RequestTimeout", "RequestTimeoutException",
}  # fmt: skip
_NOT_TABLES = {"create_table", "update_table", "delete_table", "update_time_to_live"}
_DENIED = {
    "AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "IncompleteSignature", "InvalidClientTokenId", "SignatureDoesNotMatch",
    "ExpiredToken", "ExpiredTokenException", "OptInRequired", "NotAuthorized",
}  # fmt: skip
_MISSING = {"ResourceNotFoundException", "TableNotFoundException", "IndexNotFoundException"}
_RENEWABLE = {
    "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException",
    "InvalidSignatureException", "SignatureDoesNotMatch",
}  # fmt: skip
CONDITION = "ConditionalCheckFailed"


class ConditionFailed(Exception):
    """The condition of a write does not hold: an answer, not a fault. ``item`` is what stands there, where the call
    asked for it and the server tells.
    """

    def __init__(self, item: Item | None) -> None:
        super().__init__("the condition of a write does not hold")
        self.item = item


class TransactionCancelled(Exception):
    """``reasons`` are by action: ``None``, ``ConditionalCheckFailed``; ``items`` what stood there, as above."""

    def __init__(self, reasons: tuple[str, ...], items: tuple[Item | None, ...]) -> None:
        super().__init__(f"the transaction was cancelled: {', '.join(reasons)}")
        self.reasons, self.items = reasons, items


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one request: its ``answer`` or its ``error``. ``is_answer``: the server answered, so it is up."""

    error: TableError | ConditionFailed | TransactionCancelled | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    is_to_be_tried_again: bool = False
    is_answer: bool = True

    @classmethod
    def answered(cls, answer: dict[str, Any]) -> Outcome:
        return cls(answer=answer)

    @classmethod
    def failed(
        cls, error: TableError | ConditionFailed | TransactionCancelled | None, *, again: bool, is_answer: bool = True
    ) -> Outcome:
        return cls(error, is_to_be_tried_again=again, is_answer=is_answer)

    @property
    def word(self) -> str:
        if self.error is None:
            return "ok"
        return self.error.code if isinstance(self.error, TableError) else "condition_failed"


def is_refused_key(answer: Mapping[str, Any]) -> bool:
    """Whether other credentials might be accepted."""
    return _code(answer) in _RENEWABLE


def judged(answer: Mapping[str, Any], operation: str, table: str, place: str) -> Outcome:
    """What an error answer says. ``place`` is the table, for people."""
    code = _code(answer)
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = answer.get("Error", {}).get("Message") or answer.get("message") or code
    words = f"{place}: {operation} failed: {said} ({code or status})"
    if code == "ConditionalCheckFailedException":
        return Outcome.failed(ConditionFailed(answer.get("Item")), again=False)
    if code == "TransactionCanceledException":
        return _cancelled(answer, words, table)
    if code in _THROTTLED:
        return Outcome.failed(TableThrottled(words, table=table), again=operation not in _NOT_TABLES)
    if code in _MISSING:
        hint = "Create the table, or check its name and region"
        return Outcome.failed(TableMissing(words, table=table, hint=hint), again=False)
    if code in _DENIED:
        hint = "Check the credentials, and that they allow this action on the table"
        return Outcome.failed(TableDenied(words, table=table, hint=hint), again=False)
    if code == "ResourceInUseException" and operation in _NOT_TABLES:
        return Outcome.failed(TableRejected(words, table=table), again=False)
    if code in _LATER or status >= 500:
        return Outcome.failed(TableUnavailable(words, table=table), again=True, is_answer=status < 500)
    return Outcome.failed(TableRejected(words, table=table), again=False)


def _cancelled(answer: Mapping[str, Any], words: str, table: str) -> Outcome:
    reasons = answer.get("CancellationReasons") or ()
    codes = tuple(str(reason.get("Code") or "None") for reason in reasons)
    if CONDITION not in codes:
        if any(code.startswith(("Throttling", "ProvisionedThroughput", "RequestLimit")) for code in codes):
            return Outcome.failed(TableThrottled(words, table=table), again=True)
        if any(code in {"TransactionConflict", "TransactionInProgress"} for code in codes):
            return Outcome.failed(TableUnavailable(words, table=table), again=True)
        if set(codes) - {"None"}:
            return Outcome.failed(TableRejected(words, table=table), again=False)
    items = tuple(reason.get("Item") for reason in reasons)
    return Outcome.failed(TransactionCancelled(codes, items), again=False)


def _code(answer: Mapping[str, Any]) -> str:
    return str(answer.get("Error", {}).get("Code", ""))
