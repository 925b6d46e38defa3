"""Ours: what a repair was predicted to do, and what training then did. All of it through SQL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pgrain.demo.paper import draw
from pgrain.demo.paper.records import Job

TITLE = "Ours: predicted against actual repaired value"
HOW = "through SQL"
REPORTED = "Nothing: the paper ranks suspects and predicts no values."
SHARES = (0.3, 0.6, 0.9)
"""Of the way from the value to the truth: what the complaint asks for."""


def jobs(scale) -> list[Job]:
    full = scale.name != "quick"
    settings = [scale.setting("fashion", "mlp", "bright", queries=("Q3",), baselines=False)]
    if full:
        settings += [
            scale.setting("fashion", "logistic_regression", "bright", queries=("Q3",),
                          baselines=False),
            scale.setting("mnist", "mlp", "flip", rate=scale.rate, queries=("Q3",),
                          baselines=False),
            scale.setting("adult", "logistic_regression", "male_private", rate=0.6,
                          queries=("Q4",), baselines=False)]
    return [Job("repaired", setting.as_json()) for setting in settings]


def measure(what: dict, say) -> dict:
    """`CALL pgrain.repair` of one round for each target and intervention; each from the same
    version, whose edits are reverted afterwards."""
    from pgrain.demo.paper.cases import load
    from pgrain.demo.paper.database import QUERIES, column, prepare, spectrum
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.timing import private_server
    setting = setting_of(what)
    case = load(setting)
    (name,) = setting.queries
    query, truth, output = QUERIES[name], case.query(name, setting.data).truth, column(name)
    found = []
    with private_server("paper") as (_, _, connection):
        prepare(connection, setting, case, say)
        version, parameters = connection.execute(
            "SELECT version, n_parameters FROM pgrain.models WHERE model = 'm'").fetchone()
        before = float(connection.execute(query).fetchone()[0])
        options = json.dumps({"rounds": 1, "precompute": spectrum(setting)})
        say("train without edits")
        connection.execute("""CALL pgrain.train('m', '{"warm_start": true}')""")
        drift = float(connection.execute(query).fetchone()[0])
        connection.execute("SELECT pgrain.activate('m', %s)", [version])
        for intervention in ("delete", "relabel"):
            for share in SHARES:
                target = before + share * (truth - before)
                target = float(np.floor(target) if output == "n" and truth < before
                               else np.ceil(target) if output == "n" else target)
                complaint = f"{output} {'<=' if truth < before else '>='} {target:.6g}"
                title = f"{intervention} {share}"
                say(f"repair: {complaint}, {intervention}")
                connection.execute("CALL pgrain.repair(%s, %s, %s, %s, %s)",
                                   [title, query, complaint, intervention, options])
                row = connection.execute(
                    "SELECT rows_edited, before, predicted, low, high, actual, holds, seconds "
                    "FROM pgrain.repair_round WHERE name = %s ORDER BY round LIMIT 1",
                    [title]).fetchone()
                edited = [int(key) for (key,) in connection.execute(
                    "SELECT train_key FROM pgrain.edits WHERE model = 'm'").fetchall()]
                connection.execute("SELECT pgrain.revert('m')")
                connection.execute("SELECT pgrain.activate('m', %s)", [version])
                if row is None:
                    found.append({"intervention": intervention, "share": share, "target": target,
                                  "before": before, "rows_edited": 0})
                    continue
                first = connection.execute(
                    "SELECT sum(effect) FROM pgrain.complain(%s, %s, top_k => %s, "
                    "intervention => %s)", [query, complaint, row[0], intervention]).fetchone()[0]
                found.append({
                    "intervention": intervention, "share": share, "target": target,
                    **dict(zip(("rows_edited", "before", "predicted", "low", "high", "actual",
                                "holds", "seconds"), row, strict=True)),
                    "first": before + float(first), "wrong": int(case.wrong[edited].sum())})
    return {"n_parameters": parameters, "n_rows": len(case.y), "n_wrong": int(case.wrong.sum()),
            "truth": truth, "query": name, "drift": drift, "rounds": found}


def error(predicted: float, row: dict) -> float:
    """|predicted - actual| as a share of the actual change; infinite where nothing changed and
    something was predicted."""
    if row["actual"] == row["before"]:
        return 0.0 if predicted == row["actual"] else float("inf")
    return abs(predicted - row["actual"]) / abs(row["actual"] - row["before"])


def _unchanged(records) -> str:
    """Rounds after which the value is what it was."""
    rows = [row for record in records for row in record["rounds"]
            if row["rows_edited"] and row["actual"] == row["before"]]
    if not rows:
        return ""
    return (f"After {len(rows)} of the rounds the value was what it had been: the relative error "
            "is infinite there; it counts in the median and for the interval.")


def _edited(records) -> str:
    """Of the rows that each intervention edited, how many were wrong."""
    parts = []
    for record in records:
        for intervention in dict.fromkeys(row["intervention"] for row in record["rounds"]):
            rows = [row for row in record["rounds"]
                    if row["intervention"] == intervention and row["rows_edited"]]
            if rows:
                share = sum(r["wrong"] for r in rows) / sum(r["rows_edited"] for r in rows)
                s = record["setting"]
                parts.append(f"{s['data']}, {s['architecture']}, {intervention} {share:.0%}")
    return f"Of the edited rows were wrong: {'; '.join(parts)}. " if parts else ""


def render(records, folder: Path, scale) -> str:
    rows, errors = [], {}
    for record in records:
        s = record["setting"]
        name = f"{s['data']}, {s['architecture']}, {s['error']}, {record['query']}"
        digits = ".0f" if record["query"] == "Q3" else ".3f"
        for row in record["rounds"]:
            if not row["rows_edited"]:
                rows.append([name, row["intervention"], f"{row['before']:{digits}}",
                             f"{row['target']:{digits}}", *["–"] * 8])
                continue
            of = errors.setdefault((name, row["intervention"]), [])
            of.append((error(row["predicted"], row), error(row["first"], row),
                       row["low"] <= row["actual"] <= row["high"]))
            rows.append([name, row["intervention"], f"{row['before']:{digits}}",
                         f"{row['target']:{digits}}", row["rows_edited"], row["wrong"],
                         f"{row['predicted']:{digits}}",
                         f"{row['low']:{digits}}-{row['high']:{digits}}",
                         f"{row['first']:{digits}}", f"{row['actual']:{digits}}",
                         f"{record['drift']:{digits}}",
                         f"{record['truth']:{digits}}"])
    summary = [[name, intervention, len(of), f"{np.median([e[0] for e in of]):.2f}",
                f"{np.median([e[1] for e in of]):.2f}", f"{sum(e[2] for e in of)} of {len(of)}"]
               for (name, intervention), of in errors.items()]
    return (draw.caption("A round of pgrain.repair each", records)
            + draw.table(["data, model, error, query", "intervention", "value", "asked for",
                        "rows edited", "of them wrong", "predicted", "interval", "first order",
                        "after training", "training without edits", "truth"], rows)
            + "\n\nOne round of `pgrain.repair` each, from the same version: it plans (the group "
            "step), records the edits, trains from the weights it has, and runs the query. First "
            "order: the value plus the sum of `effect` of the same rows. Where a net was not at "
            "its minimum, going on with training changes the value by itself: the last but one "
            f"column, which no plan foresees. {_edited(records)}The error as a share of what "
            "training changed; predicting no change at all has 1. "
            + _unchanged(records) + "\n\n"
            + draw.table(["data, model, error, query", "intervention", "rounds",
                          "median error of the plan", "of first order", "inside the interval"],
                         summary))
