"""Items as they are in an answer, without the SDK's walk through its model of them.

The SDK asks of each value which of ten types it has, and builds it anew: nine tenths of what reading a hundred items
costs. The service's JSON has the form that callers get already; only bytes are in base64. Source: Amazon DynamoDB API
Reference, AttributeValue.
"""

from __future__ import annotations

import base64
from typing import Any

from aiobotocore.parsers import AioJSONParser, AioResponseParserFactory
from botocore.parsers import ResponseParserError

_AS_THEY_ARE = frozenset({"S", "N", "BOOL", "NULL", "SS", "NS"})


class _ItemParser(AioJSONParser):  # type: ignore[misc]  # the SDK has no types: its classes are Any
    """The SDK's own, except for what is a map of attributes, and for a success with nothing in it."""

    def _handle_json_body(self, raw_body: bytes, shape: Any) -> Any:
        if not raw_body:
            # The service says at least `{}`. Something between does not: who took that for an answer would take a write
            # for done, or an item for gone.
            raise ResponseParserError("a success without a body")
        return super()._handle_json_body(raw_body, shape)

    def _handle_map(self, shape: Any, value: dict[str, Any]) -> Any:
        return _read_map(value) if shape.value.name == "AttributeValue" else super()._handle_map(shape, value)


def _read_map(values: dict[str, Any]) -> dict[str, Any]:
    for value in values.values():
        for kind in value:
            if kind not in _AS_THEY_ARE:
                _read(value)
    return values


def _read(value: dict[str, Any]) -> None:
    """Bytes in place of their base64. The answer is nobody else's."""
    for kind, inner in value.items():
        if kind == "M":
            _read_map(inner)
        elif kind == "L":
            for each in inner:
                _read(each)
        elif kind == "B":
            value[kind] = base64.b64decode(inner)
        elif kind == "BS":
            value[kind] = [base64.b64decode(each) for each in inner]


class ItemParsers(AioResponseParserFactory):  # type: ignore[misc]  # the same
    """The SDK's component "response_parser_factory", for a session that speaks to DynamoDB alone."""

    def create_parser(self, protocol_name: str) -> Any:
        return _ItemParser(**self._defaults) if protocol_name == "json" else super().create_parser(protocol_name)
