"""The house: imports run downward only, and one module knows the AWS library."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import takhin_tiered
from takhin_tiered import errors

ROOT = Path(takhin_tiered.__file__).parent
# From the top to the bottom; rooms on one line do not know each other.
LEVELS = [
    {"__main__"},
    {"cli"},
    {"daemon"},
    {"reload"},
    {"api", "dashboard", "fleet", "hybrid", "kafka", "upkeep"},
    {"lifecycle"},
    {"dump"},
    {"tiered_storage"},
    {"reader"},
    {"engine"},
    {"vault"},
    {"verbs"},
    {"broker", "catalog", "disk", "store"},
    {"aws"},
    {"bulk", "codec", "filesystems", "heat"},
    {"config_reference"},
    {"config_example"},
    {"config", "logs", "metrics", "concurrency", "database", "machine", "pace", "points", "trend", "work", "batches"},
    {"config_heat", "config_limits", "config_listeners", "config_prices", "config_store", "config_tables"},
    {"config_sources", "config_values"},
    {"segments", "formats", "private_file", "tls", "browsers", "guesses"},
    {"cost"},
    {"errors", "users"},
]
PARTS = {
    "Catalog", "Clock", "DataDirs", "Limits", "Metrics", "Progress", "ReadableStore", "Situation", "StoreHealth",
    "Archiver", "Copier", "CoverageReader", "Evictor", "Examiner", "Expirer", "HoleCounter", "MergedRemover",
    "Neighbours", "OutlookReader", "ReadOnlyPrefixes", "Scanner", "StepRunner", "SupersededRemover",
}  # fmt: skip
AWS = {"aioboto3", "aiobotocore", "boto3", "botocore", "awscrt"}


@cache
def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
        for path in ROOT.rglob("*.py")
    }


@cache
def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide the direction"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    return name.split(".")[0]


def level(name: str) -> int:
    return next(number for number, rooms in enumerate(LEVELS) if room(name) in rooms)


def test_imports_run_downward_only() -> None:
    wrong = []
    for module, tree in modules().items():
        if module == "__init__":
            continue
        for name in imported(tree):
            inside = name.removeprefix("takhin_tiered.")
            # The package itself re-exports the façade: nothing inside imports that.
            if name.startswith("takhin_tiered.") and room(inside) != room(module) and level(inside) <= level(module):
                wrong.append(f"{module} imports {inside}")
    assert wrong == []


def test_there_is_no_circle_within_a_room() -> None:
    trees = {module.removesuffix(".__init__"): tree for module, tree in modules().items()}

    def module_of(name: str) -> str:
        """The module that an import reads: ``store.base.ObjectInfo`` is in ``store.base``."""
        while name and name not in trees:
            name = name.rpartition(".")[0]
        return name

    edges = {
        module: {module_of(name.removeprefix("takhin_tiered.")) for name in imported(tree)} - {"", module}
        for module, tree in trees.items()
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path, module])}"
        if module not in done:
            for other in edges[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_only_the_room_of_aws_and_requests_to_s3_know_the_library() -> None:
    knowing = {module for module, tree in modules().items() if {room(name) for name in imported(tree)} & AWS}
    in_store = {f"store.s3.{name}" for name in ("receiving", "requests", "calls", "client", "expect")}
    assert knowing == {*in_store, "aws.credentials", "aws.session", "aws.dynamodb", "aws.parsing"}
    speaking = {module for module, tree in modules().items() if "aiohttp" in {room(name) for name in imported(tree)}}
    ours = {f"store.s3.{name}" for name in ("receiving", "body", "requests", "calls", "expect")}
    assert speaking == {*ours, "cli.remote"}


def test_only_who_opens_an_s3_store_loads_the_aws_library() -> None:
    """It takes half a second."""
    loaded = "import sys, takhin_tiered.cli.start, takhin_tiered.store; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert {"takhin_tiered.store.directory"} <= set(modules)
    assert {name.partition(".")[0] for name in modules} & {*AWS, "_awscrt"} == set()


def test_who_has_only_segments_loads_nothing_of_tables() -> None:
    entries = "daemon", "cli.main", "cli.run", "cli.doctor", "cli.tables"
    loaded = f"import sys, {', '.join(f'takhin_tiered.{entry}' for entry in entries)}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert "takhin_tiered.daemon" in modules
    rooms = ("takhin_tiered.fleet", "takhin_tiered.hybrid", "takhin_tiered.aws")
    assert [name for name in modules if name.startswith((*rooms, "aiobotocore"))] == []


def test_only_one_room_knows_the_kafka_library() -> None:
    knowing = {
        module
        for module, tree in modules().items()
        if any(room(name) == "aiokafka" and not name.startswith("aiokafka.record") for name in imported(tree))
    }
    assert knowing == {"broker.client", "broker.responses"}


def test_no_module_has_grown_too_large() -> None:
    assert {path.name for path in ROOT.rglob("*.py") if len(path.read_text().splitlines()) > 400} == set()


def test_only_the_facade_has_all_parts() -> None:
    """Everything else gets what it uses from `assemble`, or asks a method of `TieredStorage`."""
    knowing, reaching = set(), set()
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id == "Assembly":
                knowing.add(module)
            if isinstance(node, ast.Attribute) and node.attr == "_parts" and ast.unparse(node.value) != "self":
                reaching.add(module)
    assert reaching == set()
    assert knowing == {"engine.assembly", "tiered_storage"}


def test_a_verb_takes_only_what_it_uses() -> None:
    unused, verbs = [], set()
    for module, tree in modules().items():
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.decorator_list]
        for each in classes if module.startswith("engine.") and module != "engine.assembly" else ():
            taken = {
                node.target.id
                for node in each.body
                if isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(node.annotation, ast.Name)
                and node.annotation.id in PARTS
            }
            used = {
                node.attr
                for node in ast.walk(each)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            }
            unused += [f"{module}.{each.name}.{name}" for name in taken - used]
            verbs |= {each.name} if taken else set()
    assert unused == []
    assert {"Archiver", "Evictor", "Restorer", "Scrubber", "Expirer", "Rebuilder", "StepRunner", "Cycle"} <= verbs


def test_one_place_tells_whether_a_lease_has_ended() -> None:
    """`Segment.lease_left`, by a time that has certainly passed. The wall clock may have jumped ahead."""
    compared = set()
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare | ast.BinOp) and any(
                isinstance(each, ast.Attribute) and each.attr == "lease_until"
                for each in ast.iter_child_nodes(node)
                if not (isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq))
            ):
                compared.add(module)
    # That of the fleet converts it to milliseconds.
    assert compared - {"fleet.local", "fleet.sync"} == {"segments.model"}


def test_the_public_names_are_complete() -> None:
    assert list(takhin_tiered.__all__) == sorted(takhin_tiered.__all__)
    assert all(hasattr(takhin_tiered, name) for name in takhin_tiered.__all__)
    public = {name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, Exception)}
    assert public <= set(takhin_tiered.__all__)
    assert {"TieredStorage", "Settings"} <= set(takhin_tiered.__all__)
