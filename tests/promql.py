"""The metrics that expressions name, and those that there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

openmetrics: Callable[[str], Iterable[Metric]] = text_string_to_metric_families  # the library gives it no types

WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool"}
# Prometheus makes these itself, for each scrape.
OF_PROMETHEUS = {"up"}


def metric_names(expression: str) -> set[str]:
    """The metrics that a PromQL expression names: what is neither label, range, number, function nor operator."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    bare = re.sub(r"\boffset\s+\w+", " ", bare)
    words = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\w|\s*\()", bare)
    return {word for word in words if word not in WORDS}


def exported_names(text: str) -> set[str]:
    """Every name that may have samples: those that it has now, and those of labelled metrics without any yet."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    parts = {
        name + part for name, kind in kinds.items() if kind == "histogram" for part in ("_bucket", "_sum", "_count")
    }
    return {name for name, kind in kinds.items() if kind != "histogram"} | parts
