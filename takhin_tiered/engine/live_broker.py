"""Beside a live broker: what is asked of it before a cycle, and what it is asked to do after one."""

from __future__ import annotations

from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.config import Settings
from takhin_tiered.engine.asking import BrokerAddress, ask_broker
from takhin_tiered.engine.report import CycleReport
from takhin_tiered.engine.situation import Situation
from takhin_tiered.engine.trim import Trimmer
from takhin_tiered.errors import BrokerError, StoreError
from takhin_tiered.segments.outlook import cycle_seconds, idle_tails
from takhin_tiered.segments.results import BrokerStatus
from takhin_tiered.vault.owned import OwnedPrefix


class LiveBroker:
    """Without ``broker.bootstrap`` no broker is asked, and the configured interval is in effect."""

    def __init__(self, catalog: Catalog, situation: Situation, trimmer: Trimmer, settings: Settings) -> None:
        self._catalog, self._situation, self._trimmer, self._settings = catalog, situation, trimmer, settings
        self._address = (
            BrokerAddress(settings.broker_bootstrap, settings.broker_arguments) if settings.broker_bootstrap else None
        )
        situation.view.set_interval(settings.archive_interval_minutes * 60)

    @property
    def status(self) -> BrokerStatus:
        policy, view = self._situation.policy, self._situation.view
        return BrokerStatus(
            kind="kafka" if policy.kafka else "",
            running=policy.broker_running,
            bootstrap=self._address.bootstrap if self._address else "",
            problem=view.problem,
            topics_known=len(view.topics),
            idle_tail_topics=tuple(idle_tails(view.topics, policy)),
            compacted_partitions=len(self._situation.outlook.compacted),
            file_problems=tuple(problem for found in view.directories for problem in found.problems),
        )

    async def ask(self) -> None:
        """Before a cycle: ask what the broker is about to do, and set the pause to the next cycle by it."""
        situation = self._situation
        if self._address is None:
            return
        await ask_broker(situation, self._catalog, self._address)
        situation.view.cycle_seconds = cycle_seconds(
            situation.view.interval_seconds,
            situation.view.topics if situation.policy.before_retention else {},
            situation.view.check_seconds,
            hurried=bool(situation.outlook.due),
        )

    async def trim(self, owned: OwnedPrefix, report: CycleReport) -> None:
        """After a cycle, in mode trim. What stands against it is added to the report's failures."""
        policy = self._situation.policy
        if self._address is None or not policy.trims_somewhere or not policy.enabled:
            return
        try:
            for found in await self._trimmer.trim(owned, self._address, self._settings.trim_ignore_groups):
                if found.problem:
                    report.failures.append((f"{found.partition[0]}-{found.partition[1]}", found.problem))
                else:
                    report.trimmed += 1
        except (BrokerError, StoreError) as error:
            report.failures.append(("trim", str(error)))
