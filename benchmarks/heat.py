"""Which share of the reads the local disk serves: by heat, and by age alone with the same bytes. A simulated month.

The tracker, the choice of what is promoted, its budget and the plan are the program's own; only the clock and the
moving of bytes are not. Popularity is Zipf's, and independent of age.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import Failed, Figure, Result, require
from takhin_tiered.config import Settings
from takhin_tiered.engine.promoting import PROMOTED_LEASE
from takhin_tiered.heat.promotion import Budget, Candidate, choose
from takhin_tiered.heat.rates import HotRule
from takhin_tiered.heat.tracker import Tracker
from takhin_tiered.segments.model import NO_FILES, Archive, FileStat, LocalFiles, Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.plan import Verb, make_plan
from takhin_tiered.segments.policy import Policy

EXPONENTS = (1.1, 0.9, 1.3)
AT_LEAST = 0.8
_SEGMENTS, _DAYS, _READS = 5_000, 30, 5_000_000
_QUICK_DAYS, _QUICK_READS = 5, 800_000
_SMALLEST, _LARGEST = 16 << 20, 256 << 20
_SHARE = 0.2
_HOUR, _DAY = 3600.0, 86400.0
_START = 1.8e9
_MOST_MOVES = 2


@dataclass(slots=True)
class Month:
    """A simulated disk and archive. Everything is in the archive at first."""

    policy: Policy
    segments: dict[SegmentId, Segment]
    tracker: Tracker
    budget: Budget
    local: dict[SegmentId, Segment] = field(default_factory=dict)
    recent_moves: dict[SegmentId, deque[float]] = field(default_factory=dict)
    most_moves: int = 0
    promotions: int = 0
    demotions: int = 0
    promoted_bytes: int = 0

    def evaluate(self, now: float) -> None:
        """As `takhin_tiered.engine.promoting.Promoter` does it."""
        self.tracker.settle(now, self.segments.__contains__)
        hot = (self.segments[identity] for identity in self.tracker.hot(now) if identity not in self.local)
        usage = self.tracker.at(now)
        choice = choose(
            [Candidate(s.id, s.size, usage.rate(s.id)) for s in hot if self.tracker.is_rested(s.id, now)],
            [Candidate(s.id, s.size, usage.rate(s.id), stays=now < s.lease_until) for s in self.local.values()],
            self.policy.cache_size,
            self.budget,
            now,
        )
        for promotion in choice.promotions:
            for other in promotion.instead_of:
                self._leave(other, now)
            self.budget.spend(promotion.size, now)
            self.promotions += 1
            self.promoted_bytes += promotion.size
            archived = self.segments[promotion.id]
            assert archived.archive is not None
            files = LocalFiles(log=FileStat(archived.size, archived.archive.mtime_ns, 1))
            proven = replace(archived.archive, proven=files)
            lease = now + min(PROMOTED_LEASE, self.policy.lease)
            self.local[promotion.id] = replace(archived, local=files, archive=proven, lease_until=lease)
            self._moved(promotion.id, now)

    def cycle(self, now: float) -> None:
        """What is not hot any more leaves, by the plan."""
        copies = [self.local[identity] for identity in sorted(self.local)]
        for step in make_plan(copies, copies, self.policy, now, usage=self.tracker.at(now)).work:
            if step.verb is not Verb.EVICT:
                raise Failed(f"the plan has {step.verb} for a restored segment")
            self._leave(step.id, now)

    def _leave(self, identity: SegmentId, now: float) -> None:
        del self.local[identity]
        self.demotions += 1
        self.tracker.note_demotions([identity], now)
        self._moved(identity, now)

    def _moved(self, identity: SegmentId, now: float) -> None:
        moves = self.recent_moves.setdefault(identity, deque())
        moves.append(now)
        while now - moves[0] >= _DAY:
            moves.popleft()
        self.most_moves = max(self.most_moves, len(moves))
        if len(moves) > _MOST_MOVES:
            raise Failed(f"{identity.path} moved {len(moves)} times within a day")


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the reads of a month."""

    heat: float
    last_week: float
    age: float
    best: float
    promotions: int
    demotions: int
    promoted_bytes: int
    most_moves: int


def heat(bench: Bench, name: str) -> list[Result]:
    """For each exponent. It is the same in every round: the chance is seeded."""
    days, reads = (_QUICK_DAYS, _QUICK_READS) if bench.quick else (_DAYS, _READS)
    found: dict[float, Shares] = {}
    for exponent in EXPONENTS:
        bench.say(f"{name}: exponent {exponent}")
        found[exponent] = shares = simulate(exponent, days=days, reads=reads)
        require(shares.heat > shares.age, "heat serves no more reads from the disk than age does")
    least = found[EXPONENTS[0]].heat
    require(bench.quick or least >= AT_LEAST, f"heat serves {least:.1%} of the reads from the disk")
    result = Result(
        name,
        f"A simulated {days} days of {reads:,} Zipf reads, popularity independent of age, over {_SEGMENTS:,} cold "
        f"segments of {_SMALLEST >> 20} to {_LARGEST >> 20} MiB, with room on the disk for a fifth of their bytes, and "
        "empty at first. Default settings. Age alone has the youngest segments in the same room; the best possible the "
        "most popular, known beforehand.",
        f"No segment moves more than {_MOST_MOVES} times within any 24 hours; the disk never has more than its room.",
    )
    for exponent, shares in found.items():
        for words, value, target in (
            ("reads served by the disk, heat", shares.heat, f">= {AT_LEAST:.0%}" if exponent == EXPONENTS[0] else ""),
            ("the same in the last week", shares.last_week, ""),
            ("reads served by the disk, age alone", shares.age, ""),
            ("reads served by the disk, best possible", shares.best, ""),
        ):
            result.figures.append(Figure(f"exponent {exponent}: {words}", "%", (100 * value,), target))
        for words, value in (
            ("promotions", shares.promotions),
            ("demotions", shares.demotions),
            ("most moves of a segment in 24 hours", shares.most_moves),
        ):
            result.figures.append(Figure(f"exponent {exponent}: {words}", "", (value,)))
        result.figures.append(Figure(f"exponent {exponent}: promoted", "GiB", (shares.promoted_bytes / (1 << 30),)))
    return [result]


def simulate(exponent: float, *, days: int = _DAYS, reads: int = _READS, seed: int = 19) -> Shares:
    """Raises `Failed` where a segment moves more than twice a day, or the disk has more than its share."""
    chance = random.Random(seed)
    segments = _segments(chance)
    ranked = list(segments)
    chance.shuffle(ranked)
    popularity = {identity: (rank + 1) ** -exponent for rank, identity in enumerate(ranked)}
    total = sum(segment.size for segment in segments.values())
    room = int(total * _SHARE)
    settings = Settings(
        data_dir="/data", enabled=True, directory_path=Path("/store"), local_cache_size_mb=room / (1 << 20)
    )
    policy = settings.policy
    rule = HotRule(policy.hot_rate, policy.hot_count)
    month = Month(policy, segments, Tracker(rule), Budget(policy.promoted_hourly))
    tick = settings.tier_check_interval_minutes * 60
    ticks = int(days * _DAY / tick)
    weights, served, late, late_reads = list(accumulate(popularity[i] for i in ranked)), 0, 0, 0
    now = _START
    for number in range(ticks):
        some = reads * (number + 1) // ticks - reads * number // ticks
        for place, identity in enumerate(chance.choices(ranked, cum_weights=weights, k=some)):
            month.tracker.note(identity, now + tick * place / some, 4096)
            is_local = identity in month.local
            served += is_local
            if number * tick >= (days - 7) * _DAY:
                late += is_local
                late_reads += 1
        now += tick
        month.evaluate(now)
        if number % 2:
            month.cycle(now)
        if sum(segment.size for segment in month.local.values()) > room:
            raise Failed("the disk has more than its share")
    weight = weights[-1]
    youngest = sorted(segments, key=lambda identity: segments[identity].mtime, reverse=True)
    return Shares(
        heat=served / reads,
        last_week=late / max(1, late_reads),
        age=sum(popularity[i] for i in _fitting(youngest, segments, room)) / weight,
        best=sum(popularity[i] for i in _fitting(ranked, segments, room)) / weight,
        promotions=month.promotions,
        demotions=month.demotions,
        promoted_bytes=month.promoted_bytes,
        most_moves=month.most_moves,
    )


def _segments(chance: random.Random) -> dict[SegmentId, Segment]:
    """All cold: from seven days to a year old."""
    found: dict[SegmentId, Segment] = {}
    for number in range(_SEGMENTS):
        identity = SegmentId("orders", number % 50, number // 50 * 100_000)
        size = int(_SMALLEST * (_LARGEST / _SMALLEST) ** chance.random())
        mtime = _START - 7 * _DAY - chance.random() * 358 * _DAY
        archive = Archive(1, size, int(mtime * 1e9), mtime)
        found[identity] = Segment(identity, local=NO_FILES, archive=archive)
    return found


def _fitting(ordered: list[SegmentId], segments: dict[SegmentId, Segment], room: int) -> Iterator[SegmentId]:
    """The first ones, as many as there is room for."""
    for identity in ordered:
        room -= segments[identity].size
        if room < 0:
            return
        yield identity
