"""`repair`, `assess` and `describe` on errors with a known truth, through SQL.

    .local/venv/bin/python benchmarks/repair_loop.py [--cases pictures adult reviews] [--seeds 0]

A private cluster a case, with a model of the wrong labels, one of the true ones and one of permuted
ones. The target of the complaint is what the query
says under the model of the true labels. Then:

- `repair` by deletions and by relabellings (option plausible): a line a round with the value
  before, predicted, its interval, and after training; at last how many of the edited rows are truly
  wrong, and how many of the wrong ones were edited. Beside it the same number of rows by training
  loss and at random;
- `assess`: the verdict where the complaint has a cause (with the target, and without one), and on
  controls: the model of the true labels, of the permuted ones, and a query that the error does not
  touch;
- `describe` of all edited rows, of the truly wrong ones, and of as many as these at the top of the
  ranking (--only describe: without a repair).

Lines of JSON on standard output, a summary on standard error. Sizes fit two busy cores; not part of
the test suite.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from bench_common import Bench, say, server

from pgrain.demo import census, corruptions, datasets, reviews
from pgrain.demo.label_errors import flip_class, flip_where, permute

MODELS = ("m", "clean", "permuted")


class Table:
    """A case: how its tables are made, which query is wrong, and which one is not."""

    def __init__(self, name: str, seed: int, rows: int, queried: int, epochs: int | None = None):
        self.seed, self.rows, self.queried = seed, rows, queried
        getattr(self, name)()
        if epochs is not None:
            self.options["epochs"] = epochs

    def pictures(self) -> None:
        """Fashion-MNIST, the brightest trousers labelled dress."""
        train, asked = datasets.fashion_mnist("train"), datasets.fashion_mnist("t10k")
        part = np.random.default_rng(self.seed).permutation(len(train))[:self.rows]
        images = datasets.Images(train.pixels[part], train.labels[part])
        self.truth, self.label = images.labels, corruptions.bright(images, self.seed).labels
        self.kinds = {"image": "bytea"}
        self.values = [(picture.tobytes(),) for picture in images.pixels]
        self.asked = [(picture.tobytes(),) for picture in asked.pixels[:self.queried]]
        self.options = {"shape": [28, 28, 1], "hidden": [64]}
        self.architecture, self.features = "mlp", ["image"]
        count = "SELECT count(*) AS n FROM asked WHERE pgrain.predict('{}', image) = '%d'"
        self.query, self.column = count % corruptions.TROUSER, "n"
        self.irrelevant = count % 8                           # bags

    def adult(self) -> None:
        """Men in the private sector who earned less are labelled as if they earned more."""
        train, asked = census.adult_split()
        train, asked = train.part(slice(self.rows)), asked.part(slice(self.queried))
        self.truth = train.labels
        self.label = flip_where(train.labels, train.where(gender="Male", workclass="Private"),
                                0, 1, 0.6, self.seed).labels
        numbers = [name.replace("-", "_") for name in census.NUMBERS]
        self.kinds = {name: "float8" if name in numbers else "text" for name in census.COLUMNS}
        self.values = [tuple(row.values()) for row in train.features]
        self.asked = [tuple(row.values()) for row in asked.features]
        self.options, self.architecture = {}, "logistic_regression"
        self.features = list(census.COLUMNS)
        share = "SELECT avg(pgrain.predict('{}', t)::int) AS n FROM asked t WHERE "
        self.query, self.column = share + "workclass = 'Private' AND gender = 'Male'", "n"
        self.irrelevant = share + "workclass <> 'Private' AND gender = 'Female'"

    def reviews(self) -> None:
        """Two fifths of the negative sentences are labelled positive."""
        train, asked = reviews.reviews_split()
        train, asked = train.part(slice(self.rows)), asked.part(slice(self.queried))
        self.truth = train.labels
        self.label = flip_class(train.labels, 0, 1, 0.4, self.seed).labels
        self.kinds = {"sentence": "text"}
        self.values = [(text,) for text in train.texts]
        self.asked = [(text,) for text in asked.texts]
        self.options = {"vocabulary": 3000, "embedding": 32, "units": 32}
        self.architecture, self.features = "lstm", ["sentence"]
        self.query = ("SELECT count(*) AS n FROM asked WHERE pgrain.predict('{}', sentence) = '1'")
        self.column, self.irrelevant = "n", None

    @property
    def wrong(self) -> set[str]:
        return set(map(str, np.flatnonzero(self.truth != self.label)))

    def fill(self, bench: Bench, models=MODELS, asked_about=MODELS) -> None:
        """Tables, and models trained on them; those of `asked_about` precomputed."""
        kinds = ", ".join(f"{name} {kind}" for name, kind in self.kinds.items())
        labels = {"m": self.label, "clean": self.truth, "permuted": permute(self.truth, self.seed)}
        bench.run(f"CREATE TABLE asked (id bigint, {kinds})")
        with bench.connection.cursor().copy("COPY asked FROM STDIN") as copy:
            for i, value in enumerate(self.asked):
                copy.write_row((i, *value))
        for model in models:
            bench.run(f"CREATE TABLE learned_{model} (id bigint PRIMARY KEY, {kinds}, label text)")
            with bench.connection.cursor().copy(f"COPY learned_{model} FROM STDIN") as copy:
                for i, value in enumerate(self.values):
                    copy.write_row((i, *value, str(labels[model][i])))
            bench.run("SELECT pgrain.create_model(%s, %s, 'id', %s, 'label', %s, %s)",
                      [model, f"learned_{model}", self.features, self.architecture,
                       json.dumps(self.options)])
            bench.run("CALL pgrain.train(%s, %s)", [model, json.dumps({"seed": self.seed})])
            if model in asked_about:        # of the others only predictions are wanted
                bench.run("CALL pgrain.precompute(%s)", [model])
            bench.run("CALL pgrain.attach(%s, 'asked')", [model])


def value(bench: Bench, query: str, model: str) -> float:
    return float(bench.run(query.format(model))[0][0])


def against(found: float, target: float, column: str) -> str:
    return f"{column} {'<=' if found > target else '>='} {target:g}"


def overlap(edited: set[str], wrong: set[str]) -> dict:
    hits = len(edited & wrong)
    return {"edited": len(edited), "wrong": len(wrong), "truly_wrong": hits,
            "precision": hits / max(len(edited), 1), "recall": hits / len(wrong)}


def repaired(bench: Bench, table: Table, intervention: str, options: dict) -> dict:
    """One repair, taken back afterwards."""
    target = value(bench, table.query, "clean")
    query, start = table.query.format("m"), value(bench, table.query, "m")
    version = bench.run("SELECT active_version FROM pgrain.model WHERE model = 'm'")[0][0]
    began, name = time.perf_counter(), f"{intervention} {time.monotonic_ns()}"
    bench.run("CALL pgrain.repair(%s, %s, %s::text, %s, %s)",
              [name, query, against(start, target, table.column), intervention,
               json.dumps(options)])
    seconds = time.perf_counter() - began
    rounds = [dict(zip(("rows", "before", "predicted", "low", "high", "actual", "holds"), row,
                       strict=True)) for row in bench.run(
        "SELECT rows_edited, before, predicted, low, high, actual, holds FROM pgrain.repair_round "
        "WHERE name = %s ORDER BY round", [name])]
    edits = bench.run("SELECT train_key, intervention FROM pgrain.training_edit WHERE model = 'm'")
    edited = {key for key, _ in edits}
    right = sum(title == f"relabel:{table.truth[int(key)]}" for key, title in edits)
    n = max(len(edited), 1)
    told = {}
    for what, keys in (("edited", edited), ("wrong", table.wrong)):
        told[what] = bench.run("SELECT predicate, precision, recall FROM pgrain.describe('m', %s)",
                               [sorted(keys)])[:1]
    bench.run("SELECT pgrain.revert('m')")
    bench.run("SELECT pgrain.activate('m', %s)", [version])
    by_loss = {str(row[0]) for row in bench.run(
        "SELECT l.id FROM learned_m l ORDER BY (pgrain.predict_proba('m', "
        + ("l" if len(table.features) > 1 else f"l.{table.features[0]}")
        + "))[(SELECT array_position(classes, l.label) FROM pgrain.models WHERE model = 'm')], "
        "l.id LIMIT %s", [n])}
    chance = set(map(str, np.random.default_rng(0).permutation(len(table.truth))[:n]))
    return {"intervention": intervention, "options": options, "start": start, "target": target,
            "rounds": rounds, "seconds": round(seconds, 1), "rows": overlap(edited, table.wrong),
            "right_label": right, "by_loss": overlap(by_loss, table.wrong)["precision"],
            "by_chance": overlap(chance, table.wrong)["precision"], "described": told}


def predicates(bench: Bench, table: Table) -> dict:
    """describe of the truly wrong rows, and of the first rows of the ranking, as many."""
    target, start = value(bench, table.query, "clean"), value(bench, table.query, "m")
    ranked = {str(key) for (key,) in bench.run(
        "SELECT train_key FROM pgrain.complain(%s, %s::text, %s)",
        [table.query.format("m"), against(start, target, table.column), len(table.wrong)])}
    told = {"ranked": overlap(ranked, table.wrong)}
    for what, keys in (("wrong", table.wrong), ("first", ranked)):
        told[what] = bench.run("SELECT predicate, covered, precision, recall "
                               "FROM pgrain.describe('m', %s)", [sorted(keys)])
    return told


def verdicts(bench: Bench, table: Table) -> list[dict]:
    """assess where there is a cause, and on controls."""
    target, start = value(bench, table.query, "clean"), value(bench, table.query, "m")
    word = "too high" if start > target else "too low"
    asked = [("m", table.query, against(start, target, table.column), "useful"),
             ("m", table.query, f"{table.column} {word}", "useful")]
    for model in ("clean", "permuted"):
        now = value(bench, table.query, model)
        for factor in (0.7, 1.5) if now else ():
            asked.append((model, table.query, against(now, factor * now, table.column),
                          "not useful"))
        asked.append((model, table.query, f"{table.column} {word}", "not useful"))
    if table.irrelevant:
        now, right = value(bench, table.irrelevant, "m"), value(bench, table.irrelevant, "clean")
        if now != right:
            asked.append(("m", table.irrelevant, against(now, right, table.column), "not useful"))
    found = []
    for model, query, complaint, expected in asked:
        rows = bench.run("SELECT check_name, value, verdict FROM pgrain.assess(%s, %s::text)",
                         [query.format(model), complaint])
        found.append({"model": model, "irrelevant": query == table.irrelevant,
                      "complaint": complaint, "expected": expected, "verdict": rows[0][2],
                      "checks": {name: [number, verdict] for name, number, verdict in rows[1:]}})
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="*", default=["pictures", "adult", "reviews"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--queried", type=int, default=2000)
    parser.add_argument("--rounds", type=int, help="of a repair, at most; by default five")
    parser.add_argument("--epochs", type=int, help="of a training; by default the architecture's")
    parser.add_argument("--only", choices=("repair", "assess", "describe"))
    arguments = parser.parse_args()
    for name in arguments.cases:
        for seed in arguments.seeds:
            bench = Bench(arguments.rows, arguments.queried, 0, 0)
            table = Table(name, seed, arguments.rows, arguments.queried, arguments.epochs)
            with server(bench):
                every = arguments.only in (None, "assess")
                table.fill(bench, MODELS if every else MODELS[:2], MODELS if every else MODELS[:1])
                head = {"case": name, "seed": seed, "rows": arguments.rows}
                say(f"{name}, seed {seed}: {value(bench, table.query, 'm'):g}, "
                    f"clean {value(bench, table.query, 'clean'):g}")
                if arguments.only in (None, "describe"):
                    found = predicates(bench, table)
                    print(json.dumps({**head, "describe": found}, default=float), flush=True)
                    say(f"  describe: {found}")
                if arguments.only in (None, "assess"):
                    for found in verdicts(bench, table):
                        print(json.dumps({**head, "assess": found}, default=float), flush=True)
                        say(f"  {found['model']} {found['complaint']}: {found['verdict']}, "
                            f"expected {found['expected']}")
                for intervention, options in (("delete", {}), ("relabel", {"plausible": True})):
                    if arguments.only in ("assess", "describe"):
                        break
                    if arguments.rounds is not None:
                        options["rounds"] = arguments.rounds
                    found = repaired(bench, table, intervention, options)
                    print(json.dumps({**head, "repair": found}, default=float), flush=True)
                    last = found["rounds"][-1] if found["rounds"] else {}
                    say(f"  {intervention}: {len(found['rounds'])} rounds, {found['rows']}, "
                        f"predicted {last.get('predicted')}, actual {last.get('actual')}, "
                        f"{found['described']}")


if __name__ == "__main__":
    main()
