"""The broker beside us, as its directories show it: whether they are Kafka's, and whether Kafka runs on them.

Beside a running Kafka nothing is unlinked. A broker renames the files of what it deletes or compacts, and marks its
whole log directory as failed where one is gone.
"""

from __future__ import annotations

from dataclasses import replace

from takhin_tiered import logs
from takhin_tiered.config import Settings
from takhin_tiered.config_limits import OVERRIDES
from takhin_tiered.disk.files import DataDir, DataDirs
from takhin_tiered.disk.kafka import is_broker_running, is_kafka
from takhin_tiered.engine.situation import Situation
from takhin_tiered.errors import ConfigError, SegmentRefused
from takhin_tiered.segments.names import SegmentId


def stands_in_kafka(data_dirs: DataDirs) -> bool:
    """Whether any of the directories is Kafka's; blocking."""
    return any(is_kafka(root.fd) for root in data_dirs.roots)


def runs_on(root: DataDir) -> bool:
    """Whether a broker holds this directory's lock; blocking. Where that cannot be found out, one is assumed."""
    try:
        return is_broker_running(root.fd)
    except OSError:
        return True


def look_at_brokers(situation: Situation, data_dir: DataDirs) -> None:
    """Bring the policy up to date with the brokers' locks; blocking."""
    if stands_in_kafka(data_dir):
        learn_kafka(situation)
    running = any(runs_on(root) for root in data_dir.roots)
    if running != situation.policy.broker_running:
        logs.logger().info("a Kafka broker runs on the data directory" if running else "no Kafka broker runs here now")
    situation.policy = replace(situation.policy, broker_running=running)


def learn_kafka(situation: Situation) -> None:
    """From now on the directories are taken for Kafka's. On an empty new disk only the archive shows it."""
    policy = situation.policy
    if not policy.kafka:
        logs.logger().warning("the data directory is Apache Kafka's: no local file is removed unless a mode is set")
        situation.policy = replace(policy, kafka=True, keep_local=policy.keep_local or not policy.mode_is_set)


def require_no_broker(data_dir: DataDirs, identity: SegmentId) -> None:
    """Raise `SegmentRefused` where a Kafka runs on the segment's directory; blocking, so right before an unlink."""
    root = data_dir.root_of(identity.directory)
    if root is not None and runs_on(root):
        raise SegmentRefused(
            f"a Kafka broker runs on {root.path}, and would fail if the files of {identity.path} went away",
            segment=identity.path,
            hint="The local files stay. Let Kafka free the space: storage.tiered.archive.mode copy or trim",
        )


def require_safe_mode(settings: Settings, data_dirs: DataDirs, *, kafka: bool) -> None:
    """Beside Kafka: refuse a mode that would halt the broker, and log the mode in effect where none was set."""
    if not kafka:
        return
    if settings.archive_mode is None:
        logs.logger().warning(
            "the data directory is Apache Kafka's, and archive.mode is not set: copy is in effect, "
            "which removes no local file",
            hint="Set storage.tiered.archive.mode to copy or trim",
        )
    moves = ["storage.tiered.archive.mode"] if settings.archive_mode == "move" else []
    moves += [f"archive.mode of {OVERRIDES}, {glob}," for glob in settings.globs_of("move")]
    if not moves or not settings.enabled:
        return
    for root in data_dirs.roots:
        if runs_on(root):
            raise ConfigError(
                f"{moves[0]} is move, and an Apache Kafka broker runs on {root.path}: "
                "it would fail as soon as it missed a file",
                hint="Set it to copy, and let Kafka's retention free the space, or to trim, which asks Kafka to do so. "
                "move is for a broker that opens segments on demand, or a Kafka that is stopped",
            )
