"""Pointers: what stays of an item in the table, and the conditional updates that make one, or the item again. Pure.

DynamoDB cannot compare an item as a whole, nor say that it has no other attribute. So an update removes the attributes
that were read, if each still has its value: whatever a writer added meanwhile stays beside the pointer, and wins when
the item is read. The update's answer shows it, and then the item is put back as its writer left it. Source for the
limits: Amazon DynamoDB Developer Guide, "Service quotas", expression parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.batches import in_batches
from takhin_tiered.hybrid.schema import Schema

S3_KEY, ARCHIVED_AT = "s3Key", "archivedAt"
NAMES = frozenset({S3_KEY, ARCHIVED_AT})

_MOST_OPERATORS = 300
_MOST_EXPRESSION = 4096
_SET_AT_ONCE = 100
_AS_IT_WAS = f"{S3_KEY} = :key AND {ARCHIVED_AT} = :at"

NOT_A_POINTER = f"attribute_not_exists({S3_KEY}) OR attribute_not_exists({ARCHIVED_AT})"


def is_pointer(item: Mapping[str, Mapping[str, Any]]) -> bool:
    return S3_KEY in item and ARCHIVED_AT in item and "S" in item[S3_KEY] and "S" in item[ARCHIVED_AT]


def is_odd(item: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether it has both attributes of a pointer and is none: conditions take it for one, as they see no types."""
    return item.keys() >= NAMES and not is_pointer(item)


def is_same_pointer(one: Item | None, other: Item) -> bool:
    return one is not None and all(one.get(name) == other[name] for name in NAMES)


def merged(archived: Item, pointer: Item) -> Item:
    """The whole item. What stands in the table is newer, where both have it."""
    return archived | {name: value for name, value in pointer.items() if name not in NAMES}


def archiving(item: Item, schema: Schema, key: str, at: str) -> dict[str, Any] | None:
    """The parameters of an update that makes the item a pointer, if it is what was read.

    None where it has so many attributes that no expression can compare them all.
    """
    compared = [name for name in item if name not in schema.keys]
    names = {f"#{number}": name for number, name in enumerate(compared)}
    removed = [f"#{number}" for number, name in enumerate(compared) if name not in schema.kept]
    condition = " AND ".join(
        [*(f"#{number}=:{number}" for number in range(len(compared))), f"attribute_not_exists({S3_KEY})"]
    )
    update = f"SET {S3_KEY}=:key,{ARCHIVED_AT}=:at" + (f" REMOVE {','.join(removed)}" if removed else "")
    too_long = max(len(condition), len(update)) > _MOST_EXPRESSION
    if too_long or 2 * len(compared) + 2 > _MOST_OPERATORS:
        return None
    values = {f":{number}": item[name] for number, name in enumerate(compared)}
    found: dict[str, Any] = {
        "TableName": schema.table,
        "Key": schema.key_of(item),
        "UpdateExpression": update,
        "ConditionExpression": f"{condition} AND attribute_exists({_KEY})",
        "ExpressionAttributeValues": values | {":key": {"S": key}, ":at": {"S": at}},
        "ExpressionAttributeNames": names | {_KEY: schema.partition_key},
    }
    return found


def restoring(whole: Item, pointer: Item, schema: Schema) -> list[dict[str, Any]]:
    """The parameters of the updates that make a pointer the whole item; all but the last one leave it a pointer.

    Where an attribute appeared in the table meanwhile, it stays as its writer left it.
    """
    missing = [name for name in whole if name not in pointer]
    pieces = list(in_batches(missing, _SET_AT_ONCE)) or [[]]
    found = []
    for piece in pieces:
        sets = [f"#{number}=if_not_exists(#{number},:{number})" for number in range(len(piece))]
        is_last = piece is pieces[-1]
        clauses = [f"SET {','.join(sets)}"] if sets else []
        clauses += [f"REMOVE {S3_KEY},{ARCHIVED_AT}"] if is_last else []
        parameters = where(pointer, schema) | {"UpdateExpression": " ".join(clauses)}
        parameters["ExpressionAttributeValues"] |= {f":{at}": whole[name] for at, name in enumerate(piece)}
        if piece:
            parameters["ExpressionAttributeNames"] = {f"#{at}": name for at, name in enumerate(piece)}
        found.append(parameters)
    return found


def where(pointer: Item, schema: Schema) -> dict[str, Any]:
    """What makes a write to an item conditional on its still being this pointer."""
    return {
        "TableName": schema.table,
        "Key": schema.key_of(pointer),
        "ConditionExpression": _AS_IT_WAS,
        "ExpressionAttributeValues": {":key": pointer[S3_KEY], ":at": pointer[ARCHIVED_AT]},
    }


def changing(key: Item, schema: Schema, changes: Item, removed: Iterable[str]) -> dict[str, Any]:
    """The parameters of an update of an item that is there, and no pointer."""
    names = {f"#s{at}": name for at, name in enumerate(changes)} | {f"#r{at}": name for at, name in enumerate(removed)}
    sets = [f"#s{at}=:{at}" for at in range(len(changes))]
    clauses = [f"SET {','.join(sets)}"] if sets else []
    clauses += [f"REMOVE {','.join(gone)}"] if (gone := [each for each in names if each.startswith("#r")]) else []
    found: dict[str, Any] = {
        "TableName": schema.table,
        "Key": key,
        "UpdateExpression": " ".join(clauses),
        "ConditionExpression": f"attribute_exists({_KEY}) AND ({NOT_A_POINTER})",
        "ExpressionAttributeNames": names | {_KEY: schema.partition_key},
    }
    values = {f":{at}": value for at, value in enumerate(changes.values())}
    return found | ({"ExpressionAttributeValues": values} if values else {})


_KEY = "#key"
