"""When the store was walked through last to change classes, for each change. It outlives the process."""

from __future__ import annotations

import json
from dataclasses import asdict

from takhin_tiered.catalog.journal import Journal
from takhin_tiered.segments.classes import Walk
from takhin_tiered.segments.model import Tier
from takhin_tiered.segments.policy import Policy
from takhin_tiered.segments.retrieval import class_or_default

_PREFIX = "class walk "
_NONE = Walk()


class ClassWalks:
    def __init__(self, journal: Journal | None, *, may_write: bool) -> None:
        self._journal, self._may_write = journal, may_write
        self._found: dict[str, Walk] = {}

    async def load(self) -> None:
        for name, text in (await self._journal.metas(_PREFIX) if self._journal is not None else {}).items():
            try:
                self._found[name] = Walk(**json.loads(text))
            except (ValueError, TypeError):
                # A later release may have written another form. The next walk writes it again.
                continue

    def of(self, rules: Policy) -> Walk:
        """The last one that made the change which the rules of a topic ask for."""
        return self._found.get(_name(class_or_default(rules.class_of(Tier.WARM)), rules.class_of(Tier.COLD)), _NONE)

    async def note(self, source: str, target: str, walk: Walk) -> None:
        name = _name(source, target)
        self._found[name] = walk
        if self._journal is not None and self._may_write:
            await self._journal.set_meta(name, json.dumps(asdict(walk)))


def _name(source: str, target: str) -> str:
    return f"{_PREFIX}{source} {target}"
