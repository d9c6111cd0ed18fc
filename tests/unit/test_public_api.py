"""The names that programs import."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

import takhin_tiered
from takhin_tiered import errors


def public_errors() -> dict[str, type[errors.TakhinError]]:
    return {
        name: thing
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, errors.TakhinError)
    }


def test_the_names_are_sorted_and_each_stands_there_once() -> None:
    assert list(takhin_tiered.__all__) == sorted(set(takhin_tiered.__all__))


def test_a_star_import_finds_every_name() -> None:
    found: dict[str, object] = {}
    exec("from takhin_tiered import *", found)  # a real import, as a program writes it
    assert set(takhin_tiered.__all__) <= set(found)


def test_the_type_checker_sees_the_names_that_programs_get() -> None:
    tree = ast.parse(inspect.getsource(takhin_tiered))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        assert line.module is not None
        (alias,) = line.names
        assert alias.asname == alias.name
        seen[alias.name] = getattr(importlib.import_module(line.module), alias.name)
    assert seen == {name: getattr(takhin_tiered, name) for name in takhin_tiered.__all__ if name != "__version__"}
    with pytest.raises(AttributeError, match="Nothing"):
        takhin_tiered.Nothing  # noqa: B018


def test_a_name_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, takhin_tiered; assert not [n for n in sys.modules if n.startswith('takhin_tiered.')]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_error_is_exported() -> None:
    assert len(public_errors()) > 10
    assert set(public_errors()) <= set(takhin_tiered.__all__)


def test_nothing_but_errors_of_the_tree_is_an_exception() -> None:
    others = {
        name
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, BaseException) and name not in public_errors()
    }
    assert others == set()


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    drawn = inspect.getdoc(errors)
    assert drawn is not None
    for name in public_errors():
        assert drawn.count(f"{name}\n") + drawn.count(f"{name} ") == 1, name


@pytest.mark.parametrize("kind", public_errors().values(), ids=lambda kind: kind.__name__)
def test_an_error_has_a_code_of_its_own_and_a_status(kind: type[errors.TakhinError]) -> None:
    assert [other for other in public_errors().values() if other.code == kind.code] == [kind]
    assert kind.code.replace("_", "").isalpha()
    assert kind.code == kind.code.lower()
    assert 400 <= kind.http_status < 600
    assert kind.exit_code in {1, 2}


def test_an_error_says_where_and_what_to_do_in_one_line() -> None:
    error = errors.ObjectMissing("it is gone", segment="a-0/1.log", key="a-0/1.index", hint="Look in a backup")
    assert str(error) == "it is gone (segment a-0/1.log, key a-0/1.index). Look in a backup"
    assert str(errors.ObjectMissing("a-0/1.index is gone", key="a-0/1.index")) == "a-0/1.index is gone"
    assert str(errors.TakhinError("plain")) == "plain"


def test_the_main_names_are_there() -> None:
    assert {"TieredStorage", "Settings", "SegmentId", "State", "Tier"} <= set(takhin_tiered.__all__)
    assert inspect.isasyncgenfunction(inspect.unwrap(takhin_tiered.TieredStorage.open))
    for name in (
        "archive_segment",
        "restore_segment",
        "segment_policy",
        "is_segment_archived",
        "update_access_time",
        "stats",
    ):
        assert callable(getattr(takhin_tiered.TieredStorage, name))
