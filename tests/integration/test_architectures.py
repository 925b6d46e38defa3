"""Every architecture, tiny, through SQL: from create_model to complain.

Each net learns a rule of its own kind of input, from rows of which some labels are wrong in a way
that it learns as well; the wrong rows must come first. Weights go out and come in again.
"""

from __future__ import annotations

import json
from pathlib import Path

import flax.serialization
import numpy as np
import psycopg
import pytest
import safetensors.numpy
from click.testing import CliRunner

from pgrain.cli.main import main

MODULE = '''
import flax.linen as nn
import jax.numpy as jnp

class Small(nn.Module):
    n_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, x, deterministic=False):
        y = nn.Dropout(0.5, deterministic=deterministic)(nn.gelu(nn.Dense(self.width)(x)))
        return nn.Dense(self.n_classes)(y)

class Statistics(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes)(nn.BatchNorm(use_running_average=True)(x))
'''


@pytest.fixture(scope="module")
def place(module_database, worker, tmp_path_factory):
    """A database and a worker that can import a module of the user's."""
    folder = tmp_path_factory.mktemp("modules")
    folder.chmod(0o755)
    (folder / "my_models.py").write_text(MODULE)
    database = module_database()
    path = f"{folder}:{Path(__file__).resolve().parents[2] / 'python'}"
    worker(database, environment={"PYTHONPATH": path})
    return database


def pictures(database):
    """8 x 8 pictures, bright above or below; the wrong rows are bright all over."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(120):
        image = rng.integers(0, 60, (8, 8))
        label = ("above", "below")[i % 2]
        image[:4 if label == "above" else 8][0 if label == "above" else 4:] += 150
        if label == "above" and i % 6 == 0:
            image += 40
            rows.append((i, image.astype(np.uint8).tobytes(), "below"))
        else:
            rows.append((i, image.astype(np.uint8).tobytes(), label))
    database.execute("CREATE TABLE pictures (id integer PRIMARY KEY, image bytea, label text)")
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO pictures VALUES (%s, %s, %s)", rows)
    database.execute("CREATE TABLE shown AS SELECT id, image FROM pictures WHERE id >= 60")
    return {str(i) for i in range(0, 120, 6)}


def reviews(database):
    """Sentences; the wrong rows are good reviews with the word 'long', called negative."""
    good, bad = ["good", "fine", "great", "lovely"], ["bad", "dull", "poor", "awful"]
    rows = []
    for i in range(120):
        positive = i % 2 == 0
        words = [(good if positive else bad)[(i // 2) % 4], ("film", "story", "play")[i % 3]]
        wrong = positive and i % 6 == 0
        text = f"A {' '.join(words)}" + (", and long!" if wrong else "." * (i % 3))
        rows.append((i, text, "negative" if wrong or not positive else "positive"))
    database.execute("CREATE TABLE reviews (id integer PRIMARY KEY, body text, label text)")
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO reviews VALUES (%s, %s, %s)", rows)
    database.execute("CREATE TABLE arriving AS SELECT id, body FROM reviews WHERE id >= 60")
    return {str(i) for i in range(0, 120, 6)}


@pytest.fixture(scope="module")
def wrong(place):
    return {"pictures": pictures(place), "reviews": reviews(place)}


NETS = {
    "wide_resnet_10": ("pictures", {"shape": [8, 8, 1], "stem": 4, "widths": [4, 8],
                                    "epochs": 12, "batch_size": 20, "learning_rate": 0.01}),
    "wide_resnet_18": ("pictures", {"shape": [8, 8, 1], "stem": 4, "widths": [4],
                                    "stem_stride": 2, "epochs": 12, "batch_size": 20,
                                    "learning_rate": 0.01}),
    "wide_resnet_26": ("pictures", {"shape": [8, 8, 1], "stem": 4, "widths": [4],
                                    "stem_stride": 2, "epochs": 12, "batch_size": 20,
                                    "learning_rate": 0.01}),
    "lstm": ("reviews", {"embedding": 6, "units": 6, "epochs": 40, "batch_size": 20,
                         "learning_rate": 0.02}),
    "my_models:Small": ("pictures", {"shape": [64], "arguments": {"width": 6}, "epochs": 30,
                                     "batch_size": 20}),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", NETS)
def test_from_table_to_ranking(place, wrong, architecture):
    table, options = NETS[architecture]
    column, shown, label = {"pictures": ("image", "shown", "below"),
                            "reviews": ("body", "arriving", "negative")}[table]
    # Whoever complains knows that such reviews are good ones.
    known = " AND body ~ 'good|fine|great|lovely'" if table == "reviews" else ""
    name = architecture.split(":")[0]
    place.execute("SELECT pgrain.create_model(%s, %s::regclass, 'id', %s, 'label', %s, %s)",
                  [name, table, [column], architecture, json.dumps(options)])
    place.execute("CALL pgrain.train(%s)", [name])
    place.execute("CALL pgrain.precompute(%s, '{\"pairs\": 8}')", [name])
    place.execute("CALL pgrain.attach(%s, %s::regclass)", [name, shown])
    n, accuracy = place.rows("SELECT n_parameters, (metrics ->> 'accuracy')::float8 "
                             "FROM pgrain.models WHERE model = %s", [name])[0]
    assert n > 50 and accuracy > 0.8
    query = (f"SELECT count(*) AS n FROM {shown} "
             f"WHERE pgrain.predict('{name}', {column}) = '{label}'{known}")
    ranking = [row[0] for row in place.rows(
        "SELECT train_key FROM pgrain.complain(%s, 'n too high', 120)", [query])]
    assert len(ranking) == 120
    found = len(set(ranking[:20]) & wrong[table])
    assert found >= 14, f"{found} of the 20 first are wrong rows; by chance 3"
    other = place.rows("SELECT train_key FROM pgrain.complain(%s, 'n too low', 20)", [query])
    assert len({row[0] for row in other} & wrong[table]) <= 3      # the other sign
    # A value that is not attached goes live, and is a number like the others.
    live = place.rows(f"SELECT pgrain.predict_proba('{name}', {column}) FROM {table} "
                      "WHERE id < 60 LIMIT 3")
    assert all(abs(sum(p) - 1) < 1e-5 for (p,) in live)


def weights_of(place, name):
    """The active version's arrays, as a user's own training would give them."""
    from pgrain.models.encoding import Encoder
    from pgrain.models.registry import build_for
    from pgrain.store import versions
    with place.connect(row_factory=psycopg.rows.dict_row) as connection:
        active = versions.read_model(connection, name).active_version
        row = versions.read_version(connection, active)
        theta = versions.read_theta(connection, active)
    model = build_for(row.architecture, len(row.classes), Encoder.from_json(row.encoder),
                      row.options)
    return row, model.to_pytree(theta)


@pytest.fixture(scope="module")
def trained(place, wrong):
    place.execute("SELECT pgrain.create_model('origin', 'pictures', 'id', '{image}', 'label', "
                  "'cnn', '{\"shape\": [8, 8, 1], \"channels\": [3], \"epochs\": 5}')")
    place.execute("CALL pgrain.train('origin')")
    place.execute("SELECT pgrain.create_model('copy', 'pictures', 'id', '{image}', 'label', "
                  "'cnn', '{\"shape\": [8, 8, 1], \"channels\": [3]}')")
    return weights_of(place, "origin")


PROBABILITIES = "SELECT pgrain.predict_proba(%s, image) FROM pictures ORDER BY id"


@pytest.mark.parametrize("form", ["safetensors", "msgpack", "convolution kernel"])
def test_weights_go_out_and_come_in(place, trained, form):
    row, arrays = trained
    if form == "safetensors":
        data = safetensors.numpy.save(arrays)
    else:
        nested: dict = {}
        for name, value in arrays.items():
            layer, parameter = name.split(".")
            if form != "msgpack" and name == "convolution_0.kernel":
                value = value.reshape(3, 3, 1, 3)         # as Flax's nn.Conv has it
            nested.setdefault(layer, {})[parameter] = value
        data = flax.serialization.msgpack_serialize({"params": nested})
    place.execute("CALL pgrain.import_weights('copy', %s)", [data])
    assert np.allclose(place.rows(PROBABILITIES, ["copy"]), place.rows(PROBABILITIES, ["origin"]),
                       atol=1e-6)
    classes, shapes, start = place.rows("SELECT classes, shapes, metrics ->> 'status' FROM "
                                        "pgrain.versions WHERE model = 'copy' AND active")[0]
    assert classes == ["above", "below"] and start == "imported"
    assert shapes["parameters"]["convolution_0.kernel"] == [9, 3]
    place.execute("CALL pgrain.precompute('copy', '{\"pairs\": 5}')")
    assert place.value("SELECT count(*) FROM pgrain.weights") == 0


def test_classes_and_encoding_of_imported_weights(place, trained):
    _, arrays = trained
    data = safetensors.numpy.save(arrays)
    place.execute("CALL pgrain.import_weights('copy', %s, "
                  "'{\"classes\": [\"below\", \"above\"]}')", [data])
    turned = np.array(place.rows(PROBABILITIES, ["copy"]))[:, 0]
    straight = np.array(place.rows(PROBABILITIES, ["origin"]))[:, 0]
    assert place.value("SELECT classes FROM pgrain.models WHERE model = 'copy'") == ["below",
                                                                                     "above"]
    assert np.allclose(turned, straight, atol=1e-6)      # the outputs keep their order
    for options, message in [('{"classes": ["above", "beside"]}', 'label "below"'),
                             ('{"classes": ["above", "below", "below"]}', "twice"),
                             ('{"encoding": {"kind": "text"}}', "of kind"),
                             ('{"encoding": {"dtype": "uint8"}}', "cannot be used")]:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
            place.execute("CALL pgrain.import_weights('copy', %s, %s)", [data, options])


def test_weights_that_are_refused(place, trained):
    import pickle
    _, arrays = trained
    missing = {name: value for name, value in arrays.items() if name != "output.bias"}
    wide = {**arrays, "output.bias": np.zeros(5, np.float32)}
    endless = {**arrays, "output.bias": np.full(2, np.nan, np.float32)}
    for data, message in [(b"", "empty"), (b"nonsense" * 9, "cannot be read"),
                          (pickle.dumps(arrays), "pickle"),
                          (safetensors.numpy.save(missing), '"output.bias" is missing'),
                          (safetensors.numpy.save(wide), "has shape"),
                          (safetensors.numpy.save(endless), "not finite"),
                          (safetensors.numpy.save(arrays)[:-9], "cannot be read")]:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
            place.execute("CALL pgrain.import_weights('copy', %s)", [data])


def test_import_from_the_command_line(place, trained, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(safetensors.numpy.save(trained[1]))
    done = CliRunner().invoke(main, ["import-weights", "--dsn", place.dsn(), "copy", str(file)])
    assert done.exit_code == 0 and "imported" in done.output, done.output
    done = CliRunner().invoke(main, ["import-weights", "--dsn", place.dsn(), "nobody", str(file)])
    assert done.exit_code == 1 and 'model "nobody" does not exist' in done.output


def test_a_module_with_batch_statistics_is_refused(place, wrong):
    place.execute("SELECT pgrain.create_model('statistics', 'pictures', 'id', '{image}', 'label', "
                  "'my_models:Statistics', '{\"shape\": [64]}')")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="batch_stats"):
        place.execute("CALL pgrain.train('statistics')")
    place.execute("SELECT pgrain.create_model('absent', 'pictures', 'id', '{image}', 'label', "
                  "'my_models:Absent', '{\"shape\": [64]}')")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no Flax module"):
        place.execute("CALL pgrain.train('absent')")


def test_only_an_admin_names_a_module(place, wrong, as_role):
    analyst = as_role(place, "module_analyst", "user")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        analyst.execute("SELECT pgrain.create_model('mine', 'pictures', 'id', '{image}', 'label', "
                        "'my_models:Small')")


