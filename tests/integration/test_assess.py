"""assess says "useful" where a complaint has a cause among the training rows, and not elsewhere."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest

LABELS = np.array(["a", "b", "c", "d"])
CENTRES = 2.2 * np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
A = "SELECT count(*) AS n FROM things WHERE pgrain.predict('{}', x) = 'a'"
D = "SELECT count(*) AS n FROM things WHERE pgrain.predict('{}', x) = 'd'"


def make(rng, n):
    y = rng.integers(0, 4, n)
    return y, CENTRES[y] + rng.normal(size=(n, 5)) * 0.9


@pytest.fixture(scope="module")
def assessed(module_database, worker):
    """Three models of the same rows: `wrong` learned that the a with large x5 are b, `clean` the
    truth, `permuted` labels at random."""
    database, rng = module_database(), np.random.default_rng(11)
    database.worker = worker(database)
    y, x = make(rng, 900)
    database.execute("CREATE TABLE rows (id integer PRIMARY KEY, x float8[], truth text, "
                     "wrong text, permuted text)")
    flipped = np.where((y == 0) & (x[:, 4] > 0.1), 1, y)
    shuffled = rng.permutation(y)
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO rows VALUES (%s, %s, %s, %s, %s)", [
            (i, x[i].tolist(), LABELS[y[i]], LABELS[flipped[i]], LABELS[shuffled[i]])
            for i in range(len(y))])
    y, x = make(rng, 800)
    database.execute("CREATE TABLE things (id integer PRIMARY KEY, x float8[], truth text)")
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO things VALUES (%s, %s, %s)", [
            (i, x[i].tolist(), LABELS[y[i]]) for i in range(len(y))])
    for name, column in (("wrong", "wrong"), ("clean", "truth"), ("permuted", "permuted")):
        database.execute("SELECT pgrain.create_model(%s, 'rows', 'id', '{x}', %s, "
                         "'logistic_regression', '{\"alpha\": 0.5}')", [name, column])
        database.execute("CALL pgrain.train(%s)", [name])
        database.execute("CALL pgrain.precompute(%s)", [name])
        database.execute("CALL pgrain.attach(%s, 'things')", [name])
    return database


def assess(database, query, complaint):
    kind = "text" if isinstance(complaint, str) else "text[]"
    rows = database.rows(f"SELECT * FROM pgrain.assess(%s, %s::{kind})", [query, complaint])
    assert rows[0][0] == "overall"
    return {name: (value, verdict, hint) for name, value, verdict, hint in rows}


def wanted(database, query):
    """What the query says under the clean model: the target that a person would know."""
    return database.value(query.format("clean"))


def test_a_complaint_with_a_cause_is_useful(assessed):
    target = wanted(assessed, A)
    found = assess(assessed, A.format("wrong"), f"n >= {target}")
    assert found["overall"][1] == "useful", found
    assert found["error"][0] > 0.2 and found["reach"][0] > 0.3
    assert {"error", "unsure predictions", "gradient in the subspace", "adversarial predictions",
            "fit", "labels of the suspects", "reach", "agreement across k",
            "agreement with gradient_dot", "agreement with training loss"} < set(found)
    for name, (_, verdict, hint) in found.items():
        assert verdict in ("useful", "doubtful", "not useful") and hint.endswith("."), name
    assert found["gradient in the subspace"][0] == pytest.approx(1, abs=1e-3)   # all pairs stored


def test_of_several_models_it_names_the_one_it_is_about(assessed):
    both = ("SELECT count(*) AS n FROM things "
            "WHERE pgrain.predict('wrong', x) = 'a' OR pgrain.predict('clean', x) = 'a'")
    found = assess(assessed, both, "n <= 100")
    _, verdict, hint = found["model"]
    assert verdict == "useful" and ('model "wrong"' in hint) != ('model "clean"' in hint)
    assert '"wrong"' in hint and '"clean"' in hint
    assert "model" not in assess(assessed, A.format("wrong"), "n <= 100")


def test_an_irrelevant_query_is_not_useful(assessed):
    """The error is about a and b; what is d is right but for a few."""
    target = wanted(assessed, D)
    value = assessed.value(D.format("wrong"))
    sign = "<=" if value > target else ">="
    found = assess(assessed, D.format("wrong"), f"n {sign} {target}" if value != target
                   else f"n <= {value - 4}")
    assert found["overall"][1] == "not useful", found


@pytest.mark.parametrize("complaint", ["n too low", "n too high", "off by a few", "far off"])
def test_on_clean_data_nothing_is_useful(assessed, complaint):
    query = A.format("clean")
    value = assessed.value(query)
    text = {"off by a few": f"n >= {value + 6}", "far off": f"n >= {2 * value}"}.get(
        complaint, complaint)
    found = assess(assessed, query, text)
    assert found["overall"][1] == "not useful", found


@pytest.mark.parametrize("query", [A, D])
def test_with_permuted_labels_nothing_is_useful(assessed, query):
    query = query.format("permuted")
    value = assessed.value(query)
    for text in (f"n <= {value // 2}", "n too high", f"n >= {value + 60}"):
        found = assess(assessed, query, text)
        assert found["overall"][1] == "not useful", found
        assert found["fit"][1] == "not useful"


def test_what_holds_is_not_useful(assessed):
    found = assess(assessed, A.format("wrong"), "n <= 100000")
    assert found["overall"][1] == "not useful" and "nothing is violated" in \
        found["overall"][2].lower()


def test_several_complaints_and_points(assessed):
    target = wanted(assessed, A)
    both = assess(assessed, A.format("wrong"), [f"n >= {target}", "n <= 790"])
    assert both["overall"][1] != "not useful"
    query = "SELECT id, pgrain.predict('wrong', x) AS label FROM things"
    points = assessed.rows("""
        SELECT id FROM things WHERE truth = 'a' AND pgrain.predict('clean', x) = 'a'
        AND pgrain.predict('wrong', x) = 'b' ORDER BY id LIMIT 10""")
    found = assess(assessed, query, [f"label = 'a' WHERE id = {i}" for (i,) in points])
    assert found["overall"][1] == "useful", found


def test_a_single_prediction_near_the_border_proves_nothing(assessed):
    """On clean data the model is wrong there by chance, or right, and one row moves it."""
    classes = assessed.value("SELECT classes FROM pgrain.models WHERE model = 'clean'")
    item, other = assessed.rows("""
        SELECT t.id, (SELECT c.n FROM unnest(p) WITH ORDINALITY AS c (p, n)
                      ORDER BY c.p DESC OFFSET 1 LIMIT 1)
        FROM things AS t, pgrain.predict_proba('clean', t.x) AS p
        ORDER BY (SELECT c FROM unnest(p) AS c ORDER BY c DESC OFFSET 1 LIMIT 1) DESC LIMIT 1""")[0]
    wanted = classes[other - 1]
    labels = "SELECT id, pgrain.predict('clean', x) AS label FROM things"
    shown = assessed.value(f"SELECT label FROM ({labels}) AS l WHERE id = {item}")
    for query, complaint in (
            (labels, f"label = '{wanted}' WHERE id = {item}"),
            (f"SELECT id FROM things WHERE pgrain.predict('clean', x) = '{shown}'",
             f"no row WHERE id = {item}"),
            (f"SELECT id FROM things WHERE pgrain.predict('clean', x) = '{wanted}'",
             f"a row WHERE id = {item}")):
        found = assess(assessed, query, complaint)
        assert found["overall"][1] == found["error"][1] == "not useful", (complaint, found)
        assert found["error"][0] == 1 and "chance" in found["error"][2]


def test_an_ordinary_user_may_ask(assessed, as_role):
    analyst = as_role(assessed, "analyst", "user")
    assessed.execute("GRANT SELECT ON things TO analyst")
    rows = analyst.execute("SELECT verdict FROM pgrain.assess(%s, 'n too low')",
                           [A.format("wrong")]).fetchall()
    assert len(rows) > 5
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        analyst.execute("SELECT * FROM pgrain.assess($$ SELECT count(*) AS n FROM rows "
                        "WHERE pgrain.predict('wrong', x) = 'a' $$, 'n too low')")
