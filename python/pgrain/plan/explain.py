"""PostgreSQL's EXPLAIN beside the text: the same relations and the same model calls, or 0A000.

EXPLAIN loses too much to be the source of the structure, but it shows what the text hides: a model
call that comes out of a view or an inlined SQL function, or one that was dissolved.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pgrain.errors import ComplaintSyntax, UnsupportedOperator
from pgrain.plan.expression import MODEL_FUNCTIONS, OWN_SCHEMA, called
from pgrain.plan.lexer import closing, split, string_value, tokenize

_NAMES = ("Node Type", "Relation Name", "Schema", "Alias", "Index Name", "CTE Name",
          "Subplan Name", "Function Name", "Table Function Name", "Join Type", "Strategy",
          "Parent Relationship", "Operation", "Remote SQL", "Partial Mode", "Command",
          "Scan Direction", "Tuplestore Name", "Custom Plan Provider")


@dataclass
class PlanFacts:
    """What EXPLAIN shows: relations, model calls, functions."""

    relations: set = field(default_factory=set)      # (schema, name)
    calls: set = field(default_factory=set)          # (function, model or None, bare)
    functions: set = field(default_factory=set)
    empty: bool = False                              # some part can give no row
    writes: bool = False                             # INSERT, UPDATE, DELETE, MERGE somewhere
    lossy: bool = False                              # a SubPlan, printed without its operand


def read_explain(explain: list | dict | str) -> PlanFacts:
    """The facts of an ``EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON)``."""
    if isinstance(explain, str):
        explain = json.loads(explain)
    facts = PlanFacts()
    _walk(explain, facts)
    return facts


def _walk(node, facts: PlanFacts) -> None:
    if isinstance(node, list):
        for child in node:
            _walk(child, facts)
        return
    if not isinstance(node, dict):
        return
    if node.get("Node Type") == "ModifyTable":
        facts.writes = True
    if isinstance(node.get("Relation Name"), str):
        schema = node.get("Schema")
        facts.relations.add((schema if isinstance(schema, str) else None, node["Relation Name"]))
    if isinstance(node.get("Function Name"), str):
        facts.functions.add(node["Function Name"])
    if node.get("One-Time Filter") == "false":
        facts.empty = True
    for key, value in node.items():
        if isinstance(value, (dict, list)) and not (
                isinstance(value, list) and value and isinstance(value[0], str)):
            _walk(value, facts)
        elif key not in _NAMES:
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    _read_text(text, facts)


def _read_text(text: str, facts: PlanFacts) -> None:
    try:
        tokens = tokenize(text)
    except ComplaintSyntax:
        return
    facts.functions.update(called(tokens, inside=True))
    facts.lossy = facts.lossy or "SubPlan " in text
    for index, token in enumerate(tokens):
        if not (token.is_name and token.value in MODEL_FUNCTIONS and index + 1 < len(tokens)
                and tokens[index + 1].value == "("):
            continue
        qualified = index > 1 and tokens[index - 1].value == "."
        if qualified and tokens[index - 2].value != OWN_SCHEMA:
            continue
        arguments = split(tokens[index + 2:closing(tokens, index + 1)])
        model = string_value(arguments[0][0]) if arguments and arguments[0] else None
        facts.calls.add((token.value, model, not qualified))


def check_calls(facts: PlanFacts, calls, bare_is_ours: bool) -> None:
    """The plan calls the models that the text calls, and the other way round."""
    text = {(call.function, call.model) for call in calls}
    plan = {(function, model) for function, model, bare in facts.calls
            if not bare or bare_is_ours}
    for function, model in sorted(plan - text, key=str):
        raise UnsupportedOperator(
            f'a call of model "{model}" that is not in the query\'s text has no provenance yet',
            detail=f"PostgreSQL's plan calls {OWN_SCHEMA}.{function} where the text does not: "
                   "in a view, a policy or a function that was inlined.",
            hint="Write the model call in the query itself.")
    if not facts.empty and not facts.lossy:
        for function, model in sorted(text - plan):
            raise UnsupportedOperator(
                f'a call of model "{model}" that PostgreSQL does not make has no provenance yet',
                detail=f"PostgreSQL's plan does not call {OWN_SCHEMA}.{function}: the expression "
                       "around it was simplified away.",
                hint="Leave out the condition that is always true or false.")


def check_relations(facts: PlanFacts, known: set, opaque: bool) -> None:
    """Every relation of the plan is named in the text or reached from a name in it.

    `opaque` says that the text calls functions of the user, whose bodies may read anything.
    """
    for schema, name in sorted(facts.relations - known, key=str):
        if not opaque:
            raise UnsupportedOperator(
                f'relation "{schema}.{name}", which the query does not name, has no provenance '
                "yet", detail="PostgreSQL's plan reads it.")
