"""Disk pressure, where the disks are: how much is free on each, and which segments leave early because of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from takhin_tiered import logs
from takhin_tiered.catalog.catalog import Catalog
from takhin_tiered.disk.files import DataDirs, DuplicatePartition
from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.situation import Situation
from takhin_tiered.metrics import Metrics
from takhin_tiered.segments.names import Partition
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.plan import explain, over_cache_size
from takhin_tiered.segments.pressure import Room, relieve


@dataclass(frozen=True, slots=True)
class PressureReader:
    """Finds what has to leave so that the reserve of each file system is met."""

    catalog: Catalog
    data_dir: DataDirs
    clock: Clock
    situation: Situation
    metrics: Metrics

    def under_pressure(self, outlook: Outlook) -> Outlook:
        """The same outlook with what leaves early; after a scan, blocking."""
        policy, view = self.situation.policy, self.situation.view
        frees = policy.enabled and (policy.unlinks_somewhere or policy.trims_somewhere)
        rooms = rooms_of(self.data_dir) if policy.reserve and frees else {}
        missing = {device: room.missing(policy.reserve) for device, room in rooms.items()}
        if not any(missing.values()):
            self.metrics.reserve_missing_bytes.set(0)
            return replace(outlook, reserve_missing=0)
        now = self.clock.now()
        ahead = self.clock.ahead()
        without = replace(outlook, opens_at=policy.windows.opens_at(now), clock_ahead=ahead)
        usage = self.situation.tracker.at(now)
        crowded = over_cache_size(self.catalog.restored(), policy, usage, sure=now - ahead)

        def log_start(partition: Partition) -> int:
            told = view.offsets.get(partition)
            found = [each.log_starts.get(partition, 0) for each in view.directories]
            return max([0 if told is None else told.log_start, *found], default=0)

        def is_led(partition: Partition) -> bool:
            told = view.offsets.get(partition)
            return told is not None and told.leader in view.node_ids

        chosen, left = relieve(
            self.catalog.on_disk(),
            lambda segment: explain(
                segment,
                policy,
                now,
                crowded=crowded,
                outlook=without,
                is_current=self.catalog.is_current(segment.id),
                usage=usage,
            ),
            policy,
            missing,
            sure=now - ahead,
            device_of=self._device_of,
            is_led=is_led,
            log_start=log_start,
        )
        total = sum(left.values())
        self.metrics.reserve_missing_bytes.set(total)
        for device, size in left.items():
            logs.logger().warning(
                "the reserve of the disk cannot be met: nothing else may leave",
                disk=rooms[device].describe(policy.reserve),
                missing_bytes=size,
                hint="Make room, or see takhin-tiered plan for why the other segments stay",
            )
        reasons = {device: room.describe(policy.reserve) for device, room in rooms.items()}
        pressed = {identity: reasons[device] for identity, device in chosen.items()}
        return replace(outlook, pressed=pressed, reserve_missing=total)

    def _device_of(self, partition: Partition) -> int | None:
        try:
            root = self.data_dir.root_of(f"{partition[0]}-{partition[1]}")
        except (DuplicatePartition, OSError):
            return None
        return None if root is None else root.device


def rooms_of(data_dir: DataDirs) -> dict[int, Room]:
    """By device: directories on the same file system share its room. Blocking."""
    found: dict[int, Room] = {}
    for root in data_dir.roots:
        free, size = root.room()
        paths = found[root.device].paths if root.device in found else ()
        found[root.device] = Room(free, size, (*paths, str(root.path)))
    return found
