"""The documents speak of what is there: files, metrics, alerts, settings and tests, and every kill point."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from takhin_tiered.config_example import DESCRIPTIONS, example
from takhin_tiered.config_reference import with_reference
from takhin_tiered.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
LINKED = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
]


def mentioned(pattern: str, pages: list[Path]) -> set[str]:
    """What the pattern finds in the pages: something, or the pattern is wrong."""
    found = {match for page in pages for match in re.findall(pattern, page.read_text())}
    assert found
    return found


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_relative_links_lead_to_files() -> None:
    links = [(page, link) for page in LINKED for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())]
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


def test_links_to_headings_lead_to_headings() -> None:
    links = [(page, *link) for page in LINKED for link in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text())]
    inside = [(page, file, anchor) for page, file, anchor in links if "://" not in file]
    assert inside
    wrong = [
        f"{page.name}: {file}#{anchor}"
        for page, file, anchor in inside
        if anchor not in headings(page.parent / file if file else page)
    ]
    assert wrong == []


def test_modules_and_test_files_that_are_named_exist() -> None:
    paths = mentioned(r"\b((?:takhin_tiered|tests)/[\w/]+\.py)\b", DOCS)
    assert {path for path in paths if not (ROOT / path).is_file()} == set()


def test_the_architecture_has_every_room_in_its_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    _, _, after = text.partition("```\ntakhin_tiered/\n")
    named = re.findall(r"([a-z_0-9*]+(?:/|\.py))", after.partition("```")[0])
    assert named
    rooms = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "takhin_tiered").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    } - {"__init__.py", "__main__.py"}
    assert {room for room in rooms if not any(fnmatchcase(room, name) for name in named)} == set()


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text()
    results = (ROOT / "benchmarks" / "results" / "minio" / "table.md").read_text()
    rows = re.findall(r"^\| (.+?) ÷ (.+?) \| ([\d.]+) \| ([\d.]+) \|$", readme, re.MULTILINE)
    assert len(rows) == 7
    for ours, theirs, *figures in rows:
        if ours.startswith("a cycle"):
            scenario, peer = "cycle", r"find \| s5cmd run (mv)"
        else:
            verb, count, _, size, unit = ours.replace(",", "").split()
            scenario, peer = f"{verb}-{count}x{size}{unit}", theirs.replace("`", "")
        _, _, table = results.partition(f"## {scenario}\n")
        (row,) = (line for line in table.partition("\n## ")[0].splitlines() if line.startswith(f"| {peer} | "))
        # runs, wall time, its ratio, CPU, its ratio
        cells = row.removeprefix(f"| {peer} | ").split(" | ")
        assert [cells[2], cells[4]] == figures, scenario


def test_tests_that_are_named_exist() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = mentioned(r"`(test_\w+)`", DOCS)
    assert names - set(re.findall(r"\bdef (test_\w+)\(", sources)) == set()


def test_metrics_that_are_named_are_exported() -> None:
    exported = set(re.findall(r"^# TYPE (\w+) ", Metrics().render().decode(), re.MULTILINE))
    names = mentioned(r"\b((?:tiered_storage|process)_[a-z0-9]\w+)", PAGES)
    assert names - exported == set()


def test_alerts_that_are_named_exist_and_all_are_named() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", (ROOT / "configs" / "alerts.yml").read_text()))
    assert mentioned(r"\b(TakhinTiered\w+)", [ROOT / "docs" / "operations.md"]) == alerts


def test_settings_that_are_named_exist() -> None:
    keys = set(re.findall(r"^ *(?:# )?([a-z0-9.]+): ?", example(), re.MULTILINE))
    names = mentioned(r"\bstorage\.tiered\.([a-z0-9]+(?:\.[a-z0-9]+)*)", PAGES)
    # A section is named too, such as storage.tiered.retention.
    assert {name for name in names if not any(f"{key}.".startswith(f"{name}.") for key in keys)} == set()


def test_the_reference_of_settings_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == with_reference(page), "run `make configuration`"
    assert [key for key in DESCRIPTIONS if f"| `{key}`<br>" not in page] == []


def test_the_handbook_names_every_page() -> None:
    first = ROOT / "docs" / "README.md"
    linked = set(re.findall(r"\]\(([\w-]+\.md)", first.read_text()))
    assert {page.name for page in DOCS} - {first.name} - linked == set()
