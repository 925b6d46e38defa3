"""docs/benchmarks.md out of the results of `make bench`."""

from __future__ import annotations

import statistics

WORSE = 1.3     # times what it was before: told at the end of the page
RATES = ("rows/s",)
TIMED = (*RATES, "ms", "s", "s a complaint")

HEAD = """# Benchmarks

Written by `make bench` ({seconds:,} s). {cpu}, {cores} cores, no GPU; PostgreSQL {postgresql},
Python {python}, jax {jax}, numpy {numpy}, psycopg {psycopg}; commit {commit}; load average at the
start {load}.{note} {rows:,} training rows of Fashion-MNIST (the brightest trousers labelled dress),
{queried:,} rows in the inference table. Medians of {repeat} calls unless a line says otherwise; the
range is from the least to the greatest. A floor is the least that the hardware measured here would
allow; distance is how many times the floor (for rates: which part of it); where the hardware sets
none, it is the least that the same answer takes without us, and says what that is; a figure without
a floor says why. Bytes are read at the rate at which this machine reads an array of that size again
and again, by all cores or by one, whichever is faster; operations are the multiplications and
additions of products of matrices and convolutions alone, at the rate of a large product: a forward
pass a tangent, two a product with the Hessian (forward and back). The same numbers with the commit
are in `benchmarks/results/`; `before` is what they were in the run before{of}.
"""

TAIL = """## Elsewhere

Capture against the query itself and without its model calls: [TPC-H-like
queries](benchmarks-provenance.md), written by `benchmarks/tpch_provenance.py`.

## Not measured

"""


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def render(result: dict, earlier: dict | None, plots: dict[str, list[tuple[str, str]]],
           folder: str) -> str:
    """The page. earlier: results of the run before; plots: (title, file in `folder`) by section."""
    facts = dict(result["machine"])
    facts["of"] = f" (commit {earlier['machine']['commit']})" if earlier else ""
    note = facts["note"].strip(" .")
    facts["note"] = f" **{note[0].upper()}{note[1:]}.**" if note else ""
    facts["load"] = ", ".join(str(x) for x in facts["load"])
    old = {(e["section"], e["what"]): e["value"] for e in (earlier or {}).get("entries", [])}
    parts = [HEAD.format(**facts)]
    for section in dict.fromkeys(e["section"] for e in result["entries"]):
        lines = [f"## {section}", "", "| | measured | range | floor | distance | |"
                 + (" before |" if old else ""), "|---|---|---|---|---|---|" + "---|" * bool(old)]
        for e in result["entries"]:
            if e["section"] != section:
                continue
            distance = f"{e['value'] / e['floor']:.2g} ×" if e["floor"] else ""
            spread = ("" if e["low"] is None else f"from {number(e['low'])}" if e["high"] is None
                  else f"{number(e['low'])}-{number(e['high'])}")
            floor = f"{number(e['floor'])}: {e['floor_is']}" if e["floor"] else e["floor_is"]
            before = old.get((section, e["what"]))
            lines.append(f"| {e['what']} | {number(e['value'])} {e['unit']} | {spread} | {floor} | "
                         f"{distance} | {e['note']} |"
                         + (f" {number(before) if before else ''} |" if old else ""))
        for title, name in plots.get(section, ()):
            lines += ["", f"![{title}]({folder}/{name})"]
        parts.append("\n".join(lines))
    if earlier:
        parts.append(_slower(result, old, earlier["machine"]["commit"]))
    parts.append(TAIL + "\n".join(f"- {what}" for what in result["skipped"]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _slower(result: dict, old: dict, commit: str) -> str:
    """Which figures are worse than before by more than what two runs differ in. Seconds and rates
    are those of a machine, and the next run may have another: of them the median change is taken
    to be the machine's, and what is told is what changed more than that."""
    changes = []
    for e in result["entries"]:
        before = old.get((e["section"], e["what"]))
        if before and e["value"]:
            ratio = before / e["value"] if e["unit"] in RATES else e["value"] / before
            changes.append((e, before, ratio))
    of_machine = [ratio for e, _, ratio in changes if e["unit"] in TIMED]
    machine = statistics.median(of_machine) if of_machine else 1.0
    found = []
    for e, before, ratio in changes:
        own = ratio / machine if e["unit"] in TIMED else ratio
        if own > WORSE:
            found.append(f"- {e['section']}: {e['what']}: {number(before)} → "
                         f"{number(e['value'])} {e['unit']} ({ratio:.1f} ×)")
    text = (f"## Worse than before\n\nTimes and rates are {machine:.2f} times what they were with "
            f"commit {commit}, in the median of {len(of_machine)}: that is taken for the machine. "
            f"More than {WORSE} times as much beyond that (of other figures: at all)")
    return text + (":\n\n" + "\n".join(found) if found else ": nothing.")
