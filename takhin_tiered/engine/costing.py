"""What the tiers cost, and what restores will cost: a part of the façade."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from takhin_tiered.concurrency import in_thread
from takhin_tiered.cost.planning import Move, PlanCost, plan_cost
from takhin_tiered.cost.prices import STANDARD, Prices
from takhin_tiered.cost.report import CostReport, Held, RestoreBudget, dollars, held_of, report
from takhin_tiered.cost.retrieving import Quote
from takhin_tiered.segments.model import Tier
from takhin_tiered.segments.plan import Verb
from takhin_tiered.segments.retrieval import SMALLEST_IN_CLASS, class_of_object, class_or_default

if TYPE_CHECKING:
    from takhin_tiered.catalog.catalog import Catalog
    from takhin_tiered.catalog.tallies import Stats
    from takhin_tiered.engine.restores import Restores
    from takhin_tiered.engine.spending import Spending
    from takhin_tiered.metrics import Metrics
    from takhin_tiered.segments.model import Segment
    from takhin_tiered.segments.plan import Plan, Step
    from takhin_tiered.segments.policy import Policy

_MANY = 50_000
"""So many are looked through in a thread, as a million take seconds. What was found last counts until then."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What stands in the store, by rules and prices that a reload may change."""

    policy: Policy
    prices: Prices
    held: dict[str, Held]


class Costs:
    """Part of `TieredStorage`."""

    if TYPE_CHECKING:
        _catalog: Catalog
        _restores: Restores
        spending: Spending

        @property
        def metrics(self) -> Metrics: ...

        def stats(self) -> Stats: ...

    _found: _Found | None = None

    def cost(self) -> CostReport:
        """What storage costs a month now, what it saves, and what was spent in the current month (UTC)."""
        stats, spending = self.stats(), self.spending
        return report(
            local_bytes=stats.local_size_bytes,
            total_bytes=stats.total_size_bytes,
            held=self.held(),
            usage=spending.usage,
            prices=spending.prices,
            budget=spending.budget,
            spent=spending.spent,
            waiting=self._restores.waiting_cost(),
        )

    def restore_budget(self) -> RestoreBudget | None:
        """What is left of the month's; None where none is set."""
        return self.cost().restore_budget if self.spending.budget else None

    def plan_cost(self, plan: Plan) -> PlanCost:
        """What the plan costs once, what it saves a month, and when it has paid for itself."""
        moves = (self._move_of(step, plan.made_at) for step in plan.work)
        return plan_cost(moves, self.spending.prices, plan.made_at)

    def _move_of(self, step: Step, now: float) -> Move:
        rules = self.spending.policy.of(step.id.topic)
        known = self._catalog.get(step.id) if step.verb is Verb.EXPIRE else None
        if known is not None and known.archive is not None:
            size, storage_class = known.archive.stored_size, self.spending.class_of(step.id, known.archive)
            return Move(step.uploads, step.frees, size, max(0.0, now - known.archive.archived_at), storage_class)
        storage_class = class_of_object(rules.class_of(step.tier), step.uploads)
        later = class_of_object(rules.class_of(Tier.COLD), step.uploads)
        is_changed = rules.class_of(Tier.COLD) and rules.auto_archive and later != storage_class
        # How old it is that was not looked at: as a warm one that was just copied.
        age = rules.warm_age if step.local.log is None else now - step.local.log.mtime_ns / 1e9
        return Move(
            step.uploads,
            step.frees,
            storage_class=storage_class,
            later_class=later if is_changed else "",
            changes_in=max(0.0, rules.cold_age - age),
        )

    def quote_restore(self, segments: Iterable[Segment]) -> Quote:
        """What it will cost to take these out of the store, and whether the month's budget allows it."""
        some = list(segments)
        spending, waiting = self.spending, self._restores.waiting_cost({segment.id for segment in some})
        cost, spent, budget = sum(map(self._restores.cost_of, some), Decimal(0)), spending.spent, spending.budget
        return Quote(
            cost=dollars(cost),
            budget_monthly=dollars(budget),
            budget_spent=dollars(spent),
            budget_left=dollars(max(Decimal(0), budget - spent - waiting)) if budget else None,
            over_budget=bool(budget and cost and spent + waiting + cost > budget),
            budget_waiting=dollars(waiting),
        )

    def held(self) -> dict[str, Held]:
        """What stands in the store, by the storage class in which the segments' logs are."""
        copies = self._catalog.copies
        if not copies:
            return {}
        if not self._is_by_size:
            return {STANDARD: Held(copies, self.stats().archived_size_bytes)}
        found, spending = self._found, self.spending
        if copies <= _MANY or found is None or (found.policy, found.prices) != (spending.policy, spending.prices):
            found = self._found = self._look_through()
        return found.held

    def update_cost_metrics(self) -> None:
        found, metrics = self.cost(), self.metrics.costs
        metrics.monthly.labels("hot").set(found.hot_storage_cost_monthly)
        metrics.monthly.labels("cold").set(found.cold_storage_cost_monthly)
        metrics.saved.set(found.saved_monthly)
        metrics.restore_spent.set(found.restore_budget.spent)
        metrics.restore_budget.set(found.restore_budget.monthly)
        metrics.restore_budget_used_up.set(found.restore_budget.used_up)

    async def refresh_cost(self) -> None:
        """What `cost` does not work out itself where there are many segments. Called from time to time."""
        if self._is_by_size and self._catalog.copies > _MANY:
            self._found = await in_thread(self._look_through)

    @property
    def _is_by_size(self) -> bool:
        """Whether it takes a look at each copy: the class depends on its size and age, and what is billed, too."""
        return self.spending.policy.names_classes or bool(self.spending.prices.of(STANDARD).minimum_bytes)

    def _look_through(self) -> _Found:
        policy, prices = self.spending.policy, self.spending.prices
        found: defaultdict[str, Held] = defaultdict(Held)
        for place in self._catalog.places():
            rules = policy.of(place.topic)
            cold, warm = self._catalog.stored_sizes(place, rules.cold_age, self.spending.walks.of(rules))
            for sizes, storage_class in ((cold, rules.class_of(Tier.COLD)), (warm, rules.class_of(Tier.WARM))):
                name = class_or_default(storage_class)
                found[name] += held_of([size for size in sizes if size >= SMALLEST_IN_CLASS], prices.of(name))
                small = [size for size in sizes if size < SMALLEST_IN_CLASS]
                found[STANDARD] += held_of(small, prices.of(STANDARD))
        return _Found(policy, prices, {name: held for name, held in found.items() if held.segments})
