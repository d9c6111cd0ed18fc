"""Settings of what stands on DynamoDB: hybrid tables, and the shared catalog of a fleet."""

from __future__ import annotations

import json
import re
import socket
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings

from takhin_tiered.config_values import setting

HYBRID_TABLES = "storage.tiered.hybrid.tables"

_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FIELD = re.compile(r"\{([^{}]*)\}")
_OWN = "takhin-tiered."
"""What all of the program's own objects begin with."""
_FIELDS = {"tableName", "partitionKey", "sortKey"}


class HybridTableSettings(BaseModel):
    """A DynamoDB table whose old items move to the store; ``timestamp`` is the attribute that tells an item's age."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    partition_key: str = Field(min_length=1)
    sort_key: str = ""
    timestamp: str = Field(min_length=1)
    archive_after_days: float = Field(default=180.0, gt=0)
    key_template: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _TABLE.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not the name of a DynamoDB table")
        if self.template.replace("{tableName}", self.name).startswith(_OWN):
            raise ValueError(
                f"{self.name}: its objects would stand under {_OWN}…, where the program has its own. Give it a "
                "key_template that begins otherwise, such as tables/{tableName}/"
            )
        if self.timestamp in {self.partition_key}:
            raise ValueError(f"{self.name}: the timestamp cannot be the partition key")
        fields = set(_FIELD.findall(self.template))
        if unknown := fields - _FIELDS:
            raise ValueError(
                f"{self.name}: key_template has {{{min(unknown)}}}: known are {', '.join(sorted(_FIELDS))}"
            )
        if "sortKey" in fields and not self.sort_key:
            raise ValueError(f"{self.name}: key_template has {{sortKey}}, and there is no sort_key")
        needed = {"partitionKey", "sortKey"} if self.sort_key else {"partitionKey"}
        if missing := needed - fields:
            raise ValueError(f"{self.name}: key_template lacks {{{min(missing)}}}: two items would share an object")
        return self

    @property
    def template(self) -> str:
        """Of an object's key, without the ending."""
        if self.key_template:
            return self.key_template
        return "{tableName}/{partitionKey}/{sortKey}" if self.sort_key else "{tableName}/{partitionKey}"


def _tables(value: object) -> object:
    """A list, or its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except ValueError as error:
            raise ValueError(f"must be a list of tables, or its JSON text: {error}") from None
    return tuple(value) if isinstance(value, list) else value


def _are_different(tables: tuple[HybridTableSettings, ...]) -> tuple[HybridTableSettings, ...]:
    names = [table.name for table in tables]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{min(twice)} occurs twice")
    return tables


def _node(value: str) -> str:
    if not _NODE.fullmatch(value):
        raise ValueError("must be a name of letters, digits, dots, dashes and underscores")
    return value


def _url(value: str) -> str:
    if value and not re.match(r"https?://[^/]", value):
        raise ValueError("must be a URL, such as http://127.0.0.1:4566")
    return value


def _host_name(value: object) -> object:
    if value != "":
        return value
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:128] or "node"


def shown_tables(tables: tuple[HybridTableSettings, ...]) -> str:
    """In the form of an environment variable."""
    documents: list[dict[str, Any]] = [table.model_dump(exclude_defaults=True) for table in tables]
    return json.dumps(documents) if documents else ""


class Tables(BaseSettings):
    """Part of `Settings`."""

    fleet_table: str = setting("storage.tiered.fleet.table", "", pattern=r"^([A-Za-z0-9_.-]{3,255})?$")
    fleet_region: str = setting("storage.tiered.fleet.region", "")
    fleet_endpoint: Annotated[str, AfterValidator(_url)] = setting("storage.tiered.fleet.endpoint", "")
    fleet_node: Annotated[str, BeforeValidator(_host_name), AfterValidator(_node)] = setting(
        "storage.tiered.fleet.node", "", validate_default=True
    )
    fleet_mode: Literal["local", "dual", "dynamodb"] = setting("storage.tiered.fleet.mode", "local")
    fleet_replicas: Literal["own", "adopt"] = setting("storage.tiered.fleet.replicas", "own")
    hybrid_tables: Annotated[
        tuple[HybridTableSettings, ...], BeforeValidator(_tables), AfterValidator(_are_different)
    ] = setting(HYBRID_TABLES, ())

    @model_validator(mode="after")
    def _check_tables(self) -> Self:
        if self.fleet_mode != "local" and not self.fleet_table:
            raise ValueError(f"storage.tiered.fleet.mode is {self.fleet_mode}: set storage.tiered.fleet.table too")
        return self
