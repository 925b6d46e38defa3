"""Bundles: out of one cluster, into another; the same rankings bit for bit; damage is refused."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from safetensors import safe_open
from safetensors.numpy import save_file
from tests.conftest import Database

from pgrain.cli.background import WorkerProcess
from pgrain.cli.cluster import Cluster
from pgrain.cli.main import main
from pgrain.cli.place import prepare, server_account

COUNT = "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'red'"


def run(*arguments, fails=None):
    result = CliRunner().invoke(main, ["bundle", *map(str, arguments)])
    if fails is None:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code == 1 and fails in result.output, result.output
    return result.output


def ranking(database, intervention="delete", complaint="n too high"):
    return database.rows("SELECT * FROM pgrain.complain(%s, %s::text, 1000, %s)",
                         [COUNT, complaint, intervention])


@pytest.fixture(scope="module")
def home(small):
    """The team with the training data; a repair is precomputed as well."""
    small.execute("SELECT pgrain.create_intervention('colour', 'zero', library => 'constant', "
                  "options => '{\"elements\": [1], \"value\": 0}')")
    small.execute("SELECT pgrain.create_intervention('colour', 'moved', "
                  "ARRAY['ARRAY[x[1] + 1, x[2]]'])")
    small.execute("SELECT pgrain.forget('colour', '{17}')")
    small.execute("CALL pgrain.precompute('colour', '{\"only\": \"interventions\"}')")
    small.execute("SELECT pgrain.apply('colour', '{3}', 'delete')")
    return small


@pytest.fixture(scope="module")
def away(server):
    """Another cluster, with the inference data and without the training table."""
    place = Path(tempfile.mkdtemp(prefix="pgrain-", dir="/tmp"))
    account = server_account()
    prepare(place, account)
    cluster = Cluster(place, server=server.server, account=account, settings={
        "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"})
    cluster.start()
    with cluster.connect("postgres") as connection:
        connection.execute(sql.SQL("CREATE DATABASE away"))
    database = Database(cluster, "away")
    database.execute("SET client_min_messages = warning")
    database.execute("CREATE EXTENSION pgrain CASCADE")
    worker = WorkerProcess(cluster, "away", name="away")
    worker.start()
    yield database
    database.close()
    worker.stop()
    cluster.stop("immediate")
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def file(home, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "colour.pgrain"
    output = run("export", "--dsn", home.dsn(), "--model", "colour", path)
    assert "240 rows" in output and "2 repairs" in output
    return path


def drop(database, *models):
    for model in models:
        database.execute("SELECT pgrain.drop_model(%s)", [model])


def test_a_team_without_the_training_data_complains(home, away, file):
    run("import", "--dsn", away.dsn(), file)
    items = home.rows("SELECT * FROM items")
    away.execute("CREATE TABLE items (id integer PRIMARY KEY, x float8[], claim text, hour int)")
    with away.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO items VALUES (%s, %s, %s, %s)", items)
    away.execute("CALL pgrain.attach('colour', 'items')")
    ok, detail, hint = away.rows("SELECT ok, detail, hint FROM pgrain.doctor() "
                                 "WHERE what = 'model colour'")[0]
    assert (ok, hint) == (True, None) and "without a training table" in detail
    with pytest.raises(psycopg.Error, match='training table of model "colour"') as caught:
        away.execute("CALL pgrain.train('colour')")
    assert "alter_model('colour'" in caught.value.diag.message_hint
    query = "SELECT id, pgrain.predict('colour', x), pgrain.predict_proba('colour', x) FROM items"
    assert away.rows(query) == home.rows(query)
    for intervention in ("delete", "relabel", "relabel:red", "zero", "moved", "any"):
        rows = ranking(away, intervention)
        assert rows and rows == ranking(home, intervention), intervention
        assert 17 not in {row[2] for row in rows}
    # And the other way round: the vector made there, ranked here.
    vector = away.value("SELECT pgrain.complaint_vector(%s, 'n too high'::text)", [COUNT])
    ranked = home.rows("SELECT * FROM pgrain.rank('colour', %s, 1000)", [vector])
    assert [row[2:6] for row in ranked] == [row[2:6] for row in ranking(home)]
    assert away.value("SELECT pgrain.resembles('colour', '5')") == home.value(
        "SELECT pgrain.resembles('colour', '5')")


def test_what_does_not_travel(home, away, file):
    """No feature value, no digest, no edit, nothing of a forgotten row."""
    assert away.value("SELECT count(*) FROM pgrain.edits") == 0
    assert away.value("SELECT count(*) FROM pgrain.intervention_value") == 0
    with safe_open(file, framework="numpy") as stored:
        assert not stored.get_tensor("version/rows/0/digests").any()
        text = stored.get_tensor("version/rows/0/text").tobytes().decode()
        assert len(stored.get_tensor("version/rows/0/offsets")) == 241
    assert text == "".join(str(i) for i in range(1, 241) if i != 17)
    for value in home.rows("SELECT x FROM train LIMIT 20"):
        assert np.array(value[0]).tobytes() not in file.read_bytes()
    with pytest.raises(psycopg.Error, match="does not exist any more"):
        away.execute("CALL pgrain.train('colour')")
    with pytest.raises(psycopg.Error, match="does not exist any more"):
        away.execute("SELECT * FROM pgrain.edits_sql('colour')")


def test_a_name_that_is_taken(home, away, file):
    run("import", "--dsn", away.dsn(), file, fails='model "colour" already exists')
    run("import", "--dsn", away.dsn(), "--as", "col'our 2", file)
    rows = away.rows("SELECT score FROM pgrain.complain(%s, 'n too high'::text)",
                     [COUNT.replace("'colour'", "'col''our 2'")])
    assert rows == [row[5:6] for row in ranking(away)[:100]]
    drop(away, "col'our 2")
    run("export", "--dsn", home.dsn(), "--model", "colour", file, fails="is there already")
    run("export", "--dsn", home.dsn(), "--model", "nobody", file.with_name("x"),
        fails="does not exist")
    assert not file.with_name("x").exists()


def test_ids_only(home, away, file, tmp_path):
    """Keys and what ranks deletions: the same deletions, nothing else."""
    path = tmp_path / "ids"
    assert "ids only" in run("export", "--dsn", home.dsn(), "--model", "colour", "--ids-only", path)
    with safe_open(path, framework="numpy") as stored:
        names = set(stored.keys())
        assert not stored.get_tensor("version/rows/0/labels").any()
    assert not any(name.endswith(("/J", "/residual")) or "repair:" in name for name in names)
    run("import", "--dsn", away.dsn(), "--as", "ids", path)
    query = COUNT.replace("'colour'", "'ids'")
    rows = away.rows("SELECT train_key, score, effect FROM pgrain.complain(%s, 'n too high'::text, "
                     "1000)", [query])
    full = [(row[3], *row[5:]) for row in ranking(away)]
    assert {row[0] for row in rows} == {row[0] for row in full}
    scores = {row[0]: row[1:] for row in full}
    assert all(scores[row[0]] == pytest.approx(row[1:], rel=1e-5, abs=1e-9) for row in rows)
    for intervention in ("relabel", "any", "relabel:red"):
        with pytest.raises(psycopg.Error, match="ids only"):
            away.execute("SELECT * FROM pgrain.complain(%s, 'n too high'::text, 10, %s)",
                         [query, intervention])
    with pytest.raises(psycopg.Error, match="ids only"):
        away.execute("SELECT * FROM pgrain.plan_repair(%s, 'n <= 1')", [query])
    drop(away, "ids")


def everything(database):
    return database.rows("""
        SELECT (SELECT count(*) FROM pgrain.model), (SELECT count(*) FROM pgrain.model_version),
               (SELECT count(*) FROM pgrain.spectrum), (SELECT count(*) FROM pgrain.version_chunk),
               (SELECT count(*) FROM pgrain.spectrum_chunk),
               (SELECT count(*) FROM pgrain.intervention)""")


def rewritten(file, path, change):
    """The bundle with its manifest (and tensors) changed, and the checksum made right again."""
    import hashlib
    with safe_open(file, framework="numpy") as stored:
        manifest = json.loads(stored.metadata()["manifest"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    change(manifest, tensors)
    text = json.dumps(manifest, sort_keys=True)
    save_file(tensors, path, metadata={"manifest": text,
                                       "sha256": hashlib.sha256(text.encode()).hexdigest()})
    return path


def test_damage_is_refused_and_nothing_is_stored(away, file, tmp_path):
    before, data, path = everything(away), file.read_bytes(), tmp_path / "damaged"

    def refused(content, message):
        path.write_bytes(content)
        run("import", "--dsn", away.dsn(), "--as", "damaged", path, fails=message)
        assert everything(away) == before

    for length in (0, 5, 100, len(data) // 2, len(data) - 1):
        refused(data[:length], "truncated, damaged, or no bundle")
    refused(data + b"x", "truncated, damaged, or no bundle")
    refused(b"PK" + data[2:], "")
    rng = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little") + 8
    spaces = len(data[:header]) - len(data[:header].rstrip(b" "))
    places = [*rng.integers(8, header - spaces, 60), *rng.integers(header, len(data), 60)]
    for at in places:
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        refused(bytes(changed), "Error")


def test_what_does_not_fit_is_refused(away, file, tmp_path):
    """Another version of pgrain or of the format, missing and foreign parts, code in disguise."""
    before = everything(away)

    def refused(change, message):
        path = rewritten(file, tmp_path / "changed", change)
        run("import", "--dsn", away.dsn(), "--as", "changed", path, fails=message)
        assert everything(away) == before

    refused(lambda m, t: m.update(pgrain="0.0.1"), "the bundle is of pgrain 0.0.1")
    refused(lambda m, t: m.update(format=99), "format 99")
    refused(lambda m, t: t.pop("version/rows/0/labels"), "does not hold the arrays")
    refused(lambda m, t: t.update(more=np.zeros(3)), "does not hold the arrays")
    refused(lambda m, t: (t.pop("spectrum/vectors/0/vectors"),
                          m["tensors"].pop("spectrum/vectors/0/vectors")), "do not fit together")
    refused(lambda m, t: m["trained"].update(n_parameters=8), "do not fit together")
    refused(lambda m, t: m["spectrum"].update(k=99), "do not fit together")
    refused(lambda m, t: m["spectrum"]["eigenvalues"].__setitem__(0, -1.0), "do not fit together")
    refused(lambda m, t: m["trained"]["classes"].__setitem__(0, m["trained"]["classes"][1]),
            "do not fit together")
    refused(lambda m, t: m["declared"].update(architecture="os.path:join"), "needs Python code")
    save_file({"a": np.zeros(3)}, tmp_path / "other")
    run("import", "--dsn", away.dsn(), tmp_path / "other", fails="no bundle of pgrain")
    run("import", "--dsn", away.dsn(), tmp_path / "nothing", fails="there is no file")
    rewritten(file, tmp_path / "same", lambda m, t: None)
    run("import", "--dsn", away.dsn(), "--as", "same", tmp_path / "same")
    drop(away, "same")
