"""A log that is fed in pieces, in order."""

from __future__ import annotations

from abc import ABC, abstractmethod

from takhin_tiered.formats.batch import Bytes


class PieceWalk(ABC):
    """Takes a log piece by piece, until bytes come that are none of its format: there it is lost."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lost = False
        self._only_zeros = True
        self._fed = 0

    def update(self, piece: Bytes) -> None:
        view, at = memoryview(piece), 0
        self._fed += len(view)
        while at < len(view) and not self._lost:
            at = self._take(view, at)
        if self._lost and self._only_zeros:
            self._only_zeros = not view[at:].tobytes().strip(b"\0")

    @property
    def _is_rest_zeros(self) -> bool:
        """Whether all came, and zeros alone from where it was lost."""
        return self._only_zeros and self._fed == self._size

    @abstractmethod
    def _take(self, view: memoryview, at: int) -> int:
        """Take what stands at ``at`` of the piece, or begin to; returns where it stopped."""
