"""The annotated plan as text: what each operator does to provenance, and how exact that is."""

from __future__ import annotations

from pgrain.provenance.groups import Groups
from pgrain.provenance.lineage import Lineage

_RULES = {"count": "exact expectation", "sum": "exact expectation",
          "avg": "approximate: ratio of expectations"}


def render(capture, lineage: Lineage | None = None) -> list[str]:
    """Lines of the annotated plan, outermost operator first.

    With a `lineage` they have sizes: base rows, factors, patterns, entries, variables.
    """
    annotated = capture.annotated
    columns = capture.output_columns
    lines = ["Aggregate" if not annotated.by_row else "Project"]
    keys = annotated.query.keys
    if keys:
        lines.append("  group by " + ", ".join(_one_line(key.text) for key, _ in keys)
                     + ("  [on predictions]" if any(
                         "_pgrain_label" in key for key in annotated.keys) else ""))
    for number, (column, cell) in enumerate(zip(columns, annotated.cells, strict=True)):
        fixed = lineage is not None and cell.role == "aggregate" and cell.function == "avg" \
            and Groups(annotated, lineage).fixed_counts(number)
        lines.append(f'  column "{column.name}" {column.type_name}: {_rule(cell, fixed)}')
    if lineage is not None:
        lines.append(f"  {len(lineage.texts)} possible rows, {len(lineage.entries)} entries, "
                     f"{lineage.n_variables} variables of {lineage.n_classes} classes")
    depth = "  "
    for condition in _mixed(annotated):
        lines.append(f"{depth}-> Filter {condition}")
        lines.append(f"{depth}     on predictions: once for each pattern and class, by PostgreSQL")
        depth += "  "
    if len(annotated.sides) == 2:
        on = " AND ".join(_one_line(text) for text in annotated.cross)
        lines.append(f"{depth}-> Join, factorised" + (f", factors meet on {on}" if on else
                                                      ", all factors meet"))
        if lineage is not None:
            pairs = len(lineage.pairs[0]) if lineage.pairs is not None else \
                len(lineage.joint[0])
            lines.append(f"{depth}     {pairs} pairs of factors in {len(lineage.joint[0])} patterns"
                         " instead of "
                         f"{len(lineage.sides[0].factor) * len(lineage.sides[1].factor)} pairs of"
                         " rows")
        depth += "  "
    for number, side in enumerate(annotated.sides):
        units = ", ".join(_one_line(unit) for unit in side.units)
        lines.append(f"{depth}-> Scan {units}")
        for text in side.where:
            lines.append(f"{depth}     where {_one_line(text)}")
        for slot in side.slots:
            lines.append(f"{depth}     variable {slot.index + 1}: "
                         f'predict("{slot.model}", {_one_line(slot.argument)})')
        for what, details in (("joined by", side.keys), ("kept for each pattern", side.details)):
            if details:
                lines.append(f"{depth}     {what}: "
                             + ", ".join(_one_line(detail.sql) for detail in details))
        for measure in side.measures:
            weight = measure.value.removesuffix("::pg_catalog.float8")[1:-1] if measure.value \
                else "presence"
            lines.append(f"{depth}     row weight: {_one_line(weight)}")
        if lineage is not None:
            rows = lineage.sides[number]
            lines.append(f"{depth}     {len(rows.factor)} rows, {len(rows.starts)} factors"
                         if not annotated.by_row else f"{depth}     {len(rows.factor)} rows")
    return lines


def _rule(cell, fixed: bool) -> str:
    """fixed: no prediction moves what an average divides by."""
    if cell.role == "aggregate":
        rule = "exact expectation (no prediction moves its count)" if fixed else \
            _RULES[cell.function]
        return f"{cell.function}, " + (rule if cell.dependent else "does not depend on the model")
    return {"label": "prediction, exact probability of each text", "group": "names the group",
            "row": "not on the model", "constant": "not on the model"}[cell.role]


def _mixed(annotated) -> list[str]:
    return [_one_line(c.text) for c in annotated.query.conditions if c.calls]


def _one_line(text: str) -> str:
    return " ".join(text.split())
