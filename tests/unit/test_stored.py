"""Bytes on their way into the store: computed side by side, hashed before their number is known."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.codec.checksums import bytes_source, checksum_of
from takhin_tiered.concurrency import COMPUTING, computed
from takhin_tiered.vault import stored
from takhin_tiered.vault.stored import StoredHasher


def form(size: int) -> int:
    """As `part_size_for`, of few bytes."""
    return 16 if size > 40 else 0


def test_bytes_are_hashed_in_the_form_that_their_number_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MULTIPART_THRESHOLD", 40)
    monkeypatch.setattr(stored, "part_size_for", form)

    @given(st.binary(max_size=200), st.integers(1, 50), st.integers(0, 100), st.booleans())
    def is_right(data: bytes, piece: int, more: int, md5: bool) -> None:
        hasher = StoredHasher(len(data) + more, md5=md5)
        for at in range(0, len(data), piece):
            hasher.update(data[at : at + piece])
        found, expected = hasher.checksum(), checksum_of(bytes_source(data), len(data), form(len(data)))
        assert (found, found.parts) == (expected, expected.parts)
        assert found.md5 == (expected.md5 if md5 else ())

    is_right()


def test_results_come_in_order_and_few_of_them_wait() -> None:
    lock, begun = threading.Lock(), set[int]()

    def square(number: int) -> int:
        with lock:
            begun.add(number)
        return number * number

    with closing(computed(square, 100, at_once=3)) as results:
        for number, result in enumerate(results):
            assert result == number * number
            with lock:
                assert max(begun) <= number + 3
    assert begun == set(range(100))


def test_after_a_failure_no_thread_is_at_it() -> None:
    running, most = threading.Semaphore(COMPUTING), COMPUTING
    gate = threading.Event()

    def fail_second(number: int) -> int:
        with running:
            if number == 1:
                gate.set()
                raise ValueError("the second one")
            gate.wait(10)
            return number

    with closing(computed(fail_second, 50, at_once=most + 1)) as results, pytest.raises(ValueError, match="second"):
        list(results)
    # All that were at it have left.
    assert all(running.acquire(blocking=False) for _ in range(most))
