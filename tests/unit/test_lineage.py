"""Which incarnation of a partition a segment belongs to."""

from __future__ import annotations

from takhin_tiered.segments.lineage import Incarnation, Lineage
from takhin_tiered.segments.names import PLAIN

ONE, TWO, THREE = "A" * 21 + "1", "A" * 21 + "2", "A" * 21 + "3"


def archived(label: str = "", topic_id: str = "", at: float = 1.0, **more: int | str | None) -> Incarnation:
    return Incarnation(label, topic_id, archived_at=at, **more)  # type: ignore[arg-type]


def test_a_partition_without_a_past_has_plain_keys() -> None:
    assert Lineage().label_of(0) == ""
    assert Lineage().with_topic(ONE, is_archived=False).label_of(77) == ""


def test_a_topic_made_anew_has_a_label_only_if_the_one_before_was_archived() -> None:
    first = Lineage().with_topic(ONE, is_archived=False)
    assert first.with_topic(TWO, is_archived=False).label_of(0) == ""
    again = first.with_topic(TWO, is_archived=True)
    assert again.label_of(0) == TWO
    assert not again.is_current("", 0)
    assert again.with_topic(ONE, is_archived=True).label_of(0) == ""
    # The second was never archived: its label is no other's all the same.
    assert again.with_topic(THREE, is_archived=False).label_of(0) == THREE


def test_what_was_archived_without_a_topic_id_is_the_present_topics() -> None:
    lineage = Lineage().learned(archived(at=5)).with_topic(ONE, is_archived=True)
    assert lineage.label_of(0) == ""
    assert lineage.named(ONE) == ""


def test_a_truncated_log_shares_what_is_below() -> None:
    lineage = Lineage().with_topic(ONE, is_archived=False).with_branch(500, topic_id=ONE)
    assert [lineage.label_of(base) for base in (0, 499, 500, 900)] == ["", "", "~1", "~1"]
    assert lineage.named(ONE) == "~1"
    assert lineage.label_of(900, "") == ""
    lower = lineage.with_branch(300, topic_id=ONE)
    assert [lower.label_of(base) for base in (0, 300, 900)] == ["", "~1", "~1"]
    again = lower.with_branch(700, topic_id=ONE)
    assert [label for label, _, _ in again.chain()] == ["~2", "~1", ""]
    assert [again.label_of(base) for base in (0, 300, 700)] == ["", "~1", "~2"]
    assert list(again.chain())[1] == ("~1", 300, 700)


def test_a_topic_whose_first_incarnation_had_no_id() -> None:
    lineage = Lineage().with_topic(TWO, is_archived=True).with_branch(0, topic_id=TWO, is_other_topic=True)
    assert lineage.label_of(0) == TWO
    assert lineage.named(PLAIN) == ""
    assert lineage.named(ONE) is None


def test_what_manifests_tell_in_whatever_order() -> None:
    told = [
        archived("", ONE, 10),
        archived(TWO, TWO, 20),
        archived("~1", TWO, 30, follows=TWO, from_offset=400),
        archived("~1", TWO, 31, follows=TWO, from_offset=300),
    ]
    for order in (told, told[::-1]):
        unseen, seen = Lineage(), Lineage().with_topic(TWO, is_archived=False)
        gone = Lineage().with_topic(ONE, is_archived=False)
        for each in order:
            unseen, seen, gone = unseen.learned(each), seen.learned(each), gone.learned(each)
        for lineage in (unseen, seen):
            assert [lineage.label_of(base) for base in (0, 299, 300)] == [TWO, TWO, "~1"], order
        assert gone.label_of(300) == ""
        assert seen.get("").topic_id == ONE
        assert seen.get("~1").archived_at == 30


def test_a_disk_with_another_topic_than_the_plain_keys() -> None:
    lineage = Lineage().with_topic(TWO, is_archived=False).learned(archived("", ONE, 10))
    assert lineage.label_of(0) == TWO
    assert lineage.named(ONE) == ""


def test_a_branch_that_is_on_the_disk_stays_while_the_old_one_is_learned_again() -> None:
    lineage = Lineage().learned(archived("", ONE, 10)).with_topic(ONE, is_archived=True).with_branch(50, topic_id=ONE)
    assert lineage.learned(archived("", ONE, 10)).label_of(50) == "~1"


def test_nonsense_in_manifests_ends() -> None:
    lineage = Lineage().learned(archived("~1", "", 9, follows="~2", from_offset=5))
    lineage = lineage.learned(archived("~2", "", 9, follows="~1", from_offset=5))
    assert lineage.label_of(0) == lineage.current
