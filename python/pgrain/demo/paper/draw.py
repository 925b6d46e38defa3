"""Plots (matplotlib) and tables (Markdown) of docs/paper.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

Line = tuple[str, Iterable[float], Sequence[float]]
_SIZE = (6.4, 3.6)


def _axes(count: int = 1):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, count, figsize=(_SIZE[0] * count, _SIZE[1]), squeeze=False)
    for one in axes[0]:
        one.grid(alpha=0.3)
    return figure, list(axes[0])


def _save(figure, path: Path) -> None:
    from matplotlib import pyplot
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in it: the same numbers give the same file.
    figure.savefig(path, dpi=80, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def lines(path: Path, given: Sequence[Line], *, x: str, y: str, log_y: bool = False,
          log_x: bool = False, marks: Sequence[tuple[str, int]] = (), pairs: bool = False,
          points: bool = False, outside: bool = False) -> None:
    """One line a series. marks: (series, x) gets a dot; pairs: series come in twos of one colour,
    the first dashed; points: every value gets a dot; outside: the legend is below
    the axes."""
    figure, (axes,) = _axes()
    for number, (name, xs, ys) in enumerate(given):
        style = {"color": f"C{number // 2}", "linestyle": "-" if number % 2 else "--"} if pairs \
            else {"color": f"C{number}"}
        axes.plot(list(xs), ys, label=name, marker="." if points else None, **style)
        for series, at in marks:
            if series == name and at <= len(ys):
                axes.plot([at], [ys[at - 1]], "o", color=style["color"])
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log_y:
        axes.set_yscale("log")
    if log_x:
        axes.set_xscale("log")
    if given and outside:
        axes.legend(fontsize="x-small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    elif given:
        axes.legend(fontsize="small", ncols=2 if len(given) > 4 else 1)
    _save(figure, path)


def scatter(path: Path, panels: Sequence[Sequence[tuple[str, list, list]]], *, x: str,
            y: Sequence[str], diagonal: bool = True, log_x: bool = False,
            parts: bool = False) -> None:
    """One panel beside the other, a colour a group. parts: names are "data, model, error": a colour
    an error, a marker a model, hollow for Fashion-MNIST; one legend of these, below."""
    figure, every = _axes(max(len(panels), 1))
    looks: dict[str, dict] = {}
    for axes, groups, label in zip(every, panels, y, strict=False):
        for number, (name, xs, ys) in enumerate(groups):
            style = {"color": f"C{number}", "s": 14}
            if parts:
                data, model, error = name.split(", ", 2)
                errors = sum(look["color"] != "grey" for look in looks.values())
                colour = looks.setdefault(error, {"color": f"C{errors}", "marker": "o"})["color"]
                marker = _MARKERS.get(model, "*")
                looks.setdefault(f"{data}, {model}", {
                    "color": "grey", "marker": marker, **_hollow(data, "grey")})
                style = {"color": colour, "marker": marker, "s": 18, **_hollow(data, colour)}
            axes.scatter(xs, ys, label=name, alpha=0.8, **style)
        if diagonal:
            axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        if log_x:
            axes.set_xscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(label)
        axes.set_ylim(-0.03, 1.03)
        if groups and not parts:
            axes.legend(fontsize="x-small")
    if looks:
        # Errors first; each look drawn once, with no point of its own.
        names = sorted(looks, key=lambda name: looks[name]["color"] == "grey")
        figure.legend([every[0].scatter([], [], **looks[name]) for name in names], names,
                      fontsize="x-small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    _save(figure, path)


_MARKERS = {"mlp": "o", "logistic_regression": "s", "cnn": "^", "lstm": "D"}


def _hollow(data: str, colour: str) -> dict:
    return {"facecolors": "none", "edgecolors": colour} if data == "fashion" else {}


def sizes(records: Iterable[dict]) -> str:
    """Rows and models of records: "mnist, 8,000 rows (2,000 queried): cnn of 33,546 parameters"."""
    models: dict[tuple[str, int], set[tuple[str, int]]] = {}
    queried: dict[tuple[str, int], set[int]] = {}
    for record in records:
        data = record["setting"].get("data")
        if "n_rows" not in record or not data:
            continue
        key = data, record["n_rows"]
        models.setdefault(key, set()).add(
            (record["setting"]["architecture"], record["n_parameters"]))
        queried.setdefault(key, set()).update({record["n_query"]} if "n_query" in record else ())
    parts = []
    for (data, rows), of in sorted(models.items()):
        asked = ", ".join(f"{n:,}" for n in sorted(queried[data, rows]))
        names = ", ".join(f"{name} of {d:,} parameters" for name, d in sorted(of))
        parts.append(f"{data}, {rows:,} rows{f' ({asked} queried)' if asked else ''}: {names}")
    return "; ".join(parts)


def caption(text: str, records: Iterable[dict] = ()) -> str:
    """A line in italics with the sizes in it: of a plot, or of the table below it."""
    found = sizes(records)
    return f"*{text}{f'. {found}' if found else ''}.*\n\n"


def image(name: str, text: str, records: Iterable[dict] = ()) -> str:
    """A plot with its caption."""
    return f"![{text}](paper/{name})\n\n{caption(text, records)}"


def table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    if not rows:
        return "*Nothing has been measured yet.*"
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head),
                      *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def peak(values: Sequence[float]) -> tuple[str, int | str]:
    """The largest value and where it is, from 1."""
    if not values:
        return "–", "–"
    at = max(range(len(values)), key=values.__getitem__)
    return f"{values[at]:.3f}", at + 1


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# Student's t, two-sided 95 %, by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def half(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    deviation = math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1))
    return _T.get(len(values) - 1, 2.0) * deviation / math.sqrt(len(values))


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± half the 95 % interval of the mean; of two values, whose interval would say nothing,
    both; a single value stands alone."""
    if not values:
        return "–"
    if len(values) == 2:
        return "; ".join(f"{value:,.{digits}f}" for value in values)
    middle = f"{mean(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ± {half(values):,.{digits}f}"


def span(values: Iterable[float], form: str = "g", to: str = " to ") -> str:
    """From the least to the largest; one number where they read the same."""
    found = sorted(values)
    if not found:
        return "–"
    low, high = f"{found[0]:{form}}", f"{found[-1]:{form}}"
    return low if low == high else f"{low}{to}{high}"
