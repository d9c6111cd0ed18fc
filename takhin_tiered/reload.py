"""Reload of the settings on SIGHUP: applies what can change at run time, and logs what needs a restart."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from takhin_tiered import logs
from takhin_tiered.api.tokens import Tokens, load_tokens
from takhin_tiered.concurrency import in_thread
from takhin_tiered.config import Settings
from takhin_tiered.errors import TakhinError
from takhin_tiered.tiered_storage import TieredStorage
from takhin_tiered.vault.codecs import load_keys

_OF_THE_LOG = {"log_level", "log_format"}
# Not locations, nor what was decided by them: who owns the store, which files may be unlinked.
_APPLICABLE = _OF_THE_LOG | {
    "api_token",
    "api_tokens_file",
    "archive_before_retention",
    "archive_concurrency",
    "archive_corrupt",
    "archive_interval_minutes",
    "archive_superseded_keep_hours",
    "archive_timezone",
    "archive_windows",
    "auto_archive_enabled",
    "budget_restore_monthly",
    "chunk_size_mb",
    "cold_age_hours",
    "compression_codec",
    "compression_level",
    "compression_topics",
    "encryption_key_file",
    "hot_min_access_count",
    "hot_min_access_hz",
    "hot_promote_mb_hourly",
    "kafka_holes",
    "kafka_quota_mbps",
    "local_cache_size_mb",
    "local_reserve_percent",
    "prices_disk",
    "prices_egress",
    "prices_get",
    "prices_minimum_bytes",
    "prices_minimum_days",
    "prices_put",
    "prices_retrieval",
    "prices_storage",
    "prices_thaw",
    "prices_transfer",
    "reconcile_interval_hours",
    "restore_lease_hours",
    "restore_reserve_mb",
    "s3_class_cold",
    "s3_class_warm",
    "s3_glacier_days",
    "s3_glacier_tier",
    "retention_bytes",
    "retention_hours",
    "scrub_interval_hours",
    "scrub_mbps",
    "throttle_download_mbps",
    "throttle_upload_mbps",
    "tier_check_interval_minutes",
    "topics_compacted",
    "topics_exclude",
    "topics_include",
    "topics_overrides",
    "warm_age_hours",
    "warm_copy",
}


async def reload(storage: TieredStorage, tokens: Tokens, load: Callable[[], Settings]) -> None:
    """Apply all applicable changes, or none. Raises nothing: a mistake in the file must not stop the daemon."""
    old = storage.settings
    try:
        new = await in_thread(load)
    except (TakhinError, OSError) as error:
        _refuse("the configuration cannot be reloaded", str(error), [])
        return
    changed = [name for name in Settings.model_fields if getattr(new, name) != getattr(old, name)]
    applicable = _APPLICABLE if new.fixed_overrides == old.fixed_overrides else _APPLICABLE - {"topics_overrides"}
    applied = [name for name in changed if name in applicable]
    waiting = [_key(name) for name in changed if name not in applicable]
    try:
        mixed = old.with_changes(new, applied)
    except ValidationError as error:
        messages = "; ".join(problem["msg"] for problem in error.errors())
        _refuse("the new configuration needs a restart", messages, waiting)
        return
    try:
        # A file may have changed where its name did not.
        what = "the key file"
        keys = await in_thread(load_keys, mixed)
        what = "the file of tokens"
        known = await in_thread(load_tokens, mixed)
    except TakhinError as error:
        _refuse(f"{what} cannot be reloaded", str(error), waiting)
        return
    storage.apply(mixed, keys)
    tokens.known = known
    if "topics_overrides" in applied:
        await in_thread(storage.count_again)
    if _OF_THE_LOG & set(applied):
        logs.configure(mixed.log_level, mixed.log_format)
    logs.always().info(
        "configuration reloaded",
        applied=[_key(name) for name in applied],
        needs_restart=waiting,
        keys=[*keys.keys],
        tokens=[token.name for token in known],
    )


def _refuse(what: str, why: str, keys: list[str]) -> None:
    logs.logger().error(f"{what}: the previous one stays in effect", error=why, needs_restart=keys)


def _key(name: str) -> str:
    return str(Settings.model_fields[name].validation_alias)
