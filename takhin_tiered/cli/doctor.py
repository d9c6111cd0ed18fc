"""``doctor``: every check that an operator would make by hand, each with advice. It writes one probe object only."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import typer

from takhin_tiered import logs
from takhin_tiered.catalog.journal import open_journal
from takhin_tiered.cli.access import open_view
from takhin_tiered.cli.broker import directory_text, idle_text, local_topics
from takhin_tiered.cli.findings import CHECK_SECONDS, Finding, failures, run_abandonable, run_check
from takhin_tiered.cli.output import console
from takhin_tiered.cli.probe import check_data_dirs, check_disk, check_state_dir, probe_store
from takhin_tiered.cli.running import settings_of
from takhin_tiered.cli.status import daemon_text, problems_of
from takhin_tiered.cli.stdout import end_at_once
from takhin_tiered.config import Settings, find_config
from takhin_tiered.config_listeners import SHORTEST_TOKEN
from takhin_tiered.engine.asking import BrokerAddress, connected
from takhin_tiered.errors import ConfigError, ObjectMissing, StoreError, TakhinError
from takhin_tiered.lifecycle import run_in_loop
from takhin_tiered.segments.outlook import idle_tails
from takhin_tiered.segments.owner import OF_PREFIX, Party
from takhin_tiered.store import ObjectStore, open_store
from takhin_tiered.vault.codecs import load_keys
from takhin_tiered.vault.ownership import IDENTIFIER

_WHOLE_SECONDS = 9.0
_HANGS = "Check the file system below it: df, mount, dmesg"


def doctor(context: typer.Context) -> None:
    """Check configuration, permissions, disk, store, clock, owner, catalog, daemon, last cycle and broker.

    Exits 1 if a check FAILED. Ends within 10 seconds, even if a check hangs. Writes one small object to the store,
    takhin-tiered.probe.doctor, and removes it.
    """
    logs.configure_for_command("error")
    # A hung file system may block any call, even reading the configuration.
    watchdog = threading.Timer(_WHOLE_SECONDS, _give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        settings = settings_of(context)
    except ConfigError as error:
        Finding("FAILED", "configuration", error.message, error.hint or "See takhin-tiered config example").print()
        raise typer.Exit(1) from None
    found = list(_configuration(context, settings))
    for finding in found:
        finding.print()
    count = failures(found) + run_in_loop(_examine(settings))
    console().print(f"\n{count} failed" if count else "\nnothing failed")
    end_at_once(1 if count else 0)


def _give_up() -> None:
    Finding("FAILED", "doctor", f"a check still hangs after {_WHOLE_SECONDS:g} s", _HANGS).print()
    end_at_once(1)


async def _examine(settings: Settings) -> int:
    """Run all checks concurrently, print them in order, return the number of failures."""
    checks = [
        run_check("data directory", _HANGS, _in_thread(check_data_dirs, settings)),
        run_check("state directory", _HANGS, _in_thread(check_state_dir, settings)),
        run_check("disk", _HANGS, _in_thread(check_disk, settings)),
        run_check("encryption", _HANGS, _in_thread(_keys, settings)),
        run_check("store", "Check the network, and that the server runs", _store(settings)),
        run_check("catalog", _HANGS, _catalog(settings)),
        run_check("broker", "Check the network, and that the broker runs", _broker(settings)),
        run_check("fleet", "Check storage.tiered.fleet.endpoint, and the network", _fleet(settings)),
    ]
    count = 0
    for task in [asyncio.create_task(check) for check in checks]:
        found = await task
        for finding in found:
            finding.print()
        count += failures(found)
    return count


def _configuration(context: typer.Context, settings: Settings) -> Iterator[Finding]:
    where = str(find_config(context.obj) or "the environment")
    yield Finding("ok", "configuration", f"valid, from {where}")
    if not settings.enabled:
        yield Finding(
            "warning", "configuration", "tiered storage is not enabled: nothing is moved",
            "Set storage.tiered.enabled: true once takhin-tiered plan shows what you want",
        )  # fmt: skip
    if settings.has_short_token:
        yield Finding(
            "warning", "configuration", f"storage.tiered.api.token has less than {SHORTEST_TOKEN} characters",
            "Others could guess it: openssl rand -hex 32 makes a good one",
        )  # fmt: skip
    for line in directory_text(settings):
        if line.startswith("Warning: "):
            yield Finding("warning", "configuration", line.removeprefix("Warning: "))


def _keys(settings: Settings) -> Iterator[Finding]:
    if settings.encryption_key_file is None:
        return
    try:
        keys = load_keys(settings)
    except ConfigError as error:
        yield Finding("FAILED", "encryption", error.message, error.hint or "See storage.tiered.encryption.key.file")
        return
    others = ", ".join(repr(name) for name in keys.keys if name != keys.current)
    text = f"new segments are encrypted with the key {keys.current!r}"
    yield Finding("ok", "encryption", f"{text}; {others} for earlier ones" if others else text)


async def _in_thread(look: Callable[[Settings], Iterator[Finding]], settings: Settings) -> AsyncIterator[Finding]:
    for finding in await run_abandonable(lambda: list(look(settings))):
        yield finding


async def _store(settings: Settings) -> AsyncIterator[Finding]:
    if not settings.has_store:
        yield Finding(
            "warning", "store", "none is configured",
            "Set storage.tiered.s3.bucket or storage.tiered.directory.path",
        )  # fmt: skip
        return
    try:
        async with open_store(settings) as store:
            async for finding in probe_store(settings, store):
                yield finding
            yield await _owner(settings, store)
            can = await store.capabilities()
            for what, meaning in can.described() if can is not None else ():
                yield Finding("ok", "store can", f"{what}: {meaning}")
    except TakhinError as error:
        yield Finding("FAILED", "store", error.message, error.hint or "See takhin-tiered config show")


async def _owner(settings: Settings, store: ObjectStore) -> Finding:
    try:
        party = Party.parse(await store.read(OF_PREFIX.owner))
    except ObjectMissing:
        return Finding("ok", "owner", f"nobody writes to {store.address} now")
    except StoreError as error:
        return Finding("warning", "owner", f"the record {OF_PREFIX.owner} cannot be read: {error}")
    if party is None:
        return Finding(
            "warning",
            "owner",
            f"the object {OF_PREFIX.owner} is not an owner record",
            "Find out what wrote that object",
        )
    if party.shared:
        if settings.fleet_replicas == "adopt":
            return Finding("ok", "owner", "the prefix is shared by replicas, and this daemon is to be one of them")
        return Finding(
            "FAILED", "owner", f"{store.address} is shared by replicas, and this data directory is not to be one",
            "Set storage.tiered.fleet.replicas: adopt, or give this data directory its own prefix",
        )  # fmt: skip
    async with open_journal(settings.state_dir, read_only=True) as journal:
        ours = await journal.get_meta(IDENTIFIER) if journal is not None else None
    if party.id != ours:
        return Finding(
            "FAILED", "owner", f"{store.address} is held by {party.description}, not by this data directory",
            "Give each data directory its own prefix",
        )  # fmt: skip
    return Finding("ok", "owner", f"the prefix is written to by {party.description}")


async def _catalog(settings: Settings) -> AsyncIterator[Finding]:
    """The catalog, the daemon and the last cycle."""
    try:
        async with open_view(settings) as view:
            found = await view.status()
    except TakhinError as error:
        yield Finding("FAILED", "catalog", error.message, error.hint)
        return
    yield Finding("ok", "catalog", f"{found.total_segments} segments, {found.archived_segments} in the archive only")
    daemon = found.daemon
    if daemon is None:
        yield Finding(
            "warning", "daemon", daemon_text(found), "Start it, or run single cycles: takhin-tiered run --once"
        )
    elif daemon.answers is not False:
        yield Finding("ok", "daemon", daemon_text(found))
    if found.last_cycle_at and not found.last_cycle_problem:
        yield Finding("ok", "last cycle", f"ended {found.last_cycle_at[:19]} UTC")
    for problem in problems_of(replace(found, store_reachable=None), time.time()):
        yield _of_problem(problem)


def _of_problem(problem: str) -> Finding:
    if problem.startswith("no cycle has run"):
        return Finding("warning", "last cycle", problem)
    return Finding("FAILED", "operation", problem)


async def _broker(settings: Settings) -> AsyncIterator[Finding]:
    if not settings.broker_bootstrap:
        return
    where = settings.broker_bootstrap
    try:
        async with asyncio.timeout(CHECK_SECONDS - 1), connected(BrokerAddress(where, settings.broker_arguments)) as it:
            policy = settings.policy_for(kafka=True)
            topics = {topic for topic in local_topics(settings) if policy.covers(topic)}
            text = idle_text(idle_tails(await it.topic_settings(topics), policy))
    except TakhinError as error:
        yield Finding("FAILED", "broker", error.message, error.hint or "Check storage.tiered.broker.bootstrap")
        return
    yield Finding("ok", "broker", f"{where} answers")
    if text:
        yield Finding("warning", "broker", text.removeprefix("Warning: "))


async def _fleet(settings: Settings) -> AsyncIterator[Finding]:
    if not settings.fleet_table:
        return
    # Imported here: few have a fleet.
    from takhin_tiered.cli.fleet import open_table
    from takhin_tiered.fleet.initialise import look_at

    try:
        async with open_table(settings, seconds=CHECK_SECONDS - 2) as table:
            found = await look_at(table)
    except TakhinError as error:
        yield Finding("FAILED", "fleet", error.message, error.hint or "See takhin-tiered fleet status")
        return
    yield Finding("ok", "fleet", f"table {found.table} is {found.status}; this is node {settings.fleet_node}")
    for problem in found.problems:
        yield Finding("warning", "fleet", f"the table is not as the contract says: {problem}", "See docs/fleet.md")
    if settings.fleet_mode == "local":
        yield Finding("warning", "fleet", "mode local: nothing is written to it", "Set storage.tiered.fleet.mode: dual")
