"""Figure 9: keeping a standing query up with updates of growing size. All of it through SQL."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from pgrain.demo.paper import draw
from pgrain.demo.paper.records import Job

TITLE = "Figure 9: streaming updates"
HOW = "through SQL"
REPORTED = ("The incremental cost depends on the size of the update, not of the database; up to a "
            "thousand rows in under 500 ms, k = 20.")
TIMED = True


def jobs(scale) -> list[Job]:
    quick = scale.name == "quick"
    return [Job("streaming", {
        "data": "fashion", "architecture": "mlp", "options": {"hidden": [32]},
        "rows": 1_000 if quick else 3_000, "queried": 1_000 if quick else 10_000, "pairs": 20,
        "tables": [1_000] if quick else [10_000, 100_000],
        "updates": [1, 100] if quick else [1, 10, 100, 1_000, 5_000],
        "repeat": 2 if quick else 3})]


def measure(what: dict, say) -> dict:
    """For each table and size of update, in ms: the INSERT with and without a watch; a complaint on
    the watch right after it (new pictures are predicted and projected in it); until the update is
    in the watch's state; the same complaint without a watch. Pictures of an update are new: one
    pixel of each differs."""
    from pgrain.demo import shop
    from pgrain.demo.timing import private_server
    found, number = [], 0
    with private_server("paper") as (_, _, connection):
        shop.fill(connection, what["rows"], what["queried"])
        shop.model(connection, "m", what["architecture"], what["options"], say,
                   {"pairs": what["pairs"], "sample": 1_000})
        for size in what["tables"]:
            table, plain = f"stream_{size}", f"plain_{size}"
            copies = max(size // what["queried"], 1)
            for name in (table, plain):
                connection.execute(
                    f"CREATE TABLE {name} AS SELECT s.id + 1000000 * g AS id, image, clothingtype,"
                    f" hour FROM sellerdata s, generate_series(0, {copies - 1}) AS g")
            connection.execute(f"VACUUM ANALYZE {table}")
            connection.execute("CALL pgrain.attach('m', %s)", [table])
            connection.execute("CALL pgrain.watch(%s, %s)", [table, shop.report("m", table)])
            for update in what["updates"]:
                say(f"table of {size}, update of {update}")
                taken: dict[str, list[float]] = {}
                for _ in range(what["repeat"] + 1):
                    number += 1
                    for name, title in ((plain, "plain"), (table, "insert")):
                        taken.setdefault(title, []).append(_timed(
                            connection, _update(name, update, number)))
                    began = time.perf_counter()
                    shop.complain(connection, table, k=what["pairs"])
                    taken.setdefault("complaint", []).append(1000 * (time.perf_counter() - began))
                    while connection.execute(
                            "SELECT count(*) FROM pgrain.watch_note").fetchone()[0]:
                        time.sleep(0.002)
                    taken.setdefault("folded", []).append(1000 * (time.perf_counter() - began))
                    taken.setdefault("complaint again", []).append(_timed(
                        connection, "SELECT * FROM pgrain.complain(%s, %s)",
                        [table, shop.COMPLAINT]))
                    taken.setdefault("no watch", []).append(_timed(
                        connection, "SELECT * FROM pgrain.complain(%s, %s)",
                        [shop.report("m", table), shop.COMPLAINT]))
                # The first of each compiles a batch of that size.
                found.append([size, update, {name: float(np.median(values[1:]))
                                             for name, values in taken.items()}])
        parameters = connection.execute("SELECT n_parameters FROM pgrain.models").fetchone()[0]
    return {"streams": found, "n_parameters": parameters, "n_rows": what["rows"]}


def _update(table: str, rows: int, number: int) -> str:
    """INSERT of pictures that nothing is stored of; `number` tells one update from another."""
    pixel, value = divmod(number, 250)
    return (f"INSERT INTO {table} SELECT 1000000000 + {number} * 100000 + id, "
            f"set_byte(image, {pixel}, {value + 1}), clothingtype, hour FROM sellerdata "
            f"ORDER BY id LIMIT {rows}")


def _timed(connection, statement: str, parameters=None) -> float:
    began = time.perf_counter()
    cursor = connection.execute(statement, parameters)
    if cursor.description:
        cursor.fetchall()
    return 1000 * (time.perf_counter() - began)


def render(records, folder: Path, scale) -> str:
    rows, lines = [], []
    for record in records:
        for size in dict.fromkeys(s[0] for s in record["streams"]):
            of = [(update, taken) for table, update, taken in record["streams"] if table == size]
            for title, name in (("complaint", "with the update"), ("no watch", "no watch")):
                lines.append((f"table of {size:,}, {name}", [update for update, _ in of],
                              [taken[title] for _, taken in of]))
            for update, taken in of:
                rows.append([f"{size:,}", f"{update:,}", *(f"{taken[name]:,.0f}" for name in (
                    "plain", "insert", "complaint", "folded", "complaint again", "no watch"))])
    draw.lines(folder / "streaming.png", lines, x="rows in the update", y="ms", log_x=True,
               log_y=True, points=True)
    tables = sorted({table for record in records for table, *_ in record["streams"]})
    return (draw.image("streaming.png", "A complaint right after an update, on a watch and "
                       f"without; tables of {' and '.join(f'{n:,}' for n in tables)} rows", records)
            + draw.table(["rows of the table", "rows of the update", "INSERT, no watch",
                          "INSERT, watched", "complaint right after it", "until it is in the state",
                          "complaint after that", "complaint without a watch"], rows)
            + "\n\nms, medians. The complaint right after the update predicts and projects its new "
            "pictures; the worker looks for updates ten times a second and does the same for those "
            "that nobody complains about. As in the paper the cost follows the size of the update "
            "and not that of the table. Without a watch the complaint reads the whole table, and "
            "finds the update's pictures predicted by then.")
