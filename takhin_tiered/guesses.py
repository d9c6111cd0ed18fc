"""Wrong tokens, counted by where they come from: nobody tries many."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from takhin_tiered.errors import TakhinError

AT_ONCE = 30
_FORGOTTEN_EACH_SECONDS = 1.0
_PLACES_AT_MOST = 4096


class TooManyGuesses(TakhinError):
    """So many wrong tokens came from this address that no token is looked at for a moment."""

    code = "too_many_tokens"
    http_status = 429


class Guesses:
    """In bounded memory. A wrong token is forgotten each second, so that a program with an old one shuts nobody out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def require(self, client: str) -> None:
        """Before a token is looked at: else the right one would stand out by its quick answer."""
        if self._left(place_of(client)) > AT_ONCE - 1:
            raise TooManyGuesses(
                f"{AT_ONCE} wrong tokens came from this address: tokens from it are not looked at now",
                hint="Stop what sends a wrong token, and try again in a few seconds",
            )

    def note(self, client: str) -> None:
        """A wrong one came."""
        place = place_of(client)
        self._wrong[place] = self._left(place) + 1, self._clock()
        self._wrong.move_to_end(place)
        if len(self._wrong) > _PLACES_AT_MOST:
            self._wrong.popitem(last=False)

    def _left(self, place: str) -> float:
        wrong, at = self._wrong.get(place, (0.0, 0.0))
        return max(0.0, wrong - (self._clock() - at) / _FORGOTTEN_EACH_SECONDS)


def place_of(client: str) -> str:
    """Whoever has one address of IPv6 has 2^64 of them; whoever is on this machine may talk from any of 127.0.0.0/8."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return "loopback"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
