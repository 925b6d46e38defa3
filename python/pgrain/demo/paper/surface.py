"""The same complaints through SQL: that the product ranks as the library does."""

from __future__ import annotations

from pathlib import Path

from pgrain.demo.paper import draw
from pgrain.demo.paper.database import QUERIES, prepare
from pgrain.demo.paper.records import Job

TITLE = "Ours: the same through SQL"
HOW = "through SQL and with the library, side by side"
REPORTED = "Nothing: the paper measures its library."


def jobs(scale) -> list[Job]:
    """Figure 12's first seed, table 2's flips, figure 15's two repairs, with the settings of those
    figures: what they say about the library holds for the product."""
    full = scale.name != "quick"
    settings = [scale.setting("adult", "logistic_regression", "male_private", rate=rate,
                              queries=("Q4", "Q5", "Q6", "Q7"), baselines=False)
                for rate in ((0.5, 0.6, 0.7) if full else (0.6,))]
    settings.append(scale.setting("mnist", "mlp", "flip", rate=scale.rate, queries=("Q1", "Q3"),
                                  baselines=False))
    settings += [scale.setting("mnist", "mlp", "salt_and_pepper", rate=rate, queries=("Q1", "Q3"),
                               denoise=True, baselines=False)
                 for rate in ((0.5, 0.9) if full else (0.9,))]
    return [Job("surface", setting.as_json()) for setting in settings]


def measure(what: dict, say) -> dict:
    """Both rankings of every query and intervention: AUC_R, and how many of the first N rows are
    the same."""
    import numpy as np

    from pgrain.demo.metrics import auc_r
    from pgrain.demo.paper.cases import load
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.paper.measure import complained, fit
    from pgrain.influence.scores import deletion_changes
    setting = setting_of(what)
    case = load(setting)
    fitted = fit(setting, case, say)
    n = int(case.wrong.sum())
    w = 1 / fitted.spectrum.eigenvalues[:fitted.k]
    effects = {"delete": fitted.A}
    if setting.denoise:
        effects["denoise"] = fitted.A - fitted.A_denoised
    complaints, orders = {}, {}
    for name in setting.queries:
        sign, _, c = complained(fitted, case.query(name, setting.data))
        column = "n" if name in ("Q1", "Q3") else "share"
        complaints[name] = f"{column} too {'high' if sign > 0 else 'low'}"
        for intervention, A in effects.items():
            changes = deletion_changes(A[:, :fitted.k], w, c[:fitted.k])
            orders[name, intervention] = np.argsort(changes, kind="stable")[:n]
    through = _through_sql(setting, case, complaints, tuple(effects), n, say)
    found: dict = {}
    for (name, intervention), (value, ids) in through.items():
        mine = orders[name, intervention]
        found.setdefault(name, {"complaint": complaints[name], "value": value})[intervention] = {
            "library": auc_r(case.wrong[mine], n), "sql": auc_r(case.wrong[ids], n),
            "shared": len(set(mine.tolist()) & set(ids.tolist())) / n}
    return {"n_parameters": fitted.model.n_parameters, "n_rows": len(case.y), "n_wrong": n,
            "k": fitted.k, "through": found}


def _through_sql(setting, case, complaints: dict, interventions: tuple, n: int, say) -> dict:
    """(query, intervention) -> (value, numbers of the first n rows of the ranking), from a private
    cluster that is made for it and removed."""
    import numpy as np

    from pgrain.demo.timing import private_server
    with private_server("paper") as (_, _, connection):
        prepare(connection, setting, case, say,
                repair="median" if "denoise" in interventions else None)
        found = {}
        for name, complaint in complaints.items():
            value = connection.execute(QUERIES[name]).fetchone()[0]
            for intervention in interventions:
                rows = connection.execute(
                    "SELECT train_id FROM pgrain.complain(%s, %s, top_k => %s, "
                    "intervention => %s) ORDER BY rank",
                    [QUERIES[name], complaint, n, intervention]).fetchall()
                found[name, intervention] = (float(value), np.array([row[0] for row in rows]))
        return found


def at(records: list[dict], setting: dict, query: str, intervention: str = "delete") -> str:
    """AUC_R through SQL at a setting of another figure, for its table; a dash where there is
    none."""
    for record in records:
        of = record["setting"]
        if record["kind"] == "surface" and query in record["through"] and all(
                of[name] == setting[name] for name in ("data", "architecture", "error", "rate",
                                                       "seed", "rows")):
            return f"{record['through'][query][intervention]['sql']:.3f}"
    return "–"


def render(records, folder: Path, scale) -> str:
    rows = [[f"{r['setting']['data']}, {r['setting']['architecture']}, {r['setting']['error']} "
             f"{r['setting']['rate']:.0%}", query, judged["complaint"], intervention,
             f"{r['n_rows']:,}", f"{r['n_wrong']:,}", f"{j['library']:.4f}", f"{j['sql']:.4f}",
             f"{j['shared']:.1%}"]
            for r in records for query, judged in r["through"].items()
            for intervention, j in judged.items() if isinstance(j, dict)]
    statements = "\n".join(f"{name}: {text};" for name, text in QUERIES.items())
    return (draw.caption("The first N rows of each ranking, N the number of wrong rows", records)
            + draw.table(["data, model, error", "query", "complaint", "intervention", "rows",
                        "wrong", "AUC_R, library", "AUC_R, through SQL",
                        "first N rows in common"], rows)
            + "\n\nTrained, precomputed and complained about in a PostgreSQL of its own, from the "
            "same rows, with the automatic k; in the library the same functions without a "
            "database. `denoise` is `create_intervention(…, library => 'median')`. The queries:"
            f"\n\n```text\n{statements}\n```")
