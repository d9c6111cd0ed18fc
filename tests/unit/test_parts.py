"""What the verbs share: the clock, and the store that is not configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from takhin_tiered import ConfigError, Settings, TieredStorage
from takhin_tiered.engine.clock import Clock, Span
from takhin_tiered.engine.situation import Situation, outlook_now
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.policy import Policy
from tests.support import parts

POLICY = Policy(True, True, False, warm_age=100.0, cold_age=1000.0, lease=50.0, cache_size=1000)


def test_before_the_first_look_the_wall_clock_is_believed() -> None:
    clock = Clock(lambda: 1000.0, lambda: 5.0)
    assert (clock.now(), clock.sure_now(), clock.stamp_now(), clock.ahead()) == (1000.0, 1000.0, 1000.0, 0.0)


def test_a_clock_that_is_ahead_makes_nothing_older() -> None:
    clock = Clock(lambda: 5000.0, lambda: 25.0, Span(earliest=1000.0, latest=1010.0, uptime=5.0))
    assert (clock.sure_now(), clock.stamp_now(), clock.ahead()) == (1020.0, 5000.0, 3980.0)
    situation = Situation(POLICY, outlook=Outlook(due={}))
    assert outlook_now(situation, clock).clock_ahead == 3980.0
    assert situation.outlook.clock_ahead == 0.0


def test_a_clock_that_is_behind_begins_no_age_too_early() -> None:
    clock = Clock(lambda: 10.0, lambda: 25.0, Span(earliest=1000.0, latest=1010.0, uptime=5.0))
    assert (clock.sure_now(), clock.stamp_now(), clock.ahead()) == (10.0, 1030.0, 0.0)


async def test_without_a_store_whatever_is_asked_of_it_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    async with TieredStorage.open(Settings(data_dir=tmp_path, state_path=tmp_path / "state")) as storage:
        assert storage.store_address is None
        with pytest.raises(ConfigError, match="no object store is configured"):
            await parts(storage).store.head("x")
        with pytest.raises(ConfigError, match="no archive that this process may write to"):
            await storage.prepare()
