"""The files that the pages load, each under a name that changes with its bytes."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
_NAMES = ("app.js", "style.css", "icon.svg", "uplot/uPlot.iife.min.js", "uplot/uPlot.min.css")
PATH = "/dashboard/assets"


class _Asset(NamedTuple):
    data: bytes
    tag: str
    media_type: str


class Assets:
    def __init__(self) -> None:
        """Blocking: reads them, a hundred kilobytes."""
        folder = files("takhin_tiered.dashboard") / "assets"
        self._known = {name: _load((folder / name).read_bytes(), name) for name in _NAMES}

    def url(self, name: str) -> str:
        return f"{PATH}/{name}?v={self._known[name].tag}"

    def answer(self, name: str, request: Request) -> Response | None:
        """None for a name that is none of them."""
        found = self._known.get(name)
        if found is None:
            return None
        is_exact = request.query_params.get("v") == found.tag
        headers = {
            "ETag": f'"{found.tag}"',
            "Cache-Control": "public, max-age=31536000, immutable" if is_exact else "no-cache",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(found.data, headers=headers, media_type=found.media_type)


def _load(data: bytes, name: str) -> _Asset:
    return _Asset(data, hashlib.sha256(data).hexdigest()[:16], _TYPES[name.rpartition(".")[2]])
