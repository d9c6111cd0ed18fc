"""Settings of what storage costs: prices in US dollars, by default those of AWS, and the budget for restores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings

from takhin_tiered.config_values import is_storage_class, setting
from takhin_tiered.cost import prices as aws
from takhin_tiered.cost.prices import Prices, make_prices

_PRICES = "storage.tiered.prices"
PRICE_TABLES = {
    f"{_PRICES}.{name}" for name in ("storage", "put", "get", "retrieval", "thaw", "minimum.days", "minimum.bytes")
}
"""Keys whose values are numbers by storage class."""


def _named(value: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    if wrong := [name for name, _ in value if not is_storage_class(name)]:
        raise ValueError(f"{wrong[0]!r} is not a storage class like STANDARD_IA")
    return value


ByClass = Annotated[tuple[tuple[str, Annotated[float, Field(ge=0)]], ...], AfterValidator(_named)]


def _over(defaults: Mapping[str, float]) -> Callable[[object], object]:
    """What is given replaces the defaults of its classes only.

    A mapping by storage class, the same as text (``STANDARD=0.02,STANDARD_IA=0.01``), or one number for all classes.
    """

    def merged(value: object) -> object:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                pairs = [part.rpartition("=") for part in str(value).split(",") if part.strip()]
                value = {name.strip(): number.strip() for name, _, number in pairs}
        if isinstance(value, int | float) and not isinstance(value, bool):
            return tuple(dict.fromkeys((*aws.STORAGE, *defaults), value).items())
        if isinstance(value, tuple) and all(isinstance(each, tuple) and len(each) == 2 for each in value):
            value = dict(value)
        return tuple({**defaults, **value}.items()) if isinstance(value, Mapping) else value

    return merged


def _prices(name: str, defaults: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    field: tuple[tuple[str, float], ...] = setting(f"{_PRICES}.{name}", tuple(defaults.items()))
    return field


class PriceList(BaseSettings):
    """Part of `Settings`."""

    prices_disk: float = setting(f"{_PRICES}.disk", aws.DISK, ge=0)
    prices_storage: Annotated[ByClass, BeforeValidator(_over(aws.STORAGE))] = _prices("storage", aws.STORAGE)
    prices_put: Annotated[ByClass, BeforeValidator(_over(aws.PUT))] = _prices("put", aws.PUT)
    prices_get: Annotated[ByClass, BeforeValidator(_over(aws.GET))] = _prices("get", aws.GET)
    prices_retrieval: Annotated[ByClass, BeforeValidator(_over(aws.RETRIEVAL))] = _prices("retrieval", aws.RETRIEVAL)
    prices_thaw: Annotated[ByClass, BeforeValidator(_over(aws.THAW))] = _prices("thaw", aws.THAW)
    prices_minimum_days: Annotated[ByClass, BeforeValidator(_over(aws.MINIMUM_DAYS))] = _prices(
        "minimum.days", aws.MINIMUM_DAYS
    )
    prices_minimum_bytes: Annotated[ByClass, BeforeValidator(_over(aws.MINIMUM_BYTES))] = _prices(
        "minimum.bytes", aws.MINIMUM_BYTES
    )
    prices_egress: float = setting(f"{_PRICES}.egress", aws.EGRESS, ge=0)
    prices_transfer: Literal["region", "internet"] = setting(f"{_PRICES}.transfer", "region")
    budget_restore_monthly: float = setting("storage.tiered.budget.restore.monthly", 0.0, ge=0)

    @property
    def prices(self) -> Prices:
        return make_prices(
            self.prices_disk,
            self.prices_egress if self.prices_transfer == "internet" else 0.0,
            dict(self.prices_storage),
            dict(self.prices_put),
            dict(self.prices_get),
            dict(self.prices_retrieval),
            dict(self.prices_thaw),
            dict(self.prices_minimum_days),
            dict(self.prices_minimum_bytes),
        )
