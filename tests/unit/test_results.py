"""The stable forms: what is written is what is read, and what is not of a form is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin_tiered.segments.results import (
    CycleResult,
    DaemonStatus,
    Hole,
    PlanResult,
    RebuildResult,
    StatusHere,
    VerifiedSegment,
    from_json,
    to_json,
)

KINDS = [CycleResult, Hole, PlanResult, RebuildResult, StatusHere, VerifiedSegment]
# Names of files are bytes: those that are no UTF-8 stand as lone surrogates.
st.register_type_strategy(str, st.text(st.characters() | st.sampled_from("\udc80\udcff"), max_size=20))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_what_is_read_is_what_was_written(kind: type[Any], data: st.DataObject) -> None:
    result = data.draw(st.from_type(kind))
    sent = json.loads(json.dumps(to_json(result)))
    assert from_json(kind, sent) == result
    # Of a later release there is more in it.
    assert from_json(kind, sent | {"news": 1}) == result


@pytest.mark.parametrize(
    "sent",
    [
        None,
        [],
        {},
        {"partition": "orders-0", "incarnation": ""},
        {"partition": "orders-0", "incarnation": "", "offsets": [1]},
        {"partition": "orders-0", "incarnation": "", "offsets": [1, "2"]},
        {"partition": "orders-0", "incarnation": "", "offsets": 1},
        {"partition": 7, "incarnation": "", "offsets": [1, 2]},
    ],
)
def test_what_is_of_another_form_is_refused(sent: object) -> None:
    with pytest.raises(ValueError, match=r"not a |of type|lacks"):
        from_json(Hole, sent)


def test_a_daemon_of_the_release_before_is_understood() -> None:
    """It tells nothing of damage, nor since when its store is down."""
    sent = dict.fromkeys(("store", "store_reachable", "last_cycle", "last_cycle_at"))
    sent |= {"cycle_running_seconds": None, "headroom_seconds": None}
    known: dict[str, Any] = {
        **sent, "version": "0.1", "enabled": True, "mode": "move", "data_dir": "/d", "data_dirs": ["/d"],
        "clock": {"problem": "", "ahead_seconds": 0}, "store_problem": "", "last_cycle_problem": "",
        "last_cycle_by": "", "cycle_interval_seconds": 60, "lost": [],
        "broker": {
            "kind": "", "running": False, "bootstrap": "", "problem": "", "topics_known": 0, "idle_tail_topics": [],
            "compacted_partitions": 0, "file_problems": [],
        },
    }  # fmt: skip
    counts = (
        "total_segments hot_segments warm_segments cold_segments archived_segments total_size_bytes local_size_bytes "
        "archived_size_bytes quarantined_segments superseded_generations future_segments disk_free_bytes lost_segments"
    )
    found = from_json(StatusHere, known | dict.fromkeys(counts.split(), 0))
    assert (found.damaged_segments, found.store_down_since, found.daemon) == (0, None, None)
    daemon = {"pid": 1, "host": "h", "api": "http://h", "answers": None}
    again = from_json(StatusHere, known | dict.fromkeys(counts.split(), 0) | {"daemon": daemon})
    assert again.daemon == DaemonStatus(1, "h", "http://h", None)
