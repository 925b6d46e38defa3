"""The same complaints through SQL: that the product ranks as the library does."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from pgrain.demo.paper import draw
from pgrain.demo.paper.records import Job

TITLE = "Ours: the same through SQL"
REPORTED = "Nothing: the paper measures its library."
QUERIES = {
    "Q4": "SELECT avg(pgrain.predict('m', t)::int) AS share FROM asked t"
          " WHERE workclass = 'Private' AND gender = 'Male'",
    "Q5": "SELECT avg(pgrain.predict('m', t)::int) AS share FROM asked t"
          " WHERE workclass = 'Private'",
    "Q6": "SELECT avg(pgrain.predict('m', t)::int) AS share FROM asked t WHERE gender = 'Male'",
    "Q7": "SELECT avg(pgrain.predict('m', t)::int) AS share FROM asked t",
    "Q3": "SELECT count(*) AS n FROM asked t WHERE pgrain.predict('m', image) = '1'",
    "Q1": "SELECT count(*) AS n FROM asked l, asked r WHERE l.truth < 5 AND r.truth >= 5"
          " AND pgrain.predict('m', l.image) = pgrain.predict('m', r.image)",
}


def jobs(scale) -> list[Job]:
    rows = min(4_000, scale.rows["mnist"])
    settings = [scale.setting("adult", "logistic_regression", "male_private", rate=0.6,
                              rows=min(8_000, scale.rows["adult"]), sample=10_000,
                              queries=("Q4", "Q5", "Q6", "Q7"), baselines=False, options=()),
                scale.setting("mnist", "mlp", "flip", rate=0.4, rows=rows, sample=10_000,
                              queries=("Q1", "Q3"), baselines=False,
                              options=(("hidden", (64,)),))]
    return [Job("surface", setting.as_json()) for setting in settings]


def measure(what: dict, say) -> dict:
    """Both rankings of every query: AUC_R, and how many of the first N rows are the same."""
    import numpy as np

    from pgrain.demo.metrics import auc_r
    from pgrain.demo.paper.cases import load
    from pgrain.demo.paper.experiments import setting_of
    from pgrain.demo.paper.measure import direction, fit
    from pgrain.influence.projections import objective_projection
    from pgrain.influence.scores import deletion_changes
    setting = setting_of(what)
    case = load(setting)
    fitted = fit(setting, case, say)
    n = int(case.wrong.sum())
    found = {}
    w = 1 / fitted.spectrum.eigenvalues[:fitted.k]
    complaints, orders = {}, {}
    for name in setting.queries:
        query = case.query(name, setting.data)
        sign = direction(query, fitted.predicted, fitted.query_p)
        c = objective_projection(fitted.query_p, fitted.query_J,
                                 sign * np.asarray(query.gradient(fitted.query_p), float))
        orders[name] = np.argsort(deletion_changes(fitted.A[:, :fitted.k], w, c[:fitted.k]),
                                  kind="stable")[:n]
        column = "n" if name in ("Q1", "Q3") else "share"
        complaints[name] = f"{column} too {'high' if sign > 0 else 'low'}"
    through = _through_sql(setting, case, complaints, n, say)
    for name, (value, ids) in through.items():
        mine = orders[name]
        found[name] = {
            "complaint": complaints[name], "value": value,
            "library": auc_r(case.wrong[mine], n), "sql": auc_r(case.wrong[ids], n),
            "shared": len(set(mine.tolist()) & set(ids.tolist())) / n}
    return {"setting": what, "n_parameters": fitted.model.n_parameters, "n_rows": len(case.y),
            "n_wrong": n, "k": fitted.k, "queries": found}


def _through_sql(setting, case, complaints: dict, n: int, say) -> dict:
    """query -> (value, numbers of the first n rows of the ranking), from a private cluster that is
    made for it and removed."""
    import numpy as np

    from pgrain.cli.background import WorkerProcess
    from pgrain.cli.cluster import Cluster
    from pgrain.cli.install import find_server, install
    from pgrain.cli.place import prepare, server_account
    server, account = find_server(), server_account()
    install(server)
    place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
    prepare(place, account)
    cluster = Cluster(place, server=server, account=account, settings={"fsync": "off"})
    worker = None
    try:
        cluster.start()
        cluster.ensure_database("paper")
        worker = WorkerProcess(cluster, "paper")
        worker.start()
        with cluster.connect("paper") as connection:
            say("load")
            features, options = _tables(connection, setting, case)
            connection.execute(
                "SELECT pgrain.create_model('m', 'learned', 'id', %s, 'label', %s, %s)",
                [features, setting.architecture, json.dumps(options)])
            for call in (f"CALL pgrain.train('m', '{json.dumps({'seed': setting.seed})}')",
                         f"CALL pgrain.precompute('m', '{json.dumps({'seed': setting.seed})}')",
                         "CALL pgrain.attach('m', 'asked')"):
                say(call)
                connection.execute(call)
            found = {}
            for name, complaint in complaints.items():
                value = connection.execute(QUERIES[name]).fetchone()[0]
                rows = connection.execute(
                    "SELECT train_id FROM pgrain.complain(%s, %s, top_k => %s) ORDER BY rank",
                    [QUERIES[name], complaint, n]).fetchall()
                found[name] = float(value), np.array([row[0] for row in rows])
            return found
    finally:
        if worker:
            worker.stop()
        cluster.stop("immediate")
        shutil.rmtree(place, ignore_errors=True)


def _tables(connection, setting, case) -> tuple[list[str], dict]:
    """Fills `learned` and `asked`; the feature columns and the model's options."""
    options = {name: list(v) if isinstance(v, tuple) else v for name, v in setting.options}
    if setting.data == "adult":
        from pgrain.demo import census
        train, asked = census.adult_split()
        numbers = [name.replace("-", "_") for name in census.NUMBERS]
        kinds = ", ".join(f"{name} {'float8' if name in numbers else 'text'}"
                          for name in census.COLUMNS)
        connection.execute(f"CREATE TABLE learned (id bigint PRIMARY KEY, {kinds}, label text)")
        connection.execute(f"CREATE TABLE asked (id bigint, {kinds})")
        with connection.cursor().copy("COPY learned FROM STDIN") as copy:
            for i, label in enumerate(case.y.tolist()):
                copy.write_row((i, *train.features[i].values(), str(label)))
        with connection.cursor().copy("COPY asked FROM STDIN") as copy:
            for i, row in enumerate(asked.features):
                copy.write_row((i, *row.values()))
        return list(census.COLUMNS), options
    connection.execute("CREATE TABLE learned (id bigint PRIMARY KEY, image bytea, label text)")
    connection.execute("CREATE TABLE asked (id bigint, image bytea, truth int)")
    for table, pixels, labels in (("learned", case.X, map(str, case.y.tolist())),
                                  ("asked", case.query_X, case.query_y.tolist())):
        with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            for i, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
                copy.write_row((i, picture.tobytes(), label))
    return ["image"], {"shape": [28, 28, 1], **options}


def render(records, folder: Path) -> str:
    rows = [[f"{r['setting']['data']}, {r['setting']['architecture']}", query, j["complaint"],
             f"{r['n_rows']:,}", f"{r['n_wrong']:,}", f"{j['library']:.4f}", f"{j['sql']:.4f}",
             f"{j['shared']:.1%}"] for r in records for query, j in r["queries"].items()]
    statements = "\n".join(f"{name}: {text};" for name, text in QUERIES.items())
    return (draw.table(["data, model", "query", "complaint", "rows", "wrong", "AUC_R, library",
                        "AUC_R, through SQL", "first N rows in common"], rows)
            + "\n\nTrained, precomputed and complained about in a PostgreSQL of its own, from the "
            "same rows, with the automatic k; in the library the same functions without a "
            f"database. The queries:\n\n```text\n{statements}\n```")
