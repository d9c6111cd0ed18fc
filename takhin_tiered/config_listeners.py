"""The settings of what listens: the HTTP API, and the endpoint for Kafka's clients."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings

from takhin_tiered.config_values import Address, OptionalPath, setting

TOKENS_FILE = "storage.tiered.api.tokens.file"
API_TLS = "storage.tiered.api.tls"
KAFKA_TLS = "storage.tiered.kafka.tls"
SHORTEST_TOKEN = 16
"""Characters. A shorter one could be guessed: refused in the file of tokens, pointed out in the settings."""

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Listeners(BaseSettings):
    """Part of `Settings`."""

    api_host: str = setting("storage.tiered.api.host", "127.0.0.1", min_length=1)
    api_port: int = setting("storage.tiered.api.port", 8080, ge=0, le=65535)
    api_token: SecretStr = setting("storage.tiered.api.token", SecretStr(""))
    api_tokens_file: OptionalPath = setting(TOKENS_FILE, None)
    api_tls_cert: OptionalPath = setting("storage.tiered.api.tls.cert", None)
    api_tls_key: OptionalPath = setting("storage.tiered.api.tls.key", None)
    kafka_host: str = setting("storage.tiered.kafka.host", "127.0.0.1", min_length=1)
    kafka_port: int = setting("storage.tiered.kafka.port", 0, ge=0, le=65535)
    kafka_advertised: Address = setting("storage.tiered.kafka.advertised", "")
    kafka_holes: Literal["refuse", "skip"] = setting("storage.tiered.kafka.holes", "refuse")
    kafka_quota_mbps: float = setting("storage.tiered.kafka.quota.mbps", 0.0, ge=0)
    kafka_sasl_users_file: OptionalPath = setting("storage.tiered.kafka.sasl.users.file", None)
    kafka_tls_cert: OptionalPath = setting("storage.tiered.kafka.tls.cert", None)
    kafka_tls_key: OptionalPath = setting("storage.tiered.kafka.tls.key", None)

    @property
    def has_short_token(self) -> bool:
        """Those of the file are never short: it would be refused."""
        return 0 < len(self.api_token.get_secret_value()) < SHORTEST_TOKEN

    @model_validator(mode="after")
    def _check_listeners(self) -> Self:
        has_token = bool(self.api_token.get_secret_value()) or self.api_tokens_file is not None
        if self.api_host not in _LOOPBACK and not has_token:
            raise ValueError(
                f"storage.tiered.api.host is {self.api_host}, which is not loopback: set storage.tiered.api.token "
                f"(TAKHIN_STORAGE_TIERED_API_TOKEN) or {TOKENS_FILE}"
            )
        if (self.api_tls_cert is None) != (self.api_tls_key is None):
            raise ValueError("storage.tiered.api.tls.cert and storage.tiered.api.tls.key belong together: set both")
        if (self.kafka_tls_cert is None) != (self.kafka_tls_key is None):
            raise ValueError("storage.tiered.kafka.tls.cert and storage.tiered.kafka.tls.key belong together: set both")
        is_open = self.kafka_tls_cert is None and self.kafka_sasl_users_file is None
        if self.kafka_port and self.kafka_host not in _LOOPBACK and is_open:
            raise ValueError(
                f"storage.tiered.kafka.host is {self.kafka_host}, which is not loopback: set "
                "storage.tiered.kafka.tls.cert and .key, or storage.tiered.kafka.sasl.users.file"
            )
        return self
