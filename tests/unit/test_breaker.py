from __future__ import annotations

from dataclasses import dataclass

from takhin_tiered.aws.breaker import Breaker, Circuit


@dataclass
class Time:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def opened(time: Time) -> Breaker:
    breaker = Breaker(failures=3, pause=1.0, longest=4.0, clock=time)
    for _ in range(3):
        assert breaker.admit()
        breaker.failed("no answer")
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(failures=3, clock=Time())
    for _ in range(5):
        breaker.failed("a")
        breaker.failed("b")
        assert breaker.state is Circuit.CLOSED
        breaker.succeeded()
    for _ in range(3):
        breaker.failed("c")
    assert breaker.state is Circuit.OPEN
    assert breaker.last_error == "c"
    assert not breaker.admit()


def test_one_probe_goes_out_at_a_time_and_closes_it() -> None:
    time = Time()
    breaker = opened(time)
    time.now = 1.0
    assert [breaker.admit() for _ in range(3)] == [True, False, False]
    assert breaker.state.value == "half_open"
    breaker.succeeded()
    assert breaker.state.value == "closed"
    assert all(breaker.admit() for _ in range(3))


def test_the_pause_doubles_up_to_its_longest_and_begins_anew() -> None:
    time = Time()
    breaker = opened(time)
    for pause in (1.0, 2.0, 4.0, 4.0):
        time.now += pause - 0.01
        assert not breaker.admit()
        time.now += 0.01
        assert breaker.admit()
        breaker.failed("still down")
    time.now += 4.0
    assert breaker.admit()
    breaker.succeeded()
    for _ in range(3):
        breaker.failed("down again")
    time.now += 1.0
    assert breaker.admit()


def test_a_probe_that_is_cancelled_leaves_the_place_to_another() -> None:
    time = Time()
    breaker = opened(time)
    time.now = 1.0
    assert breaker.admit()
    breaker.abandoned()
    assert breaker.admit()


def test_with_patience_many_failures_at_once_do_not_open_it() -> None:
    time = Time()
    breaker = Breaker(failures=3, patience=2.0, clock=time)
    for _ in range(10):
        breaker.failed("no answer")
    assert breaker.state.value == "closed"
    time.now = 2.0
    breaker.failed("no answer")
    assert breaker.state.value == "open"
