"""Which batches a consumer with ``read_committed`` does not get: those of aborted transactions.

Source: Apache Kafka, ``TransactionIndex.collectAbortedTxns``. An aborted transaction stands in the index of the segment
that has its marker, which may be a later one than the segment of its records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Literal, Protocol

from takhin_tiered.formats.batch import Batch
from takhin_tiered.formats.transactions import AbortedTransaction


class SegmentTransactions(Protocol):
    """What one segment tells of transactions, each read when it is asked for."""

    @property
    def still_open(self) -> tuple[tuple[int, int], ...] | None:
        """Those that have records in it and no marker after them; None if that is not known."""
        ...

    async def aborted(self) -> tuple[AbortedTransaction, ...]:
        """Those whose abort markers are in it."""
        ...

    async def ongoing(self) -> Mapping[int, int] | None:
        """The first offset of each that was open at the segment's beginning, by producer ID; None if not known."""
        ...


FromHere = Callable[[], AsyncIterator[SegmentTransactions]]
"""A segment and those after it, in order. It raises where one is missing: a marker may have been in it."""


class Aborted:
    """Tells whether a batch is of an aborted transaction. Later segments are asked only where a batch depends on them.

    The batches are those of the first segment, and below the last stable offset: all their transactions are decided.
    """

    def __init__(self, from_here: FromHere) -> None:
        self._from_here = from_here
        self._segments: AsyncIterator[SegmentTransactions] | None = None
        self._is_first_known = False
        self._open: dict[int, int] = {}
        self._pending: SegmentTransactions | None = None
        self._asked = 0
        self._transactions: dict[int, list[AbortedTransaction]] = {}
        self._ongoing: list[Mapping[int, int]] = []
        self._decided_below = 0
        self._all_read = False

    async def has(self, batch: Batch) -> bool:
        return await self.transaction_of(batch) is not None

    async def transaction_of(self, batch: Batch) -> AbortedTransaction | None:
        """The aborted transaction of a batch; None if it has none, or one that was committed."""
        if not batch.is_transactional or batch.is_control:
            return None
        while (answer := self._known(batch.producer_id, batch.base_offset)) is None:
            await self._read_on()
        return answer or None

    def _known(self, producer: int, offset: int) -> AbortedTransaction | Literal[False] | None:
        """False if the batch's transaction was committed; None if what has been read does not tell."""
        for each in self._transactions.get(producer, ()):
            if offset <= each.last_offset:
                # A producer has one transaction at a time: before a later aborted one, this one had ended.
                return each if each.first_offset <= offset else False
        # Where it had ended by a place up to which all indexes were read, it was not aborted.
        ended = (
            self._all_read
            or offset < self._decided_below
            or (self._is_first_known and offset < self._open.get(producer, offset + 1))
            or any(ongoing.get(producer, offset + 1) > offset for ongoing in self._ongoing)
        )
        return False if ended else None

    async def _read_on(self) -> None:
        """One step: the next segment's beginning, or its index."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._add(await pending.aborted())
            return
        if self._segments is None:
            self._segments = self._from_here()
        segment = await anext(self._segments, None)
        if segment is None:
            self._all_read = True
            return
        self._asked += 1
        if self._asked == 1:
            self._add(await segment.aborted())
            self._is_first_known, self._open = segment.still_open is not None, dict(segment.still_open or ())
            return
        # What is open where the second segment begins is known, if it is known what was at the end of the first.
        if not (self._asked == 2 and self._is_first_known) and (ongoing := await segment.ongoing()) is not None:
            self._ongoing.append(ongoing)
        self._pending = segment

    def _add(self, aborted: Iterable[AbortedTransaction]) -> None:
        for each in aborted:
            self._transactions.setdefault(each.producer_id, []).append(each)
            self._decided_below = max(self._decided_below, each.last_stable_offset)
