"""What was asked of the store in each month, kept over restarts; and the restore budget, which is enforced by it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

from takhin_tiered import logs
from takhin_tiered.catalog.journal import Journal
from takhin_tiered.config import Settings
from takhin_tiered.cost.prices import GB, Prices, exact
from takhin_tiered.cost.retrieving import retrieval_cost
from takhin_tiered.cost.usage import Purpose, Usage
from takhin_tiered.engine.class_walks import ClassWalks
from takhin_tiered.errors import OverBudget
from takhin_tiered.segments.classes import class_of_log
from takhin_tiered.segments.model import Archive, Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.store import RequestCounter, counted_as

_NAME = "spending"
_NOTHING = Decimal(0)


class Spending:
    """Written to the catalog's database from time to time, and before each restore where there is a budget.

    A restore that runs counts with its estimate until no restore runs any more: what each of several costs cannot be
    told. A process that was killed leaves the estimates of those that ran, and they count as spent.
    """

    def __init__(
        self, settings: Settings, counter: RequestCounter, journal: Journal | None, *, may_write: bool
    ) -> None:
        self.prices: Prices = settings.prices
        self.policy = settings.policy
        self.budget = exact(settings.budget_restore_monthly)
        self.walks = ClassWalks(journal, may_write=may_write)
        self._counter, self._journal, self._may_write = counter, journal, may_write
        # By month: estimates of restores that ran in a process that was killed, and what was retrieved in vain.
        self._broken: dict[str, Decimal] = {}
        self._running = 0
        # Of restores since none ran: what was spent on restores before, and their estimates.
        self._month, self._before, self._admitted = "", _NOTHING, _NOTHING
        self._saved = -1

    def apply(self, settings: Settings) -> None:
        self.prices, self.budget = settings.prices, exact(settings.budget_restore_monthly)
        self.policy = settings.policy

    async def load(self) -> None:
        await self.walks.load()
        text = await self._journal.get_meta(_NAME) if self._journal is not None else None
        if text is None:
            return
        try:
            kept = json.loads(text)
            broken = {str(month): Decimal(amount) for month, amount in kept["running"].items()}
            self._counter.load(kept["months"])
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            # A later release may have written another form.
            logs.logger().warning("what was spent before is not known: it cannot be read", error=repr(error))
            return
        self._broken = broken

    async def save(self) -> None:
        """Write what was counted since the last time."""
        if self._journal is None or not self._may_write or self._saved == self._counter.changes:
            return
        changes, month = self._counter.changes, self.usage.month
        running = {month: self._broken.get(month, _NOTHING) + self._ahead()}
        text = {
            "months": self._counter.to_json(),
            "running": {m: str(amount) for m, amount in running.items() if amount},
        }
        await self._journal.set_meta(_NAME, json.dumps(text))
        self._saved = changes

    @property
    def usage(self) -> Usage:
        return self._counter.usage

    @property
    def spent(self) -> Decimal:
        """Of the current month's budget: by reads in place and by restores, those that run included."""
        usage = self.usage
        counted = usage.spent(self.prices, Purpose.READ, Purpose.RESTORE)
        return counted + self._ahead() + self._broken.get(usage.month, _NOTHING)

    def cost_of(self, segment: Segment | None, storage_class: str = "") -> Decimal:
        """Dollars for a restore; nothing where its log is on the disk, or the catalog knows of no archived copy.

        ``storage_class`` is the one in which it was found; else it is as `class_of` has it.
        """
        if segment is None or segment.archive is None or segment.local.log is not None:
            return _NOTHING
        size = segment.archive.stored_size
        return retrieval_cost(self.prices, storage_class or self.class_of(segment.id, segment.archive), size)

    def class_of(self, identity: SegmentId, archive: Archive) -> str:
        """The storage class in which the log of an archived copy stands, by what was asked of the store."""
        rules = self.policy.of(identity.topic)
        return class_of_log(archive, rules, self.walks.of(rules))

    async def lose(self, segment: Segment | None, storage_class: str) -> None:
        """Count as spent what was retrieved from an archive class, and never read: no byte that comes tells of it."""
        if segment is None or segment.archive is None:
            return
        amount = self.prices.of(storage_class).retrieval * segment.archive.stored_size / GB
        month = self.usage.month
        self._broken[month] = self._broken.get(month, _NOTHING) + amount
        self._saved = -1
        await self.save()

    @asynccontextmanager
    async def restoring(
        self, path: str, cost: Decimal, *, over_budget: bool, waiting: Decimal = _NOTHING
    ) -> AsyncIterator[None]:
        """Within: what is asked of the store counts as this restore's. Raises `OverBudget` where it costs too much.

        ``waiting`` is what restores will cost that wait for an archive class.
        """
        is_limited = bool(self.budget and cost)
        if is_limited and not over_budget:
            self._require(path, cost, waiting)
        if not self._running:
            self._month, self._before = self.usage.month, self.usage.spent(self.prices, Purpose.RESTORE)
            self._admitted = _NOTHING
        self._running += 1
        self._admitted += cost
        try:
            if is_limited:
                # Before a byte is paid for: a process that is killed has to find it.
                self._saved = -1
                await self.save()
            with counted_as(Purpose.RESTORE):
                yield
        finally:
            self._running -= 1

    def _require(self, path: str, cost: Decimal, waiting: Decimal) -> None:
        spent = self.spent + waiting
        if spent + cost <= self.budget:
            return
        raise OverBudget(
            f"segment {path} is not restored: it would cost about ${_shown(cost)}, and ${_shown(spent)} of the budget "
            f"of ${_shown(self.budget)} for {self.usage.month} (UTC) are spent",
            segment=path,
            hint="Nothing was downloaded. Read it in place, wait for the next month, raise "
            "storage.tiered.budget.restore.monthly, or restore it all the same with --over-budget",
        )

    def _ahead(self) -> Decimal:
        """What running restores will still cost, at most."""
        if not self._running:
            return _NOTHING
        before = self._before if self._month == self.usage.month else _NOTHING
        counted = self.usage.spent(self.prices, Purpose.RESTORE)
        return max(_NOTHING, before + self._admitted - counted)


def _shown(amount: Decimal) -> str:
    """Cents where they tell it; else two digits of what it is."""
    return f"{amount:.2f}" if amount >= 1 or amount == round(amount, 2) else f"{amount:.2g}"
