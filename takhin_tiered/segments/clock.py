"""By which time something may be removed for its age. Pure.

The wall clock can be wrong: a machine without a battery, a virtual machine that was halted, a hand. What is removed
for its age is removed by `sure`, which never runs ahead of what can be confirmed: the time at which the clock was last
believed, and what the uptime says has passed since.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

TOLERANCE = 3600.0
"""Seconds by which clocks may differ: time zones are none of it, NTP steps and slow answers are."""
LONGEST_OFF = 7 * 24 * 3600.0
"""Seconds for which a machine may have been off without anybody having to confirm its clock."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """It was ``wall``, seconds since the epoch, for sure, ``uptime`` seconds into the boot ``boot``.

    ``apart``: by how many seconds our clock was ahead of the store's when a person said that ours is right.
    """

    wall: float
    uptime: float
    boot: str
    apart: float = 0.0

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str | None) -> Anchor | None:
        """None where there is none, or what stands there is none."""
        try:
            found = json.loads(text or "")
            apart = float(found.get("apart", 0.0))
            return cls(float(found["wall"]), float(found["uptime"]), str(found["boot"]), apart)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Reading:
    """What the clocks say now; ``store`` is the store's time, None where it tells none.

    ``store_is_independent``: it is another machine's clock, so that it can confirm ours.
    """

    wall: float
    uptime: float
    boot: str
    store: float | None = None
    store_is_independent: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """``earliest`` and ``latest`` are what the time may be, in seconds since the epoch, by all that is known.

    ``anchor`` is what is to be remembered, None where nothing is. ``problem`` is empty where all agree.
    """

    earliest: float
    latest: float
    problem: str
    anchor: Anchor | None


def judge(anchor: Anchor | None, now: Reading, *, confirmed: bool = False, asks_store: bool = False) -> Judgement:
    """How far the wall clock can be believed; ``confirmed``: a person says that it can.

    ``asks_store``: there is a store that can be asked, so that without its word nothing is believed for the first time.
    """
    told = None if now.store is None else now.store + (anchor.apart if anchor is not None else 0.0)
    if confirmed:
        apart = 0.0 if now.store is None else now.wall - now.store
        return _agreed(now, apart)
    if told is not None and abs(now.wall - told) > TOLERANCE:
        known = [] if anchor is None else [_latest(anchor, now)]
        bound = min([told, *known])
        kept = anchor.apart if anchor is not None else 0.0
        direction = "ahead of" if now.wall > told else "behind"
        problem = f"the clock is {span(abs(now.wall - told))} {direction} the store's"
        believed = Anchor(bound, now.uptime, now.boot, kept)
        return Judgement(min(now.wall, bound), max([now.wall, told, *known]), problem, believed)
    if anchor is None:
        if told is None and asks_store:
            return Judgement(0.0, now.wall, "", None)
        return _agreed(now, 0.0)
    if told is not None and now.store_is_independent:
        return _agreed(now, anchor.apart)
    return _judge_by_uptime(anchor, now)


def _judge_by_uptime(anchor: Anchor, now: Reading) -> Judgement:
    latest, is_same_boot = _latest(anchor, now), _is_same_boot(anchor, now)
    if now.wall - latest > TOLERANCE:
        how = f"jumped {span(now.wall - latest)} ahead"
        if not is_same_boot:
            how = f"moved {span(now.wall - anchor.wall)} ahead over a restart of the machine"
        return Judgement(latest, now.wall, f"the clock {how}", anchor)
    least = latest if is_same_boot else anchor.wall
    if least - now.wall > TOLERANCE:
        return Judgement(now.wall, least, f"the clock jumped {span(least - now.wall)} back", anchor)
    return _agreed(now, anchor.apart)


def _agreed(now: Reading, apart: float) -> Judgement:
    return Judgement(now.wall, now.wall, "", Anchor(now.wall, now.uptime, now.boot, apart))


def _latest(anchor: Anchor, now: Reading) -> float:
    """The latest time that it can be, if the clock was right at the anchor."""
    if _is_same_boot(anchor, now):
        return anchor.wall + now.uptime - anchor.uptime
    return anchor.wall + LONGEST_OFF


def _is_same_boot(anchor: Anchor, now: Reading) -> bool:
    """Two boots without a name are not known to be the same."""
    return anchor.boot == now.boot != ""


def span(seconds: float) -> str:
    """Hours or days, for people."""
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"
