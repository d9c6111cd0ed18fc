"""The bounds in pyproject.toml, the exact versions in the constraints files, and what is installed agree."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
# Each list of programs, and of packages, with the exact versions of what it brings.
PROGRAMS = {
    ROOT / "tests/servers.txt": ROOT / "tests/servers-constraints.txt",
    ROOT / "benchmarks/peers.txt": ROOT / "benchmarks/peers-constraints.txt",
}
FILES = [CONSTRAINTS, *PROGRAMS.values()]
LISTS = [None, *PROGRAMS]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_constraints_file_has_names_and_versions_only(file: Path) -> None:
    lines = file.read_text().splitlines()
    pinned = [re.fullmatch(r"([a-z0-9-]+)==([a-z0-9.!+]+)", line) for line in lines]
    assert [line for line, match in zip(lines, pinned, strict=True) if match is None] == []
    names = [match[1] for match in pinned if match is not None]
    assert len(names) > 5
    assert len(set(names)) == len(names)
    assert [name for name in names if canonicalize_name(name) != name] == []
    assert lines == sorted(lines), "as `make lock` writes it"


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.name if file else "pyproject.toml")
def test_each_dependency_has_a_lower_and_an_upper_bound(file: Path | None) -> None:
    listed = read_list(file) if file else declared("test", "kafka", "browser", "bench")
    unbounded = [
        str(requirement)
        for requirement in listed
        if sorted(specifier.operator for specifier in requirement.specifier) != ["<", ">="]
    ]
    assert listed
    assert unbounded == []


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.name if file else "pyproject.toml")
def test_the_bounds_admit_the_exact_version(file: Path | None) -> None:
    listed = read_list(file) if file else declared("test", "kafka", "browser", "bench")
    versions = read_constraints(PROGRAMS[file] if file else CONSTRAINTS)
    wrong = [
        f"{requirement} does not admit {versions.get(canonicalize_name(requirement.name))}"
        for requirement in listed
        if canonicalize_name(requirement.name) not in versions
        or not requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
    ]
    assert wrong == [], "make lock"


def test_the_constraints_cover_whatever_is_installed_for_the_program_and_its_tests() -> None:
    versions = read_constraints(CONSTRAINTS)
    found = closure(declared("test"))
    assert {"aioboto3", "s3transfer", "pytest"} <= found, "the walk ends too early"
    assert found - set(versions) == set(), "make lock"


def test_the_extras_of_a_dependency_are_followed() -> None:
    assert "awscrt" in closure([Requirement("botocore[crt]")])
    assert "awscrt" not in closure([Requirement("botocore")])


def test_the_readme_the_image_and_make_install_with_the_constraints() -> None:
    for name in ("README.md", "Dockerfile", "Makefile"):
        text = re.sub(r"\\\n\s*", "", (ROOT / name).read_text())
        lines = [
            line
            for line in text.splitlines()
            if re.search(r"(?:bin|BIN\))/(?:pip|\$\(INSTALL\)).* (?:\.|'\.\[\w+\]')$", line)
        ]
        assert lines, name
        assert [line for line in lines if not re.search(r"(?:-c|--constraint) constraints\.txt", line)] == [], name


def test_the_hook_before_a_commit_is_a_target_of_make() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].split() for repo in repos for hook in repo["hooks"]]
    assert {repo["repo"] for repo in repos} == {"local"}, "no network is needed"
    assert [entry[0] for entry in entries] == ["make"]
    for _, target in entries:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def declared(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == {"test", "kafka", "browser", "bench"}, (
        "an extra that nothing here looks at"
    )
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def read_list(file: Path) -> list[Requirement]:
    return [Requirement(line) for line in file.read_text().splitlines() if line and not line.startswith("#")]


def read_constraints(file: Path) -> dict[str, Version]:
    pairs = (line.split("==") for line in file.read_text().splitlines())
    return {name: Version(version) for name, version in pairs}


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """The names of the packages that these bring, with what those bring, as the installed packages say it."""
    found: set[str] = set()
    looked: set[tuple[str, str]] = set()
    todo = list(wanted)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in looked:
                looked.add((name, extra))
                todo.extend(brought(name, extra))
    return found


def brought(name: str, extra: str) -> Iterator[Requirement]:
    """What an installed package wants on this machine, with one of its extras."""
    try:
        lines = distribution(name).requires or ()
    except PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement
