"""Plots of docs/benchmarks.md, out of the results of `make bench` (extra `bench`)."""

from __future__ import annotations

import re
from pathlib import Path

RAIN = "Rain against Rain++, by model size (figure 1, table 4)"
SCALING = "Scaling"
WATCH = "A watch, by the change and by the table (figure 9)"


def draw(result: dict, folder: Path) -> dict[str, list[tuple[str, str]]]:
    """(title, file name) of the plots of each section, written into `folder`; none where
    matplotlib is not there."""
    try:
        import matplotlib
    except ImportError:
        return {}
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[tuple[str, str]]] = {}
    for section, title, name, x, y, lines in (
            (RAIN, "A complaint through SQL, by model size", "model_size", "parameters", "ms",
             _by_model(result)),
            (SCALING, "A complaint through SQL, by k", "k", "eigenpairs k", "ms",
             {"complain": _points(result, SCALING, r"k = ([\d,]+)")}),
            (WATCH, "A watch: a complaint right after an INSERT", "watch_change", "rows inserted",
             "ms", _by_change(result, "a complaint right after")),
            (WATCH, "A watch: until the change is in the state", "watch_folded", "rows inserted",
             "ms", _by_change(result, "until it is in the state"))):
        lines = {label: points for label, points in lines.items() if len(points) > 1}
        if lines:
            _plot(folder / f"{name}.png", x, y, lines, logarithmic=name != "k")
            made.setdefault(section, []).append((title, f"{name}.png"))
    return made


def _entries(result: dict, section: str) -> list[dict]:
    return [e for e in result["entries"] if e["section"] == section]


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _points(result: dict, section: str, pattern: str) -> list[tuple[float, float]]:
    """(the number that the pattern finds in its name, its value) of each figure that matches."""
    return sorted((_number(found[1]), e["value"]) for e in _entries(result, section)
                  if (found := re.fullmatch(pattern, e["what"])))


def _by_model(result: dict) -> dict[str, list]:
    parameters, lines = {}, {}
    for e in _entries(result, RAIN):
        model = re.split("[,:]", e["what"])[0]
        if found := re.search(r"([\d,]+) parameters", e["what"]):
            parameters[model] = _number(found[1])
        if model in parameters:
            label = e["what"].rpartition(": ")[2]
            lines.setdefault(label, []).append((parameters[model], e["value"]))
    return {label: sorted(points) for label, points in lines.items()}


def _by_change(result: dict, what: str) -> dict[str, list]:
    sizes = dict.fromkeys(e["what"].split(" rows,")[0] for e in _entries(result, WATCH)
                          if " inserted: " in e["what"])
    return {f"table of {size} rows": _points(
        result, WATCH, rf"{re.escape(size)} rows, ([\d,]+) inserted: {what}") for size in sizes}


def _plot(path: Path, x: str, y: str, lines: dict[str, list], logarithmic: bool) -> None:
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    for label, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    if logarithmic:
        axes.set(xscale="log", yscale="log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    # Without the version of matplotlib in it: the same numbers give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
