"""Results as JSON, as a table, and as a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import OURS, Figure, Result, Sample

_MEASURES: tuple[tuple[str, Callable[[Sample], float]], ...] = (
    ("wall, s", lambda sample: sample.wall),
    ("CPU, s", lambda sample: sample.cpu),
    ("peak memory, MB", lambda sample: sample.peak / 1e6),
)


def write(directory: Path, machine: Mapping[str, str], results: Sequence[Result]) -> None:
    """``results.json``, ``table.md`` and ``plot.png``."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {"machine": dict(machine), "results": [asdict(result) for result in results]}
    (directory / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (directory / "table.md").write_text(table(machine, results))
    plot(directory / "plot.png", results)


def read(directory: Path) -> list[Result]:
    """What `write` wrote there; nothing where it did not."""
    file = directory / "results.json"
    found = json.loads(file.read_text())["results"] if file.exists() else []
    for result in found:
        result["series"] = {name: [Sample(**sample) for sample in some] for name, some in result["series"].items()}
        result["figures"] = [Figure(**{**figure, "values": tuple(figure["values"])}) for figure in result["figures"]]
    return [Result(**result) for result in found]


def table(machine: Mapping[str, str], results: Sequence[Result]) -> str:
    lines = ["# Results", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "Medians, with the least and the greatest in brackets; ÷ is ours divided by the peer's median."]
    for result in results:
        lines += ["", f"## {result.scenario}", "", result.work, "", f"Verified: {result.verified}"]
        lines += ["", f"Measured: {result.measured}"]
        if result.series:
            lines += ["", *_series(result)]
        if result.figures:
            lines += ["", *_figures(result)]
    return "\n".join(lines) + "\n"


def _series(result: Result) -> list[str]:
    heads = [head for name, _ in _MEASURES for head in (name, "÷")]
    lines = [_row("", "runs", *heads), _row(*["---"] * (2 + len(heads)))]
    mine = result.series.get(OURS)
    for contestant, samples in result.series.items():
        cells = []
        for _, measure in _MEASURES:
            values = [measure(sample) for sample in samples]
            cells.append(_spread(values))
            ratio = statistics.median(map(measure, mine)) / statistics.median(values) if mine else None
            cells.append("" if contestant == OURS or ratio is None else f"{ratio:.2f}")
        lines.append(_row(contestant, str(len(samples)), *cells))
    return lines


def _figures(result: Result) -> list[str]:
    lines = [_row("", "median", "unit", "÷ find", "target", "beside"), _row(*["---"] * 6)]
    walls = [sample.wall for sample in result.series.get("find", ())]
    for figure in result.figures:
        against = f"{figure.median / statistics.median(walls):.2f}" if walls and "scan" in _kind(figure) else ""
        lines.append(_row(figure.name, _spread(figure.values), figure.unit, against, figure.target, figure.beside))
    return lines


def _kind(figure: Figure) -> str:
    return figure.name if figure.unit == "s" else ""


def _spread(values: Sequence[float]) -> str:
    middle, least, most = (_number(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})" if len(values) > 1 else middle


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def plot(file: Path, results: Sequence[Result]) -> None:
    """A panel for each scenario: medians, and the whole spread as a whisker."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = [_bars(result) for result in results]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    heights = 0.8 + 0.35 * max(len(bars) for _, bars in panels)
    figure, axes = plt.subplots(rows, columns, figsize=(7.5 * columns, heights * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, bars) in zip(axes.flat, panels, strict=False):
        names = [name for name, _ in bars]
        middles = [statistics.median(values) for _, values in bars]
        below = [middle - min(values) for middle, (_, values) in zip(middles, bars, strict=True)]
        above = [max(values) - middle for middle, (_, values) in zip(middles, bars, strict=True)]
        colours = ["#c44e52" if name.startswith(OURS) else "#8c9bb0" for name in names]
        axis.barh(names, middles, xerr=[below, above], color=colours, ecolor="#333333", capsize=3)
        axis.invert_yaxis()
        axis.set_title(title, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _bars(result: Result) -> tuple[str, list[tuple[str, Sequence[float]]]]:
    bars: list[tuple[str, Sequence[float]]] = [
        (name, [sample.wall for sample in samples]) for name, samples in result.series.items()
    ]
    units = {figure.unit for figure in result.figures}
    if "s" in units:
        wanted = [figure for figure in result.figures if "scan" in _kind(figure) or "ready" in _kind(figure)]
        return f"{result.scenario}: seconds", bars + [(f"{OURS}: {figure.name}", figure.values) for figure in wanted]
    if result.figures:
        unit = result.figures[0].unit
        wanted = [figure for figure in result.figures if figure.unit == unit]
        return f"{result.scenario}: {unit}", [(f"{OURS}: {figure.name}", figure.values) for figure in wanted]
    return f"{result.scenario}: wall, seconds", bars
