"""Watches of joins of predictions with predictions: what they are made of, table by table."""

from __future__ import annotations

from pgrain.backend import session, watch_making
from pgrain.backend.spi import query
from pgrain.errors import UnsupportedOperator


def parts(plpy, plan: dict, answer: dict, alert: str | None) -> tuple[list[dict], dict]:
    """(tables, the rest) of what a watch of a join is made of; answer: that of watch_plan, with
    the queries of its sides."""
    tables, sides = [], []
    for text in answer["queries"]:
        of_side, made = watch_making.parts_of_one(plpy, *watch_making.asked(plpy, text), None)
        tables += of_side
        sides.append(made)
    made, _ = session.call(plpy, "watch_plan", {
        "plan": plan["plan"], "sides": [side["shape"] for side in sides], "alert": alert})
    for asked in made["asked"]:
        if query(plpy, asked):
            raise UnsupportedOperator(
                "a join by an = that is not PostgreSQL's own cannot be watched",
                hint="Take the schema of that operator out of search_path.")
    first, second = sides
    return tables, {"shape": made["shape"], "functions": made["functions"],
                    "queries": answer["queries"], "fact": first["fact"],
                    "note_new": first["note_new"], "note_old": first["note_old"],
                    "second": second["fact"], "second_new": second["note_new"],
                    "second_old": second["note_old"]}
