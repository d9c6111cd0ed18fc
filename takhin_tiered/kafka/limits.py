"""What one client, and all together, may take of the endpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    connections: int = 1000
    """Fewer where the process may not have four times as many files open: the others are for segments."""
    idle_seconds: float = 600.0
    """Without a request. As Kafka's ``connections.max.idle.ms``."""
    frame_seconds: float = 30.0
    """From a request's first byte to its last."""
    patience_seconds: float = 60.0
    """In which a client takes nothing of its answer."""
    free_frame_bytes: int = 16 << 10
    """Of a request that needs no share of the memory, and that comes before authentication."""
    frame_bytes: int = 4 << 20
    produce_bytes: int = 32 << 20
    """Of a request to write: so that it is told why it is refused."""
    memory: int = 256 << 20
    """For all larger requests that are read and handled."""
    login_seconds: float = 30.0
    """Between the requests of a client that is not yet authenticated."""
    failed_login_seconds: float = 1.0
    """Until a failed authentication is answered: nobody tries many passwords."""
