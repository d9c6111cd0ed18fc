"""What a request tells of the page that sent it: a page of another site has no business here. Pure.

Without a token, whoever reaches the API may do everything. A browser on this machine reaches it too, with whatever page
is open in it. Such a page may send requests here, and it may have its own name pointed to this machine, which makes it
a page of ours for the browser. The first tells on itself by what browsers add to a request, the second by the name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

_OURS = {"same-origin", "none"}


def is_own_name(host: str | None, names: Collection[str]) -> bool:
    """Whether a ``Host`` is an address, a name of this machine, or one of ``names``: none that others may point here.

    A request without the header is of no browser.
    """
    if host is None:
        return True
    name = _name(host)
    if name in {"localhost", *(each.lower() for each in names)} or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_from_elsewhere(headers: Mapping[str, str], *, is_change: bool) -> bool:
    """Whether a page of another site sent it. Programs send neither header, and are not meant.

    A link from elsewhere may be followed, as the page that has it does not see where it leads.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in _OURS and (is_change or headers.get("sec-fetch-dest") != "document")
    return origin is not None and _place(origin) != headers.get("host", "").lower()


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
