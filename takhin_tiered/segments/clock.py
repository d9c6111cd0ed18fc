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
    """The wall clock was believed at ``wall``, seconds since the epoch, ``uptime`` seconds into the boot ``boot``."""

    wall: float
    uptime: float
    boot: str

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str | None) -> Anchor | None:
        """None where there is none, or what stands there is none."""
        try:
            found = json.loads(text or "")
            return cls(float(found["wall"]), float(found["uptime"]), str(found["boot"]))
        except (ValueError, TypeError, KeyError):
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
    """``ahead``: seconds by which the wall clock is ahead of what is sure. ``problem`` is empty where all agree."""

    anchor: Anchor
    ahead: float
    problem: str


def judge(anchor: Anchor | None, now: Reading, *, confirmed: bool = False) -> Judgement:
    """Whether the wall clock can be believed; ``confirmed``: a person says so."""
    here = Anchor(now.wall, now.uptime, now.boot)
    if confirmed:
        return Judgement(here, 0.0, "")
    apart = None if now.store is None else now.wall - now.store
    if apart is not None and now.store is not None and abs(apart) > TOLERANCE:
        problem = f"the clock is {_span(abs(apart))} {'ahead of' if apart > 0 else 'behind'} the store's"
        if anchor is None:
            anchor = Anchor(min(now.wall, now.store), now.uptime, now.boot)
        bound = min(_latest(anchor, now), now.store)
        return Judgement(anchor, max(0.0, now.wall - bound), problem)
    if anchor is None or (apart is not None and now.store_is_independent):
        return Judgement(here, 0.0, "")
    jump = now.wall - _latest(anchor, now)
    behind = jump if now.boot == anchor.boot else now.wall - anchor.wall
    if jump > TOLERANCE:
        how = "jumped" if now.boot == anchor.boot else "moved, over a restart of the machine,"
        return Judgement(anchor, jump, f"the clock {how} {_span(now.wall - anchor.wall)} ahead")
    if behind < -TOLERANCE:
        return Judgement(anchor, 0.0, f"the clock jumped {_span(-behind)} back")
    return Judgement(here, 0.0, "")


def _latest(anchor: Anchor, now: Reading) -> float:
    """The latest time that it can be, if the clock was right at the anchor."""
    if anchor.boot == now.boot:
        return anchor.wall + now.uptime - anchor.uptime
    return anchor.wall + LONGEST_OFF


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"
