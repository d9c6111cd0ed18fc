"""Where a stream of whole batches stands: the offset behind the last complete one."""

from __future__ import annotations

from takhin_tiered.formats.batch import LARGEST_HEADER, LENGTH_ENDS_AT, Bytes, batch_fields, parse_any


class LogPosition:
    """Fed the bytes of a log from the beginning of a batch on, in pieces of any size."""

    def __init__(self) -> None:
        self.next_offset: int | None = None
        self._head = bytearray()
        # Bytes of the present batch that are still to come, and the offset behind it.
        self._left = 0
        self._behind = 0

    def pass_by(self, piece: Bytes) -> None:
        """Bytes that are not batches are passed over."""
        at = 0
        while at < len(piece):
            if not self._left and not self._head:
                at = self._pass_whole(piece, at)
            if self._left:
                taken = min(self._left, len(piece) - at)
                self._left -= taken
                at += taken
                if not self._left:
                    self.next_offset = self._behind
                continue
            taken = min(LARGEST_HEADER - len(self._head), len(piece) - at)
            self._head += piece[at : at + taken]
            at += taken
            batch = parse_any(self._head, 0)
            if batch is None and len(self._head) == LARGEST_HEADER:
                return
            if batch is not None:
                surplus = len(self._head) - batch.size
                # A message may be smaller than the largest header.
                at -= max(0, surplus)
                self._left, self._behind = max(0, -surplus), batch.last_offset + 1
                self._head.clear()
                if not self._left:
                    self.next_offset = self._behind

    def _pass_whole(self, piece: Bytes, at: int) -> int:
        """Where the first batch begins that is not whole, or not of magic 2: most are, and this costs less for them."""
        while (fields := batch_fields(piece, at)) is not None:
            base, length, _, _, _, _, last_delta, *_ = fields
            end = at + length + LENGTH_ENDS_AT
            if end > len(piece):
                break
            self.next_offset = base + last_delta + 1
            at = end
        return at
