"""A setting in PostgreSQL: its rows as tables, its model, and the queries of table 1 in SQL."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg

from pgrain.demo.paper.cases import Case, Setting

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


def column(query: str) -> str:
    """The output column that one complains about."""
    return "n" if query in ("Q1", "Q3") else "share"


def prepare(connection: psycopg.Connection, setting: Setting, case: Case,
            say: Callable[[str], None], repair: str | None = None) -> None:
    """Tables `learned` (id is the row's number in the case) and `asked` (attached), model `m`,
    trained and precomputed as the library does for this setting. repair: of the library of feature
    repairs, as intervention `denoise`."""
    say("load")
    features, options = _tables(connection, setting, case)
    connection.execute("SELECT pgrain.create_model('m', 'learned', 'id', %s, 'label', %s, %s)",
                       [features, setting.architecture, json.dumps(options)])
    if repair:
        connection.execute("SELECT pgrain.create_intervention('m', 'denoise', library => %s)",
                           [repair])
    for call in (f"CALL pgrain.train('m', '{json.dumps({'seed': setting.seed})}')",
                 f"CALL pgrain.precompute('m', '{json.dumps(spectrum(setting))}')",
                 "CALL pgrain.attach('m', 'asked')"):
        say(call)
        connection.execute(call)


def spectrum(setting: Setting) -> dict:
    """The options of precompute that make the library's spectrum."""
    return {"seed": setting.seed, "sample": setting.sample, "pairs": setting.pairs}


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
