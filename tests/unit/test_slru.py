"""Which chunks the disk cache keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.reader import slru
from takhin_tiered.reader.slru import PROTECTED_SHARE, SegmentedLru

LIMIT = 10


def use(cache: SegmentedLru[str], name: str, limit: int = LIMIT, size: int = 1) -> None:
    """As the disk cache does: a hit, or room is made and it is added."""
    if name in cache:
        cache.hit(name, limit)
        return
    victims = cache.victims(limit - size)
    if victims is not None:
        for each in victims:
            cache.leave(each, limit)
        cache.add(name, size, limit)


def test_the_least_recently_used_leaves_first() -> None:
    cache: SegmentedLru[str] = SegmentedLru()
    for number in range(LIMIT + 3):
        use(cache, f"c{number}")
    assert list(cache) == [f"c{number}" for number in range(3, LIMIT + 3)]


def test_a_scan_does_not_push_out_what_is_read_repeatedly() -> None:
    cache: SegmentedLru[str] = SegmentedLru()
    favourites = [f"f{number}" for number in range(7)]
    for _ in range(2):
        for name in favourites:
            use(cache, name)
    for number in range(1000):
        use(cache, f"scanned{number}")
    assert all(name in cache and cache.is_protected(name) for name in favourites)
    assert cache.size == LIMIT


def test_what_was_read_repeatedly_long_ago_leaves_in_the_end() -> None:
    cache: SegmentedLru[str] = SegmentedLru()
    for generation in range(3):
        for _ in range(2):
            for number in range(7):
                use(cache, f"g{generation}-{number}")
    assert not any(name.startswith("g0") for name in cache)
    assert all(f"g2-{number}" in cache for number in range(7))


def test_a_scan_again_and_again_of_more_than_there_is_room_for_pushes_out_nothing_either() -> None:
    cache: SegmentedLru[str] = SegmentedLru()
    for _ in range(2):
        for number in range(7):
            use(cache, f"f{number}")
    for _ in range(5):
        for number in range(50):
            use(cache, f"scanned{number}")
    assert all(f"f{number}" in cache for number in range(7))


def test_what_was_only_remembered_is_protected_when_it_is_read_again() -> None:
    cache: SegmentedLru[str] = SegmentedLru()
    for name in "abcdefghijkl":
        cache.remember(name, 1, LIMIT)
    # As many as there is room for.
    assert [name for name in "abcdefghijkl" if cache.has_left(name)] == list("cdefghijkl")
    assert (len(cache), cache.size) == (0, 0)
    use(cache, "c")
    use(cache, "a")
    assert (cache.is_protected("c"), cache.is_protected("a"), cache.has_left("c")) == (True, False, False)


def test_the_number_of_those_that_left_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slru, "MOST_LEFT", 3)
    cache: SegmentedLru[str] = SegmentedLru()
    for name in "abcdef":
        cache.remember(name, 0, LIMIT)
    assert [name for name in "abcdef" if cache.has_left(name)] == list("def")


def test_one_that_is_used_now_does_not_leave() -> None:
    cache: SegmentedLru[str] = SegmentedLru()
    for name in "abc":
        use(cache, name)
    assert cache.victims(1, lambda name: name != "a") == ["b", "c"]
    assert cache.victims(0, lambda name: name != "a") is None
    assert cache.victims(3) == []


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefghijkl"), st.integers(1, 4), st.integers(0, 12), st.booleans()), max_size=200
    )
)
def test_the_sum_is_right_and_the_bound_is_kept(steps: list[tuple[str, int, int, bool]]) -> None:
    cache: SegmentedLru[str] = SegmentedLru()
    sizes: dict[str, int] = {}
    for name, size, limit, is_removed in steps:
        before_all = set(cache)
        if is_removed:
            assert (cache.remove(name) > 0) == (name in sizes and name in before_all)
        else:
            before = name in cache
            use(cache, name, limit, size)
            if not before and name in cache:
                sizes[name] = size
                assert cache.size <= limit
        assert cache.size == sum(sizes[each] for each in cache)
        assert len(cache) == len(set(cache))
        protected = sum(sizes[each] for each in cache if cache.is_protected(each))
        assert protected <= max(12 * PROTECTED_SHARE, 4)
