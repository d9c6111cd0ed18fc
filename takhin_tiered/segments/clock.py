"""Which time decides whether something is old enough to be removed. Pure.

The wall clock can be wrong: no battery, a suspended virtual machine, a typing error. Removal by age therefore uses
`Judgement.earliest`. It never runs ahead of what can be confirmed: the last trusted time, plus the uptime since then.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

TOLERANCE = 3600.0
"""Seconds by which clocks may differ: enough for NTP steps and slow responses, too little for a time zone error."""
LONGEST_OFF = 7 * 24 * 3600.0
"""Seconds for which a machine may be off before a person has to confirm its clock."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A trusted time: ``wall`` seconds since the epoch, at ``uptime`` seconds into the boot ``boot``.

    ``apart``: seconds by which our clock was ahead of the store's when a person confirmed ours.
    """

    wall: float
    uptime: float
    boot: str
    apart: float = 0.0

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str | None) -> Anchor | None:
        """None if there is no text, or it is malformed."""
        try:
            found = json.loads(text or "")
            apart = float(found.get("apart", 0.0))
            return cls(float(found["wall"]), float(found["uptime"]), str(found["boot"]), apart)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Reading:
    """The clocks now; ``store`` is the store's time, None if unknown.

    ``store_is_independent``: it is another machine's clock, so it can confirm ours.
    """

    wall: float
    uptime: float
    boot: str
    store: float | None = None
    store_is_independent: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """The time lies between ``earliest`` and ``latest``, in seconds since the epoch.

    ``anchor`` is to be stored, unless it is None. ``problem`` is empty if the clocks agree.
    """

    earliest: float
    latest: float
    problem: str
    anchor: Anchor | None


def judge(anchor: Anchor | None, now: Reading, *, confirmed: bool = False, asks_store: bool = False) -> Judgement:
    """How far the wall clock can be trusted; ``confirmed``: a person confirmed it.

    ``asks_store``: a store is configured, so a first anchor needs the store's time.
    """
    store_time = None if now.store is None else now.store + (anchor.apart if anchor is not None else 0.0)
    if confirmed:
        apart = 0.0 if now.store is None else now.wall - now.store
        return _agreed(now, apart)
    if store_time is not None and abs(now.wall - store_time) > TOLERANCE:
        known = [] if anchor is None else [_latest(anchor, now)]
        bound = min([store_time, *known])
        kept = anchor.apart if anchor is not None else 0.0
        direction = "ahead of" if now.wall > store_time else "behind"
        problem = f"the clock is {span(abs(now.wall - store_time))} {direction} the store's"
        trusted = Anchor(bound, now.uptime, now.boot, kept)
        return Judgement(min(now.wall, bound), max([now.wall, store_time, *known]), problem, trusted)
    if anchor is None:
        if store_time is None and asks_store:
            return Judgement(0.0, now.wall, "", None)
        return _agreed(now, 0.0)
    if store_time is not None and now.store_is_independent:
        return _agreed(now, anchor.apart)
    return _judge_by_uptime(anchor, now)


def _judge_by_uptime(anchor: Anchor, now: Reading) -> Judgement:
    latest, is_same_boot = _latest(anchor, now), _is_same_boot(anchor, now)
    if now.wall - latest > TOLERANCE:
        how = f"jumped {span(now.wall - latest)} ahead"
        if not is_same_boot:
            how = f"moved {span(now.wall - anchor.wall)} ahead during a restart of the machine"
        return Judgement(latest, now.wall, f"the clock {how}", anchor)
    least = latest if is_same_boot else anchor.wall
    if least - now.wall > TOLERANCE:
        return Judgement(now.wall, least, f"the clock jumped {span(least - now.wall)} back", anchor)
    return _agreed(now, anchor.apart)


def _agreed(now: Reading, apart: float) -> Judgement:
    return Judgement(now.wall, now.wall, "", Anchor(now.wall, now.uptime, now.boot, apart))


def _latest(anchor: Anchor, now: Reading) -> float:
    """The latest possible time, if the clock was right at the anchor."""
    if _is_same_boot(anchor, now):
        return anchor.wall + now.uptime - anchor.uptime
    return anchor.wall + LONGEST_OFF


def _is_same_boot(anchor: Anchor, now: Reading) -> bool:
    """Two boots without an ID may differ."""
    return anchor.boot == now.boot != ""


def span(seconds: float) -> str:
    """Hours or days, for people."""
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"
