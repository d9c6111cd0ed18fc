"""Which transactions are open, from the headers of batches in log order.

Source: Apache Kafka, ``ProducerAppendInfo``: the first transactional batch of a producer begins its transaction, a
control batch of the producer ends it, with either marker.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from takhin_tiered.formats.batch import NO_PRODUCER, TRANSACTIONAL_OR_CONTROL
from takhin_tiered.formats.summary import MOST_OPEN_TRANSACTIONS

_CONTROL = 0x20


class OpenTransactions:
    """Holds one number for each open transaction, and gives up above a limit."""

    def __init__(self, ongoing: Mapping[int, int] = MappingProxyType({}), most: int = MOST_OPEN_TRANSACTIONS) -> None:
        """``ongoing``: the first offset of those that are open before the first batch, by producer ID."""
        self._first, self._most = dict(ongoing), most
        self._too_many = False

    def note(self, attributes: int, producer: int, base_offset: int) -> None:
        """The next batch, which is transactional or a control batch."""
        if producer == NO_PRODUCER or not attributes & TRANSACTIONAL_OR_CONTROL:
            return
        if attributes & _CONTROL:
            self._first.pop(producer, None)
        elif producer not in self._first:
            if len(self._first) >= self._most:
                self._too_many = True
            else:
                self._first[producer] = base_offset

    def found(self) -> tuple[tuple[int, int], ...] | None:
        """Producer ID and first offset, by offset; None if there were too many at a time."""
        return None if self._too_many else tuple(sorted(self._first.items(), key=lambda entry: entry[1]))
