"""The rules in effect, and the broker that they are applied beside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.view import BrokerView
from takhin_tiered.heat.tracker import Tracker, Usage
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.policy import Policy


@dataclass(slots=True)
class Situation:
    """``policy`` learns about the broker; ``view`` is what the broker told, and ``outlook`` what it is about to do.
    ``tracker`` knows how segments are read.
    """

    policy: Policy
    view: BrokerView = field(default_factory=BrokerView)
    outlook: Outlook = field(default_factory=Outlook)
    tracker: Tracker = field(default_factory=Tracker)


def usage_now(situation: Situation, clock: Clock) -> Usage:
    """How segments are read now."""
    return situation.tracker.at(clock.now())


def outlook_now(situation: Situation, clock: Clock) -> Outlook:
    """What the broker is about to do, whether a window to archive in is open, and how far the clock may be ahead."""
    opens_at = situation.policy.windows.opens_at(clock.now())
    return replace(situation.outlook, opens_at=opens_at, clock_ahead=clock.ahead())
