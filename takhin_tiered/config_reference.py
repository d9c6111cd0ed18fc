"""The reference of all settings in docs/configuration.md, made from the settings' own definitions.

``python -m takhin_tiered.config_reference docs/configuration.md`` writes it between two marks in that page.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from takhin_tiered.config_example import DESCRIPTIONS, defaults
from takhin_tiered.config_sources import OURS, variable

BEGIN = "<!-- From here on, `make configuration` writes this page. -->"
END = "<!-- Up to here. -->"

_BAR = r"\|"
_ELSEWHERE = "The data directory, and logging"
# By the first words behind storage.tiered, as many as are here. What is not here gets a title of its own.
_TITLES = {
    "enabled": "What is archived, and when",
    "cold": "What is archived, and when",
    "warm": "What is archived, and when",
    "warm.copy": "Warm copies, storage classes, Glacier",
    "archive": "What is archived, and when",
    "archive.windows": "Limits of the plan",
    "archive.timezone": "Limits of the plan",
    "auto": "What is archived, and when",
    "topics": "What is archived, and when",
    "topics.overrides": "Limits of the plan",
    "s3": "The store: S3",
    "s3.class": "Warm copies, storage classes, Glacier",
    "s3.glacier": "Warm copies, storage classes, Glacier",
    "directory": "The store: a directory",
    "local": "The local disk, and restore",
    "local.reserve": "Limits of the plan",
    "restore": "The local disk, and restore",
    "hot": "Heat",
    "tier": "Heat",
    "reconcile": "Upkeep and limits of rate",
    "scrub": "Upkeep and limits of rate",
    "throttle": "Upkeep and limits of rate",
    "state": "Upkeep and limits of rate",
    "retention": "Retention of the archive",
    "compression": "Compression and encryption",
    "encryption": "Compression and encryption",
    "chunk": "Compression and encryption",
    "broker": "The live broker",
    "trim": "The live broker",
    "kafka": "The Kafka endpoint",
    "api": "The HTTP API",
    "fleet": "The fleet, and hybrid tables",
    "hybrid": "The fleet, and hybrid tables",
    "prices": "Cost",
    "budget": "Cost",
}


def reference() -> str:
    """A table for each section, in Markdown."""
    sections: dict[str, list[str]] = defaultdict(list)
    for key, default in defaults().items():
        words = DESCRIPTIONS[key]
        shown = "" if words.endswith("Required.") else _code(default)
        row = (f"{_code(key)}<br>{_code(variable(key))}", shown, _text(words))
        sections[_title(key)].append(f"| {' | '.join(row)} |")
    return "\n".join(
        f"## {title}\n\n| key, environment variable | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"
        for title, rows in sections.items()
    )


def with_reference(page: str) -> str:
    """The page with what stands between its marks replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{reference()}\n{END}{tail}"


def _title(key: str) -> str:
    if not key.startswith(f"{OURS}."):
        return _ELSEWHERE
    words = key.removeprefix(f"{OURS}.").split(".")
    starts = (".".join(words[:count]) for count in range(len(words), 0, -1))
    return next((_TITLES[start] for start in starts if start in _TITLES), f"`{OURS}.{words[0]}`")


def _code(text: str) -> str:
    """A table's cell ends at a bar, in code too."""
    return f"`{text.replace('|', _BAR)}`"


def _text(text: str) -> str:
    """What looks like a tag or emphasis in Markdown is neither."""
    return text.replace("|", _BAR).replace("<", "&lt;").replace("*", r"\*")


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_reference(file.read_text()))
