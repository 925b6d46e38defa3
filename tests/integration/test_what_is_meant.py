"""Errors and notices that name what was meant: models, keys without an edit, missing rights."""

from __future__ import annotations

import psycopg
import pytest
from click.testing import CliRunner

from pgrain.cli.main import main


@pytest.mark.parametrize("statement", [
    "SELECT pgrain.predict(%s, ARRAY[0.0, 0.0])", "SELECT pgrain.revert(%s)",
    "SELECT * FROM pgrain.describe(%s, '{1}')"])
@pytest.mark.parametrize(("name", "meant"), [("Colour", True), ("color", True), ("xyz", False)])
def test_a_model_of_nearly_that_name_is_told(small, as_role, statement, name, meant):
    with pytest.raises(psycopg.errors.UndefinedObject) as raised:
        small.execute(statement, [name])
    assert ('Did you mean "colour"?' in raised.value.diag.message_hint) is meant


def test_nobody_is_told_names_that_they_may_not_see(small, as_role):
    stranger = as_role(small, "stranger")
    small.execute("GRANT USAGE ON SCHEMA pgrain TO stranger")
    small.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgrain TO stranger")
    with pytest.raises(psycopg.errors.UndefinedObject) as raised:
        stranger.execute("SELECT pgrain.predict('Colour', ARRAY[0.0, 0.0])")
    assert "colour" not in raised.value.diag.message_hint


def test_revert_tells_of_keys_without_an_edit(small):
    heard = []
    small.connection.add_notice_handler(lambda d: heard.append(d.message_primary))
    key = small.value("SELECT id::text FROM items WHERE id < 1000 LIMIT 1")
    small.execute("SELECT pgrain.apply('colour', ARRAY[%s], 'delete')", [key])
    small.execute("SELECT pgrain.revert('colour', ARRAY[%s, 'nonsense', 'no'])", [key])
    told = [line for line in heard if "have no edit" in line]
    assert len(told) == 1 and told[0].startswith("2 of the keys")
    assert told[0].endswith('for them: "no", "nonsense"')
    assert small.value("SELECT count(*) FROM pgrain.edits") == 0
    heard.clear()
    small.execute("SELECT pgrain.revert('colour')")
    assert not any("have no edit" in line for line in heard)


def test_a_list_without_its_type_is_told_to_be_cast(small):
    with pytest.raises(psycopg.errors.SyntaxError) as raised:
        small.execute("SELECT * FROM pgrain.complain(%s, %s)", [
            "SELECT count(*) AS n FROM items WHERE pgrain.predict('colour', x) = 'blue'",
            ["n <= 3", "n >= 2"]])
    assert "%s::text[]" in raised.value.diag.message_hint


def test_an_export_says_which_rights_it_takes(small, as_role, tmp_path):
    as_role(small, "analyst", "user")
    made = CliRunner().invoke(main, ["bundle", "export", "--dsn", small.dsn("analyst"),
                                     "--model", "colour", str(tmp_path / "x")])
    assert made.exit_code == 1 and "permission denied" in made.output
    assert "take a superuser or the owner of the extension" in made.output
