"""The documents speak of what is there: links lead to files, and the failure model has every kill point."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_relative_links_lead_to_files() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())]
    relative = [(page, link) for page, link in links if "://" not in link]
    assert relative
    assert [f"{page.name}: {link}" for page, link in relative if not (page.parent / link).exists()] == []


def test_the_failure_model_names_every_kill_point() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "takhin_tiered").rglob("*.py"))
    in_code = set(re.findall(r'\breached\(f?"([^"]+)"\)', sources))
    assert in_code
    text = (ROOT / "docs" / "failure-model.md").read_text()
    rooms = "|".join(sorted({point.split(".")[0] for point in in_code}))
    in_page = {found.replace("<kind>", "{kind}") for found in re.findall(rf"`((?:{rooms})\.[a-z<>.]+)`", text)}
    assert in_page == in_code
