"""TLS of what listens: certificates from files, renewed without a restart."""

from __future__ import annotations

import ssl
from pathlib import Path

from takhin_tiered.errors import ConfigError


def tls_context(cert: Path, key: Path, setting: str) -> ssl.SSLContext:
    """For a server. ``setting`` begins the names of both keys. Blocking.

    `ConfigError` where the files are not a certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password for the key: the library would ask for one on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cannot use the certificate {cert} with the key {key}: {error}",
            hint=f"{setting}.cert and .key name PEM files that belong together, the key without a password",
        ) from error
    return context


def renew(context: ssl.SSLContext, cert: Path, key: Path, setting: str) -> None:
    """Connections from now on get what stands in the files; blocking. On `ConfigError` nothing has changed."""
    # In a context of its own first: half of a pair would be in effect already.
    tls_context(cert, key, setting)
    context.load_cert_chain(cert, key, password="")
