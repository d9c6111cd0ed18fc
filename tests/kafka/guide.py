"""The examples of docs/reading.md, as they stand there."""

from __future__ import annotations

import re

from tests.kafka.broker import ROOT

GUIDE = ROOT / "docs" / "reading.md"
ENDPOINT, BROKER = "127.0.0.1:9192", "127.0.0.1:9092"


def example(heading: str, language: str, *, endpoint: str, broker: str) -> str:
    """The first block of a language below a heading, at the addresses of a test."""
    text = GUIDE.read_text()
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{GUIDE} has no heading {heading!r}"
    block = re.search(rf"^```{language}\n(.*?)^```$", found[1], re.DOTALL | re.MULTILINE)
    assert block is not None, f"{GUIDE} has no {language} below {heading!r}"
    return block[1].replace(ENDPOINT, endpoint).replace(BROKER, broker)
