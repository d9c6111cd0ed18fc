"""The dashboard's pure parts: what bytes and numbers look like, the history, strips, whose form it is."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from takhin_tiered.api.tokens import Tokens
from takhin_tiered.config import Settings
from takhin_tiered.dashboard.face import local_target
from takhin_tiered.dashboard.looking import bars, strip_of
from takhin_tiered.dashboard.sessions import Sessions, Visitor, is_own_form
from takhin_tiered.dashboard.views.reading import Row
from takhin_tiered.dashboard.words import ago, at, count, percent, shown
from takhin_tiered.engine.strips import CELLS, Cell, cells_of
from takhin_tiered.formats.records import Record
from takhin_tiered.heat.tracker import Tracker
from takhin_tiered.segments.model import FileStat, LocalFiles, Segment
from takhin_tiered.segments.names import SegmentId
from takhin_tiered.segments.policy import Policy
from takhin_tiered.trend import FILE, Sample, Trend

ADMIN, READ = "admin-token-0123456789", "reading-token-0123456789"
NOW = 1_800_000_000.0
POLICY = Policy(
    enabled=True, auto_archive=True, keep_local=False, warm_age=100, cold_age=1000, lease=10, cache_size=1000
)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (None, "null"),
        (b"", "empty"),
        (b"plain", "text"),
        ("grüße\n".encode(), "text"),
        (b"\x00\x01", "binary"),
        (b"\xff", "binary"),
        ("abc\u202edef".encode(), "binary"),
        (b"\x1b[31mred", "binary"),
    ],
)
def test_bytes_are_text_only_where_nothing_in_them_hides(data: bytes | None, kind: str) -> None:
    assert shown(data).kind == kind


def test_a_character_that_is_cut_is_left_out() -> None:
    found = shown("é".encode() * 5000 + b"x")
    assert (found.kind, found.is_cut, set(found.text)) == ("text", True, {"é"})
    assert shown(b"x" + "é".encode() * 5000).kind == "text"


@given(st.binary(max_size=3000))
def test_any_bytes_are_shown_and_their_size_is_told(data: bytes) -> None:
    found = shown(data)
    assert found.size == len(data)
    assert len(found.text) < 4000
    assert all(each.isprintable() or each in "\n\r\t" for each in found.text)


def test_times_and_numbers() -> None:
    assert at("2026-11-29T23:10:04+00:00") == "2026-11-29 23:10:04 UTC"
    assert (ago(NOW - 7200, NOW), ago(NOW - 1, NOW), ago(NOW + 90, NOW)) == ("2 h ago", "just now", "in 90 s")
    assert at(None) == ago(None)
    assert at(1e20) == f"{1e20:.0f} s since 1970"
    assert count(1234567).replace("\u202f", " ") == "1 234 567"
    assert (percent(1, 1000), percent(0, 5), percent(5, 0), percent(1, 2)) == ("< 1 %", "0 %", "0 %", "50 %")


@given(st.lists(st.floats(0, 1e18), max_size=6))
def test_the_parts_of_a_bar_fill_it_and_each_can_be_seen(amounts: list[float]) -> None:
    found = bars([(str(number), amount, "") for number, amount in enumerate(amounts)])
    assert len(found) == sum(amount > 0 for amount in amounts)
    if found:
        assert sum(each.width for each in found) == pytest.approx(100, abs=0.1)
        assert min(each.width for each in found) > 0.5


def test_the_history_keeps_a_day_by_minutes_and_a_week_in_constant_memory(tmp_path: Path) -> None:
    trend = Trend()
    minutes = 10 * 24 * 60
    for minute in range(minutes):
        trend.add(Sample(NOW + 60 * minute, hot=minute))
    last = NOW + 60 * (minutes - 1)
    day, week = trend.since(last - 86_340), trend.since(0)
    assert [each.hot for each in day] == list(range(minutes - 1440, minutes))
    assert (len(week), week[-1].hot) == (1009, minutes - 1)
    assert [each.at for each in week] == sorted(each.at for each in week)
    trend.save(tmp_path)
    assert (tmp_path / FILE).stat().st_size < 500_000
    again = Trend()
    again.load(tmp_path)
    assert again.since(0) == week
    assert again.since(last - 86_340) == day


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"fine": [[1]], "coarse": []}', '{"fine": [["x"]]}'])
def test_a_history_that_cannot_be_read_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    trend = Trend()
    trend.load(tmp_path)
    assert trend.since(0) == []


def test_a_clock_that_is_set_back_leaves_the_history_in_order() -> None:
    trend = Trend()
    for moment in (100, 160, 220, 130, 190):
        trend.add(Sample(NOW + moment))
    assert [each.at - NOW for each in trend.since(0)] == [100, 130, 190]


def test_what_cannot_be_written_costs_the_history_alone(tmp_path: Path) -> None:
    trend = Trend()
    trend.add(Sample(NOW))
    trend.save(tmp_path / "nowhere")
    assert trend.since(0) != []


def log_of(count_: int) -> list[Segment]:
    stat = FileStat(100, int((NOW - 50) * 1e9), 1)
    return [Segment(SegmentId("orders", 0, 10 * number), local=LocalFiles(stat)) for number in range(count_)]


@given(st.integers(0, 400))
def test_each_segment_is_in_one_cell(count_: int) -> None:
    log = log_of(count_)
    cells = cells_of(log, POLICY, NOW, Tracker().at(NOW), sure=NOW)
    assert sum(cell.segments for cell in cells) == count_
    assert len(cells) == min(count_, CELLS)
    assert [cell.first for cell in cells] == sorted({cell.first for cell in cells})
    assert [cell.before for cell in cells[1:]] == [log[cell.first // 10 - 1].id.exact_path for cell in cells[1:]]


def test_names_of_headers_show_what_hides_others() -> None:
    row = Row(Record(0, 0, 0, b"k", b"v", [("trace-id", b"1"), ("a\u202eb", b"2"), ("\x1b[2J", None)]))
    assert [name for name, _ in row.headers] == ["trace-id", r"'a\u202eb'", r"'\x1b[2J'"]


def test_neighbours_that_look_the_same_are_one_bar() -> None:
    def cell(place: str, rate: float = 0.0, troubled: int = 0) -> Cell:
        return Cell(place, "hot", 0, 0, 1, troubled, 100, rate, "")

    strip = strip_of([cell("archived"), cell("archived", 0.1), cell("local", 8), cell("local", troubled=1)])
    assert [(bar.name, bar.x, bar.width) for bar in strip.places] == [
        ("place-archived", 0, 50), ("place-local", 50, 50),
    ]  # fmt: skip
    assert [bar.name for bar in strip.heat] == ["heat-0", "heat-1", "heat-4", "heat-0"]
    assert [(bar.name, bar.x) for bar in strip.troubles] == [("trouble", 75)]
    assert strip_of([]).places == []


def cell_at(first: int, last: int, place: str = "local") -> Cell:
    return Cell(place, "hot", first, last, 1 if first == last else 2, 0, 100, 0.0, "")


def test_a_hole_is_a_gap_where_its_offsets_would_be() -> None:
    """Between two cells, or within one that stands for several segments; several at one place are one gap."""
    cells = [cell_at(0, 0), cell_at(10, 10), cell_at(40, 80)]
    strip = strip_of(cells, [[20, 39], [50, 59], [60, 79]])
    assert [bar.label for bar in strip.holes] == ["offsets 20 to 39 are nowhere", "2 holes: offsets 50 to 79"]
    assert strip.hole_count == 3
    whole = sorted([*strip.places, *strip.holes], key=lambda bar: bar.x)
    assert [bar.name for bar in whole] == ["place-local", "hole", "place-local", "hole", "place-local"]
    # A cell is as wide as before, but for the gaps.
    assert [round(bar.width / whole[0].width, 2) for bar in whole[::2]] == [1, 0.25, 0.25]
    assert strip_of(cells).holes == []


@given(st.integers(2, 150), st.data())
def test_with_any_holes_the_parts_of_a_strip_stand_beside_each_other(count_: int, data: st.DataObject) -> None:
    cells = cells_of(log_of(count_), POLICY, NOW, Tracker().at(NOW), sure=NOW)
    places = data.draw(st.sets(st.integers(0, count_ - 2)))
    # What a segment of ten offsets lacks at its end.
    found = strip_of(cells, [[10 * place + 5, 10 * place + 9] for place in sorted(places)])
    assert found.hole_count == len(places)
    for row in (found.places, found.heat):
        whole = sorted([*row, *found.holes], key=lambda bar: bar.x)
        assert sum(bar.width for bar in whole) == pytest.approx(100, abs=0.2)
        for one, other in pairwise(whole):
            assert one.x + one.width == pytest.approx(other.x, abs=0.01)
        assert min(bar.width for bar in whole) > 0.2
        assert sum(bar.width for bar in found.holes) < 41
    assert not found.holes or (found.holes[0].x > 0 and found.holes[-1].x + found.holes[-1].width < 100)


def tokens_of(tmp_path: Path, *lines: str) -> Tokens:
    file = tmp_path / "tokens"
    file.write_text("".join(f"{line}\n" for line in lines))
    file.chmod(0o600)
    return Tokens(Settings(data_dir=tmp_path, api_tokens_file=file))


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({
        "type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw, "scheme": "http",
        "server": ("127.0.0.1", 8080), "client": ("10.0.0.1", 1),
    })  # fmt: skip


def test_sessions_are_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    sessions = Sessions(tokens_of(tmp_path, f"read {READ}"))
    cookies = []
    for _ in range(1001):
        answer = Response()
        assert sessions.begin(READ, request(), answer)
        cookies.append(answer.headers["set-cookie"].partition(";")[0])
    assert sessions.visitor(request(cookie=cookies[0])) is None
    visitor = sessions.visitor(request(cookie=cookies[-1]))
    assert visitor is not None
    assert not visitor.may_act
    other = sessions.visitor(request(cookie=cookies[-2]))
    assert other is not None
    assert other.csrf != visitor.csrf
    assert sessions.visitor(request(cookie="takhin_session_http=guess")) is None


def test_a_session_keeps_no_token_and_ends_with_it(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path, f"admin {ADMIN}", f"read {READ}")
    sessions, answer = Sessions(tokens), Response()
    assert sessions.begin(ADMIN, request(), answer)
    assert not any(isinstance(each, str) and ADMIN in each for each in reachable(sessions))
    own = request(cookie=answer.headers["set-cookie"].partition(";")[0])
    visitor = sessions.visitor(own)
    assert visitor is not None
    assert visitor.may_act
    # A reload may give a token another role, or drop it.
    tokens.known = tokens_of(tmp_path, f"read {ADMIN}").known
    visitor = sessions.visitor(own)
    assert visitor is not None
    assert not visitor.may_act
    tokens.known = tokens_of(tmp_path, f"read {READ}").known
    assert sessions.visitor(own) is None
    tokens.known = tokens_of(tmp_path, f"admin {ADMIN}").known
    assert sessions.visitor(own) is None, "it has ended"


def reachable(start: object) -> Iterator[object]:
    """Everything that an object holds, but for modules and classes, which hold everything."""
    seen, todo = set[int](), [start]
    while todo:
        each = todo.pop()
        if id(each) not in seen and not isinstance(each, (type, ModuleType, FunctionType)):
            seen.add(id(each))
            yield each
            todo += gc.get_referents(each)


@pytest.mark.parametrize(("origin", "is_secure"), [("https://h", True), ("http://h", False), ("null", False)])
def test_behind_a_proxy_the_browser_tells_that_it_came_by_tls(tmp_path: Path, origin: str, is_secure: bool) -> None:
    sessions, answer = Sessions(tokens_of(tmp_path, f"read {READ}")), Response()
    assert sessions.begin(READ, request(origin=origin, host="h"), answer)
    assert ("Secure" in answer.headers["set-cookie"]) is is_secure
    own = request(cookie=answer.headers["set-cookie"].partition(";")[0], host="h")
    assert sessions.visitor(own) is not None, "a page is asked for without an origin"


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({}, True),
        ({"sec_fetch_site": "same-origin", "host": "h", "origin": "http://h"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"host": "h:1", "origin": "http://h:2"}, False),
        ({"host": "h", "origin": "null"}, False),
    ],
)
def test_a_form_is_ours_by_the_browsers_word_and_by_its_secret(headers: dict[str, str], is_ours: bool) -> None:
    known = Visitor(may_act=True, csrf="a secret", is_known=True)
    assert is_own_form(request(**headers), known, "a secret") == is_ours
    assert not is_own_form(request(**headers), known, "")
    assert not is_own_form(request(**headers), known, "é")


@pytest.mark.parametrize("target", ["//x", "https://x", "/\\x", "/dashboard/\\x", "x", "", "/api"])
def test_a_login_leads_nowhere_else(target: str) -> None:
    assert local_target(target) == "/"
    assert local_target("/dashboard/plan?start=1") == "/dashboard/plan?start=1"


def test_the_script_and_the_licence_of_the_charts_are_there() -> None:
    folder = Path(sys.modules["takhin_tiered.dashboard"].__path__[0]) / "assets/uplot"
    assert "MIT" in (folder / "LICENSE").read_text()
    assert "1.6.32" in (folder / "uPlot.iife.min.js").read_text()
