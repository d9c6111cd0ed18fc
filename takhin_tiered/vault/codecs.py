"""How files are encoded from now on, and the keys for those that are encoded already."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from takhin_tiered.codec.keys import KeyRing
from takhin_tiered.config import Settings


@dataclass(slots=True)
class Codecs:
    """Settings for new objects; what is stored already tells by its manifest how to decode it.

    A reload replaces the values. ``codec`` is ``none`` or ``zstd``; ``by_topic`` has globs on topic names, of which the
    first match counts.
    """

    chunk_size: int = 4 << 20
    codec: str = "none"
    level: int = 3
    by_topic: tuple[tuple[str, str], ...] = ()
    keys: KeyRing = field(default_factory=KeyRing)

    def apply(self, settings: Settings, keys: KeyRing) -> None:
        self.chunk_size = int(settings.chunk_size_mb * (1 << 20))
        self.codec, self.level = settings.compression_codec, settings.compression_level
        own = ((glob, each.compression_codec) for glob, each in settings.topics_overrides.items())
        self.by_topic = (*((glob, codec) for glob, codec in own if codec), *settings.compression_topics)
        self.keys = keys

    def level_for(self, topic: str) -> int:
        """zstd's level; 0 for no compression."""
        codec = next((codec for glob, codec in self.by_topic if fnmatchcase(topic, glob)), self.codec)
        return 0 if codec == "none" else self.level

    def encodes(self, topic: str) -> bool:
        """Whether objects of this topic may differ from their files."""
        return bool(self.keys.current) or self.level_for(topic) > 0


def load_keys(settings: Settings) -> KeyRing:
    """Blocking. `ConfigError` where the key file cannot be read or has a bad line."""
    return KeyRing.load("" if settings.encryption_key_file is None else str(settings.encryption_key_file))
