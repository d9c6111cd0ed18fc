"""Kafka's text files: what a broker wrote is read, what it could not have written is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from takhin_tiered.formats.checkpoints import (
    LeaderEpochs,
    cannot_join,
    contradict,
    epochs_within,
    merge_leader_epochs,
    parse_leader_epochs,
    parse_offset_checkpoint,
    parse_properties,
    parse_topic_id,
    render_leader_epochs,
    render_partition_metadata,
)

META = """#
#Wed Nov 25 05:12:40 UTC 2026
cluster.id=Some-22-characters_AAAA
directory.id=4q1p3hXrQ8Sg7Pq1bT5N2w
node.id=1
version=1
"""


def test_meta_properties_are_read() -> None:
    assert parse_properties(META) == {
        "cluster.id": "Some-22-characters_AAAA",
        "directory.id": "4q1p3hXrQ8Sg7Pq1bT5N2w",
        "node.id": "1",
        "version": "1",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ! a comment\n \t\n# another\r\n", {}),
        ("a=1\ra=2", {"a": "2"}),
        ("  a = b c ", {"a": "b c "}),
        ("a : b", {"a": "b"}),
        ("a b", {"a": "b"}),
        ("a", {"a": ""}),
        ("a==b", {"a": "=b"}),
        ("=b", {"": "b"}),
        (r"a\=b\:c=d\#e", {"a=b:c": "d#e"}),
        (r"a=\t\u0041\\", {"a": "\tA\\"}),
        (r"a=\ud83d\ude00", {"a": "\U0001f600"}),
        ("a=one,\\\n    two\nb=3", {"a": "one,two", "b": "3"}),
        ("a=\\\n# no comment", {"a": "# no comment"}),
        ("a=b\\", {"a": "b"}),
        ("a\\", {"a": ""}),
    ],
)
def test_properties_are_read_as_java_does(text: str, expected: dict[str, str]) -> None:
    assert parse_properties(text) == expected


def test_an_escape_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="four hexadecimal digits"):
        parse_properties(r"a=\u12")


def test_the_identity_of_a_partition_comes_back_as_it_was_written() -> None:
    written = render_partition_metadata("6cE8FTEmRbSYQ9bBpyX0kg")
    assert written == b"version: 0\ntopic_id: 6cE8FTEmRbSYQ9bBpyX0kg"
    assert parse_topic_id(written.decode()) == "6cE8FTEmRbSYQ9bBpyX0kg"


@pytest.mark.parametrize("text", ["", "version: 0", "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA"])
def test_a_partition_without_an_identity(text: str) -> None:
    assert parse_topic_id(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\ntopic_id: 6cE8FTEmRbSYQ9bBpyX0kg",
        "version: 0\ntopic_id: 6cE8FTEmRbSYQ9bBpyX0k",
        "version: 0\ntopic_id: 6cE8FTEmRbSYQ9bBpyX0k/",
        "version: 0\ntopic_id:",
        "version: 0\nversion: 0",
        "topic",
    ],
)
def test_an_identity_that_kafka_did_not_write_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"topic ID|partition\.metadata"):
        parse_topic_id(text)


@pytest.mark.parametrize("topic_id", ["", "AAAAAAAAAAAAAAAAAAAAAA", "x" * 23, "\n" * 22])
def test_an_identity_that_is_none_is_not_written(topic_id: str) -> None:
    with pytest.raises(ValueError, match="topic ID"):
        render_partition_metadata(topic_id)


def test_offset_checkpoints_are_read() -> None:
    text = "0\n3\n__consumer_offsets 12 0\norders 0 4711\norders 1 9223372036854775807\n"
    assert parse_offset_checkpoint(text) == {
        ("__consumer_offsets", 12): 0,
        ("orders", 0): 4711,
        ("orders", 1): 2**63 - 1,
    }
    assert parse_offset_checkpoint("0\n0\n") == {}


def test_a_broker_makes_its_checkpoints_empty() -> None:
    assert parse_offset_checkpoint("") == {}
    assert parse_leader_epochs("") == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n", "cut off"),
        ("0\n", "cut off"),
        ("1\n0\n", "version '1'"),
        ("0\nx\n", "'x' is not a number"),
        ("0\n2\norders 0 5\n", "has 1 entries, but its header says 2"),
        ("0\n1\norders 0 5\norders 1 5\n", "has 2 entries"),
        ("0\n1\norders 0\n", "3 fields"),
        ("0\n1\norders 0 5 6\n", "3 fields"),
        ("0\n1\norders 0 -1\n", "'-1' is not a number"),
        ("0\n1\norders 0 1_0\n", "not a number"),
        ("0\n1\norders 0 ٣\n", "not a number"),
        ("0\n1\norders 0 9223372036854775808\n", "not a number"),
        ("0\n1\norders 2147483648 1\n", "not a number"),
        ("0\n2\norders 0 5\norders 0 6\n", "names partition orders-0 twice"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_offset_checkpoint(text)


def test_leader_epochs_are_read_and_written() -> None:
    text = "0\n2\n0 0\n1 3500\n"
    assert parse_leader_epochs(text) == ((0, 0), (1, 3500))
    assert render_leader_epochs(((0, 0), (1, 3500))) == text.encode()
    assert render_leader_epochs(()) == b"0\n0\n"


@pytest.mark.parametrize("text", ["0\n2\n1 0\n1 5\n", "0\n2\n1 5\n2 5\n", "0\n2\n2 0\n1 5\n", "0\n2\n1 5\n2 4\n"])
def test_leader_epochs_that_do_not_grow_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="do not increase"):
        parse_leader_epochs(text)


@pytest.mark.parametrize(
    ("present", "archived", "merged"),
    [
        ((), [], ()),
        (((5, 1000),), [((0, 0), (1, 500))], ((0, 0), (1, 500), (5, 1000))),
        # Kafka moved the start of the first entry with the start of the log.
        (((1, 4000), (2, 5000)), [((0, 0), (1, 3500)), ((1, 3500),)], ((0, 0), (1, 3500), (2, 5000))),
        ((), [((1, 50),), ((0, 0), (1, 20))], ((0, 0), (1, 20))),
        # An archived branch that the log gave up.
        (((0, 0), (2, 500)), [((1, 600),)], ((0, 0), (2, 500))),
        (((0, 100), (3, 500)), [((3, 50),)], ((0, 100), (3, 500))),
        (((3, 500),), [((2, 500),)], ((3, 500),)),
        (((3, 500),), [((4, 400),)], ((3, 500),)),
        (((0, 0),), [((1, 700),)], ((0, 0), (1, 700))),
        # Of two archives that contradict each other, the higher epoch stays.
        ((), [((1, 500),), ((2, 400),)], ((2, 400),)),
    ],
)
def test_archived_epochs_are_merged(present: LeaderEpochs, archived: list[LeaderEpochs], merged: LeaderEpochs) -> None:
    assert merge_leader_epochs(present, archived) == merged


def epochs() -> st.SearchStrategy[LeaderEpochs]:
    numbers = st.lists(st.integers(0, 30), unique=True, max_size=6).map(sorted)
    return st.tuples(numbers, numbers).map(lambda both: tuple(zip(*both, strict=False)))


@given(epochs(), st.lists(epochs(), max_size=4))
def test_what_is_merged_is_a_checkpoint_again(present: LeaderEpochs, archived: list[LeaderEpochs]) -> None:
    merged = merge_leader_epochs(present, archived)
    assert parse_leader_epochs(render_leader_epochs(merged).decode()) == merged
    assert {epoch for epoch, _ in present} <= {epoch for epoch, _ in merged}
    assert all(dict(merged)[epoch] <= start for epoch, start in present)
    assert merge_leader_epochs(merged, [*archived, present]) == merged


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0, 3499, ((0, 0),)),
        (0, 3500, ((0, 0), (1, 3500))),
        (3500, 4000, ((1, 3500),)),
        (3499, 9000, ((0, 0), (1, 3500), (4, 9000))),
        (9000, 9001, ((4, 9000),)),
    ],
)
def test_epochs_within_offsets(first: int, last: int, expected: LeaderEpochs) -> None:
    assert epochs_within(((0, 0), (1, 3500), (4, 9000)), first, last) == expected


def test_epochs_within_offsets_before_the_first() -> None:
    assert epochs_within(((1, 3500),), 0, 3499) == ()
    assert epochs_within((), 0, 10) == ()


@pytest.mark.parametrize(
    ("log", "batches", "last", "expected"),
    [
        (((0, 0), (1, 3500)), ((0, 3000),), 3499, False),
        (((0, 0), (1, 3500)), ((0, 3000),), 3500, True),
        (((0, 0), (1, 3500)), ((0, 3000),), 3999, True),
        (((0, 0), (1, 3500)), ((0, 3000), (1, 3500)), 3999, False),
        (((0, 0), (1, 3500)), ((0, 3000), (1, 3400)), 3999, True),
        (((0, 0), (1, 3500)), ((0, 3000), (2, 3500)), 3999, True),
        (((0, 0), (1, 3500)), ((0, 4000),), 4100, True),
        # The checkpoint says nothing of what is before its first entry, nor does an empty one.
        (((1, 3500),), ((0, 3000),), 3499, False),
        (((1, 3500),), ((0, 3000), (1, 3400)), 3600, False),
        (((1, 3500),), ((0, 3000),), 3600, True),
        ((), ((7, 0),), 100, False),
        (((0, 0),), (), 100, False),
        # An old batch has no epoch.
        (((0, 0), (1, 3500)), ((-1, 3000),), 3999, False),
        # Compaction took all of epoch 1, and of epoch 0 what follows 3100: nothing of another branch is left.
        (((0, 0), (1, 3500), (2, 5000)), ((0, 3000), (2, 5000)), 6000, False),
    ],
)
def test_records_of_a_branch_that_the_log_does_not_have(
    log: LeaderEpochs, batches: LeaderEpochs, last: int, expected: bool
) -> None:
    assert contradict(log, batches, last) is expected


PARSERS: list[Callable[[str], object]] = [
    parse_properties,
    parse_topic_id,
    parse_leader_epochs,
    parse_offset_checkpoint,
]
PIECES = st.sampled_from(["0", "1", "\n", "\r", " ", "\\", "\\u", ":", "=", "#", "a", "-1", "version", "topic_id", "٣"])


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text() | st.lists(PIECES).map("".join))
@example(text="0\n1\na 0 " + "9" * 5000)
@example(text="0\n" + "9" * 5000 + "\n")
def test_garbage_is_a_value_or_a_value_error(parse: Callable[[str], object], text: str) -> None:
    with suppress(ValueError):
        parse(text)


@pytest.mark.parametrize(
    ("batches", "last", "expected"),
    [
        (((3, 60),), 80, False),  # the log may have gone on so
        (((2, 30),), 39, False),  # its epoch may have begun in a segment that is missing
        (((0, 10),), 39, False),
        (((0, 10),), 40, True),  # a later epoch had begun
        (((1, 60),), 80, True),
        (((0, 10), (3, 20)), 39, True),  # an earlier epoch stands behind it
        (((-1, 60),), 80, False),
        ((), 80, False),
    ],
)
def test_what_cannot_be_of_a_log_with_missing_segments(
    batches: tuple[tuple[int, int], ...], last: int, expected: bool
) -> None:
    assert cannot_join(((0, 0), (2, 40)), batches, last) is expected
