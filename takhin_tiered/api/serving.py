"""How the API is served: the server in the daemon's own loop, its certificate, and its tokens."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from takhin_tiered import logs
from takhin_tiered.api.tokens import Tokens
from takhin_tiered.config import Settings
from takhin_tiered.config_listeners import API_TLS
from takhin_tiered.errors import ConfigError
from takhin_tiered.lifecycle import GRACE_SECONDS
from takhin_tiered.tls import renew, tls_context


class Server(uvicorn.Server):
    """uvicorn in our loop: the daemon handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Security:
    """The tokens of the API, and its certificate: what of them a reload changes."""

    def __init__(self, settings: Settings) -> None:
        """Blocking. `ConfigError` for tokens or a certificate that cannot be used."""
        self.tokens = Tokens(settings)
        self.tls: ssl.SSLContext | None = None
        if settings.api_tls_cert is not None and settings.api_tls_key is not None:
            self.tls = tls_context(settings.api_tls_cert, settings.api_tls_key, API_TLS)

    def renew_certificate(self, settings: Settings) -> None:
        """Raises nothing: with files that cannot be used the previous ones stay in effect. Blocking."""
        if self.tls is None or settings.api_tls_cert is None or settings.api_tls_key is None:
            return
        try:
            renew(self.tls, settings.api_tls_cert, settings.api_tls_key, API_TLS)
        except (ConfigError, OSError) as error:
            logs.logger().error("the API keeps its previous certificate", error=str(error))


def make_server(app: FastAPI, tls: ssl.SSLContext | None) -> Server:
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever talks from loopback could name any address as its own, and would never run out of guesses.
        proxy_headers=False,
        timeout_graceful_shutdown=int(GRACE_SECONDS),
        timeout_keep_alive=30,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    return Server(config)


def address_of(settings: Settings, listener: socket.socket) -> str:
    """The API's URL for commands on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.api_host, settings.api_host)  # noqa: S104
    scheme = "http" if settings.api_tls_cert is None else "https"
    port = listener.getsockname()[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
