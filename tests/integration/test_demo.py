"""The demo on few pictures: it ends with its result, twice, and drops nothing of anybody's."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pgrain.demo import datasets
from pgrain.demo.story import command

pytestmark = pytest.mark.skipif(not datasets.FOLDER.exists(),
                                reason="dataset-fashion-mnist is not installed")
KEYS = {"auc_r", "auc_r_gradient_dot", "auc_r_rule", "k", "value_before", "target", "value_after",
        "seconds", "complain_ms"}


@pytest.fixture(scope="module")
def place(module_database, worker):
    database = module_database()
    worker(database)
    return database


def run(database, sheet, *options):
    """(the result, the output)"""
    done = CliRunner().invoke(command, ["--dsn", database.dsn(), "--sheet", str(sheet), "--rows",
                                        "1000", *options])
    last = done.output.strip().splitlines()[-1]
    return (json.loads(last.removeprefix("result: ")) if last.startswith("result: ") else None,
            done.output)


@pytest.mark.slow
def test_story_finds_the_error_and_repairs_it_twice(place, tmp_path):
    sheet = tmp_path / "sheet.png"
    first, output = run(place, sheet)
    assert first is not None, output
    assert KEYS <= set(first)
    assert first["auc_r"] > 0.9 and first["auc_r"] > first["auc_r_gradient_dot"]
    assert first["value_before"] > first["value_after"] and first["value_before"] > first["target"]
    assert sheet.read_bytes().startswith(b"\x89PNG")

    second, output = run(place, sheet)
    assert second is not None, output
    assert second["reused_models"] is True and first["reused_models"] is False
    for key in ("auc_r", "auc_r_gradient_dot", "auc_r_rule", "value_before", "target",
                "value_after"):
        assert second[key] == first[key], key


def test_model_never_sees_the_truth(place):
    """Neither the training table nor what is attached depends on the truth."""
    for relation in ("train", "sellerdata"):
        assert place.value(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = to_regclass(%s)"
            " AND confrelid = to_regclass('pgrain_demo.truth')", [relation]) == 0
    assert place.value("SELECT training_table::text FROM pgrain.models WHERE model = 'clothing'"
                       ) == "train"
    assert place.rows("SELECT relation::text FROM pgrain.attached WHERE model = 'clothing'"
                      ) == [("sellerdata",)]


def test_a_table_of_somebody_else_stays(database, tmp_path):
    own = database()
    own.execute("CREATE TABLE train (precious integer)")
    result, output = run(own, tmp_path / "sheet.png")
    assert result is None
    assert 'table "train" is there, and the demo did not make it' in output
    assert own.value("SELECT to_regclass('train') IS NOT NULL")
