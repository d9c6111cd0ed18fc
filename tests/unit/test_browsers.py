"""Which requests come from a page of another site, and how many wrong tokens an address may try."""

from __future__ import annotations

import pytest

from takhin_tiered.browsers import is_from_elsewhere, is_own_name
from takhin_tiered.guesses import AT_ONCE, Guesses, TooManyGuesses


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        (None, True),
        ("127.0.0.1", True), ("127.0.0.1:8080", True), ("[::1]:8080", True), ("10.1.2.3:80", True),
        ("localhost", True), ("LOCALHOST:8080", True), ("localhost.", True), ("takhin.localhost:8080", True),
        ("Broker-1:8080", True), ("tiered.example.com", True),
        ("", False), ("elsewhere.example", False), ("localhost.elsewhere.example", False),
        ("127.0.0.1.elsewhere.example", False), ("broker-1.elsewhere.example", False),
        ("[", False), ("[::1", False), ("[x]:1", False), (":8080", False),
    ],
)  # fmt: skip
def test_a_name_that_others_may_point_here_is_none_of_ours(host: str | None, is_own: bool) -> None:
    assert is_own_name(host, ["broker-1", "tiered.example.com"]) is is_own


@pytest.mark.parametrize(
    ("headers", "may_look", "may_change"),
    [
        ({}, True, True),
        ({"host": "127.0.0.1:1", "origin": "http://127.0.0.1:1"}, True, True),
        ({"host": "Name:1", "origin": "https://name:1"}, True, True),
        # By the browser's word, also where a proxy changed the name.
        ({"host": "127.0.0.1:1", "origin": "https://name", "sec-fetch-site": "same-origin"}, True, True),
        ({"host": "127.0.0.1:1", "sec-fetch-site": "none", "sec-fetch-dest": "document"}, True, True),
        ({"host": "127.0.0.1:1", "sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, True, False),
        ({"host": "127.0.0.1:1", "sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe"}, False, False),
        ({"host": "127.0.0.1:1", "sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, False, False),
        # Another port of this machine is another program.
        ({"host": "127.0.0.1:1", "sec-fetch-site": "same-site", "sec-fetch-dest": "empty"}, False, False),
        ({"host": "127.0.0.1:1", "origin": "http://127.0.0.1:2"}, False, False),
        ({"host": "127.0.0.1:1", "origin": "null"}, False, False),
        ({"host": "", "origin": "null"}, False, False),
        ({"host": "127.0.0.1:1", "origin": "http://["}, False, False),
    ],
)
def test_a_page_of_another_site_neither_changes_nor_reads(
    headers: dict[str, str], may_look: bool, may_change: bool
) -> None:
    assert is_from_elsewhere(headers, is_change=False) is not may_look
    assert is_from_elsewhere(headers, is_change=True) is not may_change


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def is_shut(guesses: Guesses, client: str) -> bool:
    try:
        guesses.require(client)
    except TooManyGuesses:
        return True
    return False


def test_wrong_tokens_shut_out_their_own_address_for_a_moment() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for _ in range(AT_ONCE):
        assert not is_shut(guesses, "10.0.0.1")
        guesses.note("10.0.0.1")
    assert is_shut(guesses, "10.0.0.1")
    assert not is_shut(guesses, "10.0.0.2")
    clock.now += 1.001
    assert not is_shut(guesses, "10.0.0.1")
    guesses.note("10.0.0.1")
    assert is_shut(guesses, "10.0.0.1")


def test_a_network_of_ipv6_is_one_address_and_memory_is_bounded() -> None:
    guesses = Guesses(Clock())
    for number in range(AT_ONCE):
        guesses.note(f"2001:db8::{number:x}")
    assert is_shut(guesses, "2001:db8::ffff")
    assert not is_shut(guesses, "2001:db8:0:1::1")
    for number in range(AT_ONCE):
        guesses.note(f"::ffff:10.0.0.{number}")
    assert not is_shut(guesses, "::ffff:10.0.0.1")
    for number in range(5000):
        guesses.note(f"10.1.{number // 256}.{number % 256}")
    assert not is_shut(guesses, "2001:db8::ffff"), "the oldest are forgotten first"


@pytest.mark.parametrize(
    "of_one",
    [
        # Whoever is on this machine may talk from any of them.
        ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.3"],
        ["192.0.2.1", "::ffff:192.0.2.1"],
    ],
)
def test_who_has_many_addresses_has_the_guesses_of_one(of_one: list[str]) -> None:
    for address in of_one:
        guesses = Guesses(Clock())
        for number in range(AT_ONCE):
            guesses.note(of_one[number % len(of_one)])
        assert is_shut(guesses, address)
        assert not is_shut(guesses, "192.0.2.2")
