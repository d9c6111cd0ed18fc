"""The rules in effect, and the broker that they are applied beside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from takhin_tiered.engine.clock import Clock
from takhin_tiered.engine.view import BrokerView
from takhin_tiered.segments.outlook import Outlook
from takhin_tiered.segments.policy import Policy


@dataclass(slots=True)
class Situation:
    """``policy`` learns about the broker; ``view`` is what the broker told, and ``outlook`` what it is about to do."""

    policy: Policy
    view: BrokerView = field(default_factory=BrokerView)
    outlook: Outlook = field(default_factory=Outlook)


def outlook_now(situation: Situation, clock: Clock) -> Outlook:
    """What the broker is about to do, and how far the clock may be ahead."""
    return replace(situation.outlook, clock_ahead=clock.ahead())
