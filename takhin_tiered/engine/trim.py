"""Trim: ask the broker to drop what is archived and proven, so that it frees the space itself, on every replica.

DeleteRecords cannot be undone. So it goes from the log start on over segments that are cold or under disk pressure,
archived, and proven again just before, never past the first that is not, never to the high watermark, and not past what
a consumer group has committed. Where replicas share the prefix, an adoption record stands before the proof. Only the
leader's daemon asks, for what it has proven itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.disk.files import DataDirs
from takhin_tiered.engine.asking import BrokerAddress, connected, known_partitions
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.refresh import refresh
from takhin_tiered.engine.relying import Reliance
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import SegmentError, StoreError, TakhinError
from takhin_tiered.metrics import Metrics
from takhin_tiered.points import reached
from takhin_tiered.segments.broker import PartitionOffsets
from takhin_tiered.segments.model import Segment, State, Tier
from takhin_tiered.segments.names import Partition
from takhin_tiered.segments.policy import classify
from takhin_tiered.store import ReadableStore
from takhin_tiered.vault.codecs import Codecs
from takhin_tiered.vault.owned import OwnedPrefix
from takhin_tiered.vault.proof import prove_archived

if TYPE_CHECKING:
    from takhin_tiered.broker.client import BrokerClient


@dataclass(frozen=True, slots=True)
class Trimmed:
    """``start`` is the log start that the broker reports afterwards; ``problem`` why it was not asked, or refused."""

    partition: Partition
    start: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Trimmer:
    """Asks the broker to delete what is archived and proven."""

    catalog: Catalog
    data_dir: DataDirs
    store: ReadableStore
    clock: Clock
    situation: Situation
    metrics: Metrics
    codecs: Codecs
    reliance: Reliance

    async def trim(self, owned: OwnedPrefix, address: BrokerAddress, ignore_groups: tuple[str, ...]) -> list[Trimmed]:
        """Trim every partition that this broker leads; returns those for which something was to be done.

        `BrokerError` where the broker does not answer at all; `HeldElsewhere` or `StoreError` where the prefix is not
        known to be ours any more.
        """
        async with connected(address) as client:
            partitions = {
                p
                for p in known_partitions(self.catalog, self.situation.policy)
                if self.situation.policy.of(p[0]).trims and p not in self.situation.outlook.compacted
            }
            offsets = await client.offsets(partitions)
            led = {p: found for p, found in offsets.items() if found.leader in self.situation.view.node_ids}
            candidates = {p: run for p, found in led.items() if (run := self._archived_run(p, found))}
            if not candidates:
                return []
            floors = await client.committed(candidates, ignore_groups)
            targets: dict[Partition, int] = {}
            results: list[Trimmed] = []
            for partition, run in candidates.items():
                floor = floors.get(partition)
                within = [segment for segment in run if floor is None or _end(segment) <= floor[1]]
                if floor is not None and len(within) < len(run):
                    logs.logger().warning(
                        "a consumer group holds the trim back",
                        partition=f"{partition[0]}-{partition[1]}",
                        group=floor[0],
                        committed_offset=floor[1],
                        hint="If it is of no interest: storage.tiered.trim.ignore.groups",
                    )
                proven, problem = await self.prove_run(owned, within)
                if problem:
                    results.append(Trimmed(partition, led[partition].log_start, problem))
                if proven:
                    targets[partition] = _end(proven[-1])
            if targets:
                # The proofs were read from the prefix that this process still owns.
                await owned.require()
                results += await self._delete(client, targets)
            return results

    def _archived_run(self, partition: Partition, offsets: PartitionOffsets) -> list[Segment]:
        """From the log start on, without a hole: segments that are archived, cold, and below the high watermark."""
        run: list[Segment] = []
        at = offsets.log_start
        now = self.clock.now()
        for segment in self.catalog.log_of(partition):
            if segment.archive is None or segment.archive.last_offset < 0:
                if segment.id.base_offset >= at or segment.active:
                    break
                continue
            if _end(segment) <= at:
                continue
            if segment.id.base_offset > at or not self._may_go(segment, now) or _end(segment) >= offsets.high_watermark:
                break
            run.append(segment)
            at = _end(segment)
        return run

    def _may_go(self, segment: Segment, now: float) -> bool:
        archive = segment.archive
        if archive is None or not archive.held:
            return False
        is_kept = segment.active or bool(segment.quarantine) or segment.state is State.LOCAL
        is_pressed = segment.id in self.situation.outlook.pressed
        usage, sure = self.situation.tracker.at(now), self.clock.sure_now()
        tier = classify(segment, self.situation.policy, now, usage, sure=sure)
        return not is_kept and (is_pressed or tier is Tier.COLD)

    async def prove_run(self, owned: OwnedPrefix, run: list[Segment]) -> tuple[list[Segment], str]:
        """The segments up to the first that is not proven, and what is wrong with that one. They are held."""
        proven: list[Segment] = []
        for segment in run:
            try:
                async with self.catalog.lock(segment.id):
                    if owned.is_shared:
                        # Whatever the catalog knows of the record: it may have been removed meanwhile.
                        await self.reliance.hold_archived(owned, segment.id)
                    manifest = await prove_archived(self.store, segment.id, self.codecs.keys)
                    again = await refresh(self.catalog, self.data_dir, segment.id)
            except (StoreError, SegmentError) as error:
                return proven, str(error)
            if again is None or again.state is State.LOCAL or again.active or manifest.end + 1 != _end(segment):
                return proven, f"segment {segment.id.path} is not what was archived"
            proven.append(segment)
        return proven, ""

    async def _delete(self, client: BrokerClient, targets: dict[Partition, int]) -> list[Trimmed]:
        reached("trim.proven")
        results: list[Trimmed] = []
        for partition, answer in (await client.delete_records(targets)).items():
            name = f"{partition[0]}-{partition[1]}"
            if isinstance(answer, TakhinError):
                self.metrics.trims.labels("failure").inc(1, logs.exemplar())
                logs.logger().error("the broker did not trim", partition=name, code=answer.code, error=str(answer))
                results.append(Trimmed(partition, -1, str(answer)))
            else:
                self.metrics.trims.labels("success").inc(1, logs.exemplar())
                logs.logger().info("trimmed: to be freed by the broker", partition=name, log_start=answer)
                results.append(Trimmed(partition, answer))
        reached("trim.asked")
        return results


def _end(segment: Segment) -> int:
    """The offset behind the last record."""
    assert segment.archive is not None
    return segment.archive.last_offset + 1
