"""The blocks of a query as text, for `pgrain.explain`: variables, rows, rules, exactness."""

from __future__ import annotations

from pgrain.provenance.algebra import assemble
from pgrain.provenance.algebra.blocks import (
    ArrayBlock,
    LimitBlock,
    Made,
    MergeBlock,
    PredicateBlock,
    ScalarBlock,
    SelectBlock,
)
from pgrain.provenance.algebra.linear import (
    BENT,
    CONST,
    COUNT,
    EXTREME,
    LINEAR,
    OTHER,
    PROBA,
    RATIO,
    WHOLE,
    degree,
)

_DEGREES = {CONST: ", exact expectation", COUNT: ", exact expectation",
            LINEAR: ", exact expectation", RATIO: ", approximate: a ratio of expectations",
            EXTREME: ", exact for independent rows",
            BENT: ", approximate: arithmetic over expectations",
            OTHER: ", approximate: arithmetic over expectations"}
_RULES = {
    "count": "exact expectation", "sum": "exact expectation",
    "avg": "approximate: ratio of expectations",
    "min": "exact for independent rows", "max": "exact for independent rows",
    "bool_and": "exact for independent rows", "bool_or": "exact for independent rows",
}


def render_network(capture, circuit) -> list[str]:
    """Lines of the annotated plan: the output, then each block, outermost first."""
    assembly, program = circuit.lineage, capture.program
    lines = [f"{len(circuit.texts) if circuit.key_columns else circuit.n} possible output rows, "
             f"{len(circuit.network.layers)} layers of gates, "
             + ", ".join(f'{v} variables of {r} classes of model "{model}"'
                         for model, (v, r) in circuit.shapes.items())]
    lines += [f"note: {note}" for note in program.notes]
    lines += [f"note: LIMIT {bound.limit} keeps every possible row of block {bound.block}"
              for bound in program.bounds]
    for column, made in zip(capture.output_columns, capture.final.columns, strict=True):
        lines.append(f'  column "{column.name}" {column.type_name}: '
                     + (f"depends on the model{_exactness(made, capture.final, program)}"
                        if column.model_dependent else "not on the model"))
    for block in reversed(program.blocks):
        lines += _RENDERERS[block.kind](block, assembly)
    return lines


def _exactness(column, final, program) -> str:
    """What the relaxed value of an output number is."""
    if column.cell is None:
        return ""
    rule = _DEGREES.get(final.degrees.get(column.cell, OTHER), "")
    block = next(block for block in program.blocks if block.number == final.block)
    grouping = getattr(block, "grouping", None)
    return rule + (", not conditioned on HAVING"
                   if grouping is not None and grouping.having is not None else "")


def _of_numbers(block: SelectBlock, aggregate) -> str:
    """How exact an aggregate of numbers of the circuit is."""
    def of_leaf(leaf: tuple) -> str:
        if leaf[0] == "cell":
            return block.units[leaf[1]].relation.degrees.get(leaf[2], OTHER)
        return {"leaf": CONST, "proba": PROBA}.get(leaf[0], OTHER)

    kind = degree(aggregate.number, of_leaf)
    if aggregate.function in ("min", "max") and kind != PROBA \
            or aggregate.function == "sum" and kind in (BENT, OTHER, RATIO, WHOLE):
        return "approximate: of expected numbers"
    return _RULES[aggregate.function]


def _select(block: SelectBlock, assembly) -> list[str]:
    base = assembly.bases[block.number]
    lines = [f"-> Block {block.number}: {'Aggregate' if block.grouping else 'Select'}, {base.n} "
             "rows of its inputs"]
    why = assemble.listed_because(block)
    if why is not None:
        lines.append(f"     a join on predictions, its pairs of rows listed for: {why}")
    if block.chosen:
        lines.append("     a row for each value that a number can have: exact, by its "
                     "distribution; other numbers of the row as if independent of it")
    grouping = block.grouping
    if grouping is not None:
        rows = assembly.rows[block.number]
        lines.append(f"     {len(rows)} groups"
                     + (", over GROUPING SETS" if grouping.sets else "")
                     + ("  [on predictions]" if grouping.by_entry else ""))
        for j, aggregate in enumerate(grouping.aggregates):
            rule = _RULES[aggregate.function] if aggregate.number is None else \
                assembly.exactly.get((block.number, j)) or _of_numbers(block, aggregate)
            distinct = "DISTINCT " if aggregate.distinct else ""
            argument = aggregate.value_base or aggregate.value_entry or ""
            what = _line(argument.removesuffix("::pg_catalog.float8")) or (
                "rows" if aggregate.number is None else "numbers")
            lines.append(f"     {aggregate.function}({distinct}{what}): {rule}")
        if grouping.having is not None:
            lines.append(f"     HAVING {_line(grouping.having)}")
            lines += _atoms(grouping.atoms, "_pgrain_h")
    lines += [f"     from {_line(item)}" for item in block.from_ if not isinstance(item, Made)]
    for unit in block.units:
        lines.append(f"     {unit.alias}: {len(assembly.rows[unit.relation.block])} possible rows "
                     f"of block {unit.relation.block}"
                     + ("" if unit.by is None else ", found by the key: it must be "
                        + ("true" if unit.code else "false")))
    lines += [f"     where {_line(condition)}" for condition in block.where
              if not isinstance(condition, Made)]
    for condition in block.mixed:
        lines.append(f"     where {_line(condition)}  [on predictions: once for each pattern and "
                     "class, by PostgreSQL]")
    lines += _atoms(block.atoms, "_pgrain_t")
    for slot in block.slots:
        rule = {"label": "", "expanded": ", a row for each class", "proba": ", probabilities"}
        lines.append(f'     variable {slot.number + 1}: "{slot.model}" of '
                     f"{_line(slot.argument)}{rule[slot.mode]}")
    return lines


def _atoms(atoms, prefix: str) -> list[str]:
    lines = [f"     {prefix}0 to {prefix}{len(atoms) - 1}: comparisons of different numbers count "
             "as independent of each other"] if len(atoms) > 1 else []
    for number, atom in enumerate(atoms):
        kinds = {leaf[0] for side in (atom.left, atom.right) if side is not None
                 for leaf in side.leaves}
        rule = "step on a probability, smooth where relaxed" if "proba" in kinds else \
            "exact (Poisson-binomial) for counts of independent rows, else normal approximation"
        lines.append(f"     {prefix}{number}: a comparison with {atom.operator}: {rule}")
    return lines


def _predicate(block: PredicateBlock, assembly) -> list[str]:
    return [f"-> Block {block.number}: EXISTS, IN, ANY or ALL over block {block.relation.block}: "
            f"{len(assembly.rows[block.number]) // 3} disjunctions, exact for disjoint variables"]


def _scalar(block: ScalarBlock, assembly) -> list[str]:
    return [f"-> Block {block.number}: scalar subquery over block {block.relation.block}, "
            f"{len(assembly.rows[block.number])} possible rows"]


def _array(block: ArrayBlock, assembly) -> list[str]:
    return [f"-> Block {block.number}: ARRAY over block {block.relation.block}"]


def _merge(block: MergeBlock, assembly) -> list[str]:
    name = "DISTINCT" if len(block.sides) == 1 else \
        block.operator.upper() + (" ALL" if block.all else "")
    sides = " and ".join(str(side.block) for side in block.sides)
    rule = "" if block.operator == "union" and block.all else \
        ": disjunctions, exact for independent rows"
    return [f"-> Block {block.number}: {name} of block {sides}, "
            f"{len(assembly.rows[block.number])} possible rows{rule}"]


def _limit(block: LimitBlock, assembly) -> list[str]:
    return [f"-> Block {block.number}: first rows of block {block.relation.block}, limit "
            f"{block.limit}{' with ties' if block.ties else ''}, offset {block.offset}: exact for "
            "independent rows"
            + ("; numbers in them as if all were kept"
               if any(c.cell is not None for c in block.relation.columns) else "")]


_RENDERERS = {"select": _select, "predicate": _predicate, "scalar": _scalar, "array": _array,
              "merge": _merge, "limit": _limit}


def _line(text: str) -> str:
    return " ".join(text.split())
