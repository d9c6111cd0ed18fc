"""Warnings about clients, a line now and then."""

from __future__ import annotations

from structlog.testing import capture_logs

from takhin_tiered.kafka.sparing_log import SparingLog


def test_one_line_for_each_event_and_how_many_were_left_out() -> None:
    now = [0.0]
    log = SparingLog(clock=lambda: now[0])
    with capture_logs() as lines:
        for number in range(5):
            log.warning("garbage", client=str(number))
        log.warning("silence")
        now[0] = 11.0
        log.warning("garbage", client="late")
        now[0] = 30.0
        log.warning("garbage", client="later")
    assert [(line["event"], line.get("client"), line.get("left_out")) for line in lines] == [
        ("garbage", "0", None),
        ("silence", None, None),
        ("garbage", "late", 4),
        ("garbage", "later", None),
    ]
