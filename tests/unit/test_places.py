"""Streams of live numbers: the oldest of a visitor gives way, and nobody locks others out."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.dashboard.places import Place, Places


def test_the_oldest_of_a_visitor_gives_way_to_its_next_one() -> None:
    places = Places(10)
    first, other, second = places.take("one", 2), places.take("other", 2), places.take("one", 2)
    third = places.take("one", 2)
    assert first is not None
    assert first.gives_way.is_set()
    assert not any(place is None or place.gives_way.is_set() for place in (other, second, third))
    # One that has given way already leaves no place twice.
    places.leave(first)
    assert second is not None
    places.leave(second)
    assert places.take("one", 2) is not None
    assert third is not None
    assert not third.gives_way.is_set()


def test_where_all_are_taken_who_has_most_gives_way_and_then_nobody() -> None:
    places = Places(6)
    many = [places.take("many", 4) for _ in range(4)]
    two = [places.take("two", 4) for _ in range(2)]
    late = [places.take("late", 4) for _ in range(3)]
    assert [place is None or place.gives_way.is_set() for place in (*many, *two)] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert [place is None for place in late] == [False, False, True]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=200))
def test_whatever_comes_and_goes_the_bounds_hold_and_a_visitor_without_any_gets_one(
    steps: list[tuple[str, bool]],
) -> None:
    places, held = Places(8), list[Place]()
    for owner, comes in steps:
        mine = [place for place in held if place.owner == owner]
        if comes:
            found = places.take(owner, 3)
            held += [] if found is None else [found]
            assert found is not None or mine, "eight visitors have room for one each"
        elif mine:
            held.remove(mine[0])
            places.leave(mine[0])
        held = [place for place in held if not place.gives_way.is_set()]
        assert len(held) <= 8
        assert max(Counter(place.owner for place in held).values(), default=0) <= 3
