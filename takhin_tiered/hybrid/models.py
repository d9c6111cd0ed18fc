"""Classes whose instances are items: pydantic models, and plain dicts for tables that have no class.

::

    @hybrid_table("orders", partition_key="customer_id", sort_key="order_id")
    class Order(pydantic.BaseModel):
        customer_id: str
        order_id: str
        created_at: Annotated[datetime, archival_timestamp]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Generic, Protocol, TypeVar, get_args, get_origin

import pydantic
from pydantic_core import to_jsonable_python

from takhin_tiered.aws.outcomes import Item
from takhin_tiered.config_tables import HybridTableSettings
from takhin_tiered.hybrid.pointers import ARCHIVED_AT, NAMES, S3_KEY
from takhin_tiered.hybrid.typed import plain, to_typed

Model = TypeVar("Model", bound=pydantic.BaseModel)
T = TypeVar("T")
_SETTINGS = "__hybrid_table__"
_PLAIN = str | bytes | bytearray | bool | int | float | Decimal | None
_DAYS = 180.0


class _ArchivalTimestamp:
    """Marks the field whose age decides: ``Annotated[datetime, archival_timestamp]``."""

    def __repr__(self) -> str:
        return "archival_timestamp"


archival_timestamp = _ArchivalTimestamp()


def hybrid_table(
    name: str,
    *,
    partition_key: str,
    sort_key: str | None = None,
    archive_after_days: float = _DAYS,
    key_template: str = "",
) -> Callable[[type[Model]], type[Model]]:
    """A class decorator: instances are items of this DynamoDB table. `TypeError` and `ValueError` for a wrong class."""

    def decorate(cls: type[Model]) -> type[Model]:
        if not (isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)):
            raise TypeError(f"{cls!r} is no pydantic model")
        marked = [_attribute(cls, field) for field in cls.model_fields if _is_marked(cls, field)]
        if len(marked) != 1:
            raise TypeError(f"{cls.__name__} has {len(marked)} fields with archival_timestamp, not one")
        attributes = {_attribute(cls, field) for field in cls.model_fields}
        for key in filter(None, (partition_key, sort_key)):
            if key not in attributes:
                raise TypeError(f"{cls.__name__} has no field {key!r}")
        if reserved := attributes & NAMES:
            raise TypeError(f"{cls.__name__}: the attribute {min(reserved)} is the pointers' own")
        if unread := [field for field in cls.model_fields if not _is_read_back(cls, field)]:
            raise TypeError(
                f"{cls.__name__}.{unread[0]} is written as {_attribute(cls, unread[0])!r}, and not read by that name: "
                "give it one alias for both"
            )
        settings = HybridTableSettings(
            name=name,
            partition_key=partition_key,
            sort_key=sort_key or "",
            timestamp=marked[0],
            archive_after_days=archive_after_days,
            key_template=key_template,
        )
        setattr(cls, _SETTINGS, settings)
        return cls

    return decorate


def settings_of(cls: type[Any]) -> HybridTableSettings:
    """`TypeError` for a class without the decorator."""
    found = getattr(cls, _SETTINGS, None)
    if not isinstance(found, HybridTableSettings):
        raise TypeError(f"{cls!r} has no @hybrid_table")
    return found


class Shape(Protocol[T]):
    """How values of Python are items."""

    def to_item(self, value: T) -> Item: ...

    def from_item(self, item: Item) -> T: ...

    def pointer(self, item: Item) -> T:
        """What `on_missing` ``pointer`` gives: with ``s3_key`` set, and what the table still has."""
        ...

    def changes(self, changes: Mapping[str, Any]) -> tuple[Item, list[str]]:
        """Attributes to be set, and names of those to be removed."""
        ...

    def attribute(self, name: str) -> str:
        """The attribute that is called so; `TypeError` where there can be none."""
        ...


class PlainItem(dict[str, Any]):
    """An item of a table without a class: plain values by the names of attributes."""

    @property
    def s3_key(self) -> str:
        """The key of the object of a pointer; empty for a whole item."""
        return str(self.get(S3_KEY, "")) if ARCHIVED_AT in self else ""


class PlainShape:
    def to_item(self, value: Mapping[str, Any]) -> Item:
        found = {str(name): to_typed(each) for name, each in value.items()}
        return {name: each for name, each in found.items() if each is not None}

    def from_item(self, item: Item) -> PlainItem:
        return PlainItem(plain(item))

    pointer = from_item

    def changes(self, changes: Mapping[str, Any]) -> tuple[Item, list[str]]:
        item = self.to_item(changes)
        return item, [name for name in changes if name not in item]

    def attribute(self, name: str) -> str:
        return name


class TypedShape:
    """Items as they are, with DynamoDB's types."""

    def to_item(self, value: Item) -> Item:
        return dict(value)

    def from_item(self, item: Item) -> Item:
        return item

    pointer = from_item

    def changes(self, changes: Mapping[str, Any]) -> tuple[Item, list[str]]:
        return {name: value for name, value in changes.items() if value is not None}, [
            name for name, value in changes.items() if value is None
        ]

    def attribute(self, name: str) -> str:
        return name


class ModelShape(Generic[Model]):
    """The timestamp that counts is written in ISO 8601 with an offset; one without an offset is taken for UTC."""

    def __init__(self, cls: type[Model]) -> None:
        self._class, self._timestamp = cls, settings_of(cls).timestamp
        self._pointer: type[Model] | None = None
        self._fields = {_attribute(cls, name): name for name in cls.model_fields}
        self._sets = [
            (_attribute(cls, name), field.annotation)
            for name, field in cls.model_fields.items()
            if _is_set(field.annotation) and (field.is_required() or field.default is not None)
        ]
        # None is what such a field has anyway where there is no attribute.
        self._none_is_absent = {
            _attribute(cls, name)
            for name, field in cls.model_fields.items()
            if not field.is_required() and field.get_default(call_default_factory=False) is None
        }

    def to_item(self, value: Model) -> Item:
        return self._item(value.model_dump(by_alias=True))

    def from_item(self, item: Item) -> Model:
        values = plain(item)
        for name, _ in self._sets:
            values.setdefault(name, set())
        return self._class.model_validate(values)

    def pointer(self, item: Item) -> Model:
        if self._pointer is None:
            fields: dict[str, Any] = {"s3_key": (str, ""), "archived_at": (str, "")}
            self._pointer = pydantic.create_model(f"{self._class.__name__}Pointer", __base__=self._class, **fields)
        values = plain(item)
        known = {self._fields[name]: value for name, value in values.items() if name in self._fields}
        return self._pointer.model_construct(**known, s3_key=values[S3_KEY], archived_at=values[ARCHIVED_AT])

    def changes(self, changes: Mapping[str, Any]) -> tuple[Item, list[str]]:
        """By fields or by attributes. `pydantic.ValidationError` is not looked for: the class is read back."""
        named = {self.attribute(name): value for name, value in changes.items()}
        item = self._item(named)
        return item, [name for name in named if name not in item]

    def attribute(self, name: str) -> str:
        if name in self._class.model_fields:
            return _attribute(self._class, name)
        if name in self._fields:
            return name
        raise TypeError(f"{self._class.__name__} has no field {name!r}")

    def _item(self, values: Mapping[str, Any]) -> Item:
        found: Item = {}
        for name, value in values.items():
            if value is None and name in self._none_is_absent:
                continue
            if name == self._timestamp and isinstance(value, datetime):
                value = value if value.tzinfo else value.replace(tzinfo=UTC)  # noqa: PLW2901
            typed = to_typed(_plain_of(value))
            if typed is not None:
                found[name] = typed
        return found


def _plain_of(value: Any) -> Any:
    """Of the types that DynamoDB has; others as pydantic writes them in JSON. `TypeError` of a secret, which would be
    masked.
    """
    if isinstance(value, pydantic.SecretStr | pydantic.SecretBytes | pydantic.Secret):
        raise TypeError("a secret is masked when it is written: store it as str or bytes, encrypted")
    if isinstance(value, _PLAIN) and type(value).__module__ in {"builtins", "decimal"}:
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, pydantic.BaseModel):
        return _plain_of(value.model_dump(by_alias=True))
    if isinstance(value, Mapping):
        return {
            name if isinstance(name, str) else str(_plain_of(name)): _plain_of(each) for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain_of(each) for each in value]
    if isinstance(value, set | frozenset):
        return {_plain_of(each) for each in value}
    return to_jsonable_python(value)


def _attribute(cls: type[pydantic.BaseModel], field: str) -> str:
    """The name of a field's attribute: its alias, if it has one."""
    info = cls.model_fields[field]
    return info.serialization_alias or info.alias or field


def _is_read_back(cls: type[pydantic.BaseModel], field: str) -> bool:
    """Whether what is written of a field is read by the same name."""
    info, attribute = cls.model_fields[field], _attribute(cls, field)
    accepted = info.validation_alias or info.alias or field
    choices = accepted.choices if isinstance(accepted, pydantic.AliasChoices) else [accepted]
    by_name = cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name")
    return attribute in choices or (bool(by_name) and attribute == field)


def _is_marked(cls: type[pydantic.BaseModel], field: str) -> bool:
    info = cls.model_fields[field]
    return any(isinstance(each, _ArchivalTimestamp) for each in (*info.metadata, *_inside(info.annotation)))


def _inside(annotation: Any) -> Iterator[Any]:
    """What stands inside an annotation, such as in ``Annotated[datetime, archival_timestamp] | None``."""
    for each in get_args(annotation):
        yield each
        yield from getattr(each, "__metadata__", ())
        yield from _inside(each)


def _is_set(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in {set, frozenset}
